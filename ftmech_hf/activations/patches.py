"""What one model has at named sites, and what another answers while it computes with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.interventions import Write, intervene
from ftmech_hf.activations.layout import find_layout
from ftmech_hf.activations.proofs import run_settings
from ftmech_hf.models.likeliest import likeliest
from ftmech_hf.models.memory import rows_of_logits

LOGIT_BYTES = 2**27
"""Of the logits of some rows' answers at most: 128 answers of one token have as many in a vocabulary of 262,144."""

Place = tuple[str, int]
"""(site, layer)"""
Stands = Callable[[Sequence[Sequence[int]], Sequence[int]], Tensor]
"""Whether answers stand, bool (B,) on the CPU, by the tokens of each and by the one that is written after it."""


class Part(NamedTuple):
    """What a model computes at one position of one place in some of its units: a head, or an MLP.

    Attributes:
        site, layer: the place.
        first, end: its units there are those from ``first`` up to, but without, ``end``.
        position: in the row.
    """

    site: str
    layer: int
    first: int
    end: int
    position: int


def record_activations(model: PreTrainedModel, token_ids: Tensor, places: Iterable[Place]) -> dict[Place, Tensor]:
    """Activations of one batch (B, T) at some places, at every position, detached: (B, T, D) or (B, T, N)."""
    seen: dict[Place, Tensor] = {}

    def keep(place: Place, value: Tensor) -> Tensor:
        seen[place] = value.detach().clone()  # blocks may add to it in place
        return value

    writes = {place: lambda value, place=place: keep(place, value) for place in places}
    with torch.no_grad(), intervene(model, writes):
        model(token_ids.to(model.device), **run_settings(model, logits_to_keep=1))  # logits of all tokens are large
    return seen


def places_with(model: PreTrainedModel, sites: Sequence[str], layers: Sequence[int]) -> list[Place]:
    """The sites in those of some layers that have them, site by site: hybrids have attention in some layers only.

    Raises:
        ValueError: a site that none of the layers has.
    """
    layout, found = find_layout(model), list[Place]()
    for site in sites:
        there = [layer for layer in layers if site not in layout.layers[layer].refused]
        if not there:
            layout.require(site, layers[0])
        found += [(site, layer) for layer in there]
    return found


@torch.no_grad()
def patched_logits(
    receiver: PreTrainedModel,
    token_ids: Tensor,
    patch: Mapping[Place, Tensor | Write],
    *,
    number: int = 1,
    after: bool = False,
) -> Tensor:
    """Logits (B, K, V) of the last tokens of answers while the receiver computes with ``patch``.

    Args:
        receiver: which computes.
        token_ids: whole rows (B, T).
        patch: place -> what it computes with there, or what makes that of its own value.
        number: K, how many tokens of each answer.
        after: whether the token after the answer is predicted too, as one more; then all but the end is read.
    """
    with intervene(receiver, patch):
        # With a cache keys are copies that round differently on some processors.
        ids = read_tokens(token_ids, after).to(receiver.device)
        logits: Tensor = receiver(ids, logits_to_keep=number + after, use_cache=False).logits
    return logits[:, -number - after :].float()


def answers_at_once(receiver: PreTrainedModel, number: int, most: int) -> int:
    """How many answers of so many tokens are read at a time: ``most``, or as many as have :data:`LOGIT_BYTES`."""
    return min(most, rows_of_logits(receiver.config, number, LOGIT_BYTES))


def read_tokens(token_ids: Tensor, after: bool) -> Tensor:
    """What is read of whole rows (B, T) to predict their answers, and with ``after`` the token that follows them."""
    return token_ids[:, :-1] if after else token_ids[:, :-2]


def answers_under(
    receiver: PreTrainedModel,
    token_ids: Tensor,
    answer: Tensor,
    patch: Mapping[Place, Tensor | Write],
    stands: Stands | None = None,
) -> tuple[Tensor, Tensor]:
    """Of each answer whether all its tokens are the most likely ones, bool (B,), and its log-probability (B,), nats.

    Both are on the CPU.

    Args:
        receiver: which computes.
        token_ids: whole rows (B, T), which end with the answer and one token more.
        answer: which of the last K tokens before the end are the answer, bool (B, K).
        patch: place -> what it computes with there, or what makes that of its own value; of all tokens that
            :func:`read_tokens` gives, which are one more where ``stands`` is given.
        stands: whether what is written after an answer lets it stand; without it, that does not count.
    """
    number, written = answer.shape[1], token_ids[:, -1 - answer.shape[1] : -1]
    logits = patched_logits(receiver, token_ids, patch, number=number, after=stands is not None)
    expected, counts = (each.to(logits.device) for each in (written, answer))
    right = ((likeliest(logits[:, :number], counts) == expected) | ~counts).all(1).cpu()
    if stands is not None and right.any():
        places = right.nonzero()[:, 0].tolist()
        answers = [written[place][answer[place]].tolist() for place in places]
        right[places] = stands(answers, likeliest(logits[places, -1]).tolist())
    return right, log_probabilities(logits[:, :number], expected, counts).cpu()


def log_probabilities(logits: Tensor, expected: Tensor, counts: Tensor) -> Tensor:
    """The log-probability of each answer (B,), in nats, by logits (B, K, V) of K tokens of which some are its."""
    tokens = zip(logits.unbind(1), expected.unbind(1), strict=True)  # one by one: a copy of all logits is as large
    each = torch.stack([of_one.log_softmax(-1).gather(-1, token[:, None])[:, 0] for of_one, token in tokens], 1)
    return each.masked_fill(~counts, 0.0).sum(1)


def one_token(token_ids: Tensor) -> Tensor:
    """Where the answer stands in whole rows whose answer is the last token but one: bool (B, T)."""
    answer = torch.zeros_like(token_ids, dtype=torch.bool)
    answer[:, -2] = True
    return answer
