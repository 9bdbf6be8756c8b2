"""Is training lost? A loss that is no number any more, or far above a guess, stops a run."""

from __future__ import annotations

import math

from accelerate import Accelerator
from torch import Tensor

from ftmech_hf.runs import CHECKPOINTS, RunDir, noted
from ftmech_hf.training.checkpoint import find_checkpoints

DIVERGED = 3
"""A loss this many times that of a guess, or of the first step if that was worse, will not come back."""


def loss_limit(vocabulary: int, first_loss: float | None) -> float:
    """The loss, in nats, above which a run has diverged.

    Args:
        vocabulary: how many tokens a guess is among.
        first_loss: of the first step, if it is known.
    """
    return DIVERGED * max(math.log(vocabulary), first_loss or 0.0)


class LossCheck:
    """Checks losses; each check waits for the device.

    Args:
        run: the first step's loss is noted in it.
        accelerator: joins the losses of all processes.
        vocabulary: how many tokens a guess is among.
        resumed: whether the run goes on, and its first step is past.
    """

    def __init__(self, run: RunDir, accelerator: Accelerator, *, vocabulary: int, resumed: bool) -> None:
        self.run, self.accelerator, self.vocabulary = run, accelerator, vocabulary
        self.first_loss: float | None = noted(run.working, "first_loss") if resumed else None
        self.first_step: Tensor | None = None  # its loss, until somebody waits for the device

    def __call__(self, loss: Tensor, step: int) -> float:
        """The mean of a loss over all processes.

        Raises:
            ValueError: it is not a number, or too large; names the step and the last checkpoint.
        """
        value = float(self.accelerator.reduce(loss, reduction="mean"))
        if self.first_step is not None:
            first = float(self.accelerator.reduce(self.first_step, reduction="mean"))
            self.first_step, self.first_loss = None, first if math.isfinite(first) else None
            self.run.note(first_loss=self.first_loss)
        limit = loss_limit(self.vocabulary, self.first_loss)
        if not value <= limit:
            raise ValueError(
                f"loss: became {value:.4g} at or before step {step}, above {limit:.4g}, which is {DIVERGED} times that "
                f"of a guess or of the first step; {self.advice()}"
            )
        return value

    def advice(self) -> str:
        """What to do, and where the run would go on."""
        kept = [path.name for path in find_checkpoints(self.run.working / CHECKPOINTS)]
        return f"lower lr or muon_lr (checkpoint: {kept[-1] if kept else 'none'})"
