"""What a step of training minimises.

Every task's row ends ``... ANSWER <eos>``: the answer is the last token but one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Objective = Callable[[nn.Module, Tensor], Tensor]


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of rows (B, T) given the ones before it: pretraining."""
    logits = model(token_ids[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten())


def answer_logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (B, V) at the position that predicts the answer of rows (B, T)."""
    logits: Tensor = model(token_ids[:, :-2], logits_to_keep=1).logits
    return logits[:, -1].float()


def answer_only_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the answers of rows (B, T): fine-tuning (Jain et al., App. C.2)."""
    return F.cross_entropy(answer_logits(model, token_ids), token_ids[:, -2])


OBJECTIVES: dict[str, Objective] = {"next_token": next_token_loss, "answer_only": answer_only_loss}


@torch.no_grad()
def answer_accuracy(model: nn.Module, token_ids: Tensor, *, batch_size: int = 128) -> float:
    """Share of rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    device = next(model.parameters()).device
    right = 0
    for rows in token_ids.split(batch_size):
        rows = rows.to(device)
        right += int((answer_logits(model, rows).argmax(-1) == rows[:, -2]).sum())
    return right / len(token_ids)
