"""Reading tables of questions from anywhere, and making sure that what they hold is text.

A table is read by what it is, not by what it is called: parquet, arrow, CSV or TSV, JSON or JSON lines, as a single
file or a folder of them, a folder of ``save_to_disk``, or a data set on the Hub. Cells of CSV are text as they stand.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ftmech_hf.jobs.dataset_identity import DatasetName, dataset_hash

PROMPTS, ANSWERS, OTHER, MESSAGES = ("prompt", "question"), ("answer", "completion"), "other_answer", "messages"
"""What a column of prompts or answers may be called, the first that is there; and a whole chat, its answer last."""

CHAT, PLACE = "asked_in_a_chat", "row_of_the_table"
"""Columns that :func:`text_columns` adds: whether a prompt is a rendered chat, and where the row stood."""


def read_table(name: str) -> datasets.DatasetDict:
    """The splits of a data set; a table that has none is called train.

    Raises:
        ValueError: there is no such data set, or it cannot be read; says why in one line.
    """
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded = _load(name)
    except Exception as error:  # a loader of foreign files may raise anything: pyarrow's, pandas' and the Hub's errors
        reason = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        text = " ".join(str(reason or error).split()).removeprefix("dataset: ") or type(error).__name__
        raise ValueError(f"dataset: cannot read {name}: {text}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})


def _load(name: str) -> Any:
    path = Path(name)
    if path.is_file():
        return _load_file(path)
    if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(path))
    return _load_named(DatasetName.parse(name))


def _cache_of(name: str) -> str:
    """Where ``datasets`` keeps what it made of some files: it knows them by path and time, which copies can share."""
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"local-{dataset_hash(name)}")


def _load_named(name: DatasetName) -> Any:
    """A config of a folder, or what is on the Hub: the commit that its hash names, and no other from the cache."""
    if name.is_local:
        text = _as_text(Path(name.where))
        return datasets.load_dataset(name.where, name.config, cache_dir=_cache_of(name.where), **text)
    loaded = datasets.load_dataset(name.where, name.config, revision=name.commit)
    files = [Path(each["filename"]) for rows in loaded.values() for each in rows.cache_files]
    if stale := [path for path in files if name.commit not in path.parts]:
        raise ValueError(f"commit {name.commit[:12]} is not in the cache, only {stale[0].parent.name[:12]}")
    return loaded


_KINDS = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".gz")


def _load_file(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    with _opened(path) as opened:
        head = opened.read(4096).removeprefix(b"\xef\xbb\xbf")  # the mark by which Windows says UTF-8
    if not head.strip():
        raise ValueError("the file is empty")
    for magic, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"{", "json"), (b"[", "json")):
        if head.lstrip().startswith(magic):
            return datasets.load_dataset(kind, data_files=str(path), cache_dir=_cache_of(str(path)))
    if b"\0" in head:
        raise ValueError("it is neither parquet, arrow, JSON nor CSV")
    header, *rows = _cells(path)
    return datasets.Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(header)})


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _cells(path: Path) -> list[list[str]]:
    """The cells of a CSV file as they stand there, the header first.

    Raises:
        ValueError: a row has more or fewer of them than the header.
    """
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as text:
        first = text.readline()
        text.seek(0)
        # the one that stands in the first line; a comma where several do
        separator = next((each for each in ",;\t" if each in first), ",")
        header, *rows = [row for row in csv.reader(text, delimiter=separator, strict=True) if row]
    if len(set(header)) < len(header):
        raise ValueError(f"its first line names a column twice: {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the first line names {len(header)} columns")
    return [header, *rows]


def _as_text(folder: Path) -> dict[str, Any]:
    """How to read a folder of CSV files as text; nothing if it has other files of data as well."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _KINDS]
    if not files or any(path.suffix not in (".csv", ".tsv") for path in files):
        return {}
    headers = [_cells(path)[0] for path in files]  # which also finds what pandas would take for an index
    features = datasets.Features({name: datasets.Value("string") for name in headers[0]})
    return {"features": features, "keep_default_na": False, "encoding": "utf-8-sig"}


def text_columns(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, split: str) -> datasets.Dataset:
    """The same rows with ``prompt``, ``answer`` and, if it is there, ``other_answer`` as text.

    Text stays as it is, and a whole number becomes its decimal spelling. A chat (a list of messages with ``role`` and
    ``content``) is rendered by the tokenizer's template up to where the assistant speaks; its answer is a column, or
    else the last message. Nothing else is text: not a missing value, a fraction, a truth value, a list or a mapping.

    Args:
        rows: a split as it was read.
        tokenizer: whose template renders chats.
        name, split: what errors call the rows.

    Raises:
        ValueError: a column is missing, or a value is no text; says which row, and in how many rows.
    """
    prompts, answers, others = _chosen_columns(rows, name, split)
    where = _Where(name, split)
    chat = [isinstance(value, list) for value in prompts]
    found = {"prompt": where.checked("prompt", prompts, lambda value: _prompt(value, tokenizer))}
    for column, values in (("answer", answers), (OTHER, others)):
        if values is not None:
            pairs = list(zip(values, prompts, strict=True))
            found[column] = where.checked(column, pairs, lambda pair: _answer(pair[0], pair[1], tokenizer))
    rows = rows.remove_columns([each for each in (*found, CHAT, PLACE) if each in rows.column_names])
    kept: Mapping[str, Any] = {
        **found,
        CHAT: chat,
        PLACE: [f"row {number} of {split}" for number in range(len(prompts))],
    }
    added = datasets.Dataset.from_dict(dict(kept))
    return datasets.concatenate_datasets([rows, added], axis=1) if rows.column_names else added


def _chosen_columns(rows: datasets.Dataset, name: str, split: str) -> tuple[list[Any], list[Any], list[Any] | None]:
    there = rows.column_names
    prompt, answer = (next((each for each in names if each in there), None) for names in (PROMPTS, ANSWERS))
    if prompt is None and MESSAGES in there:
        prompt = MESSAGES
    if prompt is None:
        raise ValueError(
            f"dataset: {name} has no column 'prompt' (or 'question', or 'messages') in {split}, only {', '.join(there)}"
        )
    prompts = _values(rows, prompt)
    if answer is not None:
        answers = _values(rows, answer)
    elif all(isinstance(value, list) and value and _role(value[-1]) == "assistant" for value in prompts):
        answers, prompts = [value[-1:] for value in prompts], [value[:-1] for value in prompts]
    else:
        raise ValueError(
            f"dataset: {name} has no column 'answer' (or 'completion') in {split}, only {', '.join(there)}"
        )
    return prompts, answers, _values(rows, OTHER) if OTHER in there else None


def _values(rows: datasets.Dataset, column: str) -> list[Any]:
    feature = rows.features[column]
    values = list(rows[column])
    if isinstance(feature, datasets.ClassLabel):  # numbers that stand for names
        return [None if value is None else feature.int2str(value) for value in values]
    return values


class _Where:
    """Where values stand, for errors."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split

    def checked(self, column: str, values: Sequence[Any], convert: Callable[[Any], str]) -> list[str]:
        """All values as text, or one error for the first that is none, with the number of its kind."""
        texts, reasons = [], {}
        for number, value in enumerate(values):
            try:
                texts.append(convert(value))
            except ValueError as error:
                reasons[number] = str(error)
        if reasons:
            first = next(iter(reasons))
            raise ValueError(
                f"dataset: {self.name}: {column} of row {first} of {self.split}: {reasons[first]} "
                f"({len(reasons)} of {len(values)} rows are like that)"
            )
        return texts


def _as_word(value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!r} holds half a character (a lone surrogate), expected text") from error
        if not value.strip():
            raise ValueError(f"{value!r}, expected text")
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_):
        return str(int(value))
    if value is None:
        raise ValueError("None, expected text; leave such rows out")
    kind = type(value).__name__
    hint = "; write a number as the text that is meant" if isinstance(value, float) else ""
    raise ValueError(f"{_shown(value)} ({kind}), expected text or a whole number{hint}")


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def _messages(value: list[Any]) -> list[dict[str, Any]]:
    """A chat without the empty keys that a table's columns bring."""
    messages = []
    for each in value:
        if _role(each) is None or each.get("content") is None:
            raise ValueError(f"{_shown(value)} (list), expected text, or messages with role and content")
        messages.append({key: item for key, item in each.items() if item is not None})
    if not messages:
        raise ValueError("[], expected text, or messages with role and content")
    return messages


def _render(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, begin: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError("a chat, but the tokenizer has no chat template, expected text")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin))
    except Exception as error:  # a template is a program of its author
        raise ValueError(f"the tokenizer's chat template refuses the chat: {' '.join(str(error).split())}") from error


def _prompt(value: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    if not isinstance(value, list):
        return _as_word(value)
    messages = _messages(value)
    if messages[-1]["role"] == "assistant":
        raise ValueError("a chat that ends with the assistant, expected the user, and an answer in its own column")
    return _render(messages, tokenizer, begin=True)


def _answer(value: Any, prompt: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer as it would follow its prompt: in a chat as the template writes what the assistant says."""
    if isinstance(value, list):
        messages = _messages(value)
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"a chat that ends with {messages[-1]['role']!r}, expected the assistant")
        value = messages[-1]["content"]
    word = _as_word(value)
    if not isinstance(prompt, list):
        return word
    messages = _messages(prompt)
    before = _render(messages, tokenizer, begin=True)
    whole = _render([*messages, {"role": "assistant", "content": word}], tokenizer, begin=False)
    if whole.startswith(before):
        said = whole[len(before) :]
        start = said.find(word.strip())
        if start >= 0 and not said[:start].strip():
            return said[: start + len(word.strip())]
    return word


def contradictions(prompts: Sequence[str], answers: Sequence[str]) -> str | None:
    """What is to be said of prompts that stand in a table with several answers; nothing if none do."""
    known: dict[str, set[str]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        known.setdefault(prompt, set()).add(answer)
    several = {prompt for prompt, given in known.items() if len(given) > 1}
    if not several:
        return None
    number = Counter(prompt in several for prompt in prompts)[True]
    shown = next(prompt for prompt in prompts if prompt in several)
    return (
        f"{number} of {len(prompts)} rows contradict each other: {len(several)} prompts have several answers, such as "
        f"{json.dumps(shown[-40:], ensure_ascii=False)} {sorted(known[shown])[:3]}"
    )
