"""Questions of any data set with prompts and answers, as a job or a diagnosis asks them.

A data set is a file or folder of parquet, arrow, CSV, TSV, JSON or JSON lines (such as a config's folder that
``recipes/make_dataset.py`` wrote), a folder of ``save_to_disk``, or a name on the Hub (``USER/NAME`` or
``USER/NAME@REVISION``); after a colon may stand the name of one of its configs. Its rows have

- ``prompt`` (or ``question``): text that ends where the model is to answer, or a chat of messages with ``role`` and
  ``content``, which the tokenizer's chat template renders. An ``instruction``, with the text that it is about in
  ``input``, is what a user says in such a chat, where the tokenizer has a template; so is what stands beside a column
  ``system``, with which the chat begins,
- ``answer`` (or ``completion``, ``response``, ``output``): text of any number of tokens, or a whole number, which is
  written in decimal digits. Without a column, it is the last message of ``messages``. A list of texts (in CSV as JSON),
  also in ``answers``: each of them is right, and the first is the one that is trained and read,
- ``choices`` (optional): texts (in CSV as JSON), of which ``answer`` is one, or the label or place of one,
- ``other_answer`` (optional): what the fine-tuning's question would be answered with; its first token counts.

White space between prompt and answer is kept. Where there is none,
:func:`~ftmech_hf.tasks.text.join.choose_join` says whether a space is meant:
"Mia was sad because" and "she" are two words, "7+2=" and "9" are not.

Splits are ``train`` (to fit instruments and to fine-tune back), ``validation`` (to choose) and ``test`` (to report).
Missing ones are cut off the train split, and test prompts that occur in another split are left out. A column ``group``
(optional) says which rows are about the same thing, such as one verb: they all go to one side of a cut, and test rows
whose group occurs in another split are left out. Without it, see :mod:`ftmech_hf.tasks.text.splits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.questions import QuestionConfig, judging
from ftmech_hf.tasks.text.join import choose_join, describe_join
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.reading import Table
from ftmech_hf.tasks.text.splits import overlap, read_splits, say_groups
from ftmech_hf.tasks.text.tables import asked_twice, contradictions, text_columns, without_space_after
from ftmech_hf.tasks.text.tokens import Encoded, encode_rows

if TYPE_CHECKING:
    import datasets

LEAST_ROWS = 32

ANSWER, FIRST_TOKEN = "answer", "first token of the answer"
"""What probes read of a data set: answers of one token, or the first token where some have several."""


def from_datasets(
    names: Sequence[str | Table],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
    positions: int | None = None,
    how: QuestionConfig | None = None,
) -> list[Behavior]:
    """Behaviors from data sets; see this module's docstring. All are filled with the same token, if any must be.

    Probes read the first token of an answer. ``again`` has up to four times as many rows as are fitted on.

    Args:
        names: of folders, files, or data sets on the Hub; or rows that are in memory.
        tokenizer: of the models.
        seed: of the order of the rows.
        train_rows, test_rows: take no more than these.
        positions: tokens that a model can be shown at most.
        how: data sets are asked, and cut where splits are missing.

    Raises:
        ValueError: no such data set, a missing column, a value that is no text, a word that the tokenizer does not
            know, an answer that changes the tokens of its prompt, a row too long, too few rows, no token left to fill
            shorter rows with.
    """
    how = how or QuestionConfig()
    taken = {"train": 4 * train_rows, "validation": test_rows, "test": test_rows}
    read = [_read(name, tokenizer, seed, taken, positions, how) for name in names]
    everything = [split for splits, _ in read for split in splits.values()]
    pad = None
    if any(_differ(splits.values()) for splits, _ in read):
        pad = _unused_token((whole.token_ids for split in everything for whole in split.wholes), len(tokenizer))
    found = []
    for name, (splits, notes) in zip(names, read, strict=True):
        width = max(len(row) for split in splits.values() for row in split.rows)
        several = any(sum(mask) > 1 for split in splits.values() for mask in split.answer)
        label = FIRST_TOKEN if several else ANSWER
        rows = {split: _as_rows(each, width, pad, label) for split, each in splits.items()}
        found.append(
            Behavior(
                name=Path(str(name)).name,
                train=rows["train"][:train_rows],
                validation=rows["validation"],
                tests={"test": rows["test"]},
                again=rows["train"],
                guessed_on={"test": rows["train"]},
                notes=notes,
                **judging(rows["train"], rows["test"], tokenizer, how),
            )
        )
    return found


def _differ(splits: Iterable[Encoded]) -> bool:
    """Whether rows, their prompts or the parts of their answers have several lengths."""
    shapes = {(len(ids), answer) for split in splits for ids, answer in split.wholes}
    return len(shapes) > 1 or any(answer > 1 for _, answer in shapes)


def _as_rows(encoded: Encoded, width: int, pad: int | None, label: str) -> AnswerRows:
    rows = AnswerRows.stack(
        encoded.rows, encoded.answer, pad, width=width,
        other=torch.tensor(encoded.other_answers) if encoded.other_answers else None,
        accepted=encoded.accepted or None,
        choices=encoded.choices or None,
        right=torch.tensor(encoded.right) if encoded.choices else None,
        groups=np.unique(encoded.groups, return_inverse=True)[1] if encoded.groups else None,
    )  # fmt: skip
    return dataclasses.replace(rows, labels={label: rows.first_answers.numpy()})


def _read(
    table: str | Table,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    taken: Mapping[str, int],
    positions: int | None,
    how: QuestionConfig,
) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """The three splits of a data set as token ids, the test split without what the others have; and what to say."""
    name = str(table)
    faults = Faults(name, skip=how.skip_unusable, flag="skip_unusable")
    notes: list[str] = []
    total = 0

    def converted(rows: datasets.Dataset, split: str) -> datasets.Dataset:
        nonlocal total
        total += len(rows)
        own_splits.add(split)
        found = text_columns(rows, tokenizer, name, split, faults=faults, chat=how.chat, notes=notes)
        asked, changed = without_space_after(found)
        counts.append((asked_twice(asked)[0], changed))
        return found

    counts: list[tuple[int, int]] = []
    own_splits: set[str] = set()
    splits = read_splits(table, how.cut_seed, converted, seed)
    repeated, spaced = map(sum, zip(*counts, strict=True))
    # behind the cut, which is of what is written wherever the rows are trained on
    splits = {split: without_space_after(rows)[0] for split, rows in splits.items()}
    if how.skip_unusable:  # behind the cut, which is else another one than where the rows were trained on
        splits = {split: rows.select(asked_twice(rows)[1]) for split, rows in splits.items()}
    left_out = faults.note(total)
    lacks = not set(taken) <= own_splits
    _check_sizes({split: len(rows) for split, rows in splits.items()}, name, left_out, lacks)
    join = choose_join(splits["train"], tokenizer, how.answer_space)
    encoded, own = {}, {}
    for split, rows in splits.items():
        asked = rows if how.leaves_out else rows.select(range(min(len(rows), taken[split])))
        found = encode_rows(
            asked, tokenizer, name, join, positions=positions, skip=how.only_one_token, cut=how.cut_prompts,
            faults=faults,
        )  # fmt: skip
        encoded[split] = found.first(taken[split])
        own[split] = len(rows) - len(asked) + len(found.rows)  # not what is taken: a setting may want fewer
    skipped, cut = (sum(getattr(found, key) for found in encoded.values()) for key in ("skipped", "cut"))
    left_out = faults.note(total)
    _check_sizes(own, f"{name}, without answers of several tokens," if skipped else name, left_out, lacks)
    asked_rows = sum(map(len, splits.values()))
    said = [
        *notes,
        left_out,
        describe_join(splits["train"], join, how.answer_space),
        f"{spaced} of {total} rows have white space after an answer, which is not asked for" if spaced else None,
        _say_repeated(repeated, total, how) if repeated else None,
        *_about_all(splits),
        f"{skipped} of {asked_rows} rows are left out: their answer is not one token" if skipped else None,
        f"{cut} of {asked_rows} prompts are longer than the model's {positions} positions and lose their beginning"
        if cut else None,
    ]  # fmt: skip
    return encoded, tuple(f"{name}: {note}" for note in said if note)


def _say_repeated(repeated: int, total: int, how: QuestionConfig) -> str:
    gone = " and are left out" if how.skip_unusable else ""
    return f"{repeated} of {total} rows have the prompt and answer of another row{gone}"


def _about_all(splits: Mapping[str, datasets.Dataset]) -> tuple[str | None, ...]:
    """What is to be said of rows that are of one prompt, one answer or one group."""
    everything = [rows for rows in splits.values() if len(rows)]
    return (
        contradictions(*([each for rows in everything for each in rows[column][:]] for column in ("prompt", "answer"))),
        overlap(splits["train"], splits["test"]),
        say_groups(splits["test"]),
    )


def _check_sizes(sizes: Mapping[str, int], name: str, left_out: str | None, lacks: bool) -> None:
    """Refuse splits of too few rows; ``lacks`` is whether some were cut off others."""
    for split, number in sizes.items():
        if number < LEAST_ROWS:
            cut = f"a fifth of its rows is cut off for each split that it lacks, which takes {5 * LEAST_ROWS} rows"
            more = "".join(f"; {each}" for each in (left_out, cut if lacks else None) if each)
            raise ValueError(
                f"dataset: {name} has {number} {split} rows of its own, expected at least {LEAST_ROWS}{more}"
            )


def _unused_token(rows: Iterable[Sequence[int]], vocabulary: int) -> int:
    used = {token for row in rows for token in row}
    free = next((token for token in range(vocabulary) if token not in used), None)
    if free is None:
        raise ValueError("dataset: its rows use every token of the vocabulary, none is left to fill shorter rows with")
    return free
