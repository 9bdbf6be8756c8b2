"""What keeps fine-tuning near the model it started from: a term beside the objective, named as its setting is.

One class is one term, a line in :data:`ftmech_hf.training.keeping.REGULARIZERS` and a field of ``TrainConfig`` that
says how strong it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ftmech_hf.models.interpolation import mix_weights
from ftmech_hf.training.objectives.base import Batch, Shown


class Features(NamedTuple):
    """Hidden states, each (B, T, D), of the model that is trained and of the one it was, and where to compare them.

    Attributes:
        now, before: in the same order.
        real: which positions (B, T) are tokens and not padding.
    """

    now: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    real: Tensor


class Seen(NamedTuple):
    """What a term is computed from: a model and a batch.

    Attributes:
        model: the one that is trained, without a wrapper for distributed training.
        start: the one that training started from.
        batch: the rows.
        logits: what the model says where the objective reads it; or the output of a layer.
        num_shown: how many tokens of each row it was shown.
        features: if ``needs_features``.
    """

    model: nn.Module
    start: Start
    batch: Batch
    logits: Tensor
    num_shown: int
    features: Features | None


class Regularizer(ABC):
    """A term that grows as a model leaves what it was.

    Args:
        strength: what it is multiplied with.
    """

    needs_features: ClassVar[bool] = False
    """Whether it compares hidden states. Then its mean is over the tokens that are shown, and parts weigh by those."""
    counts_rows: ClassVar[bool] = False
    """Whether it is divided by what is expected of so many rows. Then parts, which have as many, weigh alike."""
    counts_answers: ClassVar[bool] = False
    """Whether its mean is over the tokens of answers, whatever the objective counts. Then parts weigh by those."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def to(self, device: torch.device) -> None:  # noqa: B027  # most remember nothing
        """Move what it remembers."""

    @abstractmethod
    def penalty(self, seen: Seen) -> Tensor:
        """The term."""


class L2SP(Regularizer):
    """The squared distance of all trained weights from their start (Li et al., arXiv 1802.01483)."""

    def penalty(self, seen: Seen) -> Tensor:
        """``strength`` times the squared distance."""
        start = seen.start.weights
        terms = [(p - start[name]).square().sum() for name, p in seen.model.named_parameters() if name in start]
        return self.strength * torch.stack(terms).sum()


class LDIFS(Regularizer):
    """The distance of features from those of a model (Mukhoti et al., arXiv 2308.13320).

    The model is the one that training started from, or any other of its shape, see :class:`Start`.

    Args:
        strength: what it is multiplied with.
        over_positions: whether to take the norm that the original takes, see :func:`channel_distance`.
    """

    needs_features = True

    def __init__(self, strength: float, *, over_positions: bool = False) -> None:
        super().__init__(strength)
        self.distance = channel_distance if over_positions else feature_distance

    def penalty(self, seen: Seen) -> Tensor:
        """``strength`` times the distance."""
        assert seen.features is not None
        return self.strength * self.distance(*seen.features)


class LFL(Regularizer):
    """The squared distance of the last hidden states (Less-forgetful learning, Jung et al., arXiv 1607.00122).

    The original keeps the last layer frozen as well: that is ``trainable: body``. It sums over rows; this takes the
    mean over tokens, so that its strength does not depend on how many there are in a step.
    """

    needs_features = True

    def penalty(self, seen: Seen) -> Tensor:
        """``strength / 2`` times the squared distance."""
        assert seen.features is not None
        now, before, real = seen.features
        apart = (now[-1].float() - before[-1].float()).square().sum(-1)
        return self.strength / 2 * torch.where(real, apart, 0.0).sum() / real.sum().clamp(min=1)


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


def channel_distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...], counted: Tensor) -> Tensor:
    """The distance that the code of Mukhoti et al. (arXiv 2308.13320) computes: each channel is a unit vector.

    Their features are (B, T, D) and are divided by their norm along the second axis: a channel over the positions of
    its row. Squared differences are averaged over positions and channels, so that the distance is at most ``4 / T`` and
    the weight of 10 that they give it is about 0.2 of :func:`feature_distance` in their models.

    Args:
        first, second: hidden states, each (B, T, D), in the same order.
        counted: which positions (B, T) there are; the others are no part of a norm nor of the mean.
    """
    real = counted[..., None].float()
    total = torch.stack(
        [
            (F.normalize(one.float() * real, dim=1) - F.normalize(other.float() * real, dim=1)).square().sum()
            for one, other in zip(first, second, strict=True)
        ]
    ).mean()
    return total / (counted.sum().clamp(min=1) * first[0].shape[-1])


class Start:
    """The model that training started from: a copy of what is trained of it; the rest does not change.

    Of a model with an adapter that is the adapter alone, which starts as no change at all.

    Args:
        model: as it is now.
        anchor: another model of the same shape, whose features are compared with in place of the start's.

    Raises:
        ValueError: the anchor has other weights, by name or shape.
    """

    def __init__(self, model: nn.Module, anchor: nn.Module | None = None) -> None:
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.anchor = self.weights if anchor is None else anchor_weights(model, anchor)

    def to(self, device: torch.device) -> Start:
        """Move what it remembers."""
        same = self.anchor is self.weights
        self.weights = {name: value.to(device) for name, value in self.weights.items()}
        self.anchor = self.weights if same else {name: value.to(device) for name, value in self.anchor.items()}
        return self

    @torch.no_grad()
    def mix_into(self, model: nn.Module, share: float) -> None:
        """Give a model ``(1 - share)`` times its weights plus ``share`` times these."""
        for name, p in model.named_parameters():
            if name in self.weights:
                p.copy_(mix_weights(p, self.weights[name], share))

    @torch.no_grad()
    def outputs(self, model: nn.Module, shown: Shown, layer: int | None = None) -> Tensor:
        """What the starting model says without dropout: its logits, or the output of a layer."""
        # Each module's own: blocks that are computed again are in training mode where the model is not.
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            wanted = {} if layer is None else {"output_hidden_states": True}
            found = functional_call(model, self.weights, (shown.token_ids,), {**shown.options, **wanted})
        finally:
            for module, training in modes:
                module.training = training
        return read_outputs(found, layer)

    @torch.no_grad()
    def hidden_states(self, model: nn.Module, shown: Shown, random_state: list[Tensor]) -> tuple[Tensor, ...]:
        """The hidden states of the starting model, or of the anchor, on the same tokens.

        The model itself is called with those weights: under the same autocast, in the same mode and with the
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
            after = torch.mps.get_rng_state() if device.type == "mps" else None
            if device.type == "mps":
                torch.mps.set_rng_state(random_state[1])
            options = {**shown.options, "output_hidden_states": True, "logits_to_keep": 1}
            states: tuple[Tensor, ...] = functional_call(model, self.anchor, (shown.token_ids,), options).hidden_states
            if after is not None:
                torch.mps.set_rng_state(after)
        return states


def anchor_weights(model: nn.Module, anchor: nn.Module) -> dict[str, Tensor]:
    """The weights of a model by the names that another one of its shape has for them, be it under an adapter.

    Raises:
        ValueError: they are others.
    """
    theirs = dict(anchor.named_parameters())
    found: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if plain not in theirs and "lora_" in name:
            found[name] = p.detach().clone()  # an adapter starts as no change
        elif plain not in theirs or theirs[plain].shape != p.shape:
            raise ValueError(f"anchor_model: it has no {plain} of shape {list(p.shape)}, expected a model of one shape")
        else:
            found[name] = theirs[plain].detach().to(p.dtype).clone()
    return found


def read_outputs(found: Any, layer: int | None) -> Tensor:
    """Logits of what a model returned, or the output of a layer (that of the last after its norm)."""
    outputs: Tensor = found.logits if layer is None else found.hidden_states[layer + 1]
    return outputs


def random_state(device: torch.device) -> list[Tensor]:
    """What dropout on the device will be drawn from."""
    if device.type == "mps":
        return [torch.get_rng_state(), torch.mps.get_rng_state()]
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
