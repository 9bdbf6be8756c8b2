"""Where stories come from: raw files, parquet, folders of ``make_stories``, datasets of the Hub and files of them.

All of them become raw files on this disk. Rows are streamed into one, which is kept; whether they are stories with
columns of their own, whole texts, or a line of text each (as in the public TinyStories-Instruct) is seen from them.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download

from ftmech_hf.downloads import hub_errors
from ftmech_hf.tasks.stories.cache import cache_folder, hash_file, source_hash
from ftmech_hf.tasks.stories.records import END, Story

HUB = "hf://datasets/"
"""How the name of a file on the Hub begins: ``hf://datasets/USER/NAME/PATH`` or ``.../USER/NAME@REVISION/PATH``."""

DATASET = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""``USER/NAME`` or ``USER/NAME@REVISION``: the training rows of a dataset of the Hub, as ``load_dataset`` has them."""

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
    path = Path(name)
    if name.startswith(HUB):
        path = _pull(name)
    elif DATASET.fullmatch(name) and not path.exists() and path.suffix not in (*RAW, ".parquet"):
        return [_dataset(*name.split("@", 1))]
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
    begin = f"text-{_version()}-{repo.replace('/', '--')}-{(revision or 'main').replace('/', '--')}"
    try:
        with hub_errors("files", f"read the dataset {repo}"):
            commit = HfApi().dataset_info(repo, revision=revision).sha
            kept = cache_folder() / f"{begin}-{commit}.txt"
            if not kept.is_file():
                _write(kept, repo, load_dataset(repo, split="train", revision=commit, streaming=True))
    except OSError as error:
        if error.errno is not None:  # this machine's, such as a full disk
            raise
        known = sorted(cache_folder().glob(f"{begin}-*.txt"), key=lambda path: path.stat().st_mtime)
        if not known:
            raise
        return known[-1]
    return kept


def _as_text(path: Path) -> Path:
    kept = cache_folder() / f"text-{_version()}-{hash_file(path)}.txt"
    if not kept.is_file():
        _write(kept, str(path), _rows(path))
    return kept


def _version() -> str:
    return source_hash("sources.py", "records.py")


def _write(kept: Path, source: str, rows: Iterable[dict[str, Any]]) -> None:
    working = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    try:
        with working.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in _lines(source, iter(rows)))
        working.replace(kept)
    finally:
        working.unlink(missing_ok=True)


def _lines(source: str, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The lines of a raw file with the same stories."""
    first = list(itertools.islice(rows, LOOKED_AT))
    if first and not {"story", "text"} & first[0].keys():
        raise ValueError(f"files: {source} has no column story or text, only {', '.join(first[0])}")
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
    for batch in pq.ParquetFile(path).iter_batches(LOOKED_AT):
        yield from batch.to_pylist()
