"""Which terms there are that keep a model near what it was, and how each is made of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from ftmech_hf.tasks import PcfgConfig, Rows, Task
from ftmech_hf.training.earlier_tasks import EWC, DarkExperience, LwF, OLoRA
from ftmech_hf.training.inheritance import Inheritance
from ftmech_hf.training.objectives import Objective
from ftmech_hf.training.regularizers import L2SP, LDIFS, LFL, Regularizer
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss


@dataclass(frozen=True)
class Keeping:
    """What terms need beside their settings.

    Attributes:
        task: what is learned.
        earlier: what earlier runs left.
        anchor: the model that features are compared with, if it is not the one that training starts from.
    """

    task: Task | None = None
    earlier: Inheritance = field(default_factory=Inheritance)
    anchor: nn.Module | None = None


def _make_lwf(config: TrainConfig, keeping: Keeping) -> Regularizer:
    questions = None
    if config.lwf_ask:
        if not isinstance(keeping.task, PcfgConfig):
            raise ValueError(f"lwf_ask: {config.lwf_ask[0]!r}, but only rows of the procedural task can be asked anew")
        questions = torch.from_numpy(keeping.task.question_ids(config.lwf_ask))
    return LwF(config.lwf, temperature=config.lwf_temperature, questions=questions)


def _make_der(config: TrainConfig, keeping: Keeping) -> Regularizer:
    rows, logits = keeping.earlier.rows, keeping.earlier.logits
    assert rows is not None
    assert logits is not None
    return DarkExperience(config.der, logits, answer_lengths(rows), share=config.replay_share)


def answer_lengths(rows: Rows) -> torch.Tensor:
    """Tokens of the answer of each row, (B,)."""
    if rows.answers is None:
        return torch.ones(len(rows), dtype=torch.int64)
    return torch.from_numpy(rows.answers[:, 1:].sum(1))


REGULARIZERS: dict[str, Callable[[TrainConfig, Keeping], Regularizer]] = {
    "l2sp": lambda config, _: L2SP(config.l2sp),
    "ldifs": lambda config, _: LDIFS(config.ldifs, over_positions=config.ldifs_norm == "positions"),
    "lfl": lambda config, _: LFL(config.lfl),
    "lwf": _make_lwf,
    "ewc": lambda config, keeping: EWC(
        config.ewc, keeping.earlier.fisher, permuted=config.ewc_permuted, seed=config.seed
    ),
    "der": _make_der,
    "olora": lambda config, keeping: OLoRA(config.olora, keeping.earlier.adapters),
}
"""Name of a setting that says how strong a term is -> what makes the term."""


def regularizers_of(config: TrainConfig, keeping: Keeping | None = None) -> list[Regularizer]:
    """Those that are switched on."""
    return [make(config, keeping or Keeping()) for name, make in REGULARIZERS.items() if getattr(config, name)]


def total_loss_of(
    model: nn.Module, objective: Objective, config: TrainConfig, keeping: Keeping | None = None
) -> TotalLoss:
    """An objective with the terms that are switched on."""
    keeping = keeping or Keeping()
    return TotalLoss(model, objective, regularizers_of(config, keeping), keeping.anchor, config.average)
