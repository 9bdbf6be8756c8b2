"""How to train: the settings that pretraining, fine-tuning and reversing share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ftmech_hf.config import check_literals
from ftmech_hf.statistics.crossing import NEAR_ROWS, look_sizes
from ftmech_hf.training.keeping_settings import KeepingConfig

Precision = Literal["auto", "no", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(KeepingConfig):
    """How to train. The defaults pretrain the nano scale in about a minute on one core."""

    steps: int = field(default=1000, metadata={"help": "optimizer steps; 0 keeps the weights as they are"})
    batch_size: int = field(default=64, metadata={"help": "rows of a step, over all processes"})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "parts a process does its rows of a step in, to save memory"}
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"manner": True, "help": "compute blocks again in the backward pass, which saves memory, not time"},
    )
    objective: str = field(
        default="next_token",
        metadata={"help": "what is minimised, by its name in ftmech_hf.training.objectives.OBJECTIVES"},
    )
    optimizer: Literal["muon", "adamw", "sgd"] = field(
        default="muon",
        metadata={
            "help": "muon: Muon on block matrices, AdamW on the rest (fast); adamw: the paper's; sgd: its Tracr's"
        },
    )
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW or SGD"})
    muon_lr: float = field(default=0.02, metadata={"help": "peak learning rate of Muon"})
    weight_decay: float = field(
        default=0.01, metadata={"help": "weight decay: decoupled, but that of SGD, which is part of its gradient"}
    )
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW's first beta"})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta"})
    warmup_fraction: float = field(default=0.02, metadata={"help": "share of the steps that warm up linearly"})
    final_lr_fraction: float = field(default=0.01, metadata={"help": "where the cosine ends, as a share of the peak"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping"})
    mixed_precision: Precision = field(
        default="auto",
        metadata={"help": "autocast; auto: bf16 where the device that computes has it, else no (then in env.json)"},
    )
    tf32: bool = field(
        default=False,
        metadata={"unsaid": True, "help": "products of float32 matrices with 10 bits after the point, on a GPU"},
    )
    compile: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={
            "manner": True,
            "help": "on: fuse operations with torch.compile; auto: record the step as one graph of a GPU; off: neither",
        },
    )
    deterministic: bool = field(
        default=False,
        metadata={"manner": True, "help": "the same numbers again on the same GPU, bit for bit, which takes longer"},
    )
    seed: int = field(default=0, metadata={"help": "of the initial weights, the data and dropout"})
    num_evals: int = field(
        default=6, metadata={"help": "log-spaced evaluations beside that before, the last one after all steps"}
    )
    evals_per_decade: int = field(
        default=0, metadata={"help": "evaluations while steps grow tenfold, in place of num_evals; 0 for that"}
    )
    eval_at: list[int] = field(
        default_factory=list, metadata={"help": "steps to evaluate after, in place of the log-spaced ones"}
    )
    eval_rows: int = field(default=128, metadata={"help": "rows per test set in those evaluations"})
    final_eval_rows: int = field(default=512, metadata={"help": "rows per test set in the last one"})
    eval_near: float | None = field(
        default=None,
        metadata={
            "help": "an accuracy whose crossing is looked for: where eval_rows leave in doubt on which side one is, "
            f"evaluations before the last take up to {NEAR_ROWS} rows"
        },
    )
    snapshots: list[int] = field(
        default_factory=list, metadata={"help": "steps after which the model is kept, in snapshots/ of the run"}
    )
    max_steps: int | None = field(
        default=None,
        metadata={"help": "dry run: stop after so many steps and say what the whole run would take"},
    )
    price_per_hour: float | None = field(
        default=None,
        metadata={"manner": True, "help": "of this machine; a dry run then says what the whole run would cost"},
    )
    log_with: Literal["none", "trackio", "tensorboard", "wandb"] = field(
        default="none", metadata={"manner": True, "help": "a tracker beside metrics.jsonl, which is always written"}
    )
    checkpoint_every: int = field(
        default=200, metadata={"manner": True, "help": "steps between checkpoints of an unfinished run"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_literals(self)
        from ftmech_hf.training.objectives import find_objective  # here: --help need not wait for torch

        find_objective(self.objective)
        at_least_one = (
            "batch_size", "gradient_accumulation_steps", "eval_rows", "final_eval_rows", "checkpoint_every",
        )  # fmt: skip
        self._check(at_least_one, lambda value: value >= 1, "at least 1")
        self._check(("lr", "muon_lr", "max_grad_norm"), lambda value: 0 < value < math.inf, "a number above 0")
        shares = ("warmup_fraction", "final_lr_fraction")
        self._check(shares, lambda value: 0 <= value <= 1, "a number between 0 and 1")
        self._check(("adam_beta1", "adam_beta2"), lambda value: 0 <= value < 1, "0 or more and less than 1")
        weights = ("steps", "seed", "num_evals", "evals_per_decade", "weight_decay")
        self._check(weights, lambda value: 0 <= value < math.inf, "0 or more")
        self._check(("max_steps", "price_per_hour"), lambda value: value is None or value > 0, "a number above 0")
        self._check(("eval_near",), lambda value: value is None or 0 < value < 1, "an accuracy between 0 and 1")
        if self.max_steps is not None and not self.steps:
            raise ValueError(f"max_steps: {self.max_steps}, but steps: 0 leaves none to try, expected steps above 0")
        within = f"steps between 1 and steps: {self.steps}"
        self._check(("eval_at", "snapshots"), lambda at: all(1 <= step <= self.steps for step in at), within)

    @property
    def last_step(self) -> int:
        """The step this run ends with: ``steps``, but for a dry run."""
        return min(self.steps, self.max_steps or self.steps)

    def eval_steps(self) -> set[int]:
        """The steps after which the model is evaluated, log-spaced or given; always the first, 0, and the last.

        A dry run is evaluated at its end alone, which tells how long an evaluation takes.
        """
        if self.max_steps is not None:
            return {self.last_step}
        number = self.num_evals
        if self.evals_per_decade and self.steps:
            number = math.ceil(self.evals_per_decade * math.log10(self.steps)) + 1
        spaced = np.geomspace(1, self.steps, number) if number and self.steps else np.array([])
        asked = self.eval_at or [int(step) for step in np.round(spaced)]
        return {0, self.last_step, *(step for step in asked if step <= self.last_step)}

    def eval_sizes(self, step: int) -> list[int]:
        """Rows of each test set that the evaluation after a step takes, and those that it goes on to if it must.

        The last evaluation is of ``final_eval_rows``, whatever it finds.
        """
        if step == self.last_step:
            return [self.final_eval_rows]
        return [self.eval_rows] if self.eval_near is None else look_sizes(self.eval_rows)
