"""Where, and to which tokens, does one model give other probabilities than another? KL per token, and diff mining.

Nothing is asked: both models read the same texts, and what they predict next is compared at every place. Diff mining
(counting which tokens have the largest rise of their logit) is from the literature on comparing a model with what it
was fine-tuned into; that the places are grouped by the tokens before them is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.proofs import run_settings
from ftmech_hf.models.likeliest import check_numbers

READ_TOGETHER = 16
"""Rows of a forward pass: of all their tokens there are all logits, of two models."""

DISTANCES = 8
"""How many tokens before a place are looked at."""

NEARLY = 0.95
"""Share of the highest KL from which a group of places that is named by a nearer token comes before."""


class PlaceGroup(NamedTuple):
    """Places that have one token at one distance before them.

    Attributes:
        token: its id.
        distance: 0 if it is the last token that was read, 1 if it is the one before, and so on.
        places: how many there are.
        mean: of KL there, nats.
        low: the nearer end of the interval of that mean, two standard errors below; places of one row count as one.
            Groups are put in order by it: of the first of many it is no interval any more.
    """

    token: int
    distance: int
    places: int
    mean: float
    low: float


@dataclass(frozen=True)
class OutputDifferenceResult:
    """What a model predicts beside its base. A place is a token of a row, after which the next one is predicted.

    Attributes:
        kl: KL(model || base) at every place, nats, (N, T - 1); 0 where nothing is predicted.
        gain: how much likelier the token that came is to the model, nats, (N, T - 1); 0 where nothing is predicted.
        predicted: the places, bool (N, T - 1).
        choices: the likeliest token of the base and of the model at every place, (N, T - 1, 2).
        promoted: share of the places at which a token is among the ``top`` with the largest rise of their logit, (V,).
        probability: mean over the places of what a token's probability gained, (V,).
        top: see ``promoted``.
    """

    kl: Tensor
    gain: Tensor
    predicted: Tensor
    choices: Tensor
    promoted: Tensor
    probability: Tensor
    top: int

    @property
    def mean_kl(self) -> float:
        """KL(model || base) per token, nats, mean over all places."""
        return float(self.kl.sum() / self.predicted.sum())

    def row_kl(self) -> Tensor:
        """The same of every row, (N,)."""
        return self.kl.sum(1) / self.predicted.sum(1).clamp(min=1)

    def row_gain(self, least: int = 1) -> Tensor:
        """Nats per token by which each row is likelier to the model than to the base, (N,).

        Args:
            least: rows of fewer tokens count as of so many, since the luck of one token is no mean.
        """
        return self.gain.sum(1) / self.predicted.sum(1).clamp(min=least)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per token, by its id."""
        return [
            {"token": token, "promoted": promoted, "probability": probability}
            for token, (promoted, probability) in enumerate(
                zip(self.promoted.tolist(), self.probability.tolist(), strict=True)
            )
        ]

    def summary(self) -> dict[str, float]:
        """What is said of all places together."""
        return {"kl": self.mean_kl, "gain": float(self.gain.sum() / self.predicted.sum())}


@torch.no_grad()
def compare_outputs(
    base: PreTrainedModel,
    models: Mapping[str, PreTrainedModel],
    token_ids: Tensor,
    mask: Tensor,
    *,
    places: Tensor | None = None,
    tokens: int | None = None,
    top: int = 100,
    batch_size: int = READ_TOGETHER,
) -> dict[str, OutputDifferenceResult]:
    """Compare what models predict with what their base does, on the same rows, a batch at a time.

    Args:
        base: any causal LM.
        models: name -> a model with the base's tokens.
        token_ids: rows, filled up at their end, (N, T).
        mask: which of them are tokens, bool (N, T).
        places: those that count, bool (N, T - 1); all at which a token of a row follows if None.
        tokens: how many ids are tokens of the vocabulary, where the embeddings have more rows; all if None.
        top: of a token's rises, how many count at a place; at most a hundredth of the vocabulary, and at least one.
        batch_size: rows of one forward pass.

    Raises:
        ValueError: rows and mask of other shapes, or filled up at their beginning.
    """
    if token_ids.shape != mask.shape or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(f"mask: {tuple(mask.shape)}, expected {tuple(token_ids.shape)}, with what fills up at the end")
    predicted = mask[:, 1:] & mask[:, :-1]
    predicted = predicted if places is None else predicted & places
    found: dict[str, _Sums] = {}
    for start in range(0, len(token_ids), batch_size):
        chosen = slice(start, start + batch_size)
        rows, counted = token_ids[chosen], predicted[chosen]
        reference = _log_probabilities(base, rows, mask[chosen], tokens)
        for name, model in models.items():
            other = _log_probabilities(model, rows, mask[chosen], tokens).to(reference.device)
            sums = found.setdefault(name, _Sums(other.shape[-1], top))
            sums.add(reference, other, rows[:, 1:].to(other.device), counted.to(other.device))
    return {name: sums.result(predicted) for name, sums in found.items()}


def _log_probabilities(model: PreTrainedModel, rows: Tensor, mask: Tensor, tokens: int | None) -> Tensor:
    """Log-probabilities (B, T - 1, V) of what follows every token of rows (B, T) but the last."""
    shown = mask[:, :-1].long().to(model.device)
    logits: Tensor = model(rows[:, :-1].to(model.device), **run_settings(model, attention_mask=shown)).logits
    return logits[..., :tokens].float().log_softmax(-1)


class _Sums:
    """What is counted over batches."""

    def __init__(self, tokens: int, top: int) -> None:
        self.top = max(1, min(top, tokens // 100))
        self.promoted = torch.zeros(tokens, dtype=torch.float64)
        self.probability = torch.zeros(tokens, dtype=torch.float64)
        self.choices: list[Tensor] = []
        self.kl: list[Tensor] = []
        self.gain: list[Tensor] = []

    def add(self, base: Tensor, other: Tensor, came: Tensor, places: Tensor) -> None:
        self.choices.append(torch.stack([base.argmax(-1), other.argmax(-1)], -1).cpu())
        # (places, V) of those that count, in copies that may be overwritten: of large vocabularies each is gigabytes
        before, probability = base[places], other[places]
        for each in (before, probability):
            check_numbers(each.amax(-1))
        rise = probability - before
        probability.exp_()
        self.kl.append(_at(places, (probability * rise).sum(-1)))
        self.gain.append(_at(places, rise.gather(-1, came[places][:, None])[:, 0]))
        self.probability += probability.sub_(before.exp_()).sum(0).cpu().double()
        # A softmax moves all logits of a place alike, which changes no order.
        values, risen = rise.topk(self.top, dim=-1)
        self.promoted += torch.bincount(risen[values > 0], minlength=len(self.promoted)).cpu().double()

    def result(self, predicted: Tensor) -> OutputDifferenceResult:
        number = max(1, int(predicted.sum()))
        return OutputDifferenceResult(
            torch.cat(self.kl), torch.cat(self.gain), predicted, torch.cat(self.choices),
            (self.promoted / number).float(), (self.probability / number).float(), self.top,
        )  # fmt: skip


def _at(places: Tensor, values: Tensor) -> Tensor:
    """Values of places where these are, (B, T - 1), and 0 elsewhere."""
    return values.new_zeros(places.shape).masked_scatter_(places, values).cpu()


def group_places(
    result: OutputDifferenceResult, token_ids: Tensor, *, number: int = 10, least: int = 30, distances: int = DISTANCES
) -> list[PlaceGroup]:
    """After which tokens do the models differ most? Places grouped by the token at each distance before them.

    One after another: the places of a group that was found belong to no later one, so that two names of the same places
    (the token after a sign, the second token after what always precedes that sign) are found once.

    Args:
        result: of :func:`compare_outputs`.
        token_ids: the rows that it is of, (N, T).
        number: how many groups to find at most.
        least: rows that a group must have; fewer say too little.
        distances: tokens before a place that are looked at.

    Returns:
        groups with as many rows, each the one with the highest ``low`` of the places that were left; of those with
        nearly as high a one (:data:`NEARLY`), which often are the same places under another name, that of the nearest
        token. The mean of a row is one observation: its places are no independent ones.
    """
    left, found = result.predicted.clone(), list[PlaceGroup]()
    while len(found) < number:
        groups = [
            group
            for distance in range(min(distances, token_ids.shape[1] - 1))
            for group in _groups(result.kl[:, distance:], left[:, distance:], token_ids, distance, least)
        ]
        if not groups:
            break
        best = _nearest(groups)
        found.append(best)
        after = left[:, best.distance :]  # a view
        after &= token_ids[:, : after.shape[1]] != best.token
    return found


def _nearest(groups: Sequence[PlaceGroup]) -> PlaceGroup:
    """Of the groups with the highest ``low``, or nearly so, one whose token is nearest before its places."""
    highest = max(group.low for group in groups)
    return max((group for group in groups if group.low >= min(NEARLY * highest, highest)),
               key=lambda group: (-group.distance, group.low))  # fmt: skip


def _groups(kl: Tensor, predicted: Tensor, token_ids: Tensor, distance: int, least: int) -> Iterator[PlaceGroup]:
    """The groups at one distance."""
    vocabulary, (row, place) = int(token_ids.max()) + 1, predicted.nonzero(as_tuple=True)
    pairs, index = (row * vocabulary + token_ids[row, place]).unique(return_inverse=True)  # (row, token) that occur
    places = torch.bincount(index, minlength=len(pairs)).double()
    means = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, index, kl[row, place].double()) / places
    tokens, group = (pairs % vocabulary).unique(return_inverse=True)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(len(tokens), dtype=torch.float64).index_add_(0, group, values)

    rows = total(torch.ones_like(means))
    mean = total(means) / rows
    error = (total((means - mean[group]).square()) / (rows - 1).clamp(min=1) / rows).sqrt()
    for each, of_places in zip(
        (rows >= least).nonzero().flatten().tolist(), total(places)[rows >= least].tolist(), strict=True
    ):
        low = float(mean[each] - 2 * error[each])
        yield PlaceGroup(int(tokens[each]), distance, int(of_places), float(mean[each]), low)


def places_of(result: OutputDifferenceResult, group: PlaceGroup, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Row and number of every place of a group, whatever other groups they belong to: two of (places,)."""
    predicted = result.predicted[:, group.distance :]
    row, begin = (predicted & (token_ids[:, : predicted.shape[1]] == group.token)).nonzero(as_tuple=True)
    return row, begin + group.distance
