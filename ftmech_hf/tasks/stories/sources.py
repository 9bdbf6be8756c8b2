"""Where stories come from: raw files, parquet, folders of ``make_stories``, files of a dataset on the Hub.

All of them become raw files on this disk. Rows of parquet are streamed into one, which is kept; whether they are
stories with columns of their own, whole texts, or a line of text each (as in the public TinyStories-Instruct) is seen
from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download

from ftmech_hf.downloads import hub_errors
from ftmech_hf.runs import file_sha256
from ftmech_hf.tasks.stories.cache import cache_folder, hash_file, source_hash
from ftmech_hf.tasks.stories.records import END, Story

HUB = "hf://datasets/"
"""How the name of a file on the Hub begins: ``hf://datasets/USER/NAME/PATH`` or ``.../USER/NAME@REVISION/PATH``."""

RAW = (".txt", ".json")

LOOKED_AT = 1000
"""Rows of parquet in which a line ``<|endoftext|>`` must stand if rows are lines."""


def local_files(names: Sequence[str]) -> list[Path]:
    """The raw files of some sources, in order.

    Raises:
        ValueError: a source that is not there or of no known kind.
        OSError: the Hub cannot be reached.
    """
    return [path for name in names for path in _local(name)]


def _local(name: str) -> list[Path]:
    path = _pull(name) if name.startswith(HUB) else Path(name)
    if path.is_dir():
        found = sorted(each for each in path.glob("*/train.parquet") if each.parent.name != "held_out")
        if not found:
            raise ValueError(f"files: {name} is a folder without SOMETHING/train.parquet, as make_stories leaves it")
        return [_as_text(each) for each in found]
    if not path.is_file():
        raise ValueError(f"files: there is no {name}")
    if path.suffix not in (*RAW, ".parquet"):
        raise ValueError(f"files: {name}, expected a folder of make_stories or a file {', '.join(RAW)} or .parquet")
    return [_as_text(path) if path.suffix == ".parquet" else path]


def _pull(name: str) -> Path:
    user, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, path = rest.partition("/")
    repo, _, revision = repo.partition("@")
    if not path:
        raise ValueError(f"files: {name}, expected {HUB}USER/NAME/PATH_OF_A_FILE")
    with hub_errors("files", f"download {name}"):
        return Path(hf_hub_download(f"{user}/{repo}", path, repo_type="dataset", revision=revision or None))


def _as_text(path: Path) -> Path:
    kept = cache_folder() / f"text-{source_hash('sources.py', 'records.py')}-{hash_file(path)}.txt"
    if not kept.is_file():
        working = kept.with_name(f".{kept.name}.{file_sha256(path)[:8]}.tmp")
        with working.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in _lines(path))
        working.replace(kept)
    return kept


def _lines(path: Path) -> Iterator[str]:
    """The lines of a raw file with the same stories."""
    rows = _rows(path)
    first = list(itertools.islice(rows, LOOKED_AT))
    if first and "story" not in first[0] and any(row["text"].strip() == END for row in first):
        yield from (row["text"].rstrip("\r\n") for row in itertools.chain(first, rows))
        return
    for row in itertools.chain(first, rows):
        if "story" in row:
            features, words = (tuple(row.get(name) or ()) for name in ("features", "words"))
            headers = {name: row.get(name) or "" for name in ("summary", "sentence")}
            story = Story(story=row["story"], features=features, words=words, **headers)
            yield story.prompt() + story.story if story.headers() else story.story
        else:
            yield row["text"].strip()
        yield END


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    known = [name for name in ("story", "text") if name in file.schema_arrow.names]
    if not known:
        raise ValueError(f"files: {path} has no column story or text, only {', '.join(file.schema_arrow.names)}")
    for batch in file.iter_batches(LOOKED_AT):
        yield from batch.to_pylist()
