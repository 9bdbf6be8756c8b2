"""What a stage leaves behind, beyond what the recipes' tests see."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.jobs import stage, training
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir, damaged_files
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training import loop
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig

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


@pytest.mark.parametrize(("setting", "whole"), [
    ({}, True), ({"trainable": "head"}, True), ({"adapter": "lora", "lora_rank": 2}, False),
])  # fmt: skip
def test_the_disk_must_take_whole_models_also_where_little_of_them_is_trained(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any], whole: bool
) -> None:
    origin = base(tmp_path / "base", task)
    asked: list[int] = []
    monkeypatch.setattr(stage, "check_disk_space", lambda path, needed: asked.append(needed))
    place = FinetuneConfig(model=str(origin.path), output_dir=str(tmp_path / "tuned"))
    run = finetune(place, task, TrainConfig(steps=4, **TRAIN, snapshots=[1, 2]), AdapterConfig(**setting))
    sizes = [path.stat().st_size for path in run.path.rglob("*.safetensors")]
    everything = sum(4 * p.numel() for p in load_model(str(origin.path)).parameters())
    trained = 4 * json.loads((run.path / "env.json").read_text())["trained_parameters"]
    assert len(sizes) == 3
    assert (min(sizes) > everything) == whole
    assert asked == [9 * trained + 3 * (everything if whole else trained)]


def test_a_run_needs_no_more_of_the_disk_than_it_has_not_written_yet(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = [usage.free]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=free[0]))
    with pytest.raises(Killed):
        base(tmp_path / "base", task, stop_at=6)
    written = sum(path.stat().st_size for path in (tmp_path / "base.partial").rglob("*") if path.is_file())
    asked: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(stage, "check_disk_space", lambda path, needed: asked.append(needed))
        with pytest.raises(Killed):
            base(tmp_path / "base", task, stop_at=7)
    assert written > 10_000
    free[0] = asked[0] - 1
    with pytest.raises(ValueError, match=r"^output_dir: .*base needs about .* are free"):
        base(tmp_path / "base", task)
    free[0] = asked[0]
    base(tmp_path / "base", task)
    free[0] = 0
    assert base(tmp_path / "base", task).finished, "it is there, and nothing is written"
    with monkeypatch.context() as patched:
        patched.setattr(stage, "check_disk_space", lambda path, needed: asked.append(needed))
        base(tmp_path / "other", task)
    assert asked[-1] == asked[0] + written


@pytest.mark.parametrize("replaced", ["model", "anchor_model"])
def test_a_model_that_is_made_again_while_it_is_read_is_refused(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch, replaced: str
) -> None:
    """Its hash would be that of the old weights, and what is trained the new ones."""
    places = {name: str(base(tmp_path / name, task).path) for name in ("model", "anchor_model")}
    config = FinetuneConfig(**places, output_dir=str(tmp_path / "tuned"))

    def rows_for(*given: Any) -> Any:
        for path in Path(places[replaced]).glob("*.safetensors"):
            shutil.copyfile(path, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        return kept(*given)

    kept = training._rows_for
    train = TrainConfig(steps=2, **TRAIN, ldifs=1.0)
    monkeypatch.setattr(training, "_rows_for", rows_for)
    with pytest.raises(ValueError, match=rf"^{replaced}: .*{replaced} changed while it was read; try again when"):
        finetune(config, task, train)
    monkeypatch.undo()
    finetune(config, task, train)


def test_a_dry_run_does_not_touch_the_run_it_is_for(tmp_path: Path, task: PcfgConfig) -> None:
    run = base(tmp_path / "base", task, steps=500, max_steps=3)
    assert run.path == tmp_path / "base-dry-run"
    assert not (tmp_path / "base").exists()
    assert json.loads((run.path / "env.json").read_text())["projection"]["steps"] == 500
    base(tmp_path / "base", task, steps=500, max_steps=3)  # and can be repeated


@pytest.mark.parametrize("finished", [True, False])
def test_a_dry_run_does_not_replace_a_run_that_is_none(tmp_path: Path, task: PcfgConfig, finished: bool) -> None:
    with contextlib.nullcontext() if finished else pytest.raises(Killed):
        base(tmp_path / "base-dry-run", task, stop_at=None if finished else 6)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"output_dir: .*base, but .*base-dry-run.*, the place of its dry run, holds"):
        base(tmp_path / "base", task, max_steps=3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine whose hardware has what it says under ``native``."""
    found = {"native": "no"}
    monkeypatch.setattr(loop, "native_precision", lambda device: found["native"])
    return found


def fact(run: RunDir, name: str) -> Any:
    return json.loads((run.folder / "env.json").read_text())[name]


def test_auto_is_decided_where_the_run_computes_and_written_down(
    tmp_path: Path, task: PcfgConfig, machine: dict[str, str]
) -> None:
    runs = {}
    for native in ("no", "bf16"):
        machine["native"] = native
        runs[native] = base(tmp_path / native, task)
        assert fact(runs[native], "mixed_precision") == native
        assert f"mixed precision {native}" in (runs[native].path / "README.md").read_text()
        asked = base(tmp_path / f"{native}-asked", task, mixed_precision=native)
        assert asked.hash != runs[native].hash
        assert (asked.path / "model.safetensors").read_bytes() == (runs[native].path / "model.safetensors").read_bytes()
    # asked for alike, so the same run by its name and config, and not by its numbers
    assert runs["no"].hash == runs["bf16"].hash
    assert all(
        yaml.safe_load((run.path / "config.yaml").read_text())["mixed_precision"] == "auto" for run in runs.values()
    )
    assert not torch.equal(*(weights(run.path)["lm_head.weight"] for run in runs.values()))


@pytest.mark.parametrize("natives", [("bf16", "no"), ("no", "bf16")])
def test_a_run_goes_on_in_the_precision_it_began_with(
    tmp_path: Path, task: PcfgConfig, machine: dict[str, str], natives: tuple[str, str]
) -> None:
    machine["native"] = natives[0]
    whole = base(tmp_path / "whole", task)
    for stop_at in (1, 5):  # before the first checkpoint, and after it
        machine["native"] = natives[0]
        with pytest.raises(Killed):
            base(tmp_path / f"cut-{stop_at}", task, stop_at=stop_at)
        machine["native"] = natives[1]
        cut = base(tmp_path / f"cut-{stop_at}", task)
        assert fact(cut, "mixed_precision") == natives[0]
        assert (whole.path / "model.safetensors").read_bytes() == (cut.path / "model.safetensors").read_bytes()
    fresh = PretrainConfig(n_layer=1, n_embd=16, n_head=2, output_dir=str(tmp_path / "cut-5"), fresh=True)
    again = pretrain(fresh, task, TrainConfig(steps=8, **TRAIN))
    assert fact(again, "mixed_precision") == natives[1]


def test_a_finished_run_of_another_precision_is_found_and_named(
    tmp_path: Path, task: PcfgConfig, machine: dict[str, str]
) -> None:
    base(tmp_path / "run", task)
    assert base(tmp_path / "run", task).finished  # the same here: nothing to say
    machine["native"] = "bf16"
    with pytest.warns(UserWarning, match="mixed_precision: auto was no when .*run was made and would be bf16 here"):
        assert base(tmp_path / "run", task).finished
