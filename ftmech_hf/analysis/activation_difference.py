"""How do a model's activations differ from its base's on texts that have nothing to do with its fine-tuning?

The activation difference lens (arXiv 2510.13900): the mean difference of the stream at the first tokens of unrelated
texts says what a narrow fine-tuning was about, read as tokens by the model's own last norm and unembedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel
from ftmech_hf.activations.lens import streams_read
from ftmech_hf.activations.proofs import probe_tokens


@dataclass(frozen=True)
class LayerDifference:
    """The difference of two models' streams behind one block, model less base.

    Attributes:
        relative_norm: root mean square of the difference over that of the base's stream.
        constant: share of the differences' mean square that their mean has: 1 if every text is shifted alike.
        mean: the mean difference, (D,).
    """

    relative_norm: float
    constant: float
    mean: Tensor

    @property
    def odds(self) -> float:
        """``constant`` over what is not: a share has no room above, where null models have much of it, too."""
        return self.constant / max(1 - self.constant, 1e-6)


@dataclass(frozen=True)
class ActivationDifferenceResult:
    """What the streams differ in, by layer.

    Attributes:
        layers: layer -> its difference.
        places: how many places of texts they are of.
    """

    layers: Mapping[int, LayerDifference]
    places: int

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per layer."""
        names = ("relative_norm", "constant")
        return [
            {"layer": layer, **{name: getattr(each, name) for name in names}} for layer, each in self.layers.items()
        ]

    def summary(self) -> dict[str, Any]:
        """The layer with the most constant shift."""
        layer = max(self.layers, key=lambda each: self.layers[each].constant)
        return {"layer": layer, "constant": self.layers[layer].constant}


def compare_activations(
    base: TracedModel,
    model: TracedModel,
    token_ids: Tensor,
    *,
    positions: int = 5,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
) -> ActivationDifferenceResult:
    """Compare the streams of two models at the first tokens of the same rows.

    Args:
        base, model: of one architecture.
        token_ids: rows of at least so many tokens, and one more where all begin with the same one, (N, T).
        positions: tokens at the beginning of each row that are looked at; where every row begins with the same token,
            that one is passed over, since nothing could differ between rows there.
        layers: behind which blocks; all if None.
        batch_size: rows of one forward pass.
    """
    first = int(bool((token_ids[:, 0] == token_ids[0, 0]).all()))
    rows, places = token_ids[:, : first + positions], list(range(first, first + positions))
    before, after = (
        each.collect(rows, ["resid_post"], layers=layers, positions=places, batch_size=batch_size)
        for each in (base, model)
    )
    found = {layer: difference(before["resid_post", layer], after["resid_post", layer]) for _, layer in before}
    return ActivationDifferenceResult(found, len(rows) * len(places))


def difference(before: Tensor, after: Tensor) -> LayerDifference:
    """What is said of the difference of two streams (..., D)."""
    before, change = (each.double().flatten(0, -2) for each in (before, after - before))
    mean, square = change.mean(0), change.square().sum(1).mean()
    return LayerDifference(
        relative_norm=float((square / before.square().sum(1).mean()).sqrt()),
        constant=float(mean.square().sum() / square.clamp(min=1e-30)),
        mean=mean.float(),
    )


@torch.no_grad()
def read_direction(model: PreTrainedModel, direction: Tensor, number: int) -> list[int]:
    """The tokens that a direction of the stream (D,) writes most, by the model's own last norm and unembedding.

    What the model reads off an empty stream is taken off, so that tokens which every direction writes do not count.

    Returns:
        ids of the first ``number`` tokens, the strongest first.

    Raises:
        NoLensError: the model's logits are made of more than the stream, so that a direction alone says nothing.
    """
    given = direction.to(model.device, model.dtype)
    with streams_read(model, probe_tokens(model, 2)) as (_, read):
        # A norm makes both ends of a line the same length, so half their difference is what the direction says.
        logits = F.log_softmax(read(torch.stack([given, -given])), -1)
    risen = logits[0] - logits[1]
    return [int(each) for each in risen.topk(min(number, len(risen))).indices.tolist()]
