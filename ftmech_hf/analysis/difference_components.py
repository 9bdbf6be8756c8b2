"""Along which directions do the streams of two models differ, and after which tokens? PCA of the differences.

The differences at all places of the same texts are spread around their mean; the principal components of that spread
are directions that a fine-tuning added to some texts and not to others, such as to those with a trigger. PCA of
activation differences is one of the ways of comparing two models in the toolkit of arXiv 2510.13900; that the size of
a component is said beside null models, and where it is found, is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel

MOST_NUMBERS = 2**22
"""Numbers of one layer's differences that are kept; at least :data:`LEAST_PLACES` places whatever the width."""

LEAST_PLACES = 2048

FARTHEST = 20
"""Places that are named for a component, those farthest along it."""


class Component(NamedTuple):
    """One principal component of the differences behind one block.

    Attributes:
        direction: of length 1, (D,), pointing to where the difference is farthest from its mean.
        share: of the differences' variance around their mean.
        size: variance along it over the mean square of the base's stream.
        places: row and position of the places farthest along it, the farthest first, (:data:`FARTHEST`, 2) or fewer.
    """

    direction: Tensor
    share: float
    size: float
    places: Tensor


@dataclass(frozen=True)
class ComponentsResult:
    """The largest components of the differences, by layer.

    Attributes:
        layers: layer -> its components, the largest first.
        places: how many places of texts they are of.
    """

    layers: Mapping[int, Sequence[Component]]
    places: int

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per component."""
        return [
            {"layer": layer, "number": number, "share": each.share, "size": each.size}
            for layer, found in self.layers.items() for number, each in enumerate(found)
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The layer whose first component is largest beside the stream."""
        layer = max(self.layers, key=lambda each: self.layers[each][0].size)
        return {"layer": layer, "share": self.layers[layer][0].share, "size": self.layers[layer][0].size}


def find_components(
    base: TracedModel,
    model: TracedModel,
    token_ids: Tensor,
    mask: Tensor,
    *,
    layers: Sequence[int] | None = None,
    number: int = 3,
    batch_size: int = 64,
) -> ComponentsResult:
    """Principal components of the difference of two models' streams at the places of the same rows.

    The first token of a row is passed over: attention rests on it in many models, whose stream is hundreds of times
    longer there than anywhere else. Where rows have more places than are kept, evenly spaced rows are taken.

    Args:
        base, model: of one architecture.
        token_ids: rows, filled up at their end, (N, T).
        mask: which of them are tokens, bool (N, T).
        layers: behind which blocks; all if None.
        number: components of each.
        batch_size: rows of one forward pass.

    Raises:
        ValueError: rows of fewer than two tokens.
    """
    if token_ids.shape[1] < 2:
        raise ValueError(f"token_ids: rows of {token_ids.shape[1]} tokens, expected at least 2")
    most = max(LEAST_PLACES, MOST_NUMBERS // base.model.config.get_text_config().hidden_size)
    number_of_rows = min(len(token_ids), -(-most // (token_ids.shape[1] - 1)))
    chosen = torch.arange(number_of_rows) * len(token_ids) // number_of_rows
    positions = list(range(1, token_ids.shape[1]))
    counted = mask[chosen, 1:]
    rows, places = counted.nonzero().T
    where = torch.stack([chosen[rows], places + 1], 1)
    before, after = (
        each.collect(token_ids[chosen], ["resid_post"], layers=layers, positions=positions, batch_size=batch_size)
        for each in (base, model)
    )
    found = {}
    for site, layer in before:
        one, other = (each[site, layer][counted] for each in (before, after))
        found[layer] = components_of(one, other, where, number=number)
    return ComponentsResult(found, len(where))


def components_of(before: Tensor, after: Tensor, where: Tensor, *, number: int) -> list[Component]:
    """The components of the difference of two streams.

    Args:
        before, after: of the base and of the model, (P, D).
        where: row and position of each place, (P, 2).
        number: how many.
    """
    square = before.double().square().sum(1).mean()
    change = after.double() - before.double()
    change -= change.mean(0)
    wide = change.shape[1] > len(change)
    squares, vectors = torch.linalg.eigh(change @ change.T if wide else change.T @ change)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)[:, :number]
    directions = change.T @ vectors if wide else vectors
    directions = directions / directions.norm(dim=0).clamp(min=1e-30)
    total, variances = squares.sum().clamp(min=1e-30), squares / len(change)
    found = []
    for each, direction in enumerate(directions.T):
        along = change @ direction
        sign = 1.0 if along.max() >= -along.min() else -1.0
        farthest = (sign * along).topk(min(FARTHEST, len(along))).indices
        found.append(
            Component((sign * direction).float(), float(squares[each] / total), float(variances[each] / square),
                      where[farthest])
        )  # fmt: skip
    return found
