"""What a diagnosis needs, before any weight is read: memory, by what takes it, and about how much time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ftmech_hf.config import tell
from ftmech_hf.jobs.answer_scores import BATCH, rows_at_once
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.beside import torch_threads
from ftmech_hf.models.memory import (
    adapter_bytes,
    forward_bytes,
    gradient_bytes,
    training_bytes,
    weight_bytes,
)
from ftmech_hf.studies.diagnosis.case import CaseConfig, backward_rows
from ftmech_hf.studies.diagnosis.methods.attack_grid import RATES
from ftmech_hf.training.low_rank import ADAPTER

LONG = 120
"""Seconds below which nothing is said of time."""

LEAST_PRODUCTS = 20
"""Products of matrices that are timed at least: on a busy machine most of them wait for others."""

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
    in_place = case_config.in_place(round(weights / dtype.itemsize))
    taught = bool(case_config.null_steps)
    rows = sum(len(part) for each in questions for part in (each.train, each.validation, each.test))
    layers = min(case_config.max_layers, text.num_hidden_layers)
    asked = rows_at_once(tokens, BATCH // predicted)
    # one after the other: what each takes while it is under way, beside the models that stay
    passing = {"a forward pass": forward_bytes(config, asked, tokens, predicted, dtype)}
    if not prompt:
        asked = min(backward_rows(in_place, tokens), case_config.fit_rows)
        passing["a backward pass"] = gradient_bytes(config, asked, tokens, predicted, dtype)
        passing["a model between two others"] = weights + passing["a forward pass"]
        if case_config.edits or case_config.attacks:
            # an edit, the weights that it gives and those that it replaces: 2.6 where it was measured
            passing["what is changed of it, and what it was"] = 3 * weights + passing["a forward pass"]
    batch = case_config.reverse_batch_size
    if in_place and (taught or not prompt):
        step = adapter_bytes(config, batch, tokens, ADAPTER.lora_rank, predicted, dtype)
        passing["2 adapters that are trained" if not prompt else "an adapter that is trained"] = step * (2 - prompt)
    elif taught or not prompt:
        step = training_bytes(config, batch, tokens, predicted) + weight_bytes(
            config
        )  # in float32, whatever it is kept in
        trained = 1 if prompt else 2  # two are trained back side by side
        passing[f"{trained} that are trained, with gradients and moments"] = trained * step
    copies = models + taught + (not prompt and not in_place)  # the last is the one that was trained back
    most = max(passing, key=lambda what: passing[what])
    return {
        f"{copies} models": copies * weights,
        "what was read of them": STREAMS * rows * layers * text.hidden_size * 4,
        most: passing[most],
    }


def passed_tokens(config: Any, case_config: CaseConfig, questions: Sequence[Behavior], models: int) -> dict[str, int]:
    """About how many tokens pass through a model, by what for; a backward pass counts twice.

    What ends early, as training back does, is counted to its usual end.
    """
    tokens = max(rows.token_ids.shape[1] for each in questions for rows in (each.train, each.test))
    test = sum(len(each.test) for each in questions)
    read = sum(len(part) for each in questions for part in (each.train, each.validation, each.test))
    layers = min(case_config.max_layers, config.get_text_config().num_hidden_layers)
    masks = len(case_config.prune_sizes) + 2 * case_config.random_masks
    few = min(case_config.patch_rows, test)
    trained = case_config.reverse_batch_size * (2 * case_config.repeats * case_config.reverse_steps)
    rows = {
        "answers and reading": (models + 1) * test + STREAMS * read,
        "pruning": 2 * (masks * test + 3 * case_config.fit_rows),
        "patching and paths": few * (3 * layers * 3 + 20),
        "training back": 3 * (trained + case_config.null_steps * case_config.reverse_batch_size),
    }
    if case_config.attacks:
        step = case_config.reverse_batch_size * case_config.reverse_steps
        rows["rounding and noise"] = 2 * 100 * few
        rows["attacks"] = 4 * len(RATES) * (3 * step + 2 * few)  # two models, all weights and an adapter
    return {what: number * tokens for what, number in rows.items()}


def multiplications_per_second(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.2, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How many numbers a device multiplies and adds in a second, by doing it for so many seconds.

    It is the rate of the fastest product: while another one was on its way the processor may have done something else.
    On a CPU one thread is timed, and counted as often as there are threads: those that work on one product wait for
    each other, and on a busy machine that is most of what they do.
    """
    # Of small products a GPU takes as long to be told and asked as to compute.
    side, threads = (512, torch.get_num_threads()) if device.type == "cpu" else (4096, 1)
    values = torch.ones(side, side, device=device, dtype=dtype)
    taken: list[float] = []
    with torch_threads(1):
        float((values @ values)[0, 0])  # the first one also reads libraries
        while sum(taken) < seconds or len(taken) < LEAST_PRODUCTS:
            started = clock()
            float((values @ values)[0, 0])  # waits for the device
            taken.append(clock() - started)
    return threads * side**3 / min(taken)


def say_time(config: Any, tokens: Mapping[str, int], device: torch.device, dtype: torch.dtype) -> None:
    """Say about how long a diagnosis takes, and what that rests on, if it is long."""
    parameters, rate = weight_bytes(config, dtype) / dtype.itemsize, multiplications_per_second(device, dtype)
    seconds = sum(tokens.values()) * parameters / rate
    if seconds >= LONG:
        parts = ", ".join(f"{what} {number / sum(tokens.values()):.0%}" for what, number in tokens.items())
        tell(
            f"this diagnosis takes about {seconds / 60:.0f} minutes or more: {sum(tokens.values()):,} tokens ({parts}) "
            f"times {parameters / 1e6:,.0f} million weights, at {rate / 1e9:,.0f} billion products of matrices a second"
        )
