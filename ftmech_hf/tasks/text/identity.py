"""What a data set is as an input: the bytes of all that is read of it, or the commit of its repository on the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ftmech_hf.downloads import hub_commit
from ftmech_hf.runs import MANIFEST, file_sha256, is_finished

CARD, CARD_BESIDE = "README.md", ".huggingface.yaml"
READ_OF_A_CARD = ("configs", "dataset_info")  # which files are read, as which columns; the rest is prose
FILES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".gz")
"""Files that are read as data."""

# What a run of ours says about itself, beside the rows it made.
BOOKKEEPING = ("env.json", "config.yaml", MANIFEST)


class DatasetName(NamedTuple):
    """The parts of ``FOLDER:CONFIG`` or ``USER/NAME@REVISION:CONFIG``."""

    where: str
    revision: str | None
    config: str | None

    @classmethod
    def parse(cls, name: str) -> DatasetName:
        """Read one; what exists on disk under the whole name is that."""
        if Path(name).exists():
            return cls(name, None, None)
        where, _, config = name.partition(":")
        if Path(where).exists():
            return cls(where, None, config or None)
        where, _, revision = where.partition("@")
        return cls(where, revision or None, config or None)

    @property
    def is_local(self) -> bool:
        """Whether it is a file or folder; else it can only be on the Hub."""
        return Path(self.where).exists()

    @property
    def commit(self) -> str:
        """The commit on the Hub that the name stands for, in this process.

        Raises:
            ValueError: there is no such data set; says why.
        """
        if self.where.startswith((".", "/", "~")) or self.where.count("/") != 1:
            raise ValueError("no such folder or file")
        if self.revision is None and Path(self.where).suffix in FILES:  # rather misspelt than a repository
            raise ValueError(
                "no such file here; of a repository of the Hub that is called so, name the revision as well"
            )
        return hub_commit(self.where, "dataset", self.revision)


@contextlib.contextmanager
def dataset_errors(name: str) -> Iterator[None]:
    """Turn whatever is wrong with a data set into one line that names it."""
    import datasets

    try:
        yield
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()).removeprefix("dataset: ")
        raise ValueError(f"dataset: cannot read {name}: {reason}") from error


def dataset_hash(name: str) -> str:
    """What identifies a data set as an input.

    Returns:
        of a file or folder: the sha256 of all files in it, whatever their format, with their places in it, as far as
        they can change what is read. Of a data set on the Hub: its name and the commit it stands for now.

    Raises:
        ValueError: there is no such data set.
    """
    found = DatasetName.parse(name)
    config = f":{found.config}" if found.config else ""
    if not found.is_local:
        with dataset_errors(name):
            return f"{found.where}@{found.commit}{config}"
    digest = hashlib.sha256(config.encode())
    path = Path(found.where)
    for each in [path] if path.is_file() else _files(path):
        place = path.suffix if each == path else each.relative_to(path).as_posix()
        if content := _digest(each):
            digest.update(f"{place}\0{content}\0".encode())
    return digest.hexdigest()[:12]


def _files(folder: Path) -> Iterator[Path]:
    """All files that ``datasets`` can read: none that is hidden, nor what a run of ours says of itself."""
    own = {folder / name for name in BOOKKEEPING} if is_finished(folder) else set()
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [each for each in folders if not each.startswith((".", "__"))]
        found += [Path(place) / name for name in names if name == CARD_BESIDE or not name.startswith((".", "__"))]
    return (path for path in sorted(found) if path not in own and path.is_file())


def _digest(path: Path) -> str:
    """Of a file's bytes; of a saved data set's state without its name; of a card only what says which files are read.

    That is nothing for most cards.
    """
    content: Any = None
    if path.name in (CARD, CARD_BESIDE):
        content = _header(path.read_text(encoding="utf-8", errors="replace"), whole=path.name == CARD_BESIDE)
    elif path.name == "state.json":
        try:
            content = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "_fingerprint"}
        except (ValueError, AttributeError):
            return file_sha256(path)
    if content is None:
        return file_sha256(path)
    if not content:
        return ""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _header(text: str, *, whole: bool) -> dict[str, Any] | None:
    lines = text.splitlines()
    if not whole:
        if not lines or lines[0].strip() != "---" or "---" not in (rest := [line.strip() for line in lines[1:]]):
            return {}
        text = "\n".join(lines[1 : 1 + rest.index("---")])
    try:
        header = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return {key: header[key] for key in READ_OF_A_CARD if key in header} if isinstance(header, dict) else {}
