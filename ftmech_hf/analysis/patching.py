"""Which layers carry the change? One model computes with another's activations at one site of one layer.

Base activations written into the fine-tuned model say where the change must be undone for the answer to come back;
activations of the fine-tuned model written into its base say down to which layer the base can still use them, which is
model stitching (Lenc & Vedaldi, arXiv 1411.5908; Bansal et al., arXiv 2106.07682) without a trained layer between.

The control of every patch is the same patch with the activations of *another row* of the same length: what comes back
under it owes nothing to what the row asked. Of rows of other lengths some of what is written would be padding's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.patches import (
    Place,
    Stands,
    answers_at_once,
    answers_under,
    one_token,
    patched_logits,
    places_with,
    read_tokens,
    record_activations,
)
from ftmech_hf.statistics.clusters import Groups, groups_at, share_right


@dataclass(frozen=True)
class PatchingResult:
    """Answers of a receiving model under patches from a donor.

    Attributes:
        right: place -> whether the receiver answered each row right with the donor's activations of it, bool (B,).
        other_row: the same with the donor's activations of another row, on the rows ``other_numbers`` only.
        other_numbers: the first rows that another one is as long as, (rows,).
        unpatched: whether the receiver answered each row right by itself.
        log_probability: place -> log-probability of each row's answer under the donor's activations of it, (B,), nats.
        unpatched_log_probability: the same of the receiver by itself, (B,).
    """

    right: dict[Place, NDArray[np.bool_]]
    other_row: dict[Place, NDArray[np.bool_]]
    other_numbers: NDArray[np.int64]
    unpatched: NDArray[np.bool_]
    log_probability: dict[Place, NDArray[np.float32]]
    unpatched_log_probability: NDArray[np.float32]

    def rows(self, groups: Groups = None) -> list[dict[str, Any]]:
        """The tidy table: one row per place and kind of patch; intervals know of rows that belong together."""
        some = groups_at(groups, self.other_numbers)
        return [
            {"site": site, "layer": layer, "patch": kind, "rows": len(values), **share_right(values, about)._asdict()}
            for kind, patched, about in (("same row", self.right, groups), ("other row", self.other_row, some))
            for (site, layer), values in patched.items() if len(values)
        ]  # fmt: skip

    def either(self, other: PatchingResult) -> PatchingResult:
        """What is right here or in another result on the same questions, such as with another answer to them.

        Answers that exclude each other have probabilities that add up; see :meth:`counting` for others.
        """
        numbers, mine, theirs = np.intersect1d(self.other_numbers, other.other_numbers, return_indices=True)
        return PatchingResult(
            {place: values | other.right[place] for place, values in self.right.items()},
            {place: values[mine] | other.other_row[place][theirs] for place, values in self.other_row.items()},
            numbers,
            self.unpatched | other.unpatched,
            {place: np.logaddexp(each, other.log_probability[place]) for place, each in self.log_probability.items()},
            np.logaddexp(self.unpatched_log_probability, other.unpatched_log_probability),
        )

    def counting(self, rows: NDArray[np.bool_]) -> PatchingResult:
        """The same with a probability of nothing where a row's answer does not count, bool (B,)."""
        logs = {place: np.where(rows, each, -np.inf) for place, each in self.log_probability.items()}
        alone = np.where(rows, self.unpatched_log_probability, -np.inf)
        return replace(self, log_probability=logs, unpatched_log_probability=alone)

    def accuracy(self, site: str, layer: int) -> float:
        """Share of rows answered right under one patch."""
        return float(self.right[site, layer].mean())

    def best_place(self, sites: Sequence[str]) -> Place:
        """The place among ``sites`` whose patch gives most right answers; ties go to the first."""
        return max((place for place in self.right if place[0] in sites), key=lambda place: self.right[place].mean())

    def summary(self) -> dict[str, Any]:
        """The best place and the accuracies with and without its patch, on the rows by which it is the best."""
        site, layer = self.best_place(sorted({site for site, _ in self.right}))
        return {"site": site, "layer": layer, "accuracy": self.accuracy(site, layer),
                "unpatched": float(self.unpatched.mean())}  # fmt: skip


def patch_each(
    donor: PreTrainedModel,
    receiver: PreTrainedModel,
    token_ids: Tensor,
    *,
    sites: Sequence[str],
    layers: Sequence[int],
    other_rows: int,
    answer: Tensor | None = None,
    shown: Tensor | None = None,
    stands: Stands | None = None,
    batch_size: int = 128,
) -> PatchingResult:
    """Patch every site of every layer by itself, at all positions; a site that none has is a ValueError.

    An answer of several tokens is right if each of them is the most likely one after the right tokens before it.

    Args:
        donor: whose activations are written; of the receiver's shape.
        receiver: which computes with them.
        token_ids: whole rows (B, T).
        sites: some of :data:`ftmech_hf.activations.WRITABLE`; in a hybrid, one is patched in those layers that have it.
        layers: which layers.
        other_rows: on how many rows the control is measured, at most.
        shown: which tokens are no padding, bool (B, T), all if not given; the models pass over it by themselves.
        answer: which tokens are the answer, bool (B, T), the last ones but the end; the last but one if not given.
        stands: whether what the receiver writes after an answer lets it stand; that does not count if not given.
        batch_size: rows of one forward pass; fewer where answers are long and the vocabulary is large.
    """
    places = places_with(receiver, sites, layers)
    right: dict[Place, list[Tensor]] = {place: [] for place in places}
    other: dict[Place, list[Tensor]] = {place: [] for place in places}
    likely: dict[Place, list[Tensor]] = {place: [] for place in places}
    alone: list[tuple[Tensor, Tensor]] = []
    others = _others_as_long(torch.ones(len(token_ids)) if shown is None else shown.sum(1))
    with_other = (others != torch.arange(len(others))).nonzero()[:other_rows, 0]
    answer = one_token(token_ids) if answer is None else answer
    number = int(answer.sum(1).max())
    asked, batch_size = answer[:, -1 - number : -1], answers_at_once(receiver, number, batch_size)
    for rows, tokens in zip(token_ids.split(batch_size), asked.split(batch_size), strict=True):
        alone.append(answers_under(receiver, rows, tokens, {}, stands))
        found = record_activations(donor, read_tokens(rows, stands is not None), places)
        for place in places:
            now, log_probability = answers_under(receiver, rows, tokens, {place: found[place]}, stands)
            right[place].append(now)
            likely[place].append(log_probability)
    for few in with_other.split(batch_size) if len(with_other) else ():
        found = record_activations(donor, read_tokens(token_ids[others[few]], stands is not None), places)
        for place in places:
            patch = {place: found[place]}
            other[place].append(answers_under(receiver, token_ids[few], asked[few], patch, stands)[0])
    unpatched, unpatched_likely = (torch.cat(parts).numpy() for parts in zip(*alone, strict=True))
    return PatchingResult(
        {place: torch.cat(parts).numpy() for place, parts in right.items()},
        {place: torch.cat(parts).numpy() for place, parts in other.items() if parts},
        with_other.numpy(),
        unpatched,
        {place: torch.cat(parts).numpy() for place, parts in likely.items()},
        unpatched_likely,
    )


def _others_as_long(lengths: Tensor) -> Tensor:
    """For each row the one before it of the same length (B,), for the first the last such; itself where none is."""
    others = torch.arange(len(lengths))
    for length in lengths.unique():
        alike = (lengths == length).nonzero()[:, 0].cpu()
        others[alike] = alike.roll(1)
    return others


@torch.no_grad()
def follows_other_row(
    model: PreTrainedModel, token_ids: Tensor, layers: Sequence[int], *, batch_size: int = 128
) -> dict[int, NDArray[np.bool_]]:
    """Whether a model gives another row's answer when it predicts from that row's stream, by layer.

    The stream after a block is exchanged at the last position of the prompt alone. Where the model then gives the other
    row's answer, all that decides on the answer is there by then; where it still gives its own, the answer is yet to
    come from the positions before, in later blocks. Unlike a probe this needs no answer to occur twice.

    Args:
        model: that is asked; without any exchange it should give every row's answer.
        token_ids: whole rows (B, T) with answers of one token, no two neighbours with the same.
        layers: after which blocks.
        batch_size: rows of one forward pass.

    Returns:
        layer -> for each row whether the most likely token is the next row's answer (the first one's for the last).
    """
    others, found = token_ids.roll(-1, 0), {layer: list[Tensor]() for layer in layers}
    for rows, other in zip(token_ids.split(batch_size), others.split(batch_size), strict=True):
        streams = record_activations(model, other[:, :-2], [("resid_post", layer) for layer in layers])
        for (_, layer), stream in streams.items():

            def exchange(value: Tensor, stream: Tensor = stream) -> Tensor:
                return torch.cat([value[:, :-1], stream[:, -1:]], 1)

            logits = patched_logits(model, rows, {("resid_post", layer): exchange})
            found[layer].append(logits[:, -1].argmax(-1).cpu() == other[:, -2].cpu())
    return {layer: torch.cat(parts).numpy() for layer, parts in found.items()}
