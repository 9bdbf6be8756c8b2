from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.attention import AttentionConfig
from ftmech_hf.jobs.cell import make_again_if_changed, run_cell
from ftmech_hf.jobs.exact_distribution import TruthConfig
from ftmech_hf.jobs.interpolation import InterpolateConfig
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.probing import ProbeConfig
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.models.identity import model_hash, run_model
from ftmech_hf.runs import Identity, RunDir, run_identity, write_json
from ftmech_hf.runs.folders import write_manifest
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2


def add_base(plan: Plan, name: str, **train: Any) -> str:
    settings = {"task": PcfgConfig(), "train": TrainConfig(**train)}
    return plan.add(name, "pretrain", print, PretrainConfig(), settings, {}, 1)


def add_tuned(plan: Plan, name: str, base: str, **place: Any) -> str:
    settings = {"task": PcfgConfig(), "train": TrainConfig()}
    return plan.add(name, "finetune", print, FinetuneConfig(**place), settings, {"model": base}, 1)


def finish(plan: Plan, name: str) -> None:
    cell = next(cell for cell in plan.unfinished() if cell.name == name)
    place = cell.kwargs["config"]
    folder = Path(place.output_dir)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("whole")
    write_manifest(folder)


def test_what_computes_the_same_is_one_run(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    assert add_base(plan, "first") == "first"
    assert add_base(plan, "again", checkpoint_every=7, log_with="tensorboard") == "first"
    assert add_base(plan, "other", seed=1) == "other"
    tuned, elsewhere = (add_tuned(plan, f"tuned-{base}", base) for base in ("first", "other"))
    assert [cell.needs for cell in plan.unfinished()] == [(), (), ("first",), ("other",)]
    assert plan.folders[tuned] != plan.folders[elsewhere]


@pytest.mark.parametrize("kind", [InterpolateConfig, AttentionConfig, ProbeConfig, TruthConfig])
def test_which_model_is_the_first_is_a_part_of_what_is_computed(kind: Any, tmp_path: Path) -> None:
    """The hashes of inputs have no order. Runs whose first is the base are called as before there was one."""
    plan = Plan(tmp_path)
    first, other = add_base(plan, "one"), add_base(plan, "two", seed=1)

    def added(**inputs: str) -> str:
        return plan.add("-".join(inputs), "job", print, kind(models=["x=.", "y=."]), {}, inputs, 1)

    runs = [added(base=first, a=other), added(a=other, base=first), added(a=first, b=other), added(b=other, a=first)]
    assert len({*runs}) == 4
    hashes = [plan.folders[run].name.rpartition("-")[2] for run in runs]
    said = [["base=one", "a=two"], ["a=two", "base=one"], ["a=one", "b=two"], ["b=two", "a=one"]]
    assert [kind(models=each).inputs() for each in said] == [
        {}, {"first of models": "a"}, {}, {"first of models": "b"},
    ]  # fmt: skip
    identities = {run: plan.folders[run].name.rpartition("-")[2] for run in (first, other)}
    named = {"base": identities[first], "a": identities[other]}
    assert hashes[0] == run_identity("job", to_dict(kind()), named)
    assert hashes[1] == run_identity("job", to_dict(kind()), {**named, "first of models": "a"})
    assert [each.partition("=")[0] for each in plan.called_with(runs[3])["config"].models] == ["b", "a"]


def test_finished_runs_are_found_by_another_name_and_no_longer_needed(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_base(plan, "base")
    finish(plan, "base")
    later = Plan(tmp_path)
    add_base(later, "the same base")
    add_tuned(later, "tuned", "the same base")
    assert later.folders["the same base"] == plan.folders["base"]
    assert [(cell.name, cell.needs) for cell in later.unfinished()] == [("tuned", ())]
    assert later.unfinished()[0].kwargs["config"].model == str(plan.folders["base"])


def test_an_interrupted_run_is_gone_on_with_by_another_name(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_base(plan, "base")
    plan.folders["base"].with_name(plan.folders["base"].name + ".partial").mkdir(parents=True)
    later = Plan(tmp_path)
    add_base(later, "renamed")
    assert later.folders["renamed"] == plan.folders["base"]


def test_a_damaged_run_is_made_again_and_fresh_makes_all_again(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_base(plan, "base")
    finish(plan, "base")
    (plan.folders["base"] / "manifest.json").write_text('{"gone": {"bytes": 1, "sha256": ""}}')
    later = Plan(tmp_path)
    add_base(later, "base")
    (cell,) = later.unfinished()
    assert cell.kwargs["config"].fresh
    assert [cell.name for cell in Plan(tmp_path).unfinished()] == []
    (plan.folders["base"] / "manifest.json").write_text("{}")
    fresh = Plan(tmp_path, fresh=True)
    add_base(fresh, "base")
    assert len(fresh.unfinished()) == 1


def make_run(folder: Path, inputs: dict[str, str], weights: float) -> None:
    """A finished run of any settings, with weights that its settings do not fix."""
    run = RunDir.open(folder, "any", {}, inputs=inputs, fresh=folder.exists())
    save_file({"weight": torch.tensor([weights])}, run.working / "model.safetensors")
    run.finish()


def test_a_run_of_before_that_could_not_be_made_again_is_missing(tmp_path: Path) -> None:
    """Else results would be of two makings, and nobody would know."""
    plan = Plan(tmp_path)
    add_base(plan, "base")
    finish(plan, "base")
    assert plan.missing == []
    plan.not_made = {"base"}
    assert plan.missing == ["base"]
    assert plan.find("base") is None


def test_a_run_that_was_made_from_other_weights_is_made_again(tmp_path: Path) -> None:
    def plan() -> Plan:
        made = Plan(tmp_path)
        add_tuned(made, "tuned", add_base(made, "base"))
        return made

    base, tuned = (plan().folders[name] for name in ("base", "tuned"))
    make_run(base, {}, 0)
    make_run(tuned, {"model": run_model(base)}, 0)
    assert plan().unfinished() == []
    make_run(base, {}, 1)
    (cell,) = plan().unfinished()
    assert cell.name == "tuned"
    assert cell.kwargs["config"].fresh
    make_run(tuned, {"model": run_model(base)}, 0)
    assert plan().unfinished() == []


def test_a_finished_run_of_a_base_that_is_made_again_is_kept_if_the_base_comes_out_as_it_was(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_tuned(plan, "tuned", add_base(plan, "base"))
    tuned = plan.folders["tuned"]
    make_run(tuned, {"model": Identity("base", "as it was")}, 0)
    remake, look = plan.unfinished()
    assert (remake.name, look.name, look.needs) == ("base", "tuned", ("base",))
    asked: list[bool] = []

    def finetune(config: FinetuneConfig, task: object, train: object) -> RunDir:
        asked.append(config.fresh)
        return RunDir.open(tuned, "any", {}, inputs={"model": Identity("base", "another")}, fresh=config.fresh)

    make_again_if_changed(finetune, **look.kwargs).finish()
    assert asked == [False, True]
    make_again_if_changed(lambda config, task, train: asked.append(config.fresh), **look.kwargs)
    assert asked == [False, True, False]


@pytest.mark.parametrize("base_is_there", [True, False])
def test_an_interrupted_run_of_a_base_that_was_made_again_is_begun_again(tmp_path: Path, base_is_there: bool) -> None:
    """What it had made of other weights is worth nothing; else it would be refused each time, and with it its study."""

    def pretrain(config: PretrainConfig, progress: object, **settings: object) -> None:
        make_run(Path(config.output_dir), {}, 1)

    def finetune(config: FinetuneConfig, progress: object, **settings: object) -> None:
        inputs = {"model": run_model(Path(config.model))}
        with contextlib.closing(RunDir.open(config.output_dir, "any", {}, inputs=inputs, fresh=config.fresh)) as run:
            assert not list(run.working.glob("half*"))
            run.finish()

    def plan() -> Plan:
        made = Plan(tmp_path)
        base = made.add("base", "pretrain", pretrain, PretrainConfig(), {"task": PcfgConfig()}, {}, 1)
        made.add("tuned", "finetune", finetune, FinetuneConfig(), {"task": PcfgConfig()}, {"model": base}, 1)
        return made

    base, tuned = (plan().folders[name] for name in ("base", "tuned"))
    make_run(base, {}, 0)
    with contextlib.closing(RunDir.open(tuned, "any", {}, inputs={"model": run_model(base)})) as run:
        (run.working / "half made").touch()
    make_run(base, {}, 1)
    if not base_is_there:
        shutil.rmtree(base)
    for cell in plan().unfinished():
        run_cell(cell, queue.SimpleQueue())
    assert plan().unfinished() == []


def test_two_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    names = {add_base(plan, "base", seed=seed) for seed in (0, 1)}
    assert len(names) == 2


def test_the_plan_knows_the_hash_that_the_run_will_have(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_base(plan, "base")
    (cell,) = plan.unfinished()
    from ftmech_hf.config import to_dict

    config = to_dict(cell.kwargs["config"], cell.kwargs["task"], cell.kwargs["train"])
    run = RunDir.open(cell.kwargs["config"].output_dir, "pretrain", config)
    run.close()
    assert plan.folders["base"].name == f"base-{run.hash}"


def test_a_snapshot_is_another_start(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_base(plan, "base", snapshots=[2, 4], steps=4)
    names = {add_tuned(plan, f"tuned{step}", "base", snapshot=step) for step in (2, 4, None)}
    assert len({plan.folders[name] for name in names}) == 3
    with pytest.raises(ValueError, match=r"snapshot: .* has none of step 3, expected one of \[\]"):
        _ = FinetuneConfig(model=str(tmp_path), snapshot=3).start


def test_an_anchor_is_a_part_of_what_is_computed_wherever_it_is_named(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    for name, seed in (("base", 0), ("one", 1), ("two", 2)):
        add_base(plan, name, seed=seed)
    names = [add_tuned(plan, "tuned", "base", anchor_model=each) for each in (None, "one", "two", "one")]
    assert len({*names}) == 3
    assert names[1] == names[3]
    assert plan.called_with(names[2])["config"].anchor_model == str(plan.folders["two"])
    # the base's snapshot is not the anchor's
    apart = [add_tuned(plan, "apart", "base", anchor_model=each, snapshot=2) for each in ("one", "two")]
    assert len({*apart}) == 2
    hashes = {name: plan.folders[name].name.rpartition("-")[2] for name in ("base", "one", apart[0])}
    called = plan.called_with(apart[0])
    inputs = {"model": f"{hashes['base']}-step-2", "anchor_model": hashes["one"]}
    assert hashes[apart[0]] == run_identity("finetune", to_dict(*called.values()), inputs)


def test_a_stack_that_fails_is_the_failure_of_its_runs(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    names = [add_base(plan, f"base{seed}", seed=seed) for seed in range(3)]
    alone, *_ = cells = plan.unfinished()
    assert plan.made_by(alone) == [names[0]]
    runs = [SimpleNamespace(config=plan.called_with(name)["config"]) for name in names[1:]]
    stack = dataclasses.replace(cells[1], name="pretrain 1", kwargs={"runs": runs})
    assert plan.made_by(stack) == names[1:]


def test_a_snapshot_of_a_model_from_elsewhere_is_what_the_run_reads(tmp_path: Path) -> None:
    model = make_gpt2(40)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.transformer.wte.weight += 1
    model.save_pretrained(tmp_path / "base" / "snapshots" / "step-2")
    plan = Plan(tmp_path / "plan")
    names = [add_tuned(plan, "tuned", str(tmp_path / "base"), snapshot=step) for step in (None, 2)]
    place = plan.called_with(names[1])["config"]
    settings = {key: value for key, value in plan.called_with(names[1]).items() if key != "config"}
    expected = run_identity("finetune", to_dict(place, *settings.values()), {"model": model_hash(place.start)})
    assert plan.folders[names[1]].name.rpartition("-")[2] == expected
    assert plan.folders[names[0]] != plan.folders[names[1]]


def test_what_finished_runs_took_is_added_up(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    names = [add_base(plan, f"base-{seed}", seed=seed) for seed in range(5)]
    waited = {"cpu_seconds": 8.0, "seconds": 90.0}  # other work had the cores most of the time
    for name, facts in zip(
        names, ({"seconds": 2.5, "training_seconds": 1.0}, {"training_seconds": 4.0}, {}, waited), strict=False
    ):
        finish(plan, name)
        write_json(plan.folders[name] / "env.json", facts)
    assert plan.seconds() == 14.5
    run = RunDir.open(tmp_path / "run", "probe", {})
    time.sleep(0.2)
    run.finish()
    assert 0.2 <= json.loads((run.path / "env.json").read_text())["seconds"] < 60
