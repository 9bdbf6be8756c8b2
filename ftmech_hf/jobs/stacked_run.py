"""A run that can be trained together with others, and which of them can."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.cell import make_again_if_changed
from ftmech_hf.jobs.stage import check_suits
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import check_vocabulary, load_model
from ftmech_hf.models.presets import build_model
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import RowStream, Task, TextConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import OBJECTIVES, Objective
from ftmech_hf.training.settings import TrainConfig

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "optimizer": ("sgd", "adamw"), "objective": ("answer_only", "next_token"), "gradient_accumulation_steps": (1,),
    "gradient_checkpointing": (False,), "l2sp": (0.0,), "ldifs": (0.0,), "lfl": (0.0,), "lwf": (0.0,), "ewc": (0.0,),
    "olora": (0.0,), "replay_share": (0.0,), "average": (0.0,), "keep_rows": (0,), "keep_fisher": (0,),
    "max_steps": (None,), "log_with": ("none",), "deterministic": (False,), "tf32": (False,),
}  # fmt: skip
"""What runs that are trained together can have; others go through the ordinary loop."""

OWN = ("lr", "seed")
"""What they may differ in."""


class StackedRun(NamedTuple):
    """One of the runs, as :func:`ftmech_hf.jobs.training.pretrain` or ``finetune`` takes it."""

    config: PretrainConfig | FinetuneConfig
    task: Task
    train: TrainConfig
    objective: Objective | None = None

    @property
    def minimised(self) -> Objective:
        """The objective, as it is by default where it is not given."""
        return self.objective or OBJECTIVES[self.train.objective]()

    @property
    def split(self) -> str:
        """The random stream of its rows."""
        return "train" if isinstance(self.config, PretrainConfig) else self.config.split

    def build(self) -> PreTrainedModel:
        """The model that it starts from."""
        if isinstance(self.config, FinetuneConfig):
            return load_model(self.config.start, device="cpu")
        size = len(self.task.vocabulary)
        return build_model(self.config.shape, size, seed=self.train.seed, dropout=self.config.dropout)

    def open(self) -> RunDir:
        """Its folder, as the ordinary job would open it; what was made from other inputs gives way."""
        check_suits(self.minimised, self.train, self.task, self.config.task)
        return make_again_if_changed(self._open, config=self.config)

    def _open(self, config: PretrainConfig | FinetuneConfig) -> RunDir:
        objective = self.minimised
        if isinstance(config, PretrainConfig):
            settings = to_dict(config, self.task, self.train, objective)
            return RunDir.open(config.output_dir, "pretrain", settings, inputs=self.task.inputs(), fresh=config.fresh)
        check_vocabulary(config.start, self.task.vocabulary)
        settings = to_dict(config, self.task, self.train, AdapterConfig(), objective)
        inputs = {"model": model_hash(config.start), **self.task.inputs()}
        return RunDir.open(config.output_dir, config.kind, settings, inputs=inputs, fresh=config.fresh)


def why_not_together(train: TrainConfig) -> str:
    """Why runs of these settings go through the ordinary loop, in words that name a setting; empty if they need not."""
    for name, supported in _SUPPORTED.items():
        if (value := getattr(train, name)) not in supported:
            expected = " or ".join(map(str, supported))
            return f"{name}: {value}, expected {expected} for runs that are trained together"
    return ""


def has_rows_of_one_shape(task: Task) -> bool:
    """Whether all rows of a task are equally long and end with their answer and the end of a row."""
    if isinstance(task, TextConfig) or task.offers != ("tokens", "answers") or not task.fixed_places:
        return False
    rows = RowStream(task, seed=0, split="train").rows(0, 1)
    return rows.answers is None and rows.lengths is None


def check_together(runs: Sequence[StackedRun]) -> None:
    """Make sure that runs can be trained at once.

    Raises:
        ValueError: a setting is not supported, or two of them differ in one; names it.
    """
    first = runs[0]
    if why := why_not_together(first.train):
        raise ValueError(why)
    for run in runs:
        if not has_rows_of_one_shape(run.task):
            raise ValueError(f"task: rows of {run.config.task} differ in shape, expected equal ones to train together")
        for field in dataclasses.fields(TrainConfig):
            one, other = getattr(run.train, field.name), getattr(first.train, field.name)
            if field.name not in OWN and one != other:
                raise ValueError(
                    f"{field.name}: {one} in one of the runs that are trained together, {other} in another"
                )
        if run.minimised != first.minimised:
            raise ValueError(f"objective: {run.minimised} in one of the runs that are trained together")
