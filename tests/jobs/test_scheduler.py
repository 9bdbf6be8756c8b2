from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmech_hf.jobs.cell import Cell, run_cell
from ftmech_hf.jobs.local_pool import LOADED, LocalPool
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.runs import RunDir
from tests.jobs import cells
from tests.processes import forked, has_ended, started, wait_until


def record(folder: Path, name: str, needs: tuple[str, ...] = ()) -> Cell:
    kwargs = {"folder": str(folder), "name": name, "waits_for": list(needs)}
    return Cell(name, cells.record, kwargs, 1, needs)


def test_cells_wait_for_what_they_need_and_run_on_one_thread(tmp_path: Path) -> None:
    plan = [record(tmp_path, "a"), record(tmp_path, "b", ("a",)), record(tmp_path, "c", ("a", "b"))]
    results = run_cells(plan, workers=2).results
    assert set(results) == {"a", "b", "c"}
    assert all(result["missing"] == [] and result["threads"] == 1 for result in results.values())
    assert {result["side_by_side"] for result in results.values()} == {2}
    assert os.getpid() not in {result["pid"] for result in results.values()}


@pytest.mark.skipif(sys.platform != "linux", reason="workers start anew")
def test_workers_are_copies_of_one_process_and_know_what_is_said_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for told in ("first", "second"):
        monkeypatch.setenv("TOLD", told)
        found.append(run_cells([record(tmp_path, told)], workers=1).results[told])
    first, second = found
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["loaded"]
    assert (first["told"], second["told"]) == ("first", "second")
    assert "PYTHONSAFEPATH" not in os.environ


def test_workers_take_gpus_in_turn_and_see_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CUDA", "1")  # else what a test imports hides them from a worker, too
    names = ["a", "b", "c"]
    pool = LocalPool(3, ["0", "GPU-5"])
    try:
        plan = [Cell(name, cells.meet, {"folder": str(tmp_path), "name": name, "others": names}, 1) for name in names]
        found = [future.result(timeout=120) for future in [pool.submit(cell) for cell in plan]]
    finally:
        pool.close(stop=True)
    assert sorted(found) == ["0", "0", "GPU-5"]


def test_what_workers_are_copies_of_asks_for_no_gpu() -> None:
    """A copy of a process that has begun to use one cannot use it: nothing that is imported may look for one."""
    code = (
        "import importlib, torch\n"
        "def asked(*_): raise SystemExit('asked for a GPU')\n"
        "for name in ('is_available', 'device_count', 'current_device', '_lazy_init', 'get_device_properties'):\n"
        "    setattr(torch.cuda, name, asked)\n"
        f"for name in {LOADED!r}: importlib.import_module(name)\n"
        "print('loaded')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.cuda
def test_workers_use_the_gpu_that_they_are_given(tmp_path: Path) -> None:
    found = run_cells([Cell(name, cells.add_on_gpu, {}, 1) for name in "ab"], workers=2).results
    assert found == {"a": 3.0, "b": 3.0}


def test_a_cell_without_steps_reports_as_any_other() -> None:
    """A model that is not trained (``steps: 0``, the paper's Scr.) is a cell of a sweep, too."""
    reports: queue.SimpleQueue[tuple[str, float, str]] = queue.SimpleQueue()
    assert run_cell(Cell("untrained", cells.without_steps, {}, 1), reports) == "done"
    assert [reports.get()[:2] for _ in range(2)] == [("untrained", 0), ("untrained", 1)]


def test_a_run_that_another_process_makes_is_waited_for_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two studies may share a folder of runs: neither fails for that, and no run is made twice."""
    monkeypatch.setattr("ftmech_hf.jobs.cell.POLL_SECONDS", 0.01)
    other = RunDir.open(tmp_path / "run", "any", {})
    looked = 0

    def make(progress: Any) -> bool:
        nonlocal looked
        looked += 1
        if looked == 3:
            other.finish()
        with contextlib.closing(RunDir.open(tmp_path / "run", "any", {})) as run:
            return run.finished

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert run_cell(Cell("shared", make, {}, 1), queue.SimpleQueue()) is True
    assert looked == 3
    (notice,) = [str(each.message) for each in said]
    assert notice.startswith("shared: output_dir: another process is writing")


def test_a_failed_cell_is_named_and_the_others_finish(tmp_path: Path) -> None:
    plan = [Cell("bad", cells.fail, {}, 9), record(tmp_path, "good"), record(tmp_path, "later", ("bad",))]
    outcome = run_cells(plan, workers=1)
    assert (list(outcome.results), list(outcome.failed), outcome.not_begun) == (["good"], ["bad"], ["later"])
    with pytest.raises(ValueError, match="1 of 3 runs failed; 1 that need them were not begun; first bad: lr: too"):
        outcome.check()
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_worker_that_dies_is_reported_and_stops_no_other(tmp_path: Path) -> None:
    others = [record(tmp_path, name) for name in "abcd"]
    outcome = run_cells([Cell("dead", cells.die, {}, 9), *others, record(tmp_path, "late", ("dead",))], workers=2)
    assert sorted(outcome.results) == ["a", "b", "c", "d"]
    assert list(outcome.failed) == ["dead"]
    assert outcome.not_begun == ["late"]


def test_a_death_that_is_only_seen_when_the_next_cell_is_begun_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def submit(executor: ProcessPoolExecutor, *given: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            raise BrokenProcessPool("a worker died")
        return kept(executor, *given)

    kept = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    outcome = run_cells([record(tmp_path, name) for name in "abc"], workers=1)
    assert (sorted(outcome.results), outcome.failed) == (["a", "b", "c"], {})
    assert len(begun) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_what_a_death_took_with_it_is_begun_again_when_it_has_ended(tmp_path: Path) -> None:
    """Until then it holds the folder of its run, and its memory."""
    kwargs = {"folder": str(tmp_path)}
    plan = [Cell("dies", cells.die_once, kwargs, 2), Cell("innocent", cells.end_slowly, kwargs, 1)]
    outcome = run_cells(plan, workers=2)
    assert outcome.failed == {}
    assert outcome.results == {"innocent": True, "dies": None}


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_the_death_of_a_worker_that_nobody_watches_yet_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor wakes before it begins a worker, and if that takes a moment it waits again without the new one."""
    begun, ended = ProcessPoolExecutor._adjust_process_count, []  # type: ignore[attr-defined]

    def slowly(executor: ProcessPoolExecutor) -> None:
        time.sleep(0.3)
        begun(executor)

    monkeypatch.setattr(ProcessPoolExecutor, "_adjust_process_count", slowly)
    monkeypatch.setattr("ftmech_hf.jobs.scheduler.LOOK", 0.2)
    kwargs = {"folder": str(tmp_path)}
    plan = [Cell("innocent", cells.end_slowly, kwargs, 2), Cell("dies", cells.die_once, kwargs, 1)]
    runs = threading.Thread(target=lambda: ended.append(run_cells(plan, workers=2)), daemon=True)
    runs.start()
    runs.join(timeout=30)
    if runs.is_alive():  # the one that works until it is told to end would do so for ever
        for process in multiprocessing.active_children():
            process.kill()
    assert [each.results for each in ended] == [{"innocent": True, "dies": None}]


def test_looking_asks_again_only_when_the_last_answer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long all workers are busy, one task that does nothing waits for them."""
    pool = LocalPool(1)
    asked: list[Future[None]] = []

    def submit(task: Any) -> Future[None]:
        asked.append(Future())
        return asked[-1]

    try:
        monkeypatch.setattr(pool._executor, "submit", submit)
        pool.look()
        pool.look()
        assert len(asked) == 1
        asked[0].set_result(None)
        pool.look()
        assert len(asked) == 2
    finally:
        pool.close(stop=True)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    """One is an interpreter and one a copy, each with a process of its own that its worker is a copy of."""
    folder, script, user = tmp_path / "workers", tmp_path / "sweep.py", tmp_path / "user"
    folder.mkdir()
    user.mkdir()
    (user / "transformers.py").write_text("raise SystemExit('of the folder where the user is, which nobody meant')")
    script.write_text(
        "from ftmech_hf.jobs.cell import Cell\nfrom ftmech_hf.jobs.scheduler import run_cells\n"
        "from tests.jobs import cells\n"
        f"cell = Cell('s', cells.sleep, {{'folder': {str(folder)!r}}}, 1)\n"
        "if __name__ == '__main__': run_cells([cell], workers=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun: Any = partial(started, [sys.executable, str(script)])
    if how == signal.SIGINT:
        begun = partial(forked, [str(script)])
    with begun(tmp_path / "errors", cwd=user, env=environment) as parent:
        (name,) = wait_until(lambda: [path.name for path in folder.iterdir()], parent)
        worker = psutil.Process(int(name))
        assert not has_ended(worker)
        parent.send_signal(how)
        wait_until(lambda: parent.poll() is not None)
        wait_until(lambda: has_ended(worker), seconds=120)
        assert parent.returncode != 0
