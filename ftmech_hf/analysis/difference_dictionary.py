"""Which directions, each at few places, were added to the stream, and where? A sparse dictionary of the differences.

A sparse autoencoder is learned of the differences between two models' streams, so that every difference is a sum of few
directions (as in the toolkit of arXiv 2510.13900), by SAELens, with BatchTopK (Bussmann et al., arXiv 2412.06410): at
how many places a direction is active is free, and only how many are active on average is set. Every number is of places
that it was not learned on, and whether a latent says anything is asked of null models.

What it is good for beside :mod:`ftmech_hf.analysis.difference_components`: several directions that were planted at
different places are one latent each, where principal components, which are orthogonal and take the largest variance
first, are mixtures of them. What it is not good for: a change that is there at all places, which the mean and the
components say, exactly and in no time; and few places, from which a dictionary learns noise. If many more latents may
be active than there are reasons for, the rest is spent on noise, and one direction can be split into two; if fewer,
one latent can stand for two directions. :func:`active_latents` measures how many to allow.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_ACTIVE = 0.02
"""Latents that are active at a place on average, at least: of a model that differs no more than a null does."""

MARGIN = 1.25
"""Latents allowed for each place that is far, as some places have two: with one each, two directions can be merged."""

DEAD_AFTER = 50
"""Steps without being active after which a latent is taught what the others leave over."""


class Latent(NamedTuple):
    """One direction of the dictionary, as held-out places show it.

    Attributes:
        direction: of length 1, (D,), which the latent adds; never its opposite.
        rate: share of the places at which it is active.
        share: of the differences' variance around their mean; by so much less is explained without it.
        places: numbers of the places at which it is active, the most active first.
    """

    direction: Tensor
    rate: float
    share: float
    places: Tensor


@dataclass(frozen=True)
class DictionaryResult:
    """The latents that are active at held-out places.

    Attributes:
        latents: the one that explains most first.
        explained: share of the variance that all of them explain together; below 0 if they add to it.
        active: how many were allowed at a place on average.
        places: how many places were held out.
    """

    latents: Sequence[Latent]
    explained: float
    active: float
    places: int

    @property
    def largest(self) -> float:
        """Share of the latent that explains most; 0 without one."""
        return max((each.share for each in self.latents), default=0.0)

    def above(self, bar: float) -> list[Latent]:
        """Latents that explain more than a bar, such as :func:`null_bar`."""
        return [each for each in self.latents if each.share > bar]

    def nearest(self, direction: Tensor) -> tuple[Latent, float]:
        """The latent that points most nearly along a direction (D,), and the cosine between them.

        Raises:
            ValueError: there are no latents.
        """
        if not self.latents:
            raise ValueError("latents: none is active, expected at least one")
        found = torch.stack([each.direction for each in self.latents]).double()
        cosines = found @ (direction.double().to(found.device) / direction.double().norm())
        best = int(cosines.argmax())
        return self.latents[best], float(cosines[best])

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per latent."""
        return [
            {"number": number, "rate": each.rate, "share": each.share} for number, each in enumerate(self.latents)
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """How many are active, and what they explain."""
        return {"latents": len(self.latents), "explained": self.explained, "largest": self.largest,
                "active": self.active, "places": self.places}  # fmt: skip


def learn_dictionary(
    differences: Tensor,
    held_out: Tensor,
    *,
    active: float,
    latents: int | None = None,
    steps: int = 300,
    batch_size: int = 512,
    lr: float = 3e-3,
    starts: int = 3,
    seed: int = 0,
) -> DictionaryResult:
    """Learn a dictionary of differences, and say what it makes of others.

    Args:
        differences: fine-tuned less base, behind one layer, to learn from, (P, D).
        held_out: the same at places of other texts, of which everything is said, (H, D).
        active: latents that may be active at a place on average, above 0; see :func:`active_latents`.
        latents: how many there are; as many as the stream is wide if None.
        steps, batch_size, lr: of Adam; the rate falls to a hundredth over the last fifth.
        starts: dictionaries that are learned; the one that explains most of what it was learned from is kept.
        seed: of their first directions and of the order of places.

    Raises:
        ValueError: differences of other widths, none, or fewer than one latent active in a batch.
        ModuleNotFoundError: SAELens is not installed, which the extra ``dictionaries`` brings.
    """
    if not (len(differences) and len(held_out)) or differences.shape[1] != held_out.shape[1]:
        shapes = f"{tuple(differences.shape)} and {tuple(held_out.shape)}"
        raise ValueError(f"differences: {shapes}, expected places of one width, some of each")
    latents = differences.shape[1] if latents is None else latents
    if not 1 <= active * batch_size <= latents * batch_size:
        raise ValueError(f"active: {active}, expected at least {1 / batch_size:.2g} and at most {latents} latents")
    mean = differences.mean(0)
    scale = (differences - mean).float().square().mean().sqrt()
    if not scale:
        return DictionaryResult([], 0.0, active, len(held_out))
    before, after = (((each - mean).float() / scale) for each in (differences, held_out))
    seeds = torch.randint(2**31, (starts,), generator=torch.Generator().manual_seed(seed)).tolist()
    learned = [
        _learn(before, latents=latents, active=active, steps=steps, batch_size=batch_size, lr=lr, seed=each)
        for each in seeds
    ]
    with torch.no_grad():
        sae = min(learned, key=lambda each: float((before - each(before)).square().sum()))
        found, explained = score_latents(after, sae.encode(after), sae.W_dec, sae.b_dec)
    return DictionaryResult(found, explained, active, len(held_out))


def score_latents(
    differences: Tensor, activations: Tensor, directions: Tensor, offset: Tensor
) -> tuple[list[Latent], float]:
    """What each latent explains of differences, and what all do together.

    Args:
        differences: around their mean, (H, D).
        activations: of the latents, at least 0, (H, M).
        directions: which they add, each of length 1, (M, D).
        offset: what is added at every place, (D,).

    Returns:
        The latents that are active anywhere, that which explains most first, and the share that all explain.
    """
    change, acts, added = (each.detach().double() for each in (differences, activations, directions))
    total = change.square().sum().clamp(min=1e-30)
    left = change - offset.detach().double() - acts @ added
    # without latent i, acts_i * direction_i is left over too
    shares = ((acts.square() + 2 * acts * (left @ added.T)).sum(0) / total).tolist()
    counts = (acts > 0).sum(0).tolist()
    found = [
        Latent(directions[each].detach().float().cpu(), counts[each] / len(acts), shares[each],
               acts[:, each].argsort(descending=True, stable=True)[: counts[each]].cpu())
        for each in sorted(range(len(added)), key=lambda each: -shares[each]) if counts[each]
    ]  # fmt: skip
    return found, 1.0 - float(left.square().sum() / total)


def active_latents(differences: Tensor, nulls: Sequence[Tensor]) -> float:
    """How many latents to allow at a place on average: :data:`MARGIN` of the share of places that are far.

    How far a place's difference is from the mean is counted in medians of all places', as a null model may have moved
    less than another. A place is far if it is farther than 99 % of the nulls'.

    Args:
        differences: those that the dictionary is learned from, (P, D).
        nulls: the same of null models, each (P, D).

    Returns:
        Latents, at least :data:`LEAST_ACTIVE`.

    Raises:
        ValueError: no nulls.
    """
    if not nulls:
        raise ValueError("nulls: none, expected differences of at least one null model")
    far = torch.cat([_distances(each) for each in nulls]).quantile(0.99)
    return max(LEAST_ACTIVE, MARGIN * float((_distances(differences) > far).double().mean()))


def _distances(differences: Tensor) -> Tensor:
    """Of every place from the mean, in medians, (P,)."""
    found = (differences - differences.mean(0)).double().norm(dim=1).cpu()
    return found / found.median().clamp(min=1e-30)


def null_bar(nulls: Sequence[DictionaryResult]) -> float:
    """The most that a latent explains of a null model's differences.

    Of n nulls, and one more that is learned in the same way, each is as likely as any other to have the largest: a null
    is above the bar of n others with a chance of 1 in n + 1. For 5 % it takes 19.

    Raises:
        ValueError: no nulls.
    """
    if not nulls:
        raise ValueError("nulls: none, expected dictionaries of at least one null model")
    return max(each.largest for each in nulls)


def _sae_lens() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports, which is its affair
            import sae_lens
    except ModuleNotFoundError as error:
        message = "a dictionary needs the package sae-lens: pip install 'ftmech_hf[dictionaries]'"
        raise ModuleNotFoundError(message) from error
    return sae_lens


def _learn(
    differences: Tensor, *, latents: int, active: float, steps: int, batch_size: int, lr: float, seed: int
) -> Any:
    """An autoencoder of SAELens with directions of length 1, as it is used: a latent is active above a threshold."""
    lens = _sae_lens()
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    config = lens.BatchTopKTrainingSAEConfig(d_in=differences.shape[1], d_sae=latents, k=active)
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global state
        torch.manual_seed(seed)
        sae = lens.BatchTopKTrainingSAE(config).to(differences.device)
        used = lens.SAE.from_dict(config.get_inference_sae_cfg_dict())
    settings = SAETrainerConfig(
        total_training_samples=steps * batch_size, train_batch_size_samples=batch_size, lr=lr, lr_end=lr / 100,
        lr_decay_steps=steps // 5, dead_feature_window=DEAD_AFTER, device=str(differences.device),
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    # Its loop, without a bar that is drawn over what a recipe prints, and without histograms for wandb.
    trainer = lens.SAETrainer(settings, sae, iter(()))
    order = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(differences), (batch_size,), generator=order)
            trainer.step(differences[chosen.to(differences.device)])
            trainer.n_training_steps += 1
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    used.load_state_dict(state)
    return used.to(differences.device).eval()
