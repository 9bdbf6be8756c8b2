"""How long would the whole run take, and how expensive is it? Measured in its first steps."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

WARMUP = 3
"""Steps that are slower than the rest, if there are more: they allocate memory and choose kernels."""


class Clock:
    """Where the time of a run goes.

    Args:
        waits_for: the device that is waited for whenever the time is taken; nothing is if None.

    Attributes:
        step_seconds: of each step; on a GPU that is not waited for of what the host needs to launch it.
        evaluation_seconds: of all evaluations together.
        evaluated_rows: rows of all evaluations together.
    """

    def __init__(self, *, waits_for: torch.device | None = None) -> None:
        self._gpu = waits_for if waits_for is not None and waits_for.type == "cuda" else None
        self.step_seconds: list[float] = []
        self.evaluation_seconds = 0.0
        self.evaluated_rows = 0

    def _now(self) -> float:
        if self._gpu is not None:
            torch.cuda.synchronize(self._gpu)
        return time.monotonic()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Time one step."""
        started = self._now()
        yield
        self.step_seconds.append(self._now() - started)

    @contextlib.contextmanager
    def evaluation(self, rows: int) -> Iterator[None]:
        """Time one evaluation."""
        started = self._now()
        yield
        self.evaluation_seconds += self._now() - started
        self.evaluated_rows += rows


def project(clock: Clock, steps: int, eval_rows: int, flops: float, price_per_hour: float | None) -> dict[str, Any]:
    """What a whole run takes, from what its first steps took.

    Args:
        clock: of those steps.
        steps: of the whole run.
        eval_rows: rows of all evaluations of the whole run.
        flops: floating-point operations of the whole run.
        price_per_hour: of the machine, in any currency.

    Returns:
        ``seconds_per_step`` (median), ``hours``, ``evaluation_share`` of them, ``flops``, and ``cost`` if there is a
        price.
    """
    times = clock.step_seconds[WARMUP:] or clock.step_seconds
    training = statistics.median(times) * steps
    evaluation = clock.evaluation_seconds / max(1, clock.evaluated_rows) * eval_rows
    hours = (training + evaluation) / 3600
    found = {
        "steps": steps,
        "seconds_per_step": statistics.median(times),
        "hours": hours,
        "evaluation_share": evaluation / (training + evaluation),
        "flops": flops,
    }
    return found if price_per_hour is None else {**found, "cost": hours * price_per_hour}


def training_flops(model: PreTrainedModel, tokens: float) -> float:
    """Floating-point operations to train on so many tokens: six per weight and token, forward and backward.

    Of a weight that is frozen four, without its own gradient; of experts as many of them as a token passes.
    """
    text = model.config.get_text_config()
    numbers = (getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    experts, passed = next(filter(None, numbers), None), getattr(text, "num_experts_per_tok", None)
    share = passed / experts if experts and passed else 1.0
    shown = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:  # tied to the embedding, it is multiplied with all the same
        shown.discard(id(head.weight))
    each_token = sum(
        (6 if each.requires_grad else 4) * each.numel() * (share if ".experts." in name else 1.0)
        for name, each in model.named_parameters() if id(each) not in shown
    )  # fmt: skip
    return float(each_token * tokens)
