from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftmech_hf.jobs import stacked
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.stacked import train_together
from ftmech_hf.jobs.stacked_cells import kind_to_stack, stack_cells
from ftmech_hf.jobs.stacked_run import StackedRun
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import FinishedRun, RunDir, cpu_seconds, is_finished, read_metrics
from ftmech_hf.runs.folders import write_manifest
from ftmech_hf.tasks import MaxIdentifierConfig, PcfgConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import NextToken
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stack import Stack

TASK = MaxIdentifierConfig()
TRAIN = TrainConfig(
    steps=6, batch_size=8, optimizer="sgd", objective="answer_only", weight_decay=0.01, mixed_precision="no",
    num_evals=2, eval_rows=16, final_eval_rows=32, checkpoint_every=2, warmup_fraction=0.3, max_grad_norm=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    return start_compiled(CompileConfig(output_dir=str(folder / "start"), final_eval_rows=64), TASK).path


def make_runs(start: Path, root: Path, **changes: Any) -> list[StackedRun]:
    runs = []
    for number, (lr, correlation, seed) in enumerate([(1e-3, 0.0, 0), (1e-4, 1.0, 0), (1e-3, 1.0, 1)]):
        task = dataclasses.replace(TASK, operand="7", correlation=correlation)
        config = FinetuneConfig(task="max_identifier", model=str(start), output_dir=str(root / f"run{number}"))
        runs.append(StackedRun(config, task, dataclasses.replace(TRAIN, lr=lr, seed=seed, **changes)))
    return runs


def test_each_run_is_what_the_ordinary_loop_makes(start: Path, tmp_path: Path) -> None:
    together = train_together(make_runs(start, tmp_path / "together"))
    for run, made in zip(make_runs(start, tmp_path / "alone"), together, strict=True):
        alone = finetune(*run)
        assert alone.hash == made.hash  # each finds the other's
        ours, theirs = load_model(str(made.path)), load_model(str(alone.path))
        start_weights = dict(load_model(str(start)).named_parameters())
        for name, weight in theirs.named_parameters():
            moved = (weight - start_weights[name]).abs().max()
            assert (ours.get_parameter(name) - weight).abs().max() <= 1e-3 * moved + 1e-6, name
        lines = [read_metrics(each.path) for each in (made, alone)]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
        for one, other in zip(*lines, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=0.04)
        floors = FinishedRun(made.path).floors
        assert floors == FinishedRun(alone.path).floors
        assert {name for name, _ in floors} == set(run.task.test_tasks())
        assert {path.name for path in made.path.iterdir()} == {path.name for path in alone.path.iterdir()}
        assert "import ftmech_hf" in (made.path / "README.md").read_text()


def test_runs_of_a_stack_share_what_it_computed(start: Path, tmp_path: Path) -> None:
    """What a study took is the sum over its runs."""
    before = cpu_seconds()
    made = train_together(make_runs(start, tmp_path, steps=20))
    spent = cpu_seconds() - before
    shares = [FinishedRun(run.path).env["cpu_seconds"] for run in made]
    assert len(set(shares)) == 1
    assert 0 < sum(shares) <= spent + 0.05 * len(shares)  # each is rounded to a tenth
    assert spent > 0.3


def test_runs_of_a_stack_are_evaluated_on_as_many_rows_as_each_needs(start: Path, tmp_path: Path) -> None:
    """Beside a threshold that one of them is near, and others are not."""
    near = {"eval_near": 0.8, "steps": 40, "eval_at": [12]}
    together = train_together(make_runs(start, tmp_path / "together", **near))
    lines = [read_metrics(made.path) for made in together]
    assert ["eval_rows/o_ft_cte1" in each[1] for each in lines] == [False, False, True]
    for run, each in zip(make_runs(start, tmp_path / "alone", **near), lines, strict=True):
        alone = read_metrics(finetune(*run).path)
        for one, other in zip(each[:2], alone[:2], strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=0.02)


def test_an_interrupted_stack_goes_on_where_it_was(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_together(make_runs(start, tmp_path / "whole"))

    def stop(step: int, steps: int, text: str) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_together(make_runs(start, tmp_path / "cut"), progress=stop)
    steps: list[int] = []
    original = Stack.step
    monkeypatch.setattr(Stack, "step", lambda self, step, rows: steps.append(step) or original(self, step, rows))
    resumed = train_together(make_runs(start, tmp_path / "cut"))
    assert steps == [4, 5]
    for one, other in zip(whole, resumed, strict=True):
        assert read_metrics(one.path) == read_metrics(other.path)
        weights = [load_model(str(run.path)).state_dict() for run in (one, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    steps.clear()
    train_together(make_runs(start, tmp_path / "cut"))
    assert not steps  # finished runs are left alone


def test_a_run_that_diverges_harms_no_other_and_says_so(start: Path, tmp_path: Path) -> None:
    runs = make_runs(start, tmp_path / "runs")
    train = dataclasses.replace(runs[0].train, max_grad_norm=1e30, weight_decay=0.0)
    bad = [runs[0]._replace(train=dataclasses.replace(train, lr=1e30)), runs[1]._replace(train=train)]
    made = train_together(bad)
    noted = [json.loads((run.path / "env.json").read_text())["diverged"] for run in made]
    assert noted == [True, False]
    assert all(torch.isfinite(p).all() for p in load_model(str(made[1].path)).parameters())


def test_a_loss_that_is_large_and_a_number_has_diverged_too(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = iter([0.0, 1e9])
    monkeypatch.setattr(stacked, "loss_limit", lambda vocabulary, first: next(limits) if first > 0 else None)
    made = train_together(make_runs(start, tmp_path / "runs")[:2])
    assert [json.loads((run.path / "env.json").read_text())["diverged"] for run in made] == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "muon"}, "optimizer: muon, expected sgd or adamw"),
        ({"max_steps": 3}, "max_steps: 3, expected None"),
        ({"ewc": 1.0}, "ewc: 1.0, expected 0.0"),
        ({"steps": 7}, "steps: 7 in one of the runs"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(
    start: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    runs = make_runs(start, tmp_path)
    changed = dataclasses.replace(runs[0].train, **changes)  # type: ignore[arg-type]
    runs[1 if list(changes) == ["steps"] else 0] = runs[0]._replace(train=changed)
    with pytest.raises(ValueError, match=message):
        train_together(runs)
    assert not list(tmp_path.iterdir())


PCFG = PcfgConfig()
PRETRAIN = TrainConfig(
    steps=6, batch_size=8, optimizer="adamw", weight_decay=0.01, mixed_precision="no", num_evals=2, eval_rows=16,
    final_eval_rows=32, checkpoint_every=2, warmup_fraction=0.3, max_grad_norm=0.5, snapshots=[3],
)  # fmt: skip


def gpts(root: Path, **changes: Any) -> list[StackedRun]:
    """Base models of two priors, and one of them of another seed, rate and objective's weight of answers."""
    runs = []
    for number, (prior, lr, seed) in enumerate([("low", 1e-3, 0), ("high", 3e-4, 0), ("high", 1e-3, 1)]):
        task = dataclasses.replace(PCFG, operators=["count"], operand_prior=[prior])
        config = PretrainConfig(n_layer=2, n_head=2, n_embd=16, output_dir=str(root / f"gpt{number}"))
        train = dataclasses.replace(PRETRAIN, lr=lr, seed=seed, **changes)
        runs.append(StackedRun(config, task, train, NextToken(answer_weight=4.0)))
    return runs


def assert_same_training(made: RunDir, alone: RunDir, start: dict[str, torch.Tensor]) -> None:
    """One run is found again as the other, and its weights and numbers are the other's up to rounding."""
    assert alone.hash == made.hash
    ours, theirs = load_model(str(made.path)), load_model(str(alone.path))
    for name, weight in theirs.named_parameters():
        moved = (weight - start[name]).norm()  # of a gradient near 0, AdamW makes a step of rounding
        assert moved > 1e-5, name
        assert (ours.get_parameter(name) - weight).norm() <= 0.01 * moved, name
    for one, other in zip(read_metrics(made.path), read_metrics(alone.path), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=0.04)
    assert FinishedRun(made.path).floors == FinishedRun(alone.path).floors
    assert {path.name for path in made.path.iterdir()} == {path.name for path in alone.path.iterdir()}


def test_gpts_are_pretrained_and_tuned_together_as_each_would_be_alone(tmp_path: Path) -> None:
    together = train_together(gpts(tmp_path / "together"))
    for run, made in zip(gpts(tmp_path / "alone"), together, strict=True):
        start = dict(run.build().named_parameters())
        assert_same_training(made, pretrain(*run), start)  # type: ignore[arg-type]
        snapshot, own = (
            load_model(str(path / "snapshots" / "step-3")) for path in (made.path, Path(run.config.output_dir))
        )
        assert all(torch.allclose(own.get_parameter(n), p, atol=1e-5) for n, p in snapshot.named_parameters())
    train = dataclasses.replace(PRETRAIN, objective="answer_only", snapshots=[])
    tuned = [
        StackedRun(
            FinetuneConfig(model=str(base.path), output_dir=str(tmp_path / "{}" / f"tuned{number}")),
            dataclasses.replace(PCFG, operators=["count"], operand_prior=["b"], correlation=correlation),
            dataclasses.replace(train, lr=lr),
        )
        for number, (base, correlation, lr) in enumerate([(together[0], 1.0, 1e-3), (together[1], 0.0, 1e-4)])
    ]

    def at(place: str, run: StackedRun) -> StackedRun:
        return run._replace(config=dataclasses.replace(run.config, output_dir=run.config.output_dir.format(place)))

    made = train_together([at("together", run) for run in tuned])
    for run, folder in zip(tuned, made, strict=True):
        start = dict(run.build().named_parameters())
        assert_same_training(folder, finetune(*at("alone", run)), start)  # type: ignore[arg-type]


def test_a_run_begun_with_others_goes_on_alone(tmp_path: Path) -> None:
    """Its checkpoints are of the form that it has alone, what its optimizer remembers among them."""

    def stop(step: int, steps: int, text: str) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_together(gpts(tmp_path / "cut"), progress=stop)
    for run, whole in zip(gpts(tmp_path / "cut"), gpts(tmp_path / "whole"), strict=True):
        steps: list[int] = []
        resumed = pretrain(*run, progress=lambda step, _, __, steps=steps: steps.append(step))  # type: ignore[arg-type, misc]
        assert steps == [4, 5, 6]
        assert_same_training(resumed, pretrain(*whole), dict(whole.build().named_parameters()))  # type: ignore[arg-type]


def test_runs_that_were_stopped_at_different_steps_go_on_apart(tmp_path: Path) -> None:
    def stop(step: int, steps: int, text: str) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole = train_together(gpts(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        pretrain(*gpts(tmp_path / "cut")[0], progress=stop)  # type: ignore[arg-type]
    made = train_together(gpts(tmp_path / "cut"))
    for one, other in zip(made, whole, strict=True):
        ours, theirs = load_model(str(one.path)), load_model(str(other.path))
        assert all(torch.allclose(ours.get_parameter(n), p, atol=1e-4) for n, p in theirs.named_parameters())
        assert [line["step"] for line in read_metrics(one.path)] == [line["step"] for line in read_metrics(other.path)]


def test_a_run_that_had_got_farther_loses_no_line_of_its_log(tmp_path: Path) -> None:
    """With others it came to two steps and alone to four; the stack goes on from two and is stopped, then it alone."""

    def stop_at(stop: int) -> Callable[[int, int, str], None]:
        def progress(step: int, steps: int, text: str) -> None:
            if step == stop:
                raise KeyboardInterrupt

        return progress

    def go_on(stop: int, *, alone: bool) -> None:
        runs, progress = gpts(tmp_path / "cut", eval_at=[3, 4]), stop_at(stop)
        if alone:
            pretrain(*runs[0], progress=progress)  # type: ignore[arg-type]
        train_together(runs, progress=progress)

    for stop, alone in ((3, False), (5, True), (3, False)):
        with pytest.raises(KeyboardInterrupt):
            go_on(stop, alone=alone)
    resumed, whole = (pretrain(*gpts(tmp_path / name, eval_at=[3, 4])[0]) for name in ("cut", "whole"))  # type: ignore[arg-type]
    steps = [[line["step"] for line in read_metrics(each.path)] for each in (resumed, whole)]
    assert steps[0] == steps[1]
    assert {3, 4} <= {*steps[1]}


def test_cells_of_a_grid_are_stacked_by_their_settings() -> None:
    def cell(**changes: Any) -> Cell:
        kwargs = {"config": FinetuneConfig(), "task": PCFG, "train": dataclasses.replace(PRETRAIN, **changes)}
        return Cell("name", finetune, kwargs, 1.0)

    first = kind_to_stack(cell(), lambda _: "small")
    assert first
    assert kind_to_stack(cell(lr=0.5, seed=3), lambda _: "small") == first
    assert kind_to_stack(cell(), lambda _: "large") not in ("", first)
    assert kind_to_stack(cell(batch_size=9), lambda _: "small") not in ("", first)
    assert kind_to_stack(cell(optimizer="muon"), lambda _: "small") == ""
    assert kind_to_stack(cell(), lambda _: None) == ""
    adapted = dataclasses.replace(cell(), kwargs={**cell().kwargs, "adapter": AdapterConfig(adapter="lora")})
    assert kind_to_stack(adapted, lambda _: "small") == ""
    whole, head, body = (
        dataclasses.replace(cell(), kwargs={**cell().kwargs, "adapter": AdapterConfig(trainable=part)})  # type: ignore[arg-type]
        for part in ("all", "head", "body")
    )
    assert kind_to_stack(whole, lambda _: "small") == first
    assert kind_to_stack(head, lambda _: "small") == kind_to_stack(body, lambda _: "small") == ""
    with pytest.raises(AssertionError, match="any"):  # nobody may put them together by a kind of their own
        stack_cells([head], 2, lambda _: "any")


def test_cells_are_stacked_by_kind_and_needs_follow() -> None:
    def cell(name: str, function: object, *needs: str) -> Cell:
        kwargs = {"config": name[0], "task": None, "train": None}
        return Cell(name, function, kwargs, 1.0, needs)  # type: ignore[arg-type]

    cells = [cell("start", print), *(cell(f"a{n}", finetune, "start") for n in range(3)), cell("b0", finetune, "a2")]
    made = stack_cells([*cells, cell("look", print, "a0", "b0")], 2, lambda each: str(each.kwargs["config"]))
    assert [(each.name, each.needs, each.cost) for each in made] == [
        ("start", (), 1.0), ("a 1", ("start",), 2.0), ("a 2", ("start",), 1.0), ("b 1", ("a 2",), 1.0),
        ("look", ("a 1", "b 1"), 1.0),
    ]  # fmt: skip
    assert len(made[1].kwargs["runs"]) == 2


def same(one: Path, other: Path) -> bool:
    weights = [load_model(str(path)).state_dict() for path in (one, other)]
    return read_metrics(one) == read_metrics(other) and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )


@pytest.mark.parametrize("finished_by", ["the stack", "itself"])
def test_what_is_left_of_a_stack_goes_on_from_the_checkpoint_of_all(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_by: str
) -> None:
    whole = train_together(make_runs(start, tmp_path / "whole"))

    def stop(step: int, steps: int, text: str) -> None:
        if step == 5 and finished_by == "itself":
            raise KeyboardInterrupt

    save = stacked.save_finished

    def save_one(run: RunDir, *rest: Any) -> None:
        if run.path.name == "run1":
            raise KeyboardInterrupt
        save(run, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(stacked, "save_finished", save_one)
        with pytest.raises(KeyboardInterrupt):
            train_together(make_runs(start, tmp_path / "cut"), progress=stop)
    if finished_by == "itself":
        finetune(*make_runs(start, tmp_path / "cut")[2])
    finished = [is_finished(tmp_path / "cut" / f"run{number}") for number in range(3)]
    assert finished == ([True, False, False] if finished_by == "the stack" else [False, False, True])
    steps: list[int] = []
    original = Stack.step
    monkeypatch.setattr(Stack, "step", lambda self, step, rows: steps.append(step) or original(self, step, rows))
    left = train_together(make_runs(start, tmp_path / "cut"))
    assert steps == ([] if finished_by == "the stack" else [4, 5])
    assert all(same(one.path, other.path) for one, other in zip(whole[:2], left[:2], strict=True))
    assert not list((tmp_path / "cut").glob(".*"))


def test_what_was_begun_from_another_model_of_that_name_is_begun_again_in_a_stack(start: Path, tmp_path: Path) -> None:
    model = tmp_path / "start"
    shutil.copytree(start, model)
    (run,) = make_runs(model, tmp_path)[:1]
    with contextlib.closing(run.open()) as begun:
        (begun.working / "half made").touch()
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * each for name, each in weights.items()}, model / "model.safetensors", {"format": "pt"})
    write_manifest(model)
    with contextlib.closing(run.open()) as again:
        assert not (again.working / "half made").exists()
        assert again.hash == begun.hash


def test_cells_of_a_plan_are_stacked_also_where_what_they_start_from_is_made_again(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    settings = {"task": TASK, "train": TRAIN}
    base = plan.add("base", "pretrain", pretrain, PretrainConfig(), settings, {}, 1)
    for seed in (0, 1):
        tuned = {**settings, "train": dataclasses.replace(TRAIN, seed=seed)}
        name = plan.add(f"tuned{seed}", "finetune", finetune, FinetuneConfig(), tuned, {"model": base}, 1)
        plan.folders[name].mkdir()
        (plan.folders[name] / "weights").touch()
        write_manifest(plan.folders[name])  # finished, but for what is to be made again below it
    made = stack_cells(plan.unfinished(), 2, lambda cell: "tuned" if cell.name.startswith("tuned") else "")
    assert [each.name for each in made] == ["base", "tuned 1"]


def test_a_stack_of_which_one_run_is_refused_lets_go_of_the_others(start: Path, tmp_path: Path) -> None:
    runs = make_runs(start, tmp_path)
    held = runs[1].open()
    with pytest.raises(ValueError, match=r"another process is writing .*run1"):
        train_together(runs)
    runs[0].open().close()
    held.close()
