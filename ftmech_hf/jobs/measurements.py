"""What runs measured, in one small file: from it a study's tables are written again where none of its runs is.

Making the runs of a study takes hours, and reading what they measured takes seconds. Weights and tokenizers, which are
nearly all of their bytes, are needed for the first alone. So a statistic that is mended later is mended for tables
whose runs are long gone, and whoever doubts a table can read it again, or otherwise.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftmech_hf.runs import is_finished
from ftmech_hf.runs.files import replacing
from ftmech_hf.runs.results import NAMES, named_results

ENDING = ".tar.xz"
KEPT = frozenset({".json", ".jsonl", ".parquet", ".yaml"})
"""Endings of what a run measured and of what it says of itself, its manifest among them."""
OF_THE_MODEL = frozenset({
    "adapter_config.json", "added_tokens.json", "chat_template.json", "config.json", "generation_config.json",
    "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
})  # fmt: skip
"""Files beside weights that have such endings, but measure nothing."""


def is_measurement(name: str) -> bool:
    """Whether a file of this name is kept."""
    return Path(name).suffix in KEPT and name not in OF_THE_MODEL


def keep_measurements(folders: Iterable[Path], file: Path) -> int:
    """Write what finished runs measured into a file, which is there whole or not at all.

    The same runs give the same bytes: of files it has what is in them and their names, of tables their rows. What is in
    them says where they were made and on what: ``env.json`` the machine, and settings the folders that were named.

    Args:
        folders: of runs, or of a study's results, of which these alone are kept; what is not finished is passed over.
        file: where to; ends in ``.tar.xz``.

    Returns:
        of how many runs it is.

    Raises:
        ValueError: none of them is finished, or two have the same name; names ``keep_measurements``.
    """
    whole = {folder: _paths(folder) for folder in sorted(folders, key=lambda folder: folder.name)}
    finished = [folder for folder, paths in whole.items() if paths]
    if not finished:
        raise ValueError(f"keep_measurements: no run is finished, so there is nothing to write into {file}")
    names = [folder.name for folder in finished]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"keep_measurements: two runs are called {twice[0]}, expected each name once")
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as working, tarfile.open(working, mode="w:xz", preset=9) as archive:
        for folder in finished:
            for path in whole[folder]:
                if path.is_file() and is_measurement(path.name):
                    entry, content = tarfile.TarInfo(path.relative_to(folder.parent).as_posix()), _to_pack(path)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return len(finished)


def _paths(folder: Path) -> list[Path]:
    """What is in the folder of a finished run, or is a study's result there; nothing of a folder of neither kind."""
    if is_finished(folder):
        return sorted(folder.rglob("*"))
    named = named_results(folder)
    return [] if named is None else sorted(folder / name for name in (*named, NAMES))


def _to_pack(path: Path) -> bytes:
    """A file's bytes; of a table those of the same table unpacked, so that of all together a quarter is left."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    import pyarrow.parquet as pq

    written = io.BytesIO()
    pq.write_table(pq.read_table(path), written, compression="none")
    return written.getvalue()


@contextlib.contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """The runs of such a file in a folder that is there for as long as they are read.

    Raises:
        ValueError: it is no such file, or something in it is no measurement; names ``from_measurements``.
    """
    with tempfile.TemporaryDirectory(prefix="measurements-") as place:
        try:
            with tarfile.open(file, mode="r:xz") as archive:
                for entry in archive:
                    if not (entry.isfile() and is_measurement(Path(entry.name).name)):
                        raise ValueError(f"from_measurements: {file} holds {entry.name}, expected measurements alone")
                    archive.extract(entry, place, filter="data")
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"from_measurements: {file} cannot be read ({reason}), expected {ENDING}") from error
        yield Path(place)
