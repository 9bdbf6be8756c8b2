"""A stage trains one model on one task distribution and leaves a run folder: pretraining, fine-tuning, reversing."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml
from accelerate import DistributedType
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from ftmech_hf.config import Settings, tell, to_dict
from ftmech_hf.jobs.card import write_model_card
from ftmech_hf.models.loading import check_vocabulary, load_model, model_hash, quiet_peft, quiet_transformers
from ftmech_hf.models.presets import Preset, build_model, find_preset
from ftmech_hf.runs import (
    FinishedRun,
    RunDir,
    check_disk_space,
    commit_folder,
    disk_errors,
    noted,
    working_folder,
    write_json,
)
from ftmech_hf.tasks import RowStream, Task, example_row
from ftmech_hf.tokenization import save_tokenizer, task_tokenizer
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.launch import check_environment
from ftmech_hf.training.loop import Progress, fit, start_accelerator
from ftmech_hf.training.objectives import OBJECTIVES
from ftmech_hf.training.regularizers import REGULARIZERS, regularizers_of
from ftmech_hf.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a pretraining run makes and where."""

    task: str = field(default="pcfg", metadata={"help": "which task, by its name in ftmech_hf.tasks.TASKS"})
    preset: str = field(default="nano", metadata={"help": "size of the model: nano, micro, paper, nano-llama"})
    n_layer: int | None = field(default=None, metadata={"help": "blocks, if not the preset's"})
    n_head: int | None = field(default=None, metadata={"help": "heads per block, if not the preset's"})
    n_embd: int | None = field(default=None, metadata={"help": "width, if not the preset's"})
    n_positions: int | None = field(default=None, metadata={"help": "longest row, if not the preset's"})
    dropout: float = field(default=0.0, metadata={"help": "dropout everywhere in the model"})
    output_dir: str = field(default="runs/pretrain", metadata={"place": "output", "help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"manner": True, "help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}, expected 0 or more and less than 1")
        _ = self.shape

    @property
    def shape(self) -> Preset:
        """The model's shape: the preset with the changes asked for."""
        return find_preset(
            self.preset, n_layer=self.n_layer, n_head=self.n_head, n_embd=self.n_embd, n_positions=self.n_positions
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Which model a fine-tuning or reversing run starts from, on which stream of rows, and where it goes."""

    task: str = field(default="pcfg", metadata={"help": "which task, by its name in ftmech_hf.tasks.TASKS"})
    model: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    snapshot: int | None = field(
        default=None, metadata={"help": "start from the snapshot after this step of the model's run, not from its end"}
    )
    split: Literal["train", "finetune", "reverse"] = field(
        default="finetune", metadata={"help": "random stream of the training rows"}
    )
    output_dir: str = field(default="runs/finetune", metadata={"place": "output", "help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"manner": True, "help": "start over even if the folder holds a run"})

    @property
    def start(self) -> str:
        """The folder or name of the model to start from: a snapshot of ``model`` or itself.

        The snapshots of a model on the Hub are its revisions ``step-N``.

        Raises:
            ValueError: there is no such snapshot; names those there are.
        """
        if self.snapshot is None:
            return self.model
        folder = snapshot_folder(Path(self.model), self.snapshot)
        if not Path(self.model).is_dir():
            return f"{self.model}@{folder.name}"
        if not folder.is_dir():
            there = sorted(int(path.name.removeprefix("step-")) for path in folder.parent.glob("step-*"))
            raise ValueError(f"snapshot: {self.model} has none of step {self.snapshot}, expected one of {there}")
        return str(folder)


def pretrain(config: PretrainConfig, task: Task, train: TrainConfig, *, progress: Progress | None = None) -> RunDir:
    """Train a fresh model on the task's stream. Finished runs are found again, interrupted ones go on."""
    check_environment(train.gradient_accumulation_steps)
    if task.row_length > config.shape.n_positions:
        raise ValueError(
            f"n_positions: {config.shape.n_positions} of preset {config.preset!r} are too few "
            f"for the task's rows of {task.row_length} tokens"
        )
    model = build_model(config.shape, len(task.vocabulary), seed=train.seed, dropout=config.dropout)
    settings = to_dict(config, task, train)
    return _run_stage("pretrain", model, "train", task, train, settings, config.fresh, {}, progress)


def finetune(
    config: FinetuneConfig,
    task: Task,
    train: TrainConfig,
    adapter: AdapterConfig | None = None,
    *,
    progress: Progress | None = None,
) -> RunDir:
    """Train a saved model on; reverse fine-tuning is this with other data. The saved model stays as it is.

    With ``adapter: lora`` the run folder holds the adapter alone, and loads on top of the model it started from.
    """
    check_environment(train.gradient_accumulation_steps)
    adapter = adapter or AdapterConfig()
    inputs: dict[str, str] = {"model": model_hash(config.start)}
    check_vocabulary(config.start, task.vocabulary)  # before the weights are read
    model = load_model(config.start)
    model = add_adapter(model, adapter, base=config.start, seed=train.seed)
    settings = to_dict(config, task, train, adapter)
    name = "reverse_finetune" if config.split == "reverse" else "finetune"
    return _run_stage(name, model, config.split, task, train, settings, config.fresh, inputs, progress)


def _run_stage(
    stage: str,
    model: PreTrainedModel,
    split: str,
    task: Task,
    train: TrainConfig,
    settings: Settings,
    fresh: bool,
    inputs: dict[str, str],
    progress: Progress | None,
) -> RunDir:
    if OBJECTIVES[train.objective].needs not in task.offers:
        expected = " or ".join(name for name, each in OBJECTIVES.items() if each.needs in task.offers)
        raise ValueError(f"objective: {train.objective} does not suit the rows of task {settings['task']}: {expected}")
    inputs = {**inputs, **task.inputs()}
    stream = RowStream(task, seed=train.seed, split=split)
    tests = {name: RowStream(each, seed=train.seed, split="test") for name, each in task.test_tasks().items()}
    for each in (stream, *tests.values()):
        each.rows(0, 1)  # an impossible correlation shows here, before anything is written
    path = Path(str(settings["output_dir"]))
    if train.max_steps is not None:
        path = _dry_run_folder(path)
        settings, fresh = settings | {"output_dir": str(path)}, True
    # An interrupted run goes on in the precision it began with, also on a machine where ``auto`` is another.
    began_with = None if fresh else noted(working_folder(path), "mixed_precision")
    accelerator = start_accelerator(train, path.with_name(path.name + "-tracker"), precision=began_with)
    if accelerator.distributed_type == DistributedType.FSDP:
        if settings.get("adapter", "none") != "none":
            raise ValueError(
                "adapter: lora is not sharded; use recipes/accelerate/ddp.yaml, its optimizer state is small"
            )
        if regularizers_of(train):
            names = ", ".join(REGULARIZERS)
            raise ValueError(f"{names}: their copy of the model is not sharded; use recipes/accelerate/ddp.yaml")
        if OBJECTIVES[train.objective].needs_reference:
            raise ValueError(
                f"objective: {train.objective} keeps a copy of the model that is not sharded; "
                "use recipes/accelerate/ddp.yaml"
            )
    # Three checkpoints of weights and two moments each exist for a moment, and the weights at the end.
    copies = 10 + len(train.snapshots)
    check_disk_space(path, copies * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad))
    is_main = accelerator.is_main_process
    with contextlib.closing(RunDir.open(path, stage, settings, inputs=inputs, fresh=fresh, is_main=is_main)) as run:
        run.finished = broadcast_object_list([run.finished])[0]  # others than the main process have not looked
        if run.finished:
            _tell_precision(run, accelerator.mixed_precision)
            return run
        started = time.monotonic()
        model = fit(
            model, stream, tests, train, run, accelerator, progress,
            lambda step, model: _save_snapshot(run, step, model, task),
        )  # fmt: skip
        if run.is_main:
            _note_bytes(run, tests, train)
            save_finished(run, model, task, train, time.monotonic() - started)
        run.finish()
    accelerator.wait_for_everyone()
    return run


def _dry_run_folder(path: Path) -> Path:
    """Where a dry run goes, which always replaces the one before it.

    Raises:
        ValueError: a run lies there that is no dry run.
    """
    folder = path.with_name(path.name + "-dry-run")
    for place in (folder, working_folder(folder)):
        config = place / "config.yaml"
        if config.is_file() and yaml.safe_load(config.read_text(encoding="utf-8")).get("max_steps") is None:
            raise ValueError(f"output_dir: {path}, but {place}, the place of its dry run, holds a run that is none")
    return folder


def _tell_precision(run: RunDir, here: str) -> None:
    """Say so where a finished run that was found was computed in another precision than it would be here."""
    there = noted(run.path, "mixed_precision")
    if run.is_main and there not in (None, here):
        tell(
            f"mixed_precision: auto was {there} when {run.path} was made and would be {here} here; "
            "--fresh makes it again"
        )


def _note_bytes(run: RunDir, tests: Mapping[str, RowStream], train: TrainConfig) -> None:
    """How many bytes a token of each test set stands for: what turns nats per token into nats per byte."""
    found = {
        name: each.task.bytes_per_token(each.rows(0, train.final_eval_rows).token_ids) for name, each in tests.items()
    }
    if None not in found.values():
        run.note(bytes_per_token=found)


def snapshot_folder(run: Path, step: int) -> Path:
    """Where a run keeps its model as it was after a step."""
    return run / "snapshots" / f"step-{step}"


def _save_model(folder: Path, model: PreTrainedModel, task: Task) -> None:
    with quiet_transformers(), quiet_peft(), disk_errors(folder):
        model.save_pretrained(folder)
    save_tokenizer(task_tokenizer(task), folder)


def _save_snapshot(run: RunDir, step: int, model: PreTrainedModel, task: Task) -> None:
    """Keep the model as it is now, as a model of its own: it loads, and is known by its run and step."""
    final = snapshot_folder(run.working, step)
    if final.exists():  # an interrupted run passes here twice, with the same weights
        return
    working = final.with_name(final.name + ".partial")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    _save_model(working, model, task)
    env = FinishedRun(run.working).env
    base = {key: env.get(key, {}) for key in ("inputs", "contents")}  # an adapter's
    facts = {"kind": "snapshot", "hash": f"{run.hash}-step-{step}", "step": step, **base}
    write_json(working / "env.json", facts)
    commit_folder(working, final)


def save_finished(run: RunDir, model: PreTrainedModel, task: Task, train: TrainConfig, seconds: float) -> None:
    """Write a trained model, its tokenizer and its card into a run that is about to finish."""
    _save_model(run.working, model, task)
    run.note(
        training_seconds=round(seconds, 1),  # of the last uninterrupted stretch
        parameters=model.num_parameters(),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        architecture=(model.config.architectures or ["causal LM"])[0],
        device=str(model.device),
        threads=torch.get_num_threads(),
    )
    write_model_card(run.working, example=example_row(task, train.seed))
