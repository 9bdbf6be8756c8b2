"""Whether a model predicts a token from those before it alone, which everything here takes for granted.

An encoder that was trained to fill gaps loads under the name of a causal model, too, and answers: what it says of the
first token of an answer it then knows from the last one. No config says so for all architectures, but two rows do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.configs import config_positions
from ftmech_hf.models.forward import forward_parameters
from ftmech_hf.models.seeding import seeded
from ftmech_hf.models.tolerance import logits_apart, tolerance_of
from ftmech_hf.models.vocabulary import num_rows

LENGTH, TRIALS = 6, 3
"""Tokens of a row that is tried, and how many last tokens.

Most of them must tell: a router for which two experts tie may choose otherwise by rounding, and attention that looks
at one token alone may not look at the last.
"""


def check_causal(model: PreTrainedModel) -> None:
    """Make sure that no position of a model sees those behind it, by short rows that differ in their last token alone.

    Every row is run by itself, so that nothing is carried between rows. Models whose config has an ``answer_position``,
    as compiled programs, are not meant to be causal, and one that cannot be run on plain rows is for others to refuse.

    Raises:
        ValueError: what it says at an earlier position depends on the last token.
    """
    if hasattr(model.config, "answer_position"):
        return
    try:
        apart = _depends_on_last(model)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
        return
    if apart:
        raise ValueError(
            f"model: {type(model).__name__} is not causal, its logits at a token depend on the tokens behind it "
            f"(by {apart:.2g} of their size); expected a causal language model"
        )


@torch.no_grad()
def _depends_on_last(model: PreTrainedModel) -> float:
    """How far logits before the last position move with the last token, relative to their size; 0 if they stay."""
    length = min(LENGTH, config_positions(model.config) or LENGTH)
    tokens = _plain_tokens(model)
    if length < 2 or len(tokens) < 2:
        return 0.0
    row = tokens.repeat(LENGTH)[:length]
    others = [token for token in tokens.flip(0) if token != row[-1]][:TRIALS]
    expected = _logits_before_last(model, row)
    found_apart = []
    for token in others:
        found = _logits_before_last(model, torch.cat([row[:-1], token[None]]))
        same = (found == expected) | (found.isnan() & expected.isnan())
        no_number = same & ~expected.isfinite()  # of which others say that
        apart = logits_apart(model, *(each.masked_fill(no_number, 0.0) for each in (expected, found)))
        found_apart.append(math.inf if math.isnan(apart) else apart)
    apart = sorted(found_apart)[len(found_apart) // 2]
    return apart if apart > tolerance_of(model) else 0.0


def _logits_before_last(model: PreTrainedModel, row: Tensor) -> Tensor:
    taken = forward_parameters(model)
    settings: dict[str, Any] = {"use_cache": False} if "use_cache" in taken else {}
    with seeded(0):  # some models draw numbers even in evaluation mode
        logits: Tensor = model(input_ids=row[None].to(model.device), **settings).logits
    return logits[0, : len(row) - 1].float().cpu()


def _plain_tokens(model: PreTrainedModel) -> Tensor:
    """Some tokens without a meaning of their own, as padding and the places of images have one."""
    configs = (model.config, model.config.get_text_config())
    special = {
        each for config in configs for name, value in vars(config).items() if "token" in name
        for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)
    }  # fmt: skip
    known = num_rows(model)
    plain = [token for token in range(min(known, LENGTH + TRIALS + len(special) + 3)) if token not in special]
    return torch.tensor((plain if len(plain) > 1 else list(range(known)))[-LENGTH - TRIALS :])
