"""The questions that a diagnosis asks: of a procedural task, or of any data set with prompts and one-token answers.

A data set is a folder that ``datasets.load_dataset`` reads (parquet, such as a config's folder that
``recipes/make_dataset.py`` wrote), a folder of ``save_to_disk``, a single parquet file, or a name on the Hub
(``USER/NAME`` or ``USER/NAME@REVISION``); after a colon may stand the name of one of its configs. Its rows have

- ``prompt``: text that ends where the model is to answer,
- ``answer``: text of exactly one token. If neither has white space between them, one space is put there,
- ``other_answer`` (optional): what the fine-tuning's question would be answered with, one token as well.

Splits are ``train`` (to fit instruments and to fine-tune back), ``validation`` (to choose) and ``test`` (to report).
Missing ones are cut off the train split, and test prompts that occur in another split are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.studies.common import capability_rows
from ftmech_hf.studies.dataset_identity import DatasetName, dataset_errors, dataset_hash
from ftmech_hf.tasks import Capability, PcfgShape

LEAST_ROWS = 32


@dataclass(frozen=True)
class Questions:
    """Whole rows (B, T) whose answer is the last token but one, as everywhere in this package.

    Attributes:
        name: what is asked.
        train, validation, test: rows of the three splits.
        again: more rows to fine-tune back on; the same as ``train`` where there are no others.
        other_answer: token ids (B,) of another answer to each test row, if there is one.
        pad: the token that fills shorter rows on the left, which occurs nowhere else; None if none are shorter.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    again: Tensor
    other_answer: Tensor | None = None
    pad: int | None = None

    @property
    def chance(self) -> float:
        """Accuracy on the test rows of always giving the most frequent answer of the train rows."""
        most = torch.bincount(self.train[:, -2]).argmax()
        return float((self.test[:, -2] == most).float().mean())

    def training_rows(self, seed: int, step: int, batch_size: int) -> Tensor:
        """The rows of one step of training: epochs over ``again``, each in an order of its own."""
        number = len(self.again)
        wanted = range(step * batch_size, (step + 1) * batch_size)
        epochs = {each // number for each in wanted}
        orders = {epoch: np.random.default_rng([seed, epoch]).permutation(number) for epoch in epochs}
        return self.again[[int(orders[each // number][each % number]) for each in wanted]]


def task_questions(
    shape: PcfgShape,
    capability: Capability,
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
    correlation: float | None = None,
) -> Questions:
    """Questions about one capability of the procedural task; the other answer is that for the other operand."""

    def rows(split: str, number: int) -> Tensor:
        return torch.from_numpy(capability_rows(shape, capability, split, seed, number, correlation).token_ids)

    test = rows("test", test_rows)
    named = shape.operand_word(capability.operator, shape.base_operand) == capability.operand
    other = shape.symbols.index(shape.correlated_operand if named else shape.base_operand)
    label = shape.answers(capability.operator, shape.texts(test.numpy()), other)
    return Questions(
        str(capability),
        rows("probe", train_rows),
        rows("validation", test_rows),
        test,
        rows("reverse", 4 * train_rows),
        torch.from_numpy(shape.answer_ids(capability.operator, label)),
    )


class _Encoded(NamedTuple):
    rows: list[list[int]]
    other_answers: list[int]


def dataset_questions(
    names: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, seed: int, train_rows: int, test_rows: int
) -> list[Questions]:
    """Questions from data sets; see this module's docstring. All are filled with the same token, if any must be.

    Args:
        names: of folders, parquet files, or data sets on the Hub.
        tokenizer: of the models.
        seed: of the cut, where splits are missing.
        train_rows, test_rows: take no more than these.

    Raises:
        ValueError: no such data set, a missing column, an answer of several tokens, too few rows, no token left to fill
            shorter rows with.
    """
    encoded = {name: _read(name, tokenizer, seed, {"train": 4 * train_rows, "validation": test_rows, "test": test_rows})
               for name in names}  # fmt: skip
    lengths = [{len(row) for split in splits.values() for row in split.rows} for splits in encoded.values()]
    pad = None
    if any(len(each) > 1 for each in lengths):
        everything = [row for splits in encoded.values() for split in splits.values() for row in split.rows]
        pad = _unused_token(everything, len(tokenizer))
    questions = []
    for (name, splits), each in zip(encoded.items(), lengths, strict=True):
        width, other = max(each), splits["test"].other_answers
        filled = {
            key: torch.tensor([[pad or 0] * (width - len(row)) + row for row in split.rows])
            for key, split in splits.items()
        }
        questions.append(
            Questions(
                Path(name).name,
                filled["train"][:train_rows],
                filled["validation"],
                filled["test"],
                filled["train"],
                torch.tensor(other) if other else None,
                pad,
            )
        )
    return questions


def _read(name: str, tokenizer: PreTrainedTokenizerBase, seed: int, taken: Mapping[str, int]) -> dict[str, _Encoded]:
    """The three splits of a data set as token ids, the test split without what the others have."""
    splits = _three_splits(_load(name), name, seed)
    seen = {prompt for split in ("train", "validation") for prompt in splits[split]["prompt"]}
    fresh = [number for number, prompt in enumerate(splits["test"]["prompt"]) if prompt not in seen]
    splits["test"] = splits["test"].select(fresh)
    for split, rows in splits.items():
        if len(rows) < LEAST_ROWS:
            raise ValueError(f"dataset: {name} has {len(rows)} {split} rows of its own, expected at least {LEAST_ROWS}")
    return {
        split: _encode(rows.select(range(min(len(rows), taken[split]))), tokenizer, name)
        for split, rows in splits.items()
    }


def _load(name: str) -> datasets.DatasetDict:
    path, shown = Path(name), datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with dataset_errors(name):
            if path.is_file():
                loaded: Any = datasets.load_dataset("parquet", data_files=str(path), cache_dir=_cache_of(name))
            elif any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
                loaded = datasets.load_from_disk(str(path))
            else:
                loaded = _load_named(DatasetName.parse(name))
    finally:
        if shown:
            datasets.enable_progress_bars()
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})


def _cache_of(name: str) -> str:
    """Where ``datasets`` keeps what it made of some files: it knows them by path and time, which copies can share."""
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"local-{dataset_hash(name)}")


def _load_named(name: DatasetName) -> Any:
    """A config of a folder, or what is on the Hub: the commit that its hash names, and no other from the cache."""
    if name.is_local:
        return datasets.load_dataset(name.where, name.config, cache_dir=_cache_of(name.where))
    loaded = datasets.load_dataset(name.where, name.config, revision=name.commit)
    files = [Path(each["filename"]) for rows in loaded.values() for each in rows.cache_files]
    if stale := [path for path in files if name.commit not in path.parts]:
        raise ValueError(f"commit {name.commit[:12]} is not in the cache, only {stale[0].parent.name[:12]}")
    return loaded


def _three_splits(loaded: datasets.DatasetDict, name: str, seed: int) -> dict[str, datasets.Dataset]:
    for split, rows in loaded.items():
        for column in ("prompt", "answer"):
            if column not in rows.column_names:
                raise ValueError(
                    f"dataset: {name} has no column {column!r} in {split}, only {', '.join(rows.column_names)}"
                )
    splits = {split: loaded[split] for split in ("train", "validation", "test") if split in loaded}
    if "train" not in splits:
        splits["train"] = next(iter(loaded.values()))
        splits = {
            "train": splits["train"],
            **{key: rows for key, rows in splits.items() if rows is not splits["train"]},
        }
    whole = splits["train"].shuffle(seed=seed, keep_in_memory=True)
    missing = [split for split in ("validation", "test") if split not in splits]
    part = len(whole) // 5
    for number, split in enumerate(missing):
        splits[split] = whole.select(range(number * part, (number + 1) * part))
    if missing:
        splits["train"] = whole.select(range(len(missing) * part, len(whole)))
    return splits


def _encode(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str) -> _Encoded:
    """Whole rows with answer and end, and the tokens of the other answers."""
    last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    encoded, others = [], []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        encoded.append([*prompt, _answer_token(row["prompt"], prompt, row["answer"], tokenizer, name), last])
        if "other_answer" in row:
            others.append(_answer_token(row["prompt"], prompt, row["other_answer"], tokenizer, name))
    return _Encoded(encoded, others)


def _answer_token(text: str, prompt: list[int], answer: str, tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    between = "" if text[-1:].isspace() or str(answer)[:1].isspace() else " "
    both = tokenizer(f"{text}{between}{answer}")["input_ids"]
    if both[: len(prompt)] != prompt or len(both) != len(prompt) + 1:
        raise ValueError(
            f"dataset: {name}: the answer {answer!r} is {len(both) - len(prompt)} tokens after the prompt "
            f"{text[-40:]!r}, expected one"
        )
    return int(both[-1])


def _unused_token(rows: Iterable[list[int]], vocabulary: int) -> int:
    used = {token for row in rows for token in row}
    free = next((token for token in range(vocabulary) if token not in used), None)
    if free is None:
        raise ValueError("dataset: its rows use every token of the vocabulary, none is left to fill shorter rows with")
    return free


def mask_padding(model: PreTrainedModel, pad: int | None) -> PreTrainedModel:
    """Make a model pass over ``pad`` on the left of its rows whoever calls it; nothing if ``pad`` is None.

    So every instrument takes rows of several lengths. Positions count real tokens only.

    Raises:
        ValueError: the model takes no positions, so that it would answer differently to a row that is padded.
    """
    if pad is None:
        return model
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"dataset: its prompts differ in length, and {model.config.model_type} takes no position_ids; "
            "give it prompts of one length"
        )

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token_ids = args[0] if args else kwargs.get("input_ids")
        if token_ids is None or kwargs.get("attention_mask") is not None:
            return None
        mask = (token_ids != pad).long().cummax(-1).values
        return args, {**kwargs, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model
