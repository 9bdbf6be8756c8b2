"""What a step of training minimises.

Every task's row ends ``... ANSWER <eos>``: the answer is the last token but one.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Objective(NamedTuple):
    """Which tokens of a row are predicted.

    Attributes:
        hidden: tokens at the end of a row that the model is not shown.
        predicted: how many of the last shown positions predict; 0 for all of them.
    """

    hidden: int
    predicted: int


OBJECTIVES: dict[str, Objective] = {
    "next_token": Objective(hidden=1, predicted=0),
    # Fine-tuning (Jain et al., App. C.2)
    "answer_only": Objective(hidden=2, predicted=1),
}


def _forward(model: nn.Module, token_ids: Tensor, objective: str, **options: Any) -> tuple[Tensor, Any]:
    """(mean cross-entropy of what ``objective`` predicts, the model's output)."""
    hidden, predicted = OBJECTIVES[objective]
    output = model(token_ids[:, :-hidden], logits_to_keep=predicted, **options)
    targets = token_ids[:, 1 : token_ids.shape[1] - hidden + 1][:, -predicted:]
    return F.cross_entropy(output.logits.flatten(0, 1).float(), targets.flatten()), output


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of rows (B, T) given the ones before it: pretraining."""
    return _forward(model, token_ids, "next_token")[0]


def answer_only_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the answers of rows (B, T): fine-tuning (Jain et al., App. C.2)."""
    return _forward(model, token_ids, "answer_only")[0]


def feature_distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """The LDIFS distance of two models' hidden states (Mukhoti et al., arXiv 2308.13320), for language models.

    Squared Euclidean distance between the unit vectors of both models' features, from 0 to 4, averaged over rows,
    positions and taps. Deviation: the original takes the mean over the width where this takes the sum, so that the
    weight of this distance does not depend on a model's width; and every layer of the stream is a tap.

    Args:
        first, second: hidden states, each (B, T, D), in the same order.
    """
    distances = [
        (F.normalize(one.float(), dim=-1) - F.normalize(other.float(), dim=-1)).square().sum(-1).mean()
        for one, other in zip(first, second, strict=True)
    ]
    return torch.stack(distances).mean()


class Anchor:
    """Keeps fine-tuning near the model it started from, in weights (L2SP) or in features (LDIFS).

    Args:
        model: where training starts; it is copied.
        l2sp: weight of the squared distance of all trained weights from their start (Li et al., arXiv 1802.01483).
        ldifs: weight of :func:`feature_distance`.
    """

    def __init__(self, model: nn.Module, *, l2sp: float, ldifs: float) -> None:
        self.l2sp, self.ldifs = l2sp, ldifs
        self.start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and l2sp}
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if ldifs else None

    def to(self, device: torch.device) -> Anchor:
        """Move what it remembers."""
        self.start = {name: value.to(device) for name, value in self.start.items()}
        self.reference = self.reference and self.reference.to(device)
        return self

    def weight_penalty(self, model: nn.Module) -> Tensor:
        """``l2sp`` times the squared distance of the trained weights from their start."""
        terms = [(p - self.start[name]).square().sum() for name, p in model.named_parameters() if name in self.start]
        return self.l2sp * torch.stack(terms).sum()

    def feature_penalty(self, token_ids: Tensor, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """``ldifs`` times the distance of hidden states from the reference's on the same tokens (B, T)."""
        assert self.reference is not None
        with torch.no_grad():
            before = self.reference(token_ids, output_hidden_states=True, logits_to_keep=1).hidden_states
        return self.ldifs * feature_distance(hidden_states, before)


def training_loss(
    model: nn.Module,
    token_ids: Tensor,
    objective: str,
    anchor: Anchor | None = None,
    raw_model: nn.Module | None = None,
) -> Tensor:
    """The objective on rows (B, T), and what an anchor adds to it.

    Args:
        model: called; may be wrapped for distributed training.
        token_ids: whole rows.
        objective: a name of :data:`OBJECTIVES`.
        anchor: keeps the model near its start.
        raw_model: ``model`` without its wrapper, where there is one: the parameters by the anchor's names.
    """
    features = anchor is not None and anchor.ldifs > 0
    loss, output = _forward(model, token_ids, objective, **({"output_hidden_states": True} if features else {}))
    if anchor is not None and anchor.l2sp:
        loss = loss + anchor.weight_penalty(raw_model or model)
    if anchor is not None and features:
        loss = loss + anchor.feature_penalty(token_ids[:, : -OBJECTIVES[objective].hidden], output.hidden_states)
    return loss


def answer_logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (B, V) at the position that predicts the answer of rows (B, T)."""
    logits: Tensor = model(token_ids[:, :-2], logits_to_keep=1).logits
    return logits[:, -1].float()


@torch.no_grad()
def answer_accuracy(model: nn.Module, token_ids: Tensor, *, batch_size: int = 256) -> float:
    """Share of rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    device = next(model.parameters()).device
    right = 0
    for rows in token_ids.split(batch_size):
        rows = rows.to(device)
        right += int((answer_logits(model, rows).argmax(-1) == rows[:, -2]).sum())
    return right / len(token_ids)
