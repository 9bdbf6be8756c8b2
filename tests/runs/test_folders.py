"""Several processes, one run folder: in whatever order they open, replace, finish and die, nothing is mixed or lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ftmech_hf.config import is_internal
from ftmech_hf.jobs.compiling import save_compiled
from ftmech_hf.jobs.trained_model import _save_model
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.runs import (
    CHECKPOINTS,
    MANIFEST,
    FolderLock,
    RunDir,
    commit_folder,
    damaged_files,
    disk_errors,
    is_finished,
    read_metrics,
    write_text,
)
from ftmech_hf.runs.folders import appear, making, tidy, write_manifest
from tests.conftest import make_gpt2
from tests.processes import forked, wait_until
from tests.runs.deaths import die, mortal, watched

ROOT = Path(__file__).parents[2]
PROCESS = st.integers(0, 2)
RATE = st.sampled_from([0.1, 0.2])
MOMENT = st.integers(1, 40)

Content = tuple[float, tuple[int, ...]]
"""What a run holds: its setting, and what was logged."""


def content(folder: Path) -> Content | None:
    """What is in a folder, as its files say."""
    if not (folder / "env.json").is_file():
        return None
    lr = float((folder / "config.yaml").read_text().removeprefix("lr: "))
    return lr, tuple(row["step"] for row in read_metrics(folder))


def write(run: RunDir, step: int) -> None:
    (run.working / CHECKPOINTS).mkdir(exist_ok=True)
    (run.working / CHECKPOINTS / f"step-{step}").write_text("")
    run.log({"step": step})


class Folder(RuleBasedStateMachine):
    """What is in the folder: by a model (who has it, what is being made, what is whole) and by the disk.

    A process is an opened run: two of them in one process shut each other out as two processes do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.root = Path(self.temporary.name)
        self.path, self.working = self.root / "run", self.root / "run.partial"
        self.runs: dict[int, RunDir] = {}
        self.holder: int | None = None
        self.whole: Content | None = None
        self.partial: Content | None = None
        self.counter = itertools.count()

    def teardown(self) -> None:
        if self.holder is not None:
            self.runs[self.holder].close()
        self.temporary.cleanup()

    def try_to_open(self, process: int, lr: float, fresh: bool) -> str:
        try:
            run = RunDir.open(self.path, "pretrain", {"lr": lr}, fresh=fresh)
        except ValueError as error:
            return str(error)
        self.runs[process] = run
        return "finished" if run.finished else "open"

    @rule(process=PROCESS, lr=RATE, fresh=st.booleans())
    def open(self, process: int, lr: float, fresh: bool) -> None:
        if self.holder == process:  # a process that begins something else has let go of what it had
            self.close()
        answer = self.try_to_open(process, lr, fresh)
        going_on = self.partial is not None and self.partial[0] == lr and self.holder is None
        if self.whole is not None and not fresh and not going_on:
            assert answer == "finished" if self.whole[0] == lr else "of another config" in answer
        elif self.holder is not None:
            assert "another process is writing" in answer
        elif self.partial is not None and not fresh and not going_on:
            assert "of another config" in answer
        else:
            assert answer == "open"
            self.holder = process
            if not going_on or fresh:
                self.partial = (lr, ())

    @precondition(lambda self: self.holder is not None)
    @rule()
    def log(self) -> None:
        assert self.holder is not None
        assert self.partial is not None
        write(self.runs[self.holder], step := next(self.counter))
        self.partial = (self.partial[0], (*self.partial[1], step))

    @rule(process=PROCESS)
    def write_what_is_not_held(self, process: int) -> None:
        if process != self.holder and process in self.runs:
            with pytest.raises(ValueError, match="not held by this process any more"):
                self.runs[process].log({"step": -1})
            with pytest.raises(ValueError, match="not held by this process any more"):
                self.runs[process].finish()

    @precondition(lambda self: self.holder is not None)
    @rule()
    def finish(self) -> None:
        assert self.holder is not None
        self.runs[self.holder].finish()
        self.whole, self.partial, self.holder = self.partial, None, None

    @precondition(lambda self: self.holder is not None)
    @rule()
    def close(self) -> None:
        assert self.holder is not None
        self.runs[self.holder].close()
        self.holder = None

    @precondition(lambda self: self.holder is not None)
    @rule()
    def kill(self) -> None:
        assert self.holder is not None
        die(self.runs[self.holder]._lock)
        self.holder = None

    @precondition(lambda self: self.holder is not None)
    @rule(moment=MOMENT)
    def kill_while_it_finishes(self, moment: int) -> None:
        self.log()  # so that it differs from what was there
        assert self.holder is not None
        run, before = self.runs[self.holder], self.whole
        with mortal(self.root, moment):
            run.finish()
        die(run._lock)
        self.holder = None
        assert is_finished(self.path) or before is None
        found = content(self.path)
        assert found in (before, self.partial)
        if found != before:
            self.whole, self.partial = self.partial, None
        elif (self.working / MANIFEST).exists():  # it was whole: who opens it has nothing to do
            assert self.partial is not None
            assert self.try_to_open(0, self.partial[0], False) == "finished"
            self.whole, self.partial = self.partial, None

    @precondition(lambda self: self.holder is None)
    @rule(process=PROCESS, lr=RATE, moment=MOMENT)
    def kill_while_it_begins_anew(self, process: int, lr: float, moment: int) -> None:
        with mortal(self.root, moment) as one:
            assert self.try_to_open(process, lr, fresh=True) == "open"
        if len(one.done) < moment:
            self.holder, self.partial = process, (lr, ())
        else:
            found = content(self.working)
            assert found in (self.partial, None, (lr, ()))
            self.partial = found

    @invariant()
    def nothing_is_mixed_or_lost(self) -> None:
        assert is_finished(self.path) == (self.whole is not None)
        if self.whole is not None:
            assert damaged_files(self.path) == []
            assert content(self.path) == self.whole
            assert not (self.path / CHECKPOINTS).exists()
        assert content(self.working) == self.partial
        if self.partial is not None:  # with all that it would go on from
            kept = {path.name for path in (self.working / CHECKPOINTS).glob("*")}
            assert kept == {f"step-{step}" for step in self.partial[1]}


# A step writes a dozen files: a failure is shown as it was found, without a search for a smaller one.
HUNDREDS = settings(max_examples=60, stateful_step_count=20, deadline=None, phases=[Phase.generate])


def test_processes_that_share_a_folder_in_any_order() -> None:
    run_state_machine_as_test(Folder, settings=HUNDREDS)


def begin(path: Path, lr: float, *, fresh: bool = False) -> RunDir:
    run = RunDir.open(path, "pretrain", {"lr": lr}, fresh=fresh)
    write(run, 1)
    return run


def moments(tmp_path: Path, do: Callable[[Path], RunDir], ready: Callable[[Path], object]) -> range:
    """How often a process changes a file while it does something."""
    folder = tmp_path / "counted"
    folder.mkdir()
    ready(folder / "run")
    with mortal(folder) as one:
        do(folder / "run").close()
    return range(1, len(one.done) + 1)


def test_nobody_gets_in_while_a_run_begins(tmp_path: Path) -> None:
    """Of a process that replaces a run, and one that comes at any moment of that to replace it too, one is refused."""

    def do(path: Path) -> RunDir:
        return RunDir.open(path, "pretrain", {"lr": 0.2}, fresh=True)

    def ready(path: Path) -> None:
        begin(path, 0.1).finish()
        begin(path, 0.1, fresh=True).close()  # an interrupted one to be removed

    winners = []
    for moment in moments(tmp_path, do, ready):
        path = tmp_path / str(moment) / "run"
        ready(path)
        opened: list[RunDir] = []

        def intrude(path: Path = path, opened: list[RunDir] = opened) -> None:
            with contextlib.suppress(ValueError):
                opened.append(begin(path, 0.3, fresh=True))

        with watched(path.parent, moment, intrude), contextlib.suppress(ValueError):
            opened.append(do(path))
        (run,) = opened  # and not both
        assert content(path) == (0.1, (1,))
        run.finish()
        assert content(path) == ((0.3, (1,)) if run.config["lr"] == 0.3 else (0.2, ()))
        assert damaged_files(path) == []
        winners.append(run.config["lr"])
    assert winners[-1] == 0.2
    assert 0.3 in winners


@pytest.mark.parametrize("fresh", [False, True])
def test_nobody_gets_in_while_a_run_finishes(tmp_path: Path, fresh: bool) -> None:
    def ready(path: Path) -> RunDir:
        begin(path, 0.1).finish()
        return begin(path, 0.2, fresh=True)

    runs: dict[Path, RunDir] = {}

    def do(path: Path) -> RunDir:
        runs[path].finish()
        return runs[path]

    refused = 0
    for moment in moments(tmp_path, do, lambda path: runs.update({path: ready(path)})):
        path = tmp_path / str(moment) / "run"
        runs[path] = ready(path)
        answers: list[RunDir | str] = []

        def intrude(path: Path = path, answers: list[RunDir | str] = answers) -> None:
            try:
                answers.append(RunDir.open(path, "pretrain", {"lr": 0.2}, fresh=fresh))
            except ValueError as error:
                answers.append(str(error))

        with watched(path.parent, moment, intrude):
            do(path)
        (answer,) = answers
        assert content(path) == (0.2, (1,))
        assert damaged_files(path) == []
        if isinstance(answer, str):
            refused += "another process is writing" in answer or "of another config" in answer
        elif fresh:  # only once the other had let go
            assert content(answer.working) == (0.2, ())
            answer.close()
        else:
            assert answer.finished
    assert refused > 5


def test_a_process_that_is_killed_gives_the_folder_back(tmp_path: Path) -> None:
    """With two processes in earnest."""
    path = tmp_path / "run"
    script, begun = tmp_path / "elsewhere" / "begin.py", tmp_path / "elsewhere" / "begun"
    script.parent.mkdir()
    code = f"run = begin(Path({str(path)!r}), 0.1); Path({str(begun)!r}).touch(); signal.pause()"
    script.write_text(f"import signal; from tests.runs.test_folders import Path, begin; {code}")
    with forked([str(script)], script.with_name("errors"), cwd=ROOT) as process:
        wait_until(begun.exists, process)
        for fresh in (False, True):
            with pytest.raises(ValueError, match="another process is writing"):
                begin(path, 0.1, fresh=fresh)
    shutil.rmtree(script.parent)
    run = begin(path, 0.1)
    run.finish()
    assert content(path) == (0.1, (1, 1))
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def kill_between_the_renames(path: Path) -> None:
    """Leave an old run that was moved away, and a new one that is whole and not yet in its place."""
    for moment in range(1, 100):
        begin(path, 0.1, fresh=True).finish()
        run = begin(path, 0.2, fresh=True)
        with mortal(path.parent, moment):
            run.finish()
        die(run._lock)
        if not path.exists():
            return
    raise AssertionError("no such moment was met")


def test_a_run_goes_to_another_process_and_its_lock_does_not(tmp_path: Path) -> None:
    """As workers of a sweep hand back what they made."""
    run = begin(tmp_path / "run", 0.1)
    copy = pickle.loads(pickle.dumps(run))
    assert (copy.path, copy.hash, copy.config) == (run.path, run.hash, run.config)
    copy.close()  # gives nothing up that it does not hold
    with pytest.raises(ValueError, match="another process is writing"):
        begin(tmp_path / "run", 0.1)
    run.finish()
    assert pickle.loads(pickle.dumps(run)).finished


def test_a_killed_replacement_is_brought_to_its_end_by_whoever_looks(tmp_path: Path) -> None:
    kill_between_the_renames(tmp_path / "run")
    assert is_finished(tmp_path / "run")
    assert content(tmp_path / "run") == (0.2, (1,))


def test_a_killed_replacement_that_is_damaged_gives_way_to_the_old_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    kill_between_the_renames(path)
    (tmp_path / "run.partial" / "table.parquet").write_bytes(b"")  # no kill does that, but a power cut
    assert is_finished(path)
    assert content(path) == (0.1, (1,))
    assert not is_finished(tmp_path / "run.partial")
    RunDir.open(path, "pretrain", {"lr": 0.2}).finish()  # what was logged is still there
    assert content(path) == (0.2, (1,))


LEFTOVERS = [(), ("replaced",), ("discarded",), ("lock",), ("replaced", "discarded", "lock")]


def leave(path: Path, endings: tuple[str, ...]) -> None:
    for ending in endings:
        place = path.with_name(f".{path.name}.{ending}")
        if ending == "lock":
            place.write_text("")
        else:
            shutil.copytree(path, place)


@pytest.mark.parametrize("endings", LEFTOVERS)
def test_who_opens_a_finished_run_tidies_what_a_killed_process_left_beside_it(
    tmp_path: Path, endings: tuple[str, ...]
) -> None:
    path, other = tmp_path / "run", tmp_path / "other"
    begin(path, 0.1).finish()
    begin(other, 0.3).finish()
    leave(path, endings)
    leave(other, endings)
    assert RunDir.open(path, "pretrain", {"lr": 0.1}).finished
    theirs = {f".other.{ending}" for ending in endings}
    assert {each.name for each in tmp_path.iterdir()} == {"run", "other", *theirs}
    assert content(path) == (0.1, (1,))


def test_what_is_beside_a_run_that_somebody_makes_is_theirs(tmp_path: Path) -> None:
    path = tmp_path / "run"
    begin(path, 0.1).finish()
    run = begin(path, 0.2, fresh=True)
    leave(path, ("replaced", "discarded"))
    tidy(path)
    assert {each.name for each in tmp_path.iterdir()} == {
        "run", "run.partial", ".run.lock", ".run.replaced", ".run.discarded",
    }  # fmt: skip
    run.close()
    tidy(path)
    assert {each.name for each in tmp_path.iterdir()} == {"run", "run.partial"}


def test_nothing_is_tidied_where_no_run_is_whole(tmp_path: Path) -> None:
    (tmp_path / ".run.replaced").mkdir()
    tidy(tmp_path / "run")
    assert [each.name for each in tmp_path.iterdir()] == [".run.replaced"]


@pytest.mark.parametrize("endings", LEFTOVERS[:3])
def test_a_replacement_appears_whatever_an_earlier_one_left(tmp_path: Path, endings: tuple[str, ...]) -> None:
    path = tmp_path / "run"
    begin(path, 0.1).finish()
    run = begin(path, 0.2, fresh=True)
    leave(path, endings)
    run.finish()
    assert content(path) == (0.2, (1,))
    assert {each.name for each in tmp_path.iterdir()} <= {"run"}


def test_a_run_that_was_moved_and_linked_is_replaced_each_time_and_what_was_moved_stays(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "runs" / "run", tmp_path / "larger disk"
    begin(path, 0.1).finish()
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert RunDir.open(path, "pretrain", {"lr": 0.1}).finished
    for _ in range(2):
        RunDir.open(path, "pretrain", {"lr": 0.1}, fresh=True).finish()
        assert [each.name for each in path.parent.iterdir()] == ["run"]
        assert not path.is_symlink()
        assert damaged_files(path) == damaged_files(elsewhere) == []
    shutil.rmtree(path)
    path.symlink_to(tmp_path / "not mounted")
    said = rf"^output_dir: {path} is a link to {tmp_path}/not mounted, which is not there; remove the link"
    for fresh in (False, True):
        with pytest.raises(ValueError, match=said):
            RunDir.open(path, "pretrain", {"lr": 0.1}, fresh=fresh)


def test_what_is_no_run_does_not_give_way(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "draft.txt").write_text("years of work")
    (tmp_path / "run.partial").mkdir()
    with pytest.raises(ValueError, match=r"output_dir: .*run exists and is no run of ours; move it away and run the"):
        appear(tmp_path / "run")
    assert (tmp_path / "run" / "draft.txt").read_text() == "years of work"


@pytest.mark.parametrize("manifest", ['{"name": "my app"}', "{}"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_somebody_elses_manifest_does_not_give_way(tmp_path: Path, fresh: bool, manifest: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"^output_dir: .*app exists and is no run of ours; choose another folder"):
        RunDir.open(folder, "probe", {"seed": 0}, fresh=fresh)
    (folder / "env.json").write_text('{"PORT": 80}')  # of the same app
    with pytest.raises(ValueError, match=r"^output_dir: .*app exists and is no run of ours; choose another folder"):
        RunDir.open(folder, "probe", {"seed": 0}, fresh=fresh)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert not is_finished(folder)


def test_somebody_elses_working_folder_is_left_as_it_is(tmp_path: Path) -> None:
    working = tmp_path / "run.partial"
    working.mkdir()
    (working / "manifest.json").write_text('{"name": "my app"}')
    (working / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ValueError, match=r"^output_dir: .*run\.partial is there, and no folder of ours; move it away"),
        making(tmp_path / "run", "output_dir"),
    ):
        raise AssertionError("made")
    with pytest.raises(ValueError, match="no run of ours"):
        RunDir.open(tmp_path / "run", "probe", {"seed": 0})
    assert sorted(path.name for path in working.iterdir()) == ["manifest.json", "thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    # that of one who was killed is ours
    with mortal(tmp_path / "counted") as whole, making(tmp_path / "counted", "output_dir") as made:
        (made / "half").touch()
        begun = len(whole.done)
    with mortal(tmp_path / "other", begun + 1), making(tmp_path / "other", "output_dir") as made:
        (made / "half").touch()
        (made / "more").touch()
    assert (tmp_path / "other.partial" / "half").is_file()
    with making(tmp_path / "other", "output_dir") as made:
        assert not [*made.iterdir()]
        made.rename(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "." and "other" in path.name] == []


def test_making_a_folder_does_not_remove_an_interrupted_run(tmp_path: Path) -> None:
    (tmp_path / "run.partial" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run.partial" / "env.json").write_text("{}")
    said = r"^output_dir: .*run\.partial is a run that was interrupted; finish it, or"
    with pytest.raises(ValueError, match=said), making(tmp_path / "run", "output_dir"):
        raise AssertionError("made")
    assert (tmp_path / "run.partial" / "checkpoints").is_dir()


@pytest.mark.parametrize("manifest", ["", "{", "[]", "3", '{"a": 3}', '{"a": {"bytes": 1}}', '{"a": {"sha256": "x"}}'])
def test_a_manifest_that_is_none_is_damage(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / MANIFEST).write_text(manifest)
    assert damaged_files(tmp_path) == [MANIFEST]


def test_other_bytes_of_the_same_number_are_damage(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text("1234")
    write_manifest(tmp_path, leave_out="e")
    assert damaged_files(tmp_path) == []
    (tmp_path / "a").write_text("1235")
    (tmp_path / "b").write_text("12345")
    (tmp_path / "c").unlink()
    assert damaged_files(tmp_path) == ["a", "b", "c"]


def test_the_manifest_names_what_is_part_of_the_folder(tmp_path: Path) -> None:
    names = ["a", "deep/a", "deep/.b.tmp", ".c.lock", "out/a", "deep/out/a", ".hidden"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, leave_out="out")
    sums = json.loads((tmp_path / MANIFEST).read_text())
    assert {name: each["bytes"] for name, each in sums.items()} == {
        name: len(name) for name in ("a", "deep/a", "deep/out/a", ".hidden")
    }


def test_a_folder_is_made_by_one_and_gone_if_it_is_not_renamed(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "old").write_text("")  # of a killed one
    (tmp_path / ".out.partial.tmp").touch()  # which says that it is ours
    with making(tmp_path / "out", "output_dir") as working:
        assert list(working.iterdir()) == []
        with pytest.raises(ValueError, match=r"output_dir: another process is writing .*out; wait for it, or choose"):
            making(tmp_path / "out", "output_dir").__enter__()
        (working / "a").write_text("1")
        commit_folder(working, tmp_path / "out")
    assert damaged_files(tmp_path / "out") == []
    with pytest.raises(RuntimeError, match="a fault"), making(tmp_path / "other", "output_dir"):
        raise RuntimeError("a fault")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_to_find_a_finished_run_nothing_is_written(tmp_path: Path) -> None:
    begin(tmp_path / "run", 0.1).finish()
    with mortal(tmp_path, 1) as one:
        assert RunDir.open(tmp_path / "run", "pretrain", {"lr": 0.1}).finished
        assert is_finished(tmp_path / "run")
        assert not is_finished(tmp_path / "none")
    assert one.done == []


def test_a_finished_run_that_is_replaced_just_now_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking whether it is there and reading what it is, its successor may come to its place."""
    path, replaced = tmp_path / "run", tmp_path / ".run.replaced"
    begin(path, 0.1).finish()
    other, moved = FolderLock(path), threading.Event()

    def come() -> None:
        assert moved.wait(60)
        replaced.rename(path)
        other.release()

    def look(folder: Path) -> bool:
        found = is_finished(folder)
        if not moved.is_set():
            assert other.acquire()
            path.rename(replaced)
            moved.set()
        return found

    monkeypatch.setattr("ftmech_hf.runs.run_dir.is_finished", look)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(come)
        assert RunDir.open(path, "pretrain", {"lr": 0.1}).finished
        done.result()
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_run_that_comes_to_its_place_just_now_is_not_taken_for_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there, then for a moment not, then there again: each time somebody looked."""
    begin(tmp_path / "run", 0.1).finish()
    looked: list[Path] = []

    def look(folder: Path) -> bool:
        looked.append(folder)
        return len(looked) > 1 and is_finished(folder)

    monkeypatch.setattr("ftmech_hf.runs.folders.is_finished", look)
    assert RunDir.open(tmp_path / "run", "pretrain", {"lr": 0.1}).finished
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_what_came_to_lie_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = begin(path, 0.1)
    path.mkdir()
    (path / "draft.txt").write_text("years of work")
    with pytest.raises(ValueError, match="came to be while its run was made"):
        run.finish()
    run.close()
    assert (path / "draft.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match="is no run of ours"):
        begin(path, 0.1)
    (path / "draft.txt").unlink()
    path.rmdir()
    RunDir.open(path, "pretrain", {"lr": 0.1}).finish()
    assert content(path) == (0.1, (1,))


def test_a_lock_whose_file_was_deleted_by_hand_is_none(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = begin(path, 0.1)
    (tmp_path / ".run.lock").unlink()
    second = begin(path, 0.1)
    with pytest.raises(ValueError, match="is not held by this process any more"):
        first.log({"step": 2})
    first.close()
    assert second._lock.held
    second.finish()
    assert content(path) == (0.1, (1, 1))


def test_a_lock_whose_file_is_deleted_while_it_is_taken_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(tmp_path / "run")
    take = lock._lock.acquire

    def and_delete(*args: Any, **named: Any) -> None:
        take(*args, **named)
        lock.path.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(lock._lock, "acquire", and_delete)
        assert not lock.acquire()
    assert not lock.held
    assert lock.acquire()


def test_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"^cannot write to {tmp_path}/file/run: "):
        FolderLock(tmp_path / "file" / "run").acquire()


def test_a_lock_is_the_process_and_not_the_thread_s_that_took_it(tmp_path: Path) -> None:
    lock, other = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire).result()
    assert lock.held
    assert not other.acquire()
    lock.release()
    assert not lock.held
    assert other.acquire()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_cannot_be_removed_is_given_back_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(tmp_path / "run")
    assert lock.acquire()
    with monkeypatch.context() as patched:

        def refuse(self: Path, missing_ok: bool = False) -> None:
            raise PermissionError(13, "Permission denied")

        patched.setattr(Path, "unlink", refuse)
        lock.release()
    assert FolderLock(tmp_path / "run").acquire()


def test_two_writers_of_one_file_do_not_know_each_other(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"

    def write_often(letter: str) -> None:
        for _ in range(60):
            write_text(path, letter * 100_000)
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_often, "ab"))
    assert [each.name for each in tmp_path.iterdir()] == ["cache.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_killed_writers_left_is_no_part_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = begin(path, 0.1)
    with mortal(tmp_path, 2):
        write_text(run.working / "summary.json", "half")
    die(run._lock)
    assert [each.name for each in run.working.glob(".*")] != []
    begin(path, 0.1).finish()
    assert list(path.glob(".*")) == []
    assert set(json.loads((path / MANIFEST).read_text())) == {
        "config.yaml", "env.json", "metrics.jsonl", "table.parquet",
    }  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_failed_write_is_called_one(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError, match="cannot write into") as caught, disk_errors(tmp_path):
        raise error
    assert str(error) in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("Some tensors share memory: a, b"),
        SafetensorError("Error while serializing: InvalidTensorView"),
    ],
)
def test_what_else_fails_keeps_its_cause(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ValueError, match="model: its weights cannot be saved") as caught, disk_errors(tmp_path):
        raise error
    assert str(error) in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_torch_safetensors_and_tokenizers_say_so_when_a_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write into"), disk_errors(tmp_path):
        torch.save({"a": torch.zeros(100_000)}, tmp_path / "weights")
    with pytest.raises(OSError, match="cannot write into"), disk_errors(tmp_path):
        save_file({"a": torch.zeros(100_000)}, "/dev/full/weights")
    with pytest.raises(OSError, match=r"cannot write into .*No space left"), disk_errors(tmp_path):
        Tokenizer(WordLevel({"a": 0}, unk_token="a")).save("/dev/full")


def test_what_fails_in_tokenizers_for_another_reason_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """All of its errors are of one class, that of all errors."""
    with pytest.raises(Exception, match=r"^the merges are wrong$"), disk_errors(tmp_path):
        raise Exception("the merges are wrong")
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("file write failed")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
@pytest.mark.parametrize("save", [
    lambda folder: _save_model(folder, make_gpt2(3), build_tokenizer(("a", "b", "<pad>"))),
    lambda folder: save_compiled(make_gpt2(3), ("a", "b", "<pad>"), folder),
])  # fmt: skip
def test_a_model_whose_tokenizer_the_disk_does_not_take_is_a_failed_write(
    save: Callable[[Path], None], tmp_path: Path
) -> None:
    """Not a fault of this package, which users would be asked to report."""
    (tmp_path / "tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write into .*No space left") as caught:
        save(tmp_path)
    assert not is_internal(caught.value)
