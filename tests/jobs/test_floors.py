"""Every run that evaluates says what is right without reading the texts of its test sets."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ftmech_hf.jobs.behavior import from_task
from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.jobs.probing import ProbeConfig, probe
from ftmech_hf.jobs.pruning import PruneConfig, prune
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.report.console import print_job, print_run
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, StoriesConfig, Task, for_capability
from ftmech_hf.tasks.floors import stream_floor
from ftmech_hf.training.settings import TrainConfig

FEW: dict[str, Any] = {"batch_size": 8, "steps": 2, "num_evals": 0, "eval_rows": 8, "final_eval_rows": 40}
SMALL: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2}


def most_frequent(task: Task, number: int, seed: int = 0) -> float:
    """Counted on the rows themselves, by nothing of the package but the rows."""
    answers = RowStream(task, seed=seed, split="test").rows(0, number).token_ids[:, -2].tolist()
    return max(Counter(answers).values()) / number


@pytest.fixture
def base(tmp_path: Path, task: PcfgConfig) -> RunDir:
    return pretrain(PretrainConfig(**SMALL, output_dir=str(tmp_path / "base")), task, TrainConfig(**FEW))


def test_a_training_knows_its_floors_on_as_many_rows_as_it_evaluated(
    base: RunDir, task: PcfgConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tests = FinishedRun(base.path), task.test_tasks()
    assert {*run.floors} == {(name, number) for name in tests for number in (8, 40)}
    for name, asked in tests.items():
        for number in (8, 40):
            assert run.floor(name, number) == most_frequent(asked, number)
        assert run.floor(name) == run.floor(name, 40) != run.floor(name, 39)
    for row in run.accuracy:
        assert (row["rows"], row["floor"]) == (40, run.floor(row["name"]))
        assert row["text_free"] == run.floors[row["name"], 40]["text_free"] <= row["floor"]  # one question in each
        assert (row["low"], row["high"]) == share_interval(round(row["value"] * 40), 40)[1:]
    assert [key for line in run.metrics for key in line if "floor" in key] == []  # what was logged is what it was
    print_run(base)
    line = next(line for line in capsys.readouterr().out.splitlines() if "count_a" in line)
    assert f"{run.floor('count_a'):.1%}" in line
    card = (base.path / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| `count_a`"))
    assert row.split(" | ")[3] == f"{100 * (run.floor('count_a') or 0):.1f} %"


def test_floors_are_those_of_the_labels_that_were_trained(base: RunDir, tmp_path: Path, task: PcfgConfig) -> None:
    asked = PcfgConfig(
        text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4, operators=["count"],
        operand_prior=["b"], correlation=1.0,
    )  # fmt: skip
    place = FinetuneConfig(model=str(base.path), output_dir=str(tmp_path / "tuned"))
    run = FinishedRun(finetune(place, asked, TrainConfig(**FEW, seed=1)).path)
    for name, each in asked.test_tasks().items():
        assert run.floor(name) == most_frequent(each, 40, seed=1)
    floors = {name: run.floor(name) for name in asked.test_tasks()}
    assert len(set(floors.values())) > 1  # the control: not one number for all


def test_instruments_know_the_floors_of_what_they_report(
    base: RunDir, tmp_path: Path, task: PcfgConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    counting = for_capability(task, Capability("count", "a"))
    few = PruneConfig(
        model=str(base.path), sizes=[0, 1], score_rows=16, eval_rows=48, num_random_at_best=1, save_pruned=True,
        output_dir=str(tmp_path / "prune"),
    )  # fmt: skip
    pruned = prune(few, task)
    run = FinishedRun(pruned.path)
    assert run.floor("count_a") == most_frequent(counting, 48)
    assert {name for name, _ in run.floors} == {"count_a", "count_b_cte0", "count_b_cte1"}
    for share in (0, 1):
        asked = for_capability(task, Capability("count", "b"), float(share))
        assert run.floor(f"count_b_cte{share}") == most_frequent(asked, 48)
        chosen = RowStream(asked, seed=0, split="validation").rows(0, 1024).token_ids[:, -2].tolist()
        guess = min(set(chosen), key=lambda answer: (-chosen.count(answer), answer))
        reported = RowStream(asked, seed=0, split="test").rows(0, 48).token_ids[:, -2].tolist()
        assert run.floors[f"count_b_cte{share}", 48]["text_free"] == reported.count(guess) / 48
    assert f"| {100 * (run.floor('count_a') or 0):.1f} % |" in (pruned.path / "README.md").read_text()
    print_job(pruned)
    assert f"{run.floor('count_a'):.1%}" in capsys.readouterr().out

    reading = ProbeConfig(
        models=[f"any={base.path}"], fit_rows=80, test_rows=40, num_shuffles=1, num_tasks=1, type_symbols=1,
        output_dir=str(tmp_path / "probe"),
    )  # fmt: skip
    run = FinishedRun(probe(reading, task).path)
    texts = task.texts(RowStream(counting, seed=0, split="test").rows(0, 40).token_ids)
    for number, name in enumerate("ab"):  # of b, too, although the prompts ask for a
        counts = Counter((texts[:, -task.count_window :] == number).sum(1).tolist())
        assert run.floor(name) == max(counts.values()) / 40
        scores = run.table[(run.table["label"] == name)]
        assert set(scores["majority"]) == {run.floors[name, 40]["text_free"]}

    ends = InterpolateConfig(
        models=[f"base={base.path}", f"finetuned={base.path}"], alphas=[0.0], eval_rows=24,
        output_dir=str(tmp_path / "line"),
    )  # fmt: skip
    run = FinishedRun(interpolate(ends, task).path)
    for name, each in task.test_tasks().items():
        assert run.floor(name) == most_frequent(each, 24)


def test_the_chance_of_a_behavior_is_what_a_guess_from_the_question_gives(task: PcfgConfig) -> None:
    sizes: dict[str, Any] = {"seed": 0, "train_rows": 600, "test_rows": 500}
    behavior = from_task(task, tests={"test": task, **task.test_tasks()}, **sizes)
    test, elsewhere = behavior.test, RowStream(task, seed=0, split="validation").rows(0, 1024)
    asked = [tuple(row[1:4].tolist()) for row in elsewhere.token_ids]
    answers = elsewhere.token_ids[:, -2].tolist()
    best = {
        question: min(given, key=lambda answer: (-given.count(answer), answer))
        for question in set(asked)
        if (given := [answer for each, answer in zip(asked, answers, strict=True) if each == question])
    }
    right = [best[tuple(row[1:4].tolist())] == int(row[-2]) for row in test.token_ids]
    assert behavior.chance == sum(right) / 500
    assert behavior.chance > behavior.floors["test"].floor  # several questions: no constant does it
    every = {name: found.floor for name, found in behavior.floors.items()}
    assert every == {name: most_frequent(each, 500) for name, each in {"test": task, **task.test_tasks()}.items()}
    assert behavior.test[[3, 1]].questions() == [behavior.test.questions()[number] for number in (3, 1)]
    assert behavior.test.first_tokens().questions() == behavior.test.questions()


def test_the_guess_is_chosen_on_many_rows_that_are_not_reported(task: PcfgConfig) -> None:
    """However few rows are reported or fitted on; with questions that are many, few rows would know no answer."""
    behavior = from_task(task, tests={"test": task, **task.test_tasks()}, seed=0, train_rows=20, test_rows=30)
    for name, asked in {"test": task, **task.test_tasks()}.items():
        assert behavior.floors[name] == stream_floor(RowStream(asked, seed=0, split="test"), 30)
    # the controls: chosen on the rows that are reported, on as many others, and on those that are fitted on
    for rows in (behavior.test, behavior.validation, behavior.train):
        other = dataclasses.replace(behavior, guessed_on={"test": rows})
        assert other.floors["test"].text_free != behavior.chance


def test_what_is_judged_by_its_loss_has_no_floor(tmp_path: Path) -> None:
    task = StoriesConfig(row_tokens=32, vocab_size=300)
    place = PretrainConfig(task="stories", **SMALL, n_positions=32, output_dir=str(tmp_path / "stories"))
    run = FinishedRun(pretrain(place, task, TrainConfig(**{**FEW, "final_eval_rows": 8}, objective="documents")).path)
    assert run.loss
    assert run.floors == {}
    assert run.accuracy == []
    assert torch.isfinite(torch.tensor(run.loss[0]["value"]))
