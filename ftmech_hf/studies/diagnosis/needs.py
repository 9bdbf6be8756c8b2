"""What a diagnosis needs, before any weight is read: memory, by what takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ftmech_hf.config import tell
from ftmech_hf.jobs.answer_scores import BATCH
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.models.memory import forward_bytes, parse_bytes, say_bytes, training_bytes, weight_bytes
from ftmech_hf.studies.diagnosis.case import CaseConfig

WORTH_SAYING = 10**9
"""Bytes below which nothing is said."""

STREAMS = 6
"""Models whose streams are kept: the pair, the reference, two of random weights, the base that was taught nothing."""


def memory_needs(
    config: Any,
    case_config: CaseConfig,
    questions: Sequence[Behavior],
    models: int,
    *,
    prompt: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, int]:
    """Bytes at the same time, by what takes them; the sum is the most that is needed.

    Args:
        config: of the base.
        case_config: how thorough the diagnosis is.
        questions: what is asked.
        models: how many models are given or drawn.
        prompt: whether the fine-tuned model is no change of weights, so that nothing is trained back.
        dtype: of the weights.
    """  # fmt: skip
    tokens = max(rows.token_ids.shape[1] for each in questions for rows in (each.train, each.test))
    predicted = max(int(each.test.lengths.max()) for each in questions)
    text, weights = config.get_text_config(), weight_bytes(config, dtype)
    trained = 2 if not prompt else int(case_config.null_steps > 0)  # two are trained back side by side
    copies = models + bool(case_config.null_steps) + (not prompt)  # the last is the one that was trained back
    rows = sum(len(part) for each in questions for part in (each.train, each.validation, each.test))
    layers = min(case_config.max_layers, text.num_hidden_layers)
    step = training_bytes(config, case_config.reverse_batch_size, tokens, dtype) + weights
    return {
        f"{copies} models": copies * weights,
        "what was read of them": STREAMS * rows * layers * text.hidden_size * 4,
        f"{trained} that are trained, with gradients and moments" if trained else "a forward pass": max(
            trained * step, forward_bytes(config, BATCH, tokens, predicted, dtype)
        ),
    }


def check_memory(needs: Mapping[str, int], limit: str | None) -> None:
    """Say what a diagnosis needs, if it is much.

    Raises:
        ValueError: it is more than it may take.
    """
    total = sum(needs.values())
    parts = ", ".join(f"{what} {say_bytes(size)}" for what, size in needs.items())
    if limit is not None and total > parse_bytes("max_memory", limit):
        raise ValueError(
            f"max_memory: {limit}, expected about {say_bytes(total)} ({parts}); --null_steps 0 takes one model less, "
            "fewer --reverse_batch_size, --fit_rows and --max_layers a little"
        )
    if total >= WORTH_SAYING:
        tell(f"this diagnosis needs about {say_bytes(total)} of memory: {parts}")
