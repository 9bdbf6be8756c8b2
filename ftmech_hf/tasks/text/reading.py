"""Reading tables from anywhere.

A table is read by what it is, not by what it is called: parquet, arrow, CSV or TSV, JSON or JSON lines, as a single
file or a folder of them, a folder of ``save_to_disk``, or a data set on the Hub. Cells of CSV are text as they stand.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ftmech_hf.tasks.text.columns import column_values
from ftmech_hf.tasks.text.identity import FILES, DatasetName, dataset_hash

if TYPE_CHECKING:
    import datasets

LONGEST_CELL = 10_000_000
"""Characters of a cell of CSV that are read at most."""


@dataclass(frozen=True, eq=False)
class Table:
    """A data set that is in memory already.

    Attributes:
        name: what it is called.
        splits: by their names; a table that has none is called train.
    """

    name: str
    splits: datasets.DatasetDict

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, rows: Any, name: str = "rows") -> Table:
        """Rows in any form: a list of dicts, a dict of lists, a pandas frame, a Dataset, or a dict of splits of these.

        Values of any type are kept as they are, also where rows differ; what they mean is asked later.

        Raises:
            ValueError: they are in none of these forms.
        """
        import datasets

        splits = rows if isinstance(rows, Mapping) and _holds_splits(rows) else {"train": rows}
        return cls(name, datasets.DatasetDict({key: _as_dataset(each, name) for key, each in splits.items()}))

    def hash(self) -> str:
        """What identifies it as an input: all values of all splits."""
        digest = hashlib.sha256()
        for split, rows in self.splits.items():
            values = json.dumps({name: column_values(rows, name) for name in sorted(rows.column_names)}, default=str)
            digest.update(f"{split}\0{values}\0".encode(errors="surrogatepass"))
        return digest.hexdigest()[:12]


def _holds_splits(rows: Mapping[str, Any]) -> bool:
    return bool(rows) and all(
        hasattr(each, "columns") or hasattr(each, "column_names") or (
            isinstance(each, list) and bool(each) and isinstance(each[0], Mapping) and "role" not in each[0]
        )
        for each in rows.values()
    )  # fmt: skip


def _as_dataset(rows: Any, name: str) -> datasets.Dataset:
    import datasets

    if isinstance(rows, datasets.Dataset):
        return rows
    if hasattr(rows, "columns") and hasattr(rows, "notna"):  # pandas, which need not be imported
        rows = rows.astype(object).where(rows.notna(), None).to_dict("list")
    elif isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
        columns = dict.fromkeys(column for row in rows for column in row)
        rows = {column: [row.get(column) for row in rows] for column in columns}
    if not isinstance(rows, Mapping) or not all(isinstance(values, list) for values in rows.values()):
        kind = type(rows).__name__
        raise ValueError(
            f"{name}: {kind}, expected a list of dicts, a dict of lists, a pandas.DataFrame, a datasets.Dataset, or a "
            "dict of splits of these; or the name of a file, a folder or a data set on the Hub"
        )
    if len({len(values) for values in rows.values()}) > 1:
        sizes = {column: len(values) for column, values in rows.items()}
        raise ValueError(f"{name}: columns of different lengths {sizes}, expected as many rows in each")
    return datasets.Dataset.from_dict(dict(rows), on_mixed_types="use_json")


def read_table(name: str) -> datasets.DatasetDict:
    """The splits of a data set; a table that has none is called train.

    Raises:
        ValueError: there is no such data set, or it cannot be read; says why in one line.
    """
    import datasets

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
    import datasets

    path = Path(name)
    if path.is_file():
        return _load_file(path)
    if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(path))
    return _load_named(DatasetName.parse(name))


def _cache_of(name: str) -> str:
    """Where ``datasets`` keeps what it made of some files: it knows them by path and time, which copies can share."""
    import datasets

    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"local-{dataset_hash(name)}")


def _load_named(name: DatasetName) -> Any:
    """A config of a folder, or what is on the Hub: the commit that its hash names, and no other from the cache."""
    import datasets

    if name.is_local:
        if _is_csv(Path(name.where)):
            return _each_file(name, _load_csv)
        return _json_as_text(
            lambda: datasets.load_dataset(name.where, name.config, cache_dir=_cache_of(name.where)),
            lambda: _each_file(name, _load_json),
        )
    loaded = datasets.load_dataset(name.where, name.config, revision=name.commit)
    files = [Path(each["filename"]) for rows in loaded.values() for each in rows.cache_files]
    if stale := [path for path in files if name.commit not in path.parts]:
        raise ValueError(f"commit {name.commit[:12]} is not in the cache, only {stale[0].parent.name[:12]}")
    return loaded


def _each_file(name: DatasetName, load: Callable[[Path], datasets.Dataset]) -> datasets.DatasetDict:
    """The splits of a folder as ``datasets`` finds them, of files that are read one by one."""
    import datasets

    builder = datasets.load_dataset_builder(name.where, name.config, cache_dir=_cache_of(name.where))
    loaded: dict[str, list[datasets.Dataset]] = {}
    for split, files in (builder.config.data_files or {}).items():
        for file in files:
            try:
                loaded.setdefault(str(split), []).append(load(Path(file)))
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{Path(file).name}: {error}") from error
    return datasets.DatasetDict({split: datasets.concatenate_datasets(each) for split, each in loaded.items()})


def _json_as_text(
    load: Callable[[], datasets.DatasetDict], anew: Callable[[], datasets.DatasetDict]
) -> datasets.DatasetDict:
    """Rows of which no text is a time: JSON knows none, but ``datasets`` makes one of what looks like a date.

    Args:
        load: by ``datasets``, which is fast.
        anew: the same files, if they are JSON, as they stand there.
    """
    import datasets

    try:
        loaded = _in_unicode(load())
    except datasets.exceptions.DatasetsError as error:
        if "timestamp" not in f"{error} {error.__cause__}":  # a date in the first rows, and text that is none later
            raise
        return anew()
    kinds = [kind for rows in loaded.values() if _of_json(rows) for kind in rows.data.schema.types]
    return anew() if any(map(_holds_time, kinds)) else loaded


def _of_json(rows: datasets.Dataset) -> bool:
    return rows.info.builder_name == "json"


def _holds_time(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_temporal(kind)) or any(_holds_time(kind.field(n).type) for n in range(kind.num_fields))


def _load_json(path: Path) -> datasets.Dataset:
    """A file of JSON or JSON lines, whose values are what they are there."""
    with _opened(path) as opened:
        text = opened.read().decode("utf-8-sig")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:  # of which each line is a row
        found = [json.loads(line) for line in text.split("\n") if line.strip()]
    return _as_dataset([found] if isinstance(found, dict) else found, path.name)


def _load_csv(path: Path) -> datasets.Dataset:
    """A file of CSV, whose cells are text as they stand there."""
    import datasets

    header, *rows = _cells(path)
    return datasets.Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(header)})


def _in_unicode(rows: datasets.DatasetDict) -> datasets.DatasetDict:
    """Rows of files, as of JSON, of which ``datasets`` takes the bytes of texts as they are.

    Raises:
        ValueError: they are no UTF-8.
    """
    import pyarrow as pa

    for split in rows.values():
        try:
            split.data.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError("its text is not UTF-8; save it so") from error
    return rows


def _load_file(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    import datasets

    with _opened(path) as opened:
        head = opened.read(4096).removeprefix(b"\xef\xbb\xbf")  # the mark by which Windows says UTF-8
    if not head.strip():
        raise ValueError("the file is empty")
    for magic, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"{", "json"), (b"[", "json")):
        if head.lstrip().startswith(magic):
            load = functools.partial(datasets.load_dataset, kind, data_files=str(path), cache_dir=_cache_of(str(path)))
            if kind != "json":
                return load()
            return _json_as_text(load, lambda: datasets.DatasetDict({"train": _load_json(path)}))
    if b"\0" in head:
        raise ValueError("it is neither parquet, arrow, JSON nor CSV")
    return _load_csv(path)


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def allow_long_cells() -> None:
    """Let Python read cells of CSV that hold a whole text: of more than 131,072 characters it refuses them."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))


def _cells(path: Path) -> list[list[str]]:
    """The cells of a CSV file as they stand there, the header first.

    Raises:
        ValueError: a row has more or fewer of them than the header.
    """
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as text:
        allow_long_cells()
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


def _is_csv(folder: Path) -> bool:
    """Whether all of a folder's files of data are CSV."""
    files = [path for path in folder.rglob("*") if path.suffix in FILES]
    return bool(files) and all(path.suffix in (".csv", ".tsv") for path in files)
