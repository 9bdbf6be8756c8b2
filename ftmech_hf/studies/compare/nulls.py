"""Null models: changes of the base that are as large as the fine-tuning, in the same places, and teach nothing.

A copy of the base is trained on tokens drawn from its own predictions: the gradient is zero on average, and what moves
the weights is noise. Every parameter has a learning rate by which it moves about as far as the fine-tuning moved it,
which is found by a rehearsal: what moves away is pulled back, so that a parameter moves less far than noise alone would
carry it, and a short change made longer by hand would do more than one of its length that was trained. In the end each
is scaled to exactly the fine-tuning's; in sixteen bits so that it has that size after rounding, as the fine-tuning's
has (:func:`_factor`). So a model whose fine-tuning taught nothing differs from its base as its null
models do, however long or hot it was trained; and what a page finds in a null model is what it finds by chance.
Buffers that are saved, by which some routers choose, are moved as far as the fine-tuning moved them, in a direction by
chance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.models.loading import check_finite
from ftmech_hf.models.precision import float64_device
from ftmech_hf.models.stored import stored_tensors

TRIAL_STEPS, TRIAL_LR = 4, 1e-5
"""Steps of AdamW, at a rate too low to matter, after which it is seen how far each parameter moves in a step."""


MOST = 10.0
"""By which a rehearsal makes a rate higher or lower at most."""

CLOSE, DOUBLINGS, HALVINGS = 0.01, 24, 24
"""How near a rounded change comes to its size, and after how many trials of each kind what is nearest is taken."""

TRIAL, REHEARSAL, MODELS = range(3)
"""What is trained, for the seeds: the short trial, the rehearsal, and the first of the models."""


def null_models(
    base: PreTrainedModel,
    finetuned: PreTrainedModel,
    token_ids: Tensor,
    mask: Tensor,
    *,
    number: int,
    seed: int,
    steps: int,
    batch_size: int,
) -> Iterator[PreTrainedModel]:
    """Models that were taught nothing, one after another, by changes of the fine-tuning's size in every parameter.

    Args:
        base: what all stand on; stays as it is.
        finetuned: of the same parameters.
        token_ids: rows to train on, filled up at their end, (N, T); what follows each token is drawn from the base.
        mask: which of them are tokens, bool (N, T).
        number: of models.
        seed: of the rows of every step, and of what is drawn.
        steps: of training each.
        batch_size: rows of a step.
    """
    before, after = stored_tensors(base), stored_tensors(finetuned)
    with torch.no_grad():
        sizes = {name: float((after[name].to(each).float() - each.float()).norm()) for name, each in before.items()}

    def trained(rates: Mapping[str, float], steps: int, what: int) -> PreTrainedModel:
        return _trained(base, token_ids, mask, rates, (seed, what), steps, batch_size)

    rates = _rates(base, sizes, steps, trained)

    def made(number: int) -> PreTrainedModel:
        model = trained(rates, steps, MODELS + number)
        _move_buffers(model, sizes, np.random.default_rng([seed, MODELS + number, steps]))
        _scale(model, base, sizes)
        check_finite(model)
        _store(model, base)
        return model.requires_grad_(False)

    for each in range(number):
        yield made(each)  # and it is not kept here while the next is trained


def _rates(
    base: PreTrainedModel,
    sizes: Mapping[str, float],
    steps: int,
    trained: Callable[[Mapping[str, float], int, int], PreTrainedModel],
) -> dict[str, float]:
    """A learning rate for each parameter by which it moves as far as it shall in so many steps.

    Args:
        base: what moves.
        sizes: name of a parameter -> how far.
        steps: of training.
        trained: makes a model with given rates, steps, and :data:`TRIAL` or :data:`REHEARSAL`.
    """
    moved = _moved(base, trained(dict.fromkeys(sizes, TRIAL_LR), TRIAL_STEPS, TRIAL))
    # Noise moves a parameter as far as the root of the number of steps, at most.
    further = math.sqrt(steps / TRIAL_STEPS)
    rates = {name: TRIAL_LR * sizes[name] / max(each * further, 1e-30) for name, each in moved.items()}
    moved = _moved(base, trained(rates, steps, REHEARSAL))
    return {
        name: rate * min(max(sizes[name] / max(moved[name], 1e-30), 1 / MOST), MOST) for name, rate in rates.items()
    }


def _trained(
    base: PreTrainedModel, token_ids: Tensor, mask: Tensor, rates: Mapping[str, float], seed: tuple[int, int],
    steps: int, batch_size: int,
) -> PreTrainedModel:  # fmt: skip
    """A copy of the base, trained on what it says itself with a learning rate for each parameter."""
    # Dropout is noise of another kind, and steps this small are lost in sixteen bits.
    model = copy.deepcopy(base).float().requires_grad_(True).eval()
    groups = [{"params": [each], "lr": rates[name]} for name, each in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        rng = np.random.default_rng([*seed, step])
        rows = torch.from_numpy(rng.choice(len(token_ids), min(batch_size, len(token_ids)), replace=False))
        shown, predicted = token_ids[rows].to(model.device), mask[rows, 1:] & mask[rows, :-1]
        uniform = torch.from_numpy(rng.random(int(predicted.sum())))
        drawn = _drawn(base, shown, predicted, uniform)
        F.cross_entropy(model(shown[:, :-1]).logits[predicted].float(), drawn).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def _drawn(base: PreTrainedModel, shown: Tensor, predicted: Tensor, uniform: Tensor) -> Tensor:
    """A token for every place of rows (B, T), drawn from what the base predicts there, (places,)."""
    logits = base(shown[:, :-1]).logits[predicted]
    there = float64_device(logits.device)
    cumulated = logits.to(there).double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulated, uniform.to(there)[:, None] * cumulated[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=cumulated.shape[-1] - 1).to(shown.device)


@torch.no_grad()
def _moved(base: PreTrainedModel, model: PreTrainedModel) -> dict[str, float]:
    """How far each parameter and saved buffer is from the base's."""
    before = stored_tensors(base)
    return {name: float((each.float() - before[name].float()).norm()) for name, each in stored_tensors(model).items()}


@torch.no_grad()
def _move_buffers(model: PreTrainedModel, sizes: Mapping[str, float], rng: np.random.Generator) -> None:
    """Move what is no parameter, and so was not trained, in a direction by chance."""
    for name in sizes.keys() - dict(model.named_parameters()).keys():
        buffer = stored_tensors(model)[name]
        if sizes[name]:
            step = torch.from_numpy(rng.standard_normal(tuple(buffer.shape))).to(buffer.dtype).to(buffer.device)
            buffer += step * (sizes[name] / step.norm())


@torch.no_grad()
def _scale(model: PreTrainedModel, base: PreTrainedModel, sizes: Mapping[str, float]) -> None:
    """Give the change of every parameter and saved buffer its size, as it will be stored."""
    before, moved = stored_tensors(base), _moved(base, model)
    for name, each in stored_tensors(model).items():
        start = before[name].float()
        step = each.float() - start
        factor = sizes[name] / max(moved[name], 1e-30)
        if torch.finfo(before[name].dtype).eps > torch.finfo(torch.float32).eps and moved[name] and sizes[name]:
            factor = _factor(before[name], step, factor, sizes[name])
        each.copy_(start + step * factor)


def _factor(before: Tensor, step: Tensor, factor: float, size: float) -> float:
    """By how much to scale a step so that it has a size once it is rounded to the parameter's type of number.

    Rounding loses what is below half a unit in a weight's last place and makes what is above it a whole one. Which
    weights move is a matter of the factor, and the more of it the farther they move together, so that it is found by
    halving, to :data:`CLOSE`. Where a parameter has so few weights that one of them more or less is more than that, as
    the weights of a norm that are all near one, or where it moved too little for any of these factors, the nearest
    size is taken that rounding leaves.

    Args:
        before: the parameter of the base.
        step: its change in float32.
        factor: gives it the size before rounding.
        size: of the fine-tuning's change.
    """
    start = before.float()

    def stored(by: float) -> float:
        return float(((start + step * by).to(before.dtype).float() - start).norm())

    found = {factor: stored(factor)}
    low = high = factor
    for _ in range(DOUBLINGS):
        if found[low] <= size <= found[high]:
            break
        low, high = (low / 2, low) if found[low] > size else (high, high * 2)
        found |= {each: stored(each) for each in (low, high) if each not in found}
    for _ in range(HALVINGS):
        if min(abs(each - size) for each in found.values()) <= CLOSE * size:
            break
        middle = math.sqrt(low * high)
        found[middle] = stored(middle)
        low, high = (middle, high) if found[middle] < size else (low, middle)
    return min(found, key=lambda each: abs(found[each] - size))


@torch.no_grad()
def _store(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Turn a model into the base's types of number, in place: buffers of rotary embeddings often stay in float32."""
    types = {name: each.dtype for name, each in (*base.named_parameters(), *base.named_buffers())}
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        each.data = each.data.to(types[name])
