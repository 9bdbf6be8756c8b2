from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftmech_hf.training.sweep import Cell, run_cell, run_cells
from tests.conftest import listen_to_ctrl_c
from tests.training import cells


def record(folder: Path, name: str, needs: tuple[str, ...] = ()) -> Cell:
    kwargs = {"folder": str(folder), "name": name, "waits_for": list(needs)}
    return Cell(name, cells.record, kwargs, 1, needs)


def test_cells_wait_for_what_they_need_and_run_on_one_thread(tmp_path: Path) -> None:
    plan = [record(tmp_path, "a"), record(tmp_path, "b", ("a",)), record(tmp_path, "c", ("a", "b"))]
    results = run_cells(plan, workers=2).results
    assert set(results) == {"a", "b", "c"}
    assert all(result["missing"] == [] and result["threads"] == 1 for result in results.values())
    assert os.getpid() not in {result["pid"] for result in results.values()}


def test_a_cell_without_steps_reports_as_any_other() -> None:
    """A model that is not trained (``steps: 0``, the paper's Scr.) is a cell of a sweep, too."""
    reports: queue.SimpleQueue[tuple[str, float, str]] = queue.SimpleQueue()
    assert run_cell(Cell("untrained", cells.without_steps, {}, 1), reports) == "done"
    assert [reports.get()[:2] for _ in range(2)] == [("untrained", 0), ("untrained", 1)]


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


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    code = (
        "from ftmech_hf.training.sweep import Cell, run_cell, run_cells\nfrom tests.training import cells\n"
        f"if __name__ == '__main__': run_cells([Cell('s', cells.sleep, {{'folder': {str(tmp_path)!r}}}, 1)])"
    )
    script = tmp_path / "sweep.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, preexec_fn=listen_to_ctrl_c) as parent:
        deadline = time.monotonic() + 60
        while not (workers := [p.name for p in tmp_path.iterdir() if p.name.isdigit()]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        parent.send_signal(how)
        assert parent.wait(30) != 0
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline + 30, "the worker lives on"
        time.sleep(0.1)
