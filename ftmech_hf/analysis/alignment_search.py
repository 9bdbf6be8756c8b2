"""Which directions carry a variable? Distributed alignment search (Geiger et al., arXiv 2303.02536).

A subspace of what a model computes at one position of one place is exchanged with another row's, and is learned so that
the model then answers as if the variable had the other row's value. That it does so on rows it was not learned on says
that the variable is there; a random subspace of the same rank, a model of random weights and shuffled answers are the
controls. Deviation: the paper learns a rotation of the whole space with boundaries; here the exchanged directions alone
are learned, which are the first columns of such a rotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.activations.patches import record_activations


class Position(NamedTuple):
    """Where in a model a subspace is exchanged.

    Attributes:
        site, layer: the place, one of :data:`ftmech_hf.activations.WRITABLE`.
        position: in the row; negative ones count from the end of the prompt.
    """

    site: str
    layer: int
    position: int


class Exchanges(NamedTuple):
    """Rows whose variable gets another row's value, and what is to be answered then.

    Attributes:
        token_ids: whole rows (B, T), which end with an answer of one token, that is not read, and one token more.
        other_ids: the rows whose value they get, (B, T).
        expected: the answers that the exchange should give, (B,).
    """

    token_ids: Tensor
    other_ids: Tensor
    expected: Tensor

    def chosen(self, rows: Tensor) -> Exchanges:
        """Some of them, by number."""
        return Exchanges(*(each[rows] for each in self))


@dataclass(frozen=True)
class AlignmentResult:
    """The directions that were found.

    Attributes:
        directions: (D, rank), orthonormal, float32 on the CPU.
        losses: cross-entropy of the expected answers at every step, in nats, of the start that was kept.
    """

    directions: Tensor
    losses: Sequence[float]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per step."""
        return [{"step": step, "loss": loss} for step, loss in enumerate(self.losses)]

    def summary(self) -> dict[str, Any]:
        """The rank, and the last loss."""
        return {"rank": self.directions.shape[1], "loss": self.losses[-1]}


def search_alignment(
    model: PreTrainedModel,
    exchanges: Exchanges,
    where: Position,
    *,
    rank: int,
    steps: int = 100,
    lr: float = 0.05,
    batch_size: int = 64,
    starts: int = 1,
    seed: int = 0,
) -> AlignmentResult:
    """Learn the directions whose exchange gives the expected answers, by Adam on their cross-entropy.

    Args:
        model: any causal LM; its weights stay as they are and need no gradients.
        exchanges: what is to be answered.
        where: the place and the position.
        rank: how many directions.
        steps, lr, batch_size: of Adam; the rate falls linearly to 0.
        starts: random directions to start from; the one that ends with the lowest loss is kept.
        seed: of the starts and of the order of rows.

    Raises:
        ValueError: a rank that the place does not have, or no rows.
    """
    if not len(exchanges.token_ids):
        raise ValueError("exchanges: no rows")
    width = record_activations(model, exchanges.token_ids[:1, :-2], [where[:2]])[where[:2]].shape[-1]
    tried = [
        _search(model, exchanges, where, random_directions(width, rank, [seed, start]), steps, lr, batch_size, seed)
        for start in range(starts)
    ]
    return min(tried, key=lambda found: float(np.mean(found.losses[-10:])))


def _search(
    model: PreTrainedModel, exchanges: Exchanges, where: Position, start: Tensor, steps: int, lr: float,
    batch_size: int, seed: int,
) -> AlignmentResult:  # fmt: skip
    turned = start.to(model.device).requires_grad_()
    optimizer = torch.optim.Adam([turned], lr=lr)
    order, losses = torch.Generator().manual_seed(seed), list[Tensor]()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(exchanges.token_ids), (batch_size,), generator=order)
        few = exchanges.chosen(rows)
        with torch.enable_grad():
            logits = _exchanged_logits(model, few, where, torch.linalg.qr(turned).Q)
            loss = F.cross_entropy(logits, few.expected.to(logits.device))
            (turned.grad,) = torch.autograd.grad(loss, [turned])
        optimizer.step()
        losses.append(loss.detach())
    return AlignmentResult(torch.linalg.qr(turned.detach()).Q.float().cpu(), torch.stack(losses).tolist())


def _exchanged_logits(model: PreTrainedModel, exchanges: Exchanges, where: Position, directions: Tensor) -> Tensor:
    """Logits (B, V) of the answer with the directions' part of the other row's activation, float32."""
    place, prompt = where[:2], exchanges.token_ids[:, :-2]
    if not -prompt.shape[1] <= where.position < prompt.shape[1]:
        raise ValueError(f"position: {where.position}, but prompts have {prompt.shape[1]} tokens")
    at = where.position % prompt.shape[1]
    theirs = record_activations(model, exchanges.other_ids[:, :-2], [place])[place][:, at]

    def write(value: Tensor) -> Tensor:
        basis = directions.to(value.device)
        difference = (theirs.to(value.device) - value[:, at]).float()
        moved = value[:, at] + (difference @ basis @ basis.T).to(value.dtype)
        return torch.cat([value[:, :at], moved[:, None], value[:, at + 1 :]], 1)

    with intervene(model, {place: write}):
        logits: Tensor = model(prompt.to(model.device), logits_to_keep=1, use_cache=False).logits
    return logits[:, -1].float()


@torch.no_grad()
def interchange_accuracy(
    model: PreTrainedModel, exchanges: Exchanges, where: Position, directions: Tensor, *, batch_size: int = 256
) -> NDArray[np.bool_]:
    """Whether the exchange of a subspace gives each expected answer, (B,).

    Args:
        model: that computes.
        exchanges: rows that the subspace was not learned on.
        where: the place and the position.
        directions: (D, rank), orthonormal; none for what the model answers by itself.
        batch_size: rows of one forward pass.
    """
    found = []
    for rows in torch.arange(len(exchanges.token_ids)).split(batch_size):
        few = exchanges.chosen(rows)
        logits = _exchanged_logits(model, few, where, directions.to(model.device))
        found.append(logits.argmax(-1).cpu() == few.expected.cpu())
    return torch.cat(found).numpy()


def random_directions(width: int, rank: int, seed: int | Sequence[int]) -> Tensor:
    """A random subspace: orthonormal columns, (width, rank).

    Raises:
        ValueError: more directions than the space has, or none.
    """
    if not 1 <= rank <= width:
        raise ValueError(f"rank: {rank}, expected 1 to {width}")
    drawn = np.random.default_rng(seed).normal(size=(width, rank))
    return torch.linalg.qr(torch.from_numpy(drawn)).Q.float()


def subspace_cosines(directions: Tensor, known: Tensor) -> Tensor:
    """Cosines of the principal angles between two subspaces, the largest first; all are 1 if they are the same.

    Args:
        directions, known: (D, rank) and (D, K), of any basis.
    """
    one, other = (torch.linalg.qr(each.double()).Q for each in (directions, known))
    return torch.linalg.svdvals(one.T @ other).clamp(max=1)
