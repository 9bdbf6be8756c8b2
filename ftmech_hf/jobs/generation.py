"""Texts that a model writes: batched, seeded, and the same whichever batch a prompt is in.

The random numbers of a text are a function of (seed, its number) and are drawn one per token before anything is
computed; a token is where that number falls in the cumulated distribution. So prompts may be put together, sorted and
taken out in any way. What is left is rounding: in a batch of another shape logits differ in their last digits, which
changes a token about once in a million where weights are float32, and more often where they have less digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations.proofs import run_settings
from ftmech_hf.jobs.caching import keep_rows, make_cache, unread_inputs
from ftmech_hf.jobs.padding import passes_over_padding
from ftmech_hf.models.likeliest import check_numbers, likeliest
from ftmech_hf.models.precision import float64_device
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.tasks.text.continuations import begun
from ftmech_hf.tasks.text.encoding import chat_end


def turn_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens by which a model stops: those that it and its tokenizer name, and the end of a turn of its chats.

    The latter is often another one than the end of a text, and a base model that was given a chat template, and was
    taught by it, names it nowhere.
    """
    found = getattr(model.generation_config, "eos_token_id", None)
    named = found if isinstance(found, list) else [found]
    return frozenset({tokenizer.eos_token_id, chat_end(tokenizer), *named} - {None})


def up_to_end(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """What stands before the first token that ends it."""
    return list(itertools.takewhile(lambda token: token not in ends, ids))


GENERATION_KEY = int.from_bytes(b"generate", "little")
"""Keeps these random numbers apart from those of all other purposes."""


def generation_randomness(seed: int, number: int, tokens: int) -> NDArray[np.float64]:
    """The uniform random numbers that choose the tokens of a text, (tokens,); a longer text begins with the same."""
    return np.random.default_rng([seed, GENERATION_KEY, number]).random(tokens)


class Amplified(NamedTuple):
    """What a model learned since its base, made stronger: ``z + strength * (z - z_base)`` for its log-probabilities z.

    Only tokens that the model itself finds plausible can come, since far below them the difference is noise. (After
    contrastive decoding, arXiv 2210.15097, with a model's own base beside it.)

    Attributes:
        base: what the model was fine-tuned from.
        strength: 0 is the model as it is.
        plausible: share of the likeliest token's probability that a token must have.
    """

    base: PreTrainedModel
    strength: float
    plausible: float = 0.1

    def scores(self, logits: Tensor, base: Tensor) -> Tensor:
        """What stands for the model's logits, (B, V), in float64; of both models (B, V)."""
        own, before = (each.to(float64_device(each.device)).double().log_softmax(-1) for each in (logits, base))
        floor = own.max(-1, keepdim=True).values + math.log(self.plausible)
        return (own + self.strength * (own - before)).masked_fill(own < floor, -torch.inf)


def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The token at whose place in the cumulated distribution a uniform number falls.

    Args:
        logits: (B, V).
        uniform: float64 in [0, 1), (B,), on the logits' device or, if that has no float64, on the CPU.
        temperature: divides the logits; 0 takes the most likely token.

    Returns:
        token ids (B,), on the device of ``uniform``, or with temperature 0 of the logits.

    Raises:
        ValueError: the logits hold nan, or an infinite one is the highest.
    """
    if temperature == 0:
        return likeliest(logits)
    cumulated = (logits.to(float64_device(logits.device)).double() / temperature).softmax(-1).cumsum(-1)
    check_numbers(cumulated[:, -1])
    # Scaled by the last sum, which rounding may leave below 1.
    threshold = uniform[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 64,
) -> list[str]:
    """What a model writes after each prompt, up to the end of the document.

    ``<bos>`` goes before each prompt that does not spell it out, and a text ends with ``<eos>``, after
    ``max_new_tokens``, or with the model's last position. Prompts are padded on the left; for a model that does not
    pass over padding, those of one length are put together.

    Args:
        model: any causal LM; it reads all of a text for every token if it keeps nothing that it answers rightly to.
        tokenizer: its tokenizer, with ``<bos>`` and ``<eos>``.
        prompts: one for each text; text i has the random numbers of (seed, i).
        seed: of the random numbers.
        max_new_tokens: tokens of a text at most.
        temperature: divides the logits; 0 takes the most likely token.
        batch_size: texts written side by side.

    Returns:
        the texts without the prompts, in the order of the prompts.

    Raises:
        ValueError: a setting is impossible, the tokenizer lacks a token, or a prompt leaves the model no room.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: it has no <bos> or no <eos>, by which a text begins and ends")
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    written = continue_rows(
        model, [begun(ids, [tokenizer.bos_token_id]) for ids in encoded], eos=tokenizer.eos_token_id, seed=seed,
        max_new_tokens=max_new_tokens, temperature=temperature, batch_size=batch_size,
    )  # fmt: skip
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]


@torch.no_grad()
def continue_rows(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    *,
    eos: int | None,
    seed: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 64,
    amplified: Amplified | None = None,
    tokens: int | None = None,
) -> list[list[int]]:
    """The same for prompts that are token ids already: the token ids that follow each, without ``eos``.

    Args:
        model, seed, max_new_tokens, temperature, batch_size: as for :func:`generate`.
        rows: token ids of each prompt, what begins it among them.
        eos: the token that ends a text; None if nothing does.
        amplified: makes what the model learned since its base stronger.
        tokens: how many ids are tokens of the vocabulary, where the embeddings have more rows; all if None.

    Raises:
        ValueError: as for :func:`generate`.
    """
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise ValueError(
            f"max_new_tokens: {max_new_tokens}, batch_size: {batch_size}, temperature: {temperature}, "
            "expected at least 1, 1 and 0"
        )
    longest = positions_of(model) or 2**31
    for number, row in enumerate(rows):
        if len(row) >= longest:
            raise ValueError(f"prompts: number {number} has {len(row)} tokens, but the model has {longest} positions")
    models = [model, *([] if amplified is None else [amplified.base])]
    longest_text = max(map(len, rows), default=0) + max_new_tokens
    padded = all(passes_over_padding(each, longest_text) for each in models)
    written: list[list[int]] = [[] for _ in rows]
    for chosen in _batches([len(row) for row in rows], batch_size, padded):
        uniform = np.stack([generation_randomness(seed, number, max_new_tokens) for number in chosen])
        batch = _Batch(models, [rows[number] for number in chosen], uniform, longest, amplified, padded, tokens)
        for number, ids in zip(chosen, batch.write(temperature, -1 if eos is None else eos), strict=True):
            written[number] = ids
    return written


def _batches(lengths: Sequence[int], batch_size: int, padded: bool) -> list[list[int]]:
    """Numbers of the rows of each batch: in order of length, so that little is padded, or only of one length."""
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    together = [order] if padded else [list(each) for _, each in itertools.groupby(order, lengths.__getitem__)]
    return [each[start : start + batch_size] for each in together for start in range(0, len(each), batch_size)]


class _Batch:
    """Texts that are written side by side; those that have ended leave it."""

    def __init__(
        self, models: list[PreTrainedModel], rows: list[list[int]], uniform: NDArray[np.float64], longest: int,
        amplified: Amplified | None, padded: bool, tokens: int | None,
    ) -> None:  # fmt: skip
        width = max(map(len, rows))
        device = models[0].device
        pad = getattr(models[0].config.get_text_config(), "pad_token_id", None) or 0
        self.models, self.amplified, self.padded, self.tokens = models, amplified, padded, tokens
        longest_text = width + uniform.shape[1]
        self.caches = [make_cache(model, longest_text) for model in models]
        self.settings = [
            run_settings(
                model, **({} if cache is None else {"use_cache": True, "past_key_values": cache}), logits_to_keep=1
            )
            for model, cache in zip(models, self.caches, strict=True)
        ]
        self.token_ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        self.mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        self.uniform = torch.from_numpy(uniform).to(float64_device(device))
        self.places = torch.arange(len(rows), device=device)  # in the batch as it was at the beginning
        self.room = longest - self.mask.sum(1)
        self.written: list[list[int]] = [[] for _ in rows]

    def write(self, temperature: float, eos: int) -> list[list[int]]:
        """Token ids of each text, without ``<eos>``."""
        for number in range(self.uniform.shape[1]):
            logits = [self._next(place, first=number == 0) for place in range(len(self.models))]
            scores = logits[0] if self.amplified is None else self.amplified.scores(*logits)
            uniform = self.uniform[self.places.to(self.uniform.device), number]
            tokens = sample_tokens(scores, uniform, temperature).to(self.places.device)
            for place, token in zip(self.places.tolist(), tokens.tolist(), strict=True):
                if token != eos:
                    self.written[place].append(token)
            self.room -= 1
            # A token that no position is left for is still a prediction, but nothing follows it.
            going = (tokens != eos) & (self.room > 0)
            if not going.any():
                break
            if not going.all():
                tokens = tokens[self._keep(going.nonzero().flatten())]
            self.token_ids = torch.cat([self.token_ids, tokens[:, None]], dim=1)
            self.mask = torch.cat([self.mask, torch.ones_like(tokens)[:, None]], dim=1)
        return self.written

    def _next(self, place: int, *, first: bool) -> Tensor:
        """Logits of the token that follows each text, by the model at this place, (B, V)."""
        unread = slice(None) if first or self.caches[place] is None else slice(-1, None)
        told = unread_inputs(self.models[place], self.mask, unread) if self.padded else {}
        return self.models[place](self.token_ids[:, unread], **self.settings[place], **told).logits[
            :, -1, : self.tokens
        ]

    def _keep(self, kept: Tensor) -> Tensor:
        """Leave the other texts out; the numbers of those that are kept."""
        self.places, self.room, self.mask = self.places[kept], self.room[kept], self.mask[kept]
        self.token_ids = self.token_ids[kept]
        for cache in self.caches:
            if cache is not None:
                keep_rows(cache, kept)
        return kept
