"""Files are whole or not at all, and what half-written ones leave is known by its name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from ftmech_hf.runs import check_disk_space, write_json, write_table
from ftmech_hf.runs.files import file_sha256, hidden_name, is_temporary, remove_leftovers, unique_name


def test_temporary_names_are_hidden_and_unlike_each_other(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    assert hidden_name(path, "lock") == tmp_path / ".cache.json.lock"
    names = {unique_name(path, ".csv").name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(f".cache.json.{os.getpid()}-") and name.endswith(".csv.tmp") for name in names)
    for ending in ("lock", "tmp", "replaced", "discarded"):
        assert is_temporary(f".run.{ending}")
        assert not is_temporary(f"run.{ending}")
    assert not is_temporary(".gitignore")


def test_json_is_for_people_and_in_their_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Müller", "runs": [1]})
    assert (tmp_path / "a.json").read_bytes().decode("utf-8") == '{\n  "name": "Müller",\n  "runs": [\n    1\n  ]\n}\n'
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": "Müller", "runs": [1]}


def test_only_leftovers_of_that_age_are_removed_and_no_folders(tmp_path: Path) -> None:
    ages = {"old.tmp": 100, "deep/.old.tmp": 100, ".old.tmp": 100, ".young.tmp": 5, ".old.txt": 100}
    for name, age in ages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / ".folder.tmp").mkdir()
    os.utime(tmp_path / ".folder.tmp", (time.time() - 100,) * 2)

    def left() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} - {"deep"}

    remove_leftovers(tmp_path, older_than=1000)
    assert left() == {*ages, ".folder.tmp"}
    remove_leftovers(tmp_path, older_than=50)
    assert left() == {"old.tmp", ".young.tmp", ".old.txt", ".folder.tmp"}
    remove_leftovers(tmp_path)
    assert left() == {"old.tmp", ".old.txt", ".folder.tmp"}


def test_a_disk_that_has_just_enough_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=7_400_000))
    check_disk_space(tmp_path, 7_400_000)
    with pytest.raises(ValueError, match="needs about 9 MB for checkpoints and the model, but only 7 MB are free"):
        check_disk_space(tmp_path, 9_400_000)
    with pytest.raises(ValueError, match="are free"):
        check_disk_space(tmp_path, 7_400_001)


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0\r\n" * 1000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"\0\r\n" * 1000).hexdigest()


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_is_there_whole_or_as_it_was(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, read = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pd.read_csv if name.endswith("csv") else pd.read_parquet
    write_table(tmp_path / name, table)
    pd.testing.assert_frame_equal(read(tmp_path / name), table)
    assert [each.name for each in tmp_path.iterdir()] == [name]

    def dies(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    for method in ("to_csv", "to_parquet"):
        monkeypatch.setattr(pd.DataFrame, method, dies)
    with pytest.raises(OSError, match="no space"):
        write_table(tmp_path / name, table.assign(a=3))
    pd.testing.assert_frame_equal(read(tmp_path / name), table)
    assert [each.name for each in tmp_path.iterdir()] == [name]
