"""A trained model in a run folder: weights, tokenizer and card, at the end and as it was on the way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.card import write_model_card
from ftmech_hf.jobs.training_card import describe_training
from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.tokenization import save_tokenizer, task_tokenizer
from ftmech_hf.runs import FinishedRun, RunDir, commit_folder, disk_errors, read_metrics, write_json
from ftmech_hf.tasks import RowStream, Task, example_row
from ftmech_hf.tasks.floors import stream_floor
from ftmech_hf.training.settings import TrainConfig


def note_bytes(run: RunDir, tests: Mapping[str, RowStream]) -> None:
    """How many bytes a token of each test set stands for: what turns nats per token into nats per byte.

    It is of the rows that the last line of the run's log is of, so that both are a mean over the same tokens.
    """
    number = read_metrics(run.working)[-1]["eval_rows"]
    found = {name: each.task.bytes_per_token(each.rows(0, number)) for name, each in tests.items()}
    if None not in found.values():
        run.note(bytes_per_token=found)


def note_floors(run: RunDir, tests: Mapping[str, RowStream]) -> None:
    """What is right on each test set without reading its texts, on as many rows as any line of the run's log reports.

    A test set that is judged by its loss alone has no floor.
    """
    lines = read_metrics(run.working)
    numbers = {name: sorted({line.get(f"eval_rows/{name}", line["eval_rows"]) for line in lines}) for name in tests}
    found = [
        stream_floor(stream, number).row(name)
        for name, stream in tests.items() if "accuracy" in stream.task.measures for number in numbers[name]
    ]  # fmt: skip
    if found:
        run.note(floors=found)


def snapshot_folder(run: Path, step: int) -> Path:
    """Where a run keeps its model as it was after a step."""
    return run / "snapshots" / f"step-{step}"


def _save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    with quiet_transformers(), quiet_peft(), disk_errors(folder):
        model.save_pretrained(folder)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)


def save_snapshot(run: RunDir, step: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep the model as it is now, as a model of its own: it loads, and is known by its run and step."""
    env = FinishedRun(run.working).env
    base = {key: env.get(key, {}) for key in ("inputs", "contents")}  # an adapter's
    facts = {"kind": "snapshot", "hash": f"{run.hash}-step-{step}", "step": step, **base}
    save_apart(snapshot_folder(run.working, step), model, tokenizer, facts)


def save_apart(
    final: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, facts: Mapping[str, Any]
) -> None:
    """Save a model in a folder of an open run, as a model of its own, in place of one that is there.

    An interrupted run passes here twice, with the same weights on a CPU alone.

    Args:
        final: the folder, which appears when it is whole.
        model: in the Hub's layout.
        tokenizer: beside it, if there is one.
        facts: its ``env.json``, which says what it is known by as an input: its ``hash``.
    """
    working = final.with_name(final.name + ".partial")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    _save_model(working, model, tokenizer)
    write_json(working / "env.json", facts)
    shutil.rmtree(final, ignore_errors=True)
    commit_folder(working, final)


def save_finished(
    run: RunDir,
    model: PreTrainedModel,
    task: Task,
    train: TrainConfig,
    seconds: float,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a trained model, its tokenizer and its card into a run that is about to finish.

    Args:
        run: open.
        model: trained.
        task: what it was trained on.
        train: how.
        seconds: that it took.
        tokenizer: the model's own; that of the task if not given.
    """
    example = example_row(task, train.seed)
    if tokenizer is not None:
        run.note(example=dict(example))  # who publishes the run need not read the data set again
    _save_model(run.working, model, tokenizer or task_tokenizer(task))
    run.note(
        training_seconds=round(seconds, 1),  # of the last uninterrupted stretch
        parameters=model.num_parameters(),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        architecture=(model.config.architectures or ["causal LM"])[0],
        device=str(model.device),
        threads=torch.get_num_threads(),
    )
    write_model_card(run.working, what=describe_training(FinishedRun(run.working)), example=example)
