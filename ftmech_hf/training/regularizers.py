"""What keeps fine-tuning near the model it started from: a term beside the objective, named as its setting is.

One class is one term, a line in ``REGULARIZERS`` and a field of ``TrainConfig`` that says how strong it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ftmech_hf.training.objectives.base import Shown


class Features(NamedTuple):
    """Hidden states, each (B, T, D), of the model that is trained and of the one it was, and where to compare them.

    Attributes:
        now, before: in the same order.
        real: which positions (B, T) are tokens and not padding.
    """

    now: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    real: Tensor


class Regularizer(ABC):
    """A term that grows as a model leaves its start.

    Args:
        strength: what it is multiplied with.
    """

    needs_features: ClassVar[bool] = False
    """Whether it compares hidden states. Then its mean is over the tokens that are shown, and parts weigh by those."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @abstractmethod
    def penalty(self, model: nn.Module, start: Mapping[str, Tensor], features: Features | None) -> Tensor:
        """The term.

        Args:
            model: the one that is trained, without a wrapper for distributed training.
            start: its trained weights, as they were.
            features: if ``needs_features``.
        """


class L2SP(Regularizer):
    """The squared distance of all trained weights from their start (Li et al., arXiv 1802.01483)."""

    def penalty(self, model: nn.Module, start: Mapping[str, Tensor], features: Features | None) -> Tensor:
        """``strength`` times the squared distance."""
        terms = [(p - start[name]).square().sum() for name, p in model.named_parameters() if name in start]
        return self.strength * torch.stack(terms).sum()


class LDIFS(Regularizer):
    """The distance of features from those of the start (Mukhoti et al., arXiv 2308.13320)."""

    needs_features = True

    def penalty(self, model: nn.Module, start: Mapping[str, Tensor], features: Features | None) -> Tensor:
        """``strength`` times :func:`feature_distance`."""
        assert features is not None
        return self.strength * feature_distance(features.now, features.before, features.real)


REGULARIZERS: dict[str, type[Regularizer]] = {
    "l2sp": L2SP,
    "ldifs": LDIFS,
}


def regularizers_of(config: Any) -> list[Regularizer]:
    """Those that are switched on in a ``TrainConfig``."""
    return [kind(getattr(config, name)) for name, kind in REGULARIZERS.items() if getattr(config, name)]


def feature_distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...], counted: Tensor | None = None) -> Tensor:
    """The LDIFS distance of two models' hidden states (Mukhoti et al., arXiv 2308.13320), for language models.

    Squared Euclidean distance between the unit vectors of both models' features, from 0 to 4, averaged over rows,
    positions and taps. Deviation: the original takes the mean over the width where this takes the sum, so that the
    weight of this distance does not depend on a model's width; and every layer of the stream is a tap.

    Args:
        first, second: hidden states, each (B, T, D), in the same order.
        counted: which positions (B, T) the mean is over; all of them if not given.
    """
    distances = torch.stack(
        [
            (F.normalize(one.float(), dim=-1) - F.normalize(other.float(), dim=-1)).square().sum(-1)
            for one, other in zip(first, second, strict=True)
        ]
    ).mean(0)
    if counted is None:
        return distances.mean()
    return torch.where(counted, distances, 0.0).sum() / counted.sum().clamp(min=1)


class Start:
    """The model that training started from: a copy of what is trained of it; the rest does not change.

    Of a model with an adapter that is the adapter alone, which starts as no change at all.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def to(self, device: torch.device) -> Start:
        """Move what it remembers."""
        self.weights = {name: value.to(device) for name, value in self.weights.items()}
        return self

    @torch.no_grad()
    def outputs(self, model: nn.Module, shown: Shown, layer: int | None = None) -> Tensor:
        """What the starting model says without dropout: its logits, or the output of a layer."""
        training = model.training
        model.eval()
        try:
            wanted = {} if layer is None else {"output_hidden_states": True}
            found = functional_call(model, self.weights, (shown.token_ids,), {**shown.options, **wanted})
        finally:
            model.train(training)
        return read_outputs(found, layer)

    @torch.no_grad()
    def hidden_states(self, model: nn.Module, shown: Shown, random_state: list[Tensor]) -> tuple[Tensor, ...]:
        """The hidden states of the starting model on the same tokens.

        The model itself is called with its starting weights: under the same autocast, in the same mode and with the
        same dropout. Any of these alone would set the two apart where nothing was trained.

        Args:
            model: the one that is trained, without a wrapper for distributed training.
            shown: what it was called with.
            random_state: from :func:`random_state`, as it was before the model was called.
        """
        device = shown.token_ids.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_rng_state(random_state[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(random_state[1], device)
            options = {**shown.options, "output_hidden_states": True, "logits_to_keep": 1}
            states: tuple[Tensor, ...] = functional_call(model, self.weights, (shown.token_ids,), options).hidden_states
        return states


def read_outputs(found: Any, layer: int | None) -> Tensor:
    """Logits of what a model returned, or the output of a layer (that of the last after its norm)."""
    outputs: Tensor = found.logits if layer is None else found.hidden_states[layer + 1]
    return outputs


def random_state(device: torch.device) -> list[Tensor]:
    """What dropout on the device will be drawn from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
