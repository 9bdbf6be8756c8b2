"""What runs of training start from and where they go: the settings of pretraining and of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftmech_hf.jobs.trained_model import snapshot_folder
from ftmech_hf.models.presets import PRESETS, Preset, find_preset


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a pretraining run makes and where."""

    task: str = field(default="pcfg", metadata={"help": "which task, by its name in ftmech_hf.tasks.TASKS"})
    preset: str = field(default="nano", metadata={"help": f"size of the model: {', '.join(PRESETS)}"})
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
    anchor_model: str | None = field(
        default=None,
        metadata={"place": "input", "help": "what ldifs and lfl stay near, if it is not the model to start from"},
    )
    output_dir: str = field(default="runs/finetune", metadata={"place": "output", "help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"manner": True, "help": "start over even if the folder holds a run"})

    @property
    def kind(self) -> str:
        """Of the run: a fine-tuning on the reversing stream is called that."""
        return "reverse_finetune" if self.split == "reverse" else "finetune"

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
