"""Results of a study: whoever is killed leaves the old ones or the new ones, and nothing of a user's is removed."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from ftmech_hf.runs import results
from ftmech_hf.runs.lock import FolderLock
from ftmech_hf.runs.results import replacing_results
from tests.runs.deaths import mortal


def write(folder: Path, **texts: str) -> None:
    with replacing_results(folder) as place:
        for name, text in texts.items():
            (place / f"{name}.txt").write_text(text)


def texts(folder: Path) -> dict[str, str]:
    """What anybody sees."""
    return {path.stem: path.read_text() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def fail() -> None:
    raise ValueError("half of it")


def test_results_replace_results_and_leave_what_is_none_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "runs").mkdir()
    write(folder, page="1", figure="1", other="1")
    assert texts(folder) == {"notes": "mine", "page": "1", "figure": "1", "other": "1"}
    write(folder, page="2", other="2")
    assert texts(folder) == {"notes": "mine", "page": "2", "other": "2"}
    assert (folder / "runs").is_dir()
    assert sorted(path.name for path in folder.iterdir() if path.name[0] == ".") == [".results.json"]


def test_what_fails_while_it_is_written_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, page="1", table="1")
    with contextlib.suppress(ValueError), replacing_results(tmp_path) as place:
        (place / "page.txt").write_text("2")
        fail()
    assert texts(tmp_path) == {"page": "1", "table": "1"}
    write(tmp_path, page="3")
    assert texts(tmp_path) == {"page": "3"}


def test_whoever_is_killed_leaves_the_old_results_or_the_new_ones(tmp_path: Path) -> None:
    """At every change of a file; what is there once somebody comes next is one or the other, never some of both."""
    old, new = {"page": "1", "table": "1", "figure": "1"}, {"page": "2", "table": "2"}
    with mortal(tmp_path / "counted") as whole:
        write(tmp_path / "counted", **new)
    number = len(whole.done)
    assert number > 10
    found = []
    for at in range(1, number + 8):  # removing old files takes more
        folder = tmp_path / str(at)
        write(folder, **old)
        with mortal(folder, at):
            write(folder, **new)
        seen = []
        with contextlib.suppress(ValueError), replacing_results(folder):
            seen.append(texts(folder))
            fail()
        assert seen == [texts(folder)]
        assert seen[0] in (old, new)
        assert not [path for path in folder.iterdir() if path.name.endswith((".tmp", ".lock"))]
        found.append(seen[0])
    assert found[0] == old
    assert found[-1] == new
    assert found == sorted(found, key=[old, new].index)


def test_two_that_write_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    lock = FolderLock(tmp_path / "results")
    assert lock.acquire()
    waiting = threading.Thread(target=lambda: (write(tmp_path, page="2"), done.set()))
    waiting.start()
    assert not done.wait(0.3)
    assert texts(tmp_path) == {}
    lock.release()
    assert done.wait(30)
    waiting.join()
    assert texts(tmp_path) == {"page": "2"}
    assert lock.acquire()
    monkeypatch.setattr(results, "WAIT_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match=f"another process is writing results into {tmp_path}"):
        write(tmp_path, page="3")
    lock.release()


def test_a_list_that_names_what_is_elsewhere_removes_nothing(tmp_path: Path) -> None:
    folder, mine = tmp_path / "study", tmp_path / "mine.txt"
    mine.write_text("mine")
    folder.mkdir()
    (folder / ".results.json").write_text(f'["../mine.txt", "{mine}", "page.txt"]')
    (folder / "page.txt").write_text("old")
    write(folder, other="1")
    assert mine.read_text() == "mine"
    assert texts(folder) == {"other": "1"}
    assert os.listdir(tmp_path) in (["study", "mine.txt"], ["mine.txt", "study"])
