"""Settings of what keeps a model near what it was, or near what it learned before, while it learns something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

KeptLogits = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class KeepingConfig:
    """How a run keeps what its model knew, and what it leaves for runs that go on from it. By default nothing of it.

    What is ``unsaid`` is no part of a run's name where it has its default: runs that were made before keep theirs.
    """

    l2sp: float = field(
        default=0.0, metadata={"help": "weight of the squared distance of the weights from where they started"}
    )
    ldifs: float = field(
        default=0.0, metadata={"help": "weight of the distance of the features from those of the starting model"}
    )
    ldifs_norm: Literal["width", "positions"] = field(
        default="width",
        metadata={
            "unsaid": True,
            "help": "what becomes a unit vector: width: the features of a token; positions: a feature over the tokens "
            "of its row, then a mean over the width, as the paper's code does",
        },
    )
    lfl: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "half of it weighs the squared distance of the last hidden states from those of the starting "
            "model (LFL, arXiv 1607.00122); goes with trainable: body",
        },
    )
    lwf: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "weight of the distance from the starting model's answers (arXiv 1606.09282)",
        },
    )
    lwf_temperature: float = field(default=2.0, metadata={"unsaid": True, "help": "of these answers"})
    lwf_ask: list[str] = field(
        default_factory=list,
        metadata={
            "unsaid": True,
            "help": "what lwf asks about the texts of new rows, such as count_a; what the rows ask if not given",
        },
    )
    ewc: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "half of it weighs the squared distance of the weights from where they started, each by its Fisher "
            "information (arXiv 1612.00796); the starting model's run must have kept it, see keep_fisher",
        },
    )
    ewc_permuted: bool = field(
        default=False,
        metadata={"unsaid": True, "help": "a control: Fisher information permuted inside every weight matrix"},
    )
    olora: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "weight of the overlap of a LoRA adapter with those it stands on (O-LoRA, arXiv 2310.14152)",
        },
    )
    replay_share: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "share of rows that are replaced by rows of earlier tasks; the starting model's run must have kept "
            "some, see keep_rows",
        },
    )
    replay_shuffled: bool = field(
        default=False, metadata={"unsaid": True, "help": "a control: kept rows with each other's answers"}
    )
    der: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "weight of the squared distance of logits on replayed rows from what they were when the rows were "
            "kept (DER++, arXiv 2004.07211)",
        },
    )
    average: float = field(
        default=0.0,
        metadata={
            "unsaid": True,
            "help": "share of the starting weights in those that the last step leaves (WiSE-FT, arXiv 2109.01903)",
        },
    )
    keep_rows: int = field(
        default=0,
        metadata={"unsaid": True, "help": "training rows that the run keeps for later ones, beside those it was left"},
    )
    keep_logits: KeptLogits = field(
        default="auto",
        metadata={
            "unsaid": True,
            "help": "whether the logits of kept rows' answers, which der needs, are kept as well; auto: with der, or "
            "where they take 1 GiB at most",
        },
    )
    keep_fisher: int = field(
        default=0,
        metadata={
            "unsaid": True,
            "help": "rows on which the run measures the weights' Fisher information for later ones",
        },
    )

    def __post_init__(self) -> None:
        weights = ("l2sp", "ldifs", "lfl", "lwf", "ewc", "olora", "der", "keep_rows", "keep_fisher")
        self._check(weights, lambda value: 0 <= value < math.inf, "0 or more")
        self._check(("lwf_temperature",), lambda value: 0 < value < math.inf, "a number above 0")
        self._check(("replay_share", "average"), lambda value: 0 <= value < 1, "a share, 0 or more and less than 1")
        if self.der and not self.replay_share:
            raise ValueError(f"der: {self.der} compares rows that are replayed, expected replay_share above 0")
        if self.keep_logits not in get_args(KeptLogits):
            raise ValueError(f"keep_logits: {self.keep_logits!r}, expected one of {', '.join(get_args(KeptLogits))}")
        if self.keep_logits != "auto" and not self.keep_rows:
            raise ValueError(f"keep_logits: {self.keep_logits} changes nothing, expected keep_rows above 0")
        said: dict[str, tuple[bool, str]] = {
            "ewc_permuted": (self.ewc_permuted, "ewc"), "replay_shuffled": (self.replay_shuffled, "replay_share"),
            "ldifs_norm": (self.ldifs_norm != "width", "ldifs"), "lwf_ask": (bool(self.lwf_ask), "lwf"),
            "lwf_temperature": (self.lwf_temperature != 2.0, "lwf"),
        }  # fmt: skip
        for name, (is_said, needed) in said.items():
            if is_said and not getattr(self, needed):
                raise ValueError(f"{name}: {getattr(self, name)} changes nothing, expected {needed} above 0")

    def _check(self, names: tuple[str, ...], is_right: Callable[[Any], bool], expected: str) -> None:
        for name in names:
            if not is_right(getattr(self, name)):
                raise ValueError(f"{name}: {getattr(self, name)}, expected {expected}")
