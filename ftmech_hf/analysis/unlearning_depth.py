"""How deeply is an ability unlearned? The unlearning depth score of Lee et al. (arXiv 2605.24614).

After each layer in turn the base computes with the stream of another model: of one that never had the ability, and of
the fine-tuned model. Where the first takes the answer away, the stream after that layer holds what the answer needs;
what share of that the second takes away as well is how much of it is gone there. Layers count by how much they hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmech_hf.statistics.intervals import CONFIDENCE, Share

LEAST_FALL = 0.05
"""A layer counts if the control's stream there takes more than so much away, as in the paper: of nats."""
DRAWS = 1000
"""Samples of the rows, drawn with replacement, that an interval is of."""


@dataclass(frozen=True)
class UnlearningDepthResult:
    """What two models' streams take away from the base's answers.

    Attributes:
        depth: 0: the fine-tuned model's stream takes nothing away; 1: as much as the control's. nan where the control's
            takes nothing away.
        control_falls: layer -> by how much the control's stream lowers the log-probability of answers, in nats.
        falls: the same of the fine-tuned model's stream.
    """

    depth: Share
    control_falls: Mapping[int, float]
    falls: Mapping[int, float]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per layer."""
        return [
            {"layer": layer, "control": fall, "finetuned": self.falls[layer], "counts": fall > LEAST_FALL}
            for layer, fall in self.control_falls.items()
        ]

    def summary(self) -> dict[str, Any]:
        """The depth and its interval; None where nothing can be said."""
        return {name: None if math.isnan(value) else value for name, value in self.depth._asdict().items()}


def unlearning_depth(
    base: ArrayLike,
    control: Mapping[int, ArrayLike],
    finetuned: Mapping[int, ArrayLike],
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> UnlearningDepthResult:
    """Measure how deeply an ability is unlearned.

    Args:
        base: log-probability of the right answer to each row in the base, (B,), in nats.
        control: layer -> the same while the base computes with the stream after this layer of a model without the
            ability.
        finetuned: the same with the fine-tuned model's; of the same layers.
        groups: what each row is about, (B,), so that rows of one are drawn together; None where each is by itself.
        seed: of the samples of rows that the 95 % interval is of.

    Raises:
        ValueError: layers or rows do not agree, or there are no rows.

    Deviation: falls are means over rows before they are divided, since a ratio of one row's falls has no bounds.
    """
    if list(control) != list(finetuned):
        raise ValueError(f"finetuned: layers {list(finetuned)}, expected those of control: {list(control)}")
    alone = np.asarray(base, float)
    falls = []
    for name, model in (("control", control), ("finetuned", finetuned)):
        values = np.array([np.asarray(each, float) for each in model.values()])
        if values.shape != (len(model), len(alone)):
            raise ValueError(f"{name}: of shape {values.shape}, expected (layers, rows): {(len(model), len(alone))}")
        if not (np.isfinite(values).all() and np.isfinite(alone).all()):
            raise ValueError(f"{name}: it answers with nan or inf, expected numbers")
        falls.append(alone - values)
    number = len(alone)
    if not number:
        raise ValueError("base: of no rows, expected at least 1")
    _, member = np.unique(np.arange(number) if groups is None else groups, return_inverse=True)
    units = int(member.max()) + 1
    times_drawn = np.random.default_rng(seed).multinomial(units, [1 / units] * units, DRAWS)[:, member]
    drawn = _depth(*(each @ times_drawn.T / times_drawn.sum(1) for each in falls))
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - CONFIDENCE) / 2
    means = [each.mean(-1) for each in falls]
    depth = float(_depth(*means))
    known = len(drawn) and not math.isnan(depth)
    low, high = np.quantile(drawn, [tail, 1 - tail]) if known else (math.nan, math.nan)
    if known and units < 2:
        low, high = 0.0, 1.0  # one alone tells nothing of how others differ
    return UnlearningDepthResult(
        Share(depth, float(low), float(high)),
        *({layer: float(fall) for layer, fall in zip(control, each, strict=True)} for each in means),
    )


def _depth(control: NDArray[np.float64], finetuned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth by falls (layers, ...) of the control and of the fine-tuned model."""
    counted = np.where(control > LEAST_FALL, control, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.where(counted > 0, np.clip(finetuned / control, 0, 1), 0.0)
        depth: NDArray[np.float64] = (counted * lost).sum(0) / counted.sum(0)
    return depth
