"""When is training lost, and what is said then?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ftmech_hf.runs import CHECKPOINTS, RunDir, noted
from ftmech_hf.training.divergence import LossCheck

VOCABULARY = 20
GUESS = math.log(VOCABULARY)


def reduce(value: Tensor, reduction: str) -> Tensor:
    assert reduction == "mean"
    return value + 1  # of the other processes, whose losses are higher


ALONE: Any = SimpleNamespace(reduce=lambda value, reduction: value)
JOINED: Any = SimpleNamespace(reduce=reduce)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.open(tmp_path / "run", "pretrain", {"steps": 3})


def check_of(run: RunDir, accelerator: Any = ALONE, *, resumed: bool = False) -> LossCheck:
    return LossCheck(run, accelerator, vocabulary=VOCABULARY, resumed=resumed)


def test_three_times_a_guess_is_still_good_and_more_is_not(run: RunDir) -> None:
    check = check_of(run)
    good = math.nextafter(3 * GUESS, 0)
    assert check(torch.tensor(good, dtype=torch.float64), 1) == good
    assert check(torch.tensor(-1.0), 2) == -1  # of a preference, say
    for bad in (3 * GUESS + 0.01, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"loss: became {bad:.4g} at or before step 7, above {3 * GUESS:.4g},"):
            check(torch.tensor(bad), 7)
    assert noted(run.working, "first_loss") is None


def test_the_loss_is_the_mean_over_processes(run: RunDir) -> None:
    check = check_of(run, JOINED)
    check.first_step = torch.tensor(4.0)
    assert check(torch.tensor(2.0), 1) == 3
    assert check.first_loss == noted(run.working, "first_loss") == 5


def test_a_first_step_that_is_worse_than_a_guess_is_the_measure(run: RunDir) -> None:
    check = check_of(run)
    check.first_step = torch.tensor(10.0)
    assert check(torch.tensor(30.0), 1) == 30
    assert check.first_step is None
    with pytest.raises(ValueError, match="above 30, which is 3 times that of a guess or of the first step; lower lr"):
        check(torch.tensor(30.1), 2)
    again = check_of(run, resumed=True)
    assert again.first_loss == 10
    assert again(torch.tensor(30.0), 3) == 30
    assert check_of(run).first_loss is None  # a run that starts over


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_first_step_that_is_no_number_is_no_measure(run: RunDir, value: float) -> None:
    check = check_of(run)
    check.first_step = torch.tensor(value)
    with pytest.raises(ValueError, match=rf"above {3 * GUESS:.4g}"):
        check(torch.tensor(3 * GUESS + 0.01), 1)
    assert check.first_loss is None
    assert "first_loss" in json.loads((run.working / "env.json").read_text())


def test_the_newest_checkpoint_is_named(run: RunDir) -> None:
    check = check_of(run)
    assert check.advice() == "lower lr or muon_lr (checkpoint: none)"
    for step in (1, 2):
        (run.working / CHECKPOINTS / f"step-{step:08d}").mkdir(parents=True)
    (run.working / CHECKPOINTS / "step-00000001" / "manifest.json").write_text("{}")
    (run.working / CHECKPOINTS / "step-00000002" / "manifest.json").write_text("{}")
    assert check.advice() == "lower lr or muon_lr (checkpoint: step-00000002)"


def test_among_two_tokens_a_guess_is_the_measure_too(run: RunDir) -> None:
    check = LossCheck(run, ALONE, vocabulary=2, resumed=False)
    with pytest.raises(ValueError, match=rf"above {3 * math.log(2):.4g}"):
        check(torch.tensor(2.5), 1)
