"""Rows made by a thread: in order, a few ahead, errors where they are asked for, and nothing left running."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftmech_hf.runs import RunDir, read_metrics
from ftmech_hf.tasks import PcfgConfig, Rows, RowStream
from ftmech_hf.training import parts
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.making_ahead import MadeAhead
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2


def until(found: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something comes about; a loaded machine takes its time."""
    ends = time.monotonic() + seconds
    while not found() and time.monotonic() < ends:
        time.sleep(0.005)
    return found()


def running() -> int:
    return sum(thread.name == "made ahead" for thread in threading.enumerate())


def test_all_steps_come_in_order_and_the_thread_ends() -> None:
    ahead = MadeAhead(lambda step: step**2, 3, 8, depth=2)
    assert [ahead.take() for _ in range(5)] == [9, 16, 25, 36, 49]
    with pytest.raises(AssertionError, match="step 8 was not to be made"):
        ahead.take()
    ahead.stop()
    assert running() == 0


def test_no_more_are_made_than_fit_and_stopping_does_not_wait_for_a_taker() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    ahead = MadeAhead(make, 0, 10**9, depth=3)
    assert until(lambda: len(made) == 4)  # three lie ready, and one waits for its place
    time.sleep(0.3)
    assert made == [0, 1, 2, 3]
    assert ahead.take() == 0
    assert until(lambda: len(made) == 5)
    ahead.stop()
    assert running() == 0


def test_an_error_is_raised_where_its_step_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("row 2")
        return step

    ahead = MadeAhead(make, 0, 9, depth=4)
    assert [ahead.take(), ahead.take()] == [0, 1]
    with pytest.raises(ValueError, match="row 2"):
        ahead.take()
    assert running() == 0


class Broken(RowStream):
    def rows(self, start: int, stop: int) -> Rows:
        if start >= 32:
            raise OSError("no such file")
        return super().rows(start, stop)


CONFIG = TrainConfig(steps=6, batch_size=8, num_evals=2, eval_rows=8, final_eval_rows=8, checkpoint_every=2)


def train(
    folder: Path, stream: RowStream, stop_at: int | None = None, **changes: object
) -> tuple[list[dict[str, object]], torch.Tensor]:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]

    def progress(step: int, steps: int, text: str) -> None:
        assert step != 1 or running() == ("cpu" in parts.AHEAD)  # later all may be made
        if step == stop_at:
            raise InterruptedError

    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config))
    model = make_gpt2(len(stream.task.vocabulary))
    tests = {"all": RowStream(stream.task, seed=0, split="test")}
    try:
        fit(model, stream, tests, config, run, start_accelerator(config), progress)
    finally:
        run.close()
        assert running() == 0
    return read_metrics(run.working), model.lm_head.weight.detach()


def test_a_run_whose_rows_are_made_ahead_is_the_same_and_goes_on_the_same(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, weight = train(tmp_path / "usual", RowStream(task, seed=0, split="train"))
    monkeypatch.setattr(parts, "AHEAD", {"cpu": 1})  # where the run is cut, steps are still to be made
    ahead, weight_ahead = train(tmp_path / "ahead", RowStream(task, seed=0, split="train"))
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", RowStream(task, seed=0, split="train"), stop_at=3)
    again, weight_again = train(tmp_path / "cut", RowStream(task, seed=0, split="train"))
    assert usual == ahead == again
    assert torch.equal(weight, weight_ahead)
    assert torch.equal(weight, weight_again)


def test_rows_that_cannot_be_made_end_the_training_with_their_own_error(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "AHEAD", {"cpu": 3})
    with pytest.raises(OSError, match="no such file"):
        train(tmp_path / "run", Broken(task, seed=0, split="train"))
