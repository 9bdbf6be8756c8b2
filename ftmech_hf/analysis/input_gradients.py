"""How strongly does the answer depend on the input, locally? (Jain et al., arXiv 2407.10264.)

The norm of the gradient of the largest logit with respect to what enters the first block, which is the embeddings (and
whatever a model adds to them): to first order, how much the winning logit moves per unit of movement of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.statistics.clusters import Groups, groups_at, mean_of_rows
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.training.evaluation import answer_logits


@dataclass(frozen=True)
class InputGradientsResult:
    """Norms of several models' input gradients on the same rows.

    Attributes:
        norms: name of a model -> gradient norm of every row, (B,), in logits per unit of the input.
    """

    norms: dict[str, NDArray[np.float32]]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per model, with quartiles."""
        return [
            {"model": name, "median": float(np.median(values)), "low": float(np.quantile(values, 0.25)),
             "high": float(np.quantile(values, 0.75))}
            for name, values in self.norms.items()
        ]  # fmt: skip

    def ratio(self, name: str, reference: str, groups: Groups = None) -> Share:
        """Geometric mean of the rows' ratios of two models' norms, with its 95 % Student t interval.

        Of rows on which neither is 0; nan where there are none: a logit that does not depend on the input has no ratio.

        Args:
            name, reference: of the models.
            groups: what each row is about, (B,): wider where rows of one group are alike.
        """
        one, other = self.norms[name], self.norms[reference]
        kept = (one > 0) & (other > 0)
        if not kept.any():
            return Share(math.nan, math.nan, math.nan)
        logs = [math.log(ratio) for ratio in (one[kept] / other[kept]).tolist()]
        return Share(*(math.exp(end) for end in mean_of_rows(logs, groups_at(groups, np.flatnonzero(kept)))))

    def halves_ratio(self, name: str) -> float:
        """The control: geometric mean of one half of a model's rows over that of the other, which is about 1.

        Of rows on which it is not 0; nan where fewer than two are left.
        """
        logs = np.log(self.norms[name][self.norms[name] > 0])
        if len(logs) < 2:
            return math.nan
        return math.exp(float(logs[::2].mean() - logs[1::2].mean()))

    def summary(self) -> dict[str, Any]:
        """Median norm of each model."""
        return {row["model"]: row["median"] for row in self.rows()}


def gradient_norms(logits: Tensor, inputs: Tensor) -> Tensor:
    """Norm (B,) of the gradient of each row's largest logit (B, V) with respect to its inputs (B, T, D).

    Rows must not depend on each other's inputs; ``logits`` must have been computed from ``inputs``.
    """
    (gradient,) = torch.autograd.grad(logits.max(-1).values.sum(), inputs)
    # At least float32: half precision would round the norm, and numpy knows no bfloat16.
    return gradient.flatten(1).to(torch.promote_types(gradient.dtype, torch.float32)).norm(dim=-1)


def input_gradient_norms(model: PreTrainedModel, token_ids: Tensor, *, batch_size: int = 64) -> NDArray[np.float32]:
    """:func:`gradient_norms` of a causal LM at the position that predicts the answer of whole rows (B, T)."""
    parts = []
    for rows in token_ids.split(batch_size):
        entered: list[Tensor] = []

        def enter(stream: Tensor, entered: list[Tensor] = entered) -> Tensor:
            entered.append(stream.detach().requires_grad_())
            return entered[0]

        with intervene(model, {("resid_pre", 0): enter}), torch.enable_grad():
            parts.append(gradient_norms(answer_logits(model, rows.to(model.device)), entered[0]))
    norms: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    if not np.isfinite(norms).all():
        raise ValueError("model: its gradients are nan or inf, expected numbers; give it another dtype")
    return norms


def compare_input_gradients(
    models: Mapping[str, PreTrainedModel], token_ids: Tensor, *, batch_size: int = 64
) -> InputGradientsResult:
    """Gradient norms of several models on the same rows (B, T), so many at a time."""
    return InputGradientsResult(
        {name: input_gradient_norms(model, token_ids, batch_size=batch_size) for name, model in models.items()}
    )
