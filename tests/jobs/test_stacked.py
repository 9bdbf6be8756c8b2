from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ftmech_hf.jobs import stacked
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.jobs.stacked import StackedRun, finetune_together
from ftmech_hf.jobs.stacked_cells import stack_cells
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import FinishedRun, RunDir, is_finished, read_metrics
from ftmech_hf.tasks import MaxIdentifierConfig
from ftmech_hf.training.settings import TrainConfig

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
    together = finetune_together(make_runs(start, tmp_path / "together"))
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


def test_runs_of_a_stack_are_evaluated_on_as_many_rows_as_each_needs(start: Path, tmp_path: Path) -> None:
    """Beside a threshold that one of them is near, and others are not."""
    near = {"eval_near": 0.8, "steps": 40, "eval_at": [12]}
    together = finetune_together(make_runs(start, tmp_path / "together", **near))
    lines = [read_metrics(made.path) for made in together]
    assert ["eval_rows/o_ft_cte1" in each[1] for each in lines] == [False, False, True]
    for run, each in zip(make_runs(start, tmp_path / "alone", **near), lines, strict=True):
        alone = read_metrics(finetune(*run).path)
        for one, other in zip(each[:2], alone[:2], strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=0.02)


def test_an_interrupted_stack_goes_on_where_it_was(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune_together(make_runs(start, tmp_path / "whole"))

    def stop(step: int, steps: int, text: str) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_together(make_runs(start, tmp_path / "cut"), progress=stop)
    steps: list[int] = []
    original = stacked._Stack._step
    monkeypatch.setattr(stacked._Stack, "_step", lambda self, step: steps.append(step) or original(self, step))
    resumed = finetune_together(make_runs(start, tmp_path / "cut"))
    assert steps == [4, 5]
    for one, other in zip(whole, resumed, strict=True):
        assert read_metrics(one.path) == read_metrics(other.path)
        weights = [load_model(str(run.path)).state_dict() for run in (one, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    steps.clear()
    finetune_together(make_runs(start, tmp_path / "cut"))
    assert not steps  # finished runs are left alone


def test_a_run_that_diverges_harms_no_other_and_says_so(start: Path, tmp_path: Path) -> None:
    runs = make_runs(start, tmp_path / "runs")
    train = dataclasses.replace(runs[0].train, max_grad_norm=1e30, weight_decay=0.0)
    bad = [runs[0]._replace(train=dataclasses.replace(train, lr=1e30)), runs[1]._replace(train=train)]
    made = finetune_together(bad)
    noted = [json.loads((run.path / "env.json").read_text())["diverged"] for run in made]
    assert noted == [True, False]
    assert all(torch.isfinite(p).all() for p in load_model(str(made[1].path)).parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer: adamw, expected sgd"),
        ({"mixed_precision": "bf16"}, "mixed_precision: bf16, expected no"),
        ({"mixed_precision": "auto"}, "mixed_precision: auto, expected no"),
        ({"steps": 7}, "steps: 7 in one of the runs"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(
    start: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    runs = make_runs(start, tmp_path)
    changed = dataclasses.replace(runs[0].train, **changes)  # type: ignore[arg-type]
    runs[1 if "steps" in changes else 0] = runs[0]._replace(train=changed)
    with pytest.raises(ValueError, match=message):
        finetune_together(runs)
    assert not list(tmp_path.iterdir())


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
    whole = finetune_together(make_runs(start, tmp_path / "whole"))

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
            finetune_together(make_runs(start, tmp_path / "cut"), progress=stop)
    if finished_by == "itself":
        finetune(*make_runs(start, tmp_path / "cut")[2])
    assert [is_finished(tmp_path / "cut" / f"run{number}") for number in range(3)] == [False, False, True]
    steps: list[int] = []
    original = stacked._Stack._step
    monkeypatch.setattr(stacked._Stack, "_step", lambda self, step: steps.append(step) or original(self, step))
    left = finetune_together(make_runs(start, tmp_path / "cut")[:2])
    assert steps == ([] if finished_by == "the stack" else [4, 5])
    assert all(same(one.path, other.path) for one, other in zip(whole[:2], left, strict=True))
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_stack_of_which_one_run_is_refused_lets_go_of_the_others(start: Path, tmp_path: Path) -> None:
    runs = make_runs(start, tmp_path)
    held = stacked._open(runs[1])
    with pytest.raises(ValueError, match=r"another process is writing .*run1"):
        finetune_together(runs)
    stacked._open(runs[0]).close()
    held.close()
