from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ftmech_hf.runs import read_metrics
from ftmech_hf.training.loop import start_accelerator
from ftmech_hf.training.settings import TrainConfig
from recipes import pretrain
from tests.recipes.conftest import TINY


def test_tensorboard_shows_what_the_metrics_say(tmp_path: Path) -> None:
    where = tmp_path / "run"
    small = ["--n_layer=1", "--n_embd=16", "--n_head=2"]
    pretrain.main([*TINY, *small, "--log_with", "tensorboard", "--output_dir", str(where)])
    events = EventAccumulator(str(tmp_path / "run-tracker" / "ftmech_hf"))
    events.Reload()
    lines = read_metrics(where)
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines if "loss" in line]
    shown = [(event.step, event.value) for event in events.Scalars("accuracy/count_a")]
    assert shown == [(line["step"], pytest.approx(line["accuracy/count_a"])) for line in lines]
    # a tracker is no part of what is computed
    pretrain.main([*TINY, *small, "--output_dir", str(where)])


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"log_with: wandb is not installed; pip install 'ftmech_hf\[wandb\]'"):
        start_accelerator(TrainConfig(log_with="wandb"))
