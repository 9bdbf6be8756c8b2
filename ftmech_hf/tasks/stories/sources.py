"""Where stories come from: raw files, tables, folders of ``make_stories``, datasets of the Hub and files of them.

All of them become raw files on this disk. Rows of tables are streamed into one of JSON lines, which is kept; whether
they are stories with columns of their own, whole texts, or a line of text each (as in the public TinyStories-Instruct)
is seen from them. What a row holds is judged where records are read, so that all damage is counted there.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, hf_hub_download

from ftmech_hf.downloads import hub_errors
from ftmech_hf.tasks.stories.cache import cache_folder, hash_file, make_once, source_hash
from ftmech_hf.tasks.stories.raw import END, LONGEST, TOO_LONG, has_lines_of_json, raw_records
from ftmech_hf.tasks.stories.records import LOST, Damage, DamagedRecordError, Story, load_json, read_stories
from ftmech_hf.tasks.text.reading import allow_long_cells

HUB = "hf://datasets/"
"""How the name of a file on the Hub begins: ``hf://datasets/USER/NAME/PATH`` or ``.../USER/NAME@REVISION/PATH``."""

DATASET = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""``USER/NAME`` or ``USER/NAME@REVISION``: the training rows of a dataset of the Hub, as ``load_dataset`` has them."""

RAW = (".txt", ".json")

TABLES = (".jsonl", ".csv", ".parquet")

COLUMNS = ("story", "instruction", "features", "words", "summary", "sentence")

LOOKED_AT = 1000
"""Rows of a table from which it is seen what rows are."""


class Source(NamedTuple):
    """A raw file, and what to call where it comes from."""

    name: str
    path: Path


def local_files(names: Sequence[str]) -> list[Path]:
    """The raw files of some sources, in order; see :func:`find_sources`."""
    return [source.path for source in find_sources(names)]


def find_sources(names: Sequence[str]) -> list[Source]:
    """The raw files of some sources, in order, with their names.

    Raises:
        ValueError: a source that is not there or of no known kind.
        OSError: the Hub cannot be reached.
    """
    return [source for name in names for source in _find(name)]


def read_sources(names: Sequence[str], damage: Damage) -> Iterator[Story]:
    """Stream the stories of some sources; damaged records are counted and left out."""
    for source in find_sources(names):
        yield from read_stories(source.path, damage)


def _find(name: str) -> list[Source]:
    path = Path(name)
    if name.startswith(HUB):
        path = _pull(name)
    elif DATASET.fullmatch(name) and not path.exists() and path.suffix not in (*RAW, *TABLES):
        return [Source(name, _dataset(*name.split("@", 1)))]
    if path.is_dir():
        found = sorted(each for each in path.glob("*/train.parquet") if each.parent.name != "held_out")
        if not found:
            raise ValueError(f"files: {name} is a folder without SOMETHING/train.parquet, as make_stories leaves it")
        return [Source(str(each), _as_records(each)) for each in found]
    if not path.is_file():
        raise ValueError(f"files: there is no {name}")
    if path.suffix not in (*RAW, *TABLES):
        kinds = ", ".join([*RAW, *TABLES[:-1]])
        raise ValueError(f"files: {name}, expected a folder of make_stories or a file {kinds} or {TABLES[-1]}")
    is_table = path.suffix in TABLES or (path.suffix == ".json" and has_lines_of_json(path))
    return [Source(name, _as_records(path) if is_table else path)]


@functools.cache  # every document asks for its file, and within a process a name stands for the same one
def _pull(name: str) -> Path:
    user, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, path = rest.partition("/")
    repo, _, revision = repo.partition("@")
    if not path:
        raise ValueError(f"files: {name}, expected {HUB}USER/NAME/PATH_OF_A_FILE, or USER/NAME for all training rows")
    with hub_errors("files", f"download {name}"):
        return Path(hf_hub_download(f"{user}/{repo}", path, repo_type="dataset", revision=revision or None))


@functools.cache
def _dataset(repo: str, revision: str | None = None) -> Path:
    """The training rows of a dataset at the commit that a revision is now; without a connection, those kept last."""
    from datasets import load_dataset

    begin = f"rows-{_version()}-{repo.replace('/', '--')}-{(revision or 'main').replace('/', '--')}"
    try:
        with hub_errors("files", f"read the dataset {repo}"):
            commit = HfApi().dataset_info(repo, revision=revision).sha
            kept = cache_folder() / f"{begin}-{commit}.jsonl"
            if not kept.is_file():
                _write(kept, repo, load_dataset(repo, split="train", revision=commit, streaming=True))
    except OSError as error:
        if error.errno is not None:  # this machine's, such as a full disk
            raise
        known = sorted(cache_folder().glob(f"{begin}-*.jsonl"), key=lambda path: path.stat().st_mtime)
        if not known:
            raise
        return known[-1]
    return kept


def _as_records(path: Path) -> Path:
    kept = cache_folder() / f"rows-{_version()}-{path.suffix.removeprefix('.')}-{hash_file(path)}.jsonl"
    if not kept.is_file():
        _write(kept, str(path), _READERS.get(path.suffix, _json_rows)(path))
    return kept


def _version() -> str:
    return source_hash("sources.py", "raw.py", "records.py")


def _write(kept: Path, source: str, rows: Iterable[Any]) -> None:
    def write(working: Path) -> None:
        with working.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(each, default=_as_json)}\n" for each in _records(source, iter(rows)))

    make_once(kept, write)


def _as_json(value: Any) -> Any:
    """What JSON has no form of: bytes are text, and anything else is kept as what it is not."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else {"type": type(value).__name__}


def _records(source: str, rows: Iterator[Any]) -> Iterator[Any]:
    """Rows as the records of a JSON shard: one object a story, of which none has a mark in it."""
    first = list(itertools.islice(rows, LOOKED_AT))
    columns = dict.fromkeys(str(name) for row in first if isinstance(row, Mapping) for name in row if name != LOST)
    if columns and not {"story", "text"} & columns.keys():
        raise ValueError(f"files: {source} has no column story or text, only {', '.join(columns)}")
    rows = itertools.chain(first, rows)
    if "story" in columns:
        for row in rows:
            yield {name: row[name] for name in (LOST, *COLUMNS) if name in row} if isinstance(row, Mapping) else row
    elif are_lines(_text(row) for row in first):
        yield from _joined(_text(row) or "" for row in rows)
    else:
        for row in rows:
            text = _text(row)
            parts = [part for part in (text or "").split(END) if part.strip()]
            yield from ({"text": part} for part in parts) if parts else [row if text is None else {"text": ""}]


def _text(row: Any) -> str | None:
    """The column ``text`` of a row; None if it is no text."""
    value = row.get("text") if isinstance(row, Mapping) else None
    value = _as_json(value) if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def are_lines(texts: Iterable[str | None]) -> bool:
    """Whether rows are lines of stories, not whole ones: what tells is where the marks ``<|endoftext|>`` stand.

    They are if a mark has a row of its own, or if it always is at a row's end or beginning, and at least as many rows
    of a single line have none.
    """
    stripped = [text.strip() for text in texts if text is not None and text.strip()]
    marked = [text for text in stripped if END in text]
    if not marked or END in marked:
        return bool(marked)
    at_edges = all(END not in text.removeprefix(END).removesuffix(END) for text in marked)
    return at_edges and 2 * len(marked) <= len(stripped) and not any("\n" in text for text in stripped)


def _joined(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The records between the marks in some lines."""
    record: list[str] = []
    size = 0
    for line in itertools.chain(lines, [END]):
        *ended, rest = line.rstrip("\r\n").split(END)
        for part in ended:
            text = "\n".join([*record, part])
            if size > LONGEST:
                yield {LOST: TOO_LONG}
            elif text.strip():
                yield {"text": text}
            record, size = [], 0
        size += len(rest) + 1
        if size <= LONGEST:
            record.append(rest)


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(LOOKED_AT):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:
                columns = zip(batch.schema.names, batch.columns, strict=True)
                yield from pa.table({name: _as_bytes(column) for name, column in columns}).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"files: {path} is no parquet file that can be read: {error}") from error


def _as_bytes(column: pa.Array) -> pa.Array:
    """A column of text as its bytes, so that a row which is not UTF-8 costs itself alone."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return column.cast(pa.large_binary()) if is_text else column


def _csv_rows(path: Path) -> Iterator[Any]:
    allow_long_cells()
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error as error:
            raise ValueError(f"files: {path} is no CSV file that can be read: {error}") from error


def _json_rows(path: Path) -> Iterator[Any]:
    """The values of a file with one a line; a line that is none is a row that is no story."""
    for record in raw_records(path, kind=".jsonl"):
        try:
            yield load_json(record)
        except DamagedRecordError as error:
            yield {LOST: str(error)}


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {".parquet": _parquet_rows, ".csv": _csv_rows}
