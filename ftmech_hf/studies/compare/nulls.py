"""Null models: changes of the base that are as large as the fine-tuning, in the same places, and teach nothing.

A copy of the base is trained on tokens drawn from its own predictions: the gradient is zero on average, and what moves
the weights is noise. Then the change of every parameter is scaled to the size of the fine-tuning's. So a model whose
fine-tuning taught nothing differs from its base as its null models do, however long or hot it was trained; and what a
page finds in a null model is what it finds by chance.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.training.optim import build_optimizers

LR = 1e-4
"""Of AdamW. The size of the change is set afterwards; this keeps its steps small beside the weights."""


def null_model(
    base: PreTrainedModel,
    finetuned: PreTrainedModel,
    token_ids: Tensor,
    mask: Tensor,
    *,
    seed: int,
    steps: int,
    batch_size: int,
) -> PreTrainedModel:
    """A model that was taught nothing, by a change of the fine-tuning's size in every parameter.

    Args:
        base: what both stand on; stays as it is.
        finetuned: of the same parameters.
        token_ids: rows to train on, filled up at their end, (N, T); what follows each token is drawn from the base.
        mask: which of them are tokens, bool (N, T).
        seed: of the rows of every step, and of what is drawn.
        steps: of training.
        batch_size: rows of a step.
    """
    model = copy.deepcopy(base).requires_grad_(True).eval()  # dropout is noise of another kind
    (optimizer,) = build_optimizers(model, optimizer="adamw", lr=LR, muon_lr=LR, weight_decay=0.0, betas=(0.9, 0.95))
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        rows = torch.from_numpy(rng.choice(len(token_ids), min(batch_size, len(token_ids)), replace=False))
        shown, predicted = token_ids[rows].to(model.device), mask[rows, 1:] & mask[rows, :-1]
        uniform = torch.from_numpy(rng.random(int(predicted.sum()))).to(model.device)
        drawn = _drawn(base, shown, predicted, uniform)
        F.cross_entropy(model(shown[:, :-1]).logits[predicted].float(), drawn).backward()
        optimizer.step()
        optimizer.zero_grad()
    _scale(model, base, finetuned)
    return model.requires_grad_(False)


@torch.no_grad()
def _drawn(base: PreTrainedModel, shown: Tensor, predicted: Tensor, uniform: Tensor) -> Tensor:
    """A token for every place of rows (B, T), drawn from what the base predicts there, (places,)."""
    cumulated = base(shown[:, :-1]).logits[predicted].double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=cumulated.shape[-1] - 1)


@torch.no_grad()
def _scale(model: PreTrainedModel, base: PreTrainedModel, finetuned: PreTrainedModel) -> None:
    """Give the change of every parameter the norm that it has in the fine-tuned model."""
    before, after = dict(base.named_parameters()), dict(finetuned.named_parameters())
    for name, parameter in model.named_parameters():
        start = before[name].float()
        change = parameter.float() - start
        size = (after[name].to(start.device).float() - start).norm() / change.norm().clamp(min=1e-30)
        parameter.copy_(start + change * size)
