"""Where compiled programs start: what a run that is there says of settings that it was made without."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from ftmech_hf.config import Notice
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.tasks import CounterConfig, MaxIdentifierConfig
from ftmech_hf.training.settings import TrainConfig


def test_who_asks_for_the_code_of_a_run_without_it_is_told(tmp_path: Path) -> None:
    task, settings = MaxIdentifierConfig(), {"output_dir": str(tmp_path / "run"), "final_eval_rows": 16}
    run = start_compiled(CompileConfig(**settings), task)
    coded = CompileConfig(**settings, with_code=True)
    with pytest.warns(Notice, match=r"with_code: .*run was made without the model's code; --fresh puts it there"):
        assert start_compiled(coded, task).finished
    assert not (run.path / "compiled.py").exists()
    start_compiled(CompileConfig(**settings, with_code=True, fresh=True), task)
    assert (run.path / "compiled.py").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert start_compiled(coded, task).finished
        assert start_compiled(CompileConfig(**settings), task).finished  # to have more than was asked for is no fault


def test_rows_that_a_model_has_no_positions_for_are_refused_before_it_is_trained(tmp_path: Path) -> None:
    """A compiled program has a position for each token up to its answer; the whole row is one longer."""
    task = CounterConfig()
    start = start_compiled(CompileConfig(output_dir=str(tmp_path / "start")), task)
    config = FinetuneConfig(task="counter", model=str(start.path), output_dir=str(tmp_path / "tuned"))
    with pytest.raises(
        ValueError, match=r"model: .* has \d+ positions, but objective: next_token shows it rows of \d+"
    ):
        finetune(config, task, TrainConfig(steps=1, batch_size=4))
    assert not (tmp_path / "tuned.partial").exists()
