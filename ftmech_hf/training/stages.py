"""A stage trains one model on one task distribution and leaves a run folder: pretraining, fine-tuning, reversing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import DistributedType
from transformers import PreTrainedModel

from ftmech_hf.cards import write_model_card
from ftmech_hf.config import to_dict
from ftmech_hf.models.loading import check_vocabulary, load_model, model_hash, quiet_transformers
from ftmech_hf.models.presets import Preset, build_model, find_preset
from ftmech_hf.runs import RunDir, check_disk_space, disk_errors
from ftmech_hf.tasks import RowStream, Task, build_dataset
from ftmech_hf.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.loop import Progress, TrainConfig, fit, start_accelerator


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a pretraining run makes and where."""

    task: str = field(default="pcfg", metadata={"help": "which task, by its name in ftmech_hf.tasks.TASKS"})
    preset: str = field(default="nano", metadata={"help": "size of the model: nano, micro or paper"})
    n_layer: int | None = field(default=None, metadata={"help": "blocks, if not the preset's"})
    n_head: int | None = field(default=None, metadata={"help": "heads per block, if not the preset's"})
    n_embd: int | None = field(default=None, metadata={"help": "width, if not the preset's"})
    n_positions: int | None = field(default=None, metadata={"help": "longest row, if not the preset's"})
    dropout: float = field(default=0.0, metadata={"help": "dropout everywhere in the model"})
    output_dir: str = field(default="runs/pretrain", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})

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
    model: str = field(default="runs/pretrain", metadata={"help": "folder of a run, or a model on the Hub"})
    split: Literal["train", "finetune", "reverse"] = field(
        default="finetune", metadata={"help": "random stream of the training rows"}
    )
    output_dir: str = field(default="runs/finetune", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})


def pretrain(config: PretrainConfig, task: Task, train: TrainConfig, *, progress: Progress | None = None) -> RunDir:
    """Train a fresh model on the task's stream. Finished runs are found again, interrupted ones go on."""
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
    adapter = adapter or AdapterConfig()
    inputs = {"model": model_hash(config.model)}
    model = load_model(config.model)
    check_vocabulary(config.model, task.vocabulary)
    model = add_adapter(model, adapter, base=config.model, seed=train.seed)
    settings = to_dict(config, task, train, adapter)
    name = "reverse_finetune" if config.split == "reverse" else "finetune"
    return _run_stage(name, model, config.split, task, train, settings, config.fresh, inputs, progress)


def _run_stage(
    stage: str,
    model: PreTrainedModel,
    split: str,
    task: Task,
    train: TrainConfig,
    settings: Mapping[str, object],
    fresh: bool,
    inputs: dict[str, str],
    progress: Progress | None,
) -> RunDir:
    stream = RowStream(task, seed=train.seed, split=split)
    tests = {name: RowStream(each, seed=train.seed, split="test") for name, each in task.test_tasks().items()}
    for each in (stream, *tests.values()):
        each.rows(0, 1)  # an impossible correlation shows here, before anything is written
    path = Path(str(settings["output_dir"]))
    accelerator = start_accelerator(train, path.with_name(path.name + "-tracker"))
    if settings.get("adapter", "none") != "none" and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("adapter: lora is not sharded; use recipes/accelerate/ddp.yaml, its optimizer state is small")
    # Three checkpoints of weights and two moments each exist for a moment, and the weights at the end.
    check_disk_space(path, 10 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad))
    run = RunDir.open(path, stage, settings, inputs=inputs, fresh=fresh, is_main=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if run.finished:
        return run
    started = time.monotonic()
    try:
        model = fit(model, stream, tests, train, run, accelerator, progress)
        if run.is_main:
            _save(run, model, task, train, time.monotonic() - started)
        run.finish()
    finally:
        run.close()
    accelerator.wait_for_everyone()
    return run


def _save(run: RunDir, model: PreTrainedModel, task: Task, train: TrainConfig, seconds: float) -> None:
    with quiet_transformers(), disk_errors(run.working):
        model.save_pretrained(run.working)
    save_tokenizer(build_tokenizer(task.vocabulary), run.working)
    run.note(
        training_seconds=round(seconds, 1),  # of the last uninterrupted stretch
        parameters=model.num_parameters(),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        architecture=(model.config.architectures or ["causal LM"])[0],
        device=str(model.device),
        threads=torch.get_num_threads(),
    )
    shutil.rmtree(run.working / "checkpoints", ignore_errors=True)
    write_model_card(run.working, example=build_dataset(task, "test", 1, seed=train.seed)[0])
