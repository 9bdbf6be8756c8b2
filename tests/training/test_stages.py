"""What a stage leaves behind, beyond what the recipes' tests see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.models.loading import load_model, model_hash
from ftmech_hf.runs import RunDir, damaged_files
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stages import FinetuneConfig, PretrainConfig, finetune, pretrain

TRAIN: dict[str, Any] = {"batch_size": 8, "num_evals": 0, "eval_rows": 8, "final_eval_rows": 16, "checkpoint_every": 3}


class Killed(Exception):
    pass


def base(folder: Path, task: PcfgConfig, *, stop_at: int | None = None, **train: Any) -> RunDir:
    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    place = PretrainConfig(n_layer=1, n_embd=16, n_head=2, output_dir=str(folder))
    return pretrain(place, task, TrainConfig(**{"steps": 8, **TRAIN, **train}), progress=progress)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder)).state_dict())


def test_snapshots_are_models_of_their_own(tmp_path: Path, task: PcfgConfig) -> None:
    run = base(tmp_path / "base", task, snapshots=[2, 5, 8])
    folders = {step: run.path / "snapshots" / f"step-{step}" for step in (2, 5, 8)}
    assert damaged_files(run.path) == []
    last, early = weights(folders[8]), weights(folders[2])
    whole = weights(run.path)
    assert all(torch.equal(last[name], whole[name]) for name in whole)
    assert not all(torch.equal(early[name], whole[name]) for name in whole)
    assert model_hash(str(folders[2])) == f"{run.hash}-step-2"
    AutoModelForCausalLM.from_pretrained(folders[5])
    assert len(AutoTokenizer.from_pretrained(folders[5])) == len(task.vocabulary)


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_an_interrupted_run_keeps_the_same_snapshots(tmp_path: Path, task: PcfgConfig, stop_at: int) -> None:
    whole = base(tmp_path / "whole", task, snapshots=[2, 5])
    with pytest.raises(Killed):
        base(tmp_path / "cut", task, stop_at=stop_at, snapshots=[2, 5])
    cut = base(tmp_path / "cut", task, snapshots=[2, 5])
    for step in (2, 5):
        place = f"snapshots/step-{step}/model.safetensors"
        assert (whole.path / place).read_bytes() == (cut.path / place).read_bytes()


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_fine_tuning_starts_from_a_snapshot(tmp_path: Path, task: PcfgConfig, adapter: Any) -> None:
    origin = base(tmp_path / "base", task, snapshots=[2, 8])
    train = TrainConfig(steps=2, **TRAIN)
    for step in (2, None):
        place = FinetuneConfig(model=str(origin.path), snapshot=step, output_dir=str(tmp_path / f"tuned-{step}"))
        run = finetune(place, task, train, AdapterConfig(adapter=adapter))
        expected = origin.hash if step is None else f"{origin.hash}-step-{step}"
        assert json.loads((run.path / "env.json").read_text())["inputs"]["model"] == expected
        load_model(str(run.path))
    assert not torch.equal(
        weights(tmp_path / "tuned-2")["lm_head.weight"], weights(tmp_path / "tuned-None")["lm_head.weight"]
    )


def test_only_the_unembedding_is_trained_if_asked(tmp_path: Path, task: PcfgConfig) -> None:
    origin = base(tmp_path / "base", task)
    train = TrainConfig(steps=3, **TRAIN)
    place = FinetuneConfig(model=str(origin.path), output_dir=str(tmp_path / "head"))
    finetune(place, task, train, AdapterConfig(trainable="head"))
    before, after = weights(origin.path), weights(tmp_path / "head")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"lm_head.weight"}
    again = FinetuneConfig(model=str(tmp_path / "head"), output_dir=str(tmp_path / "all"))
    finetune(again, task, train)
    both = weights(tmp_path / "all")
    assert sum(not torch.equal(after[name], both[name]) for name in both) > 10
    with pytest.raises(ValueError, match="trainable: head, but adapter: lora"):
        AdapterConfig(trainable="head", adapter="lora")


def test_a_dry_run_does_not_touch_the_run_it_is_for(tmp_path: Path, task: PcfgConfig) -> None:
    run = base(tmp_path / "base", task, steps=500, max_steps=3)
    assert run.path == tmp_path / "base-dry-run"
    assert not (tmp_path / "base").exists()
    assert json.loads((run.path / "env.json").read_text())["projection"]["steps"] == 500
    base(tmp_path / "base", task, steps=500, max_steps=3)  # and can be repeated
