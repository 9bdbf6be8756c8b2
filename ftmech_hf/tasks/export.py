"""Rows as HF datasets and parquet files: the same columns however they are made.

Texts are built a whole block at a time, as Arrow columns, so that a dataset costs little more than its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ftmech_hf.config import to_dict
from ftmech_hf.tasks.schema import BLOCK, Rows, RowStream, Task

if TYPE_CHECKING:
    import datasets

SHARD_BLOCKS = 64
STREAM_ROWS = 2**28
"""Rows of a stream whose length is not given: more than any run uses, in shards of ``SHARD_BLOCKS`` blocks."""


def features(task: Task) -> datasets.Features:
    """Columns of a task's dataset.

    ``prompt`` + ``completion`` is what a model is trained on; ``operator`` and ``operand`` are its second and third
    word; ``parameter`` is the number O' in it (-1 if the word is none); ``text`` is what stands between ``<sot>`` and
    ``<eot>``; ``label`` is the answer as an integer (-1: there is none; a terminal id for ``token_at``); ``correlated``
    says whether the planted correlation holds in the text, whatever is asked about it. Where there are answers that are
    not wanted, ``chosen`` is the completion again and ``rejected`` the other one. Where questions stand at no fixed
    place, there is no ``operator``, ``operand`` or ``parameter``.
    """
    import datasets

    pair = ("chosen", "rejected") if task.has_rejected else ()
    question: dict[str, Any] = {}
    if task.fixed_places:
        question = {
            "operator": datasets.ClassLabel(names=list(task.operator_names)),
            "operand": datasets.ClassLabel(names=list(task.operand_names)),
            "parameter": datasets.Value("int64"),
        }
    return datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "completion": datasets.Value("string"),
            **question,
            "text": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "label": datasets.Value("int64"),
            "correlated": datasets.Value("bool"),
            **{name: datasets.Value("string") for name in pair},
        }
    )


@functools.cache
def _word_table(vocabulary: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every word with a space before it: bytes padded to one width, and their lengths."""
    words = [f" {word}".encode() for word in vocabulary]
    width = max(map(len, words))
    table = np.frombuffer(b"".join(word.ljust(width, b"\0") for word in words), np.uint8)
    return table.reshape(-1, width), np.array([len(word) for word in words])


def _join_words(vocabulary: tuple[str, ...], token_ids: NDArray[np.int64], *, leading_space: bool) -> pa.Array:
    """Each row's words, joined by spaces, as an Arrow string column."""
    table, lengths = _word_table(vocabulary)
    letters = table[token_ids]
    inside = np.arange(table.shape[1]) < lengths[token_ids][:, :, None]
    if not leading_space:
        inside[:, 0, 0] = False
    ends = np.concatenate([[0], np.cumsum(inside.sum(axis=(1, 2)))]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(letters[inside])]
    return pa.StringArray.from_buffers(len(token_ids), *buffers[1:])


def rows_to_table(task: Task, rows: Rows) -> pa.Table:
    """Rows in the columns of :func:`features`."""
    words, ids, answer = task.vocabulary, rows.token_ids, task.answer
    texts = _texts_at_places(task, ids) if task.fixed_places else _texts_by_answers(words, rows)
    columns: dict[str, Any] = {**texts, "label": rows.label, "correlated": rows.correlated}
    if task.fixed_places:
        columns |= dict(zip(("operator", "operand", "parameter"), task.question(ids), strict=True))
    if task.has_rejected:
        assert rows.rejected is not None
        other = _join_words(words, rows.rejected.token_ids[:, answer.start :], leading_space=True)
        columns |= {"chosen": columns["completion"], "rejected": other}
    return pa.table(columns, schema=features(task).arrow_schema)


def _texts_at_places(task: Task, ids: NDArray[np.int64]) -> dict[str, pa.Array]:
    answer = task.answer
    return {
        "prompt": _join_words(task.vocabulary, ids[:, : answer.start], leading_space=False),
        "completion": _join_words(task.vocabulary, ids[:, answer.start :], leading_space=True),
        "text": _join_words(task.vocabulary, ids[:, task.text], leading_space=False),
        "answer": _join_words(task.vocabulary, ids[:, answer], leading_space=False),
    }


def _texts_by_answers(words: tuple[str, ...], rows: Rows) -> dict[str, list[str]]:
    """Of rows that end where they end: a prompt is what stands before the first answer, and all of it is text."""
    assert rows.answers is not None
    assert rows.lengths is not None
    found: dict[str, list[str]] = {name: [] for name in ("prompt", "completion", "text", "answer")}
    for ids, answers, length in zip(rows.token_ids, rows.answers, rows.lengths, strict=True):
        spelled, first = [words[each] for each in ids[:length]], int(answers.argmax())
        prompt = " ".join(spelled[:first])
        found["prompt"].append(prompt)
        found["completion"].append(" " + " ".join(spelled[first:]))
        found["text"].append(prompt)
        found["answer"].append(" ".join(words[each] for each in ids[answers]))
    return found


@functools.cache
def code_version() -> str:
    """A hash of this package's source, so that nothing made by other code is taken from a cache."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".yaml"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def dataset_fingerprint(task: Task, split: str, seed: int, num_rows: int) -> str:
    """What a dataset holds, in 16 hex digits: settings, split, seed, length and the code that makes it."""
    content = [type(task).__name__, to_dict(task), split, seed, num_rows, code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_num_rows(num_rows: int) -> None:
    if num_rows < 1:
        raise ValueError(f"num_rows: {num_rows}, expected at least 1")


def build_dataset(task: Task, split: str, num_rows: int, *, seed: int = 0) -> datasets.Dataset:
    """The first ``num_rows`` rows of a split as a ``datasets.Dataset`` with the columns of :func:`features`.

    Its fingerprint covers settings, split, seed, length and code version, so ``Dataset.map`` and the like find their
    results again, and never those of another dataset.
    """
    import datasets

    _check_num_rows(num_rows)
    stream = RowStream(task, seed=seed, split=split)
    table = pa.concat_tables([rows_to_table(task, rows) for rows in stream.blocks(0, num_rows)])
    return datasets.Dataset(
        datasets.table.InMemoryTable(table.combine_chunks()),
        info=datasets.DatasetInfo(features=features(task)),
        split=datasets.Split(split),
        fingerprint=dataset_fingerprint(task, split, seed, num_rows),
    )


def example_row(task: Task, seed: int) -> Mapping[str, str]:
    """``prompt`` and ``answer`` of a test row, for a model's card."""
    example: Mapping[str, str] = task.example(seed) or build_dataset(task, "test", 1, seed=seed)[0]
    return example


def stream_dataset(task: Task, split: str, num_rows: int = STREAM_ROWS, *, seed: int = 0) -> datasets.IterableDataset:
    """The rows of a split, in order and made while they are read, as a ``datasets.IterableDataset``.

    ``state_dict`` / ``load_state_dict`` go on where a stream stopped, at the cost of at most one shard of 65,536 rows.
    ``datasets.distributed.split_dataset_by_node`` and the workers of a ``DataLoader`` share its shards.
    """
    import datasets

    _check_num_rows(num_rows)
    RowStream(task, seed=seed, split=split)  # a wrong split or seed shows here
    starts = list(range(0, num_rows, SHARD_BLOCKS * BLOCK))
    return datasets.IterableDataset.from_generator(
        _generate_rows,
        features=features(task),
        gen_kwargs={"starts": starts, "task": task, "split": split, "seed": seed, "num_rows": num_rows},
        split=datasets.Split(split),
    )


def _generate_rows(starts: list[int], task: Task, split: str, seed: int, num_rows: int) -> Iterator[dict[str, Any]]:
    stream = RowStream(task, seed=seed, split=split)
    for start in starts:
        for rows in stream.blocks(start, min(start + SHARD_BLOCKS * BLOCK, num_rows)):
            yield from rows_to_table(task, rows).to_pylist()


def write_parquet(
    task: Task, split: str, num_rows: int, path: Path, *, seed: int = 0, blocks_per_group: int = 64
) -> Iterator[Rows]:
    """Write a split's first rows to one parquet file, in memory bounded by its row groups; yields the rows as written.

    Yields:
        every piece of at most ``BLOCK`` rows, for statistics on the way.
    """
    _check_num_rows(num_rows)
    stream = RowStream(task, seed=seed, split=split)
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, features(task).arrow_schema, compression="zstd") as writer:
        for rows in stream.blocks(0, num_rows):
            waiting.append(rows_to_table(task, rows))
            if len(waiting) == blocks_per_group:
                writer.write_table(pa.concat_tables(waiting), row_group_size=blocks_per_group * BLOCK)
                waiting = []
            yield rows
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=blocks_per_group * BLOCK)
