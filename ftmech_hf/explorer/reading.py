"""What one model says to one prompt: its most likely tokens, what it writes, its layers' readings, where it looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import TracedModel, intervene
from ftmech_hf.activations.calls import last_streams
from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.activations.patches import Place, patched_logits
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.analysis.probing import LinearProbe
from ftmech_hf.jobs.generation import continue_rows

Patch = Callable[[], Mapping[Place, Callable[[Tensor], Tensor]]]
"""Makes the writes of one pass; each write is good for one."""

Probes = Mapping[tuple[str, str], LinearProbe]
"""(site, label) -> probe, as :func:`ftmech_hf.jobs.saved_probes.load_probes` gives them."""

TOP = 5
"""So many of the most likely tokens are shown."""


@dataclass(frozen=True, kw_only=True)
class ReadingResult:
    """What one model says to one prompt.

    Attributes:
        top: the most likely next tokens and their probabilities, most likely first.
        written: token ids that follow, each the most likely one.
        lens: token id -> its probability in the logit lens of every layer, (L,); none where it cannot be read.
        probes: label -> what its probe reads in the stream behind every block, one per block.
        attention: of the position that answers, (L, H, T); None where it cannot be read.
        missing: what could not be read -> why.
    """

    top: list[tuple[int, float]]
    written: list[int]
    lens: dict[int, NDArray[np.float64]]
    probes: dict[str, list[int]] = field(default_factory=dict)
    attention: NDArray[np.float32] | None = None
    missing: dict[str, str] = field(default_factory=dict)


def whole_row(token_ids: Sequence[int]) -> Tensor:
    """A prompt as a whole row (1, T + 2), whose answer and end analyses do not look at."""
    return torch.tensor([[*token_ids, 0, 0]])


def next_tokens(model: PreTrainedModel, token_ids: Sequence[int], patch: Patch = dict) -> Tensor:
    """Probabilities (V,) of the token after a prompt."""
    return patched_logits(model, whole_row(token_ids).to(model.device), patch())[0, -1].softmax(-1)


def read_model(
    traced: TracedModel,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[int],
    answers: Sequence[int],
    *,
    new_tokens: int,
    probes: Probes | None = None,
    patch: Patch = dict,
) -> ReadingResult:
    """Ask a model, whatever of it can be read.

    Args:
        traced: the model.
        tokenizer: of the model.
        token_ids: of the prompt.
        answers: token ids that the logit lens follows.
        new_tokens: how many are written at most.
        probes: of this model.
        patch: what it computes with in place of its own.
    """
    model, missing = traced.model, {}
    row = whole_row(token_ids).to(model.device)
    probabilities = next_tokens(model, token_ids, patch)
    best = probabilities.topk(min(TOP, len(probabilities)))
    written: list[int] = []
    try:
        with _patched(model, patch):
            (written,) = continue_rows(
                model, [list(token_ids)], eos=tokenizer.eos_token_id, seed=0, max_new_tokens=new_tokens, temperature=0
            )
    except ValueError as error:
        missing["text"] = str(error)
    lens: dict[int, NDArray[np.float64]] = {}
    try:
        with _patched(model, patch):
            found = logit_lens(model, row, {str(token): torch.tensor([token]) for token in answers})
        lens = {token: np.exp(found.log_probability[str(token)][:, 0].astype(np.float64)) for token in answers}
    except NoLensError as error:
        missing["lens"] = str(error)
    attention = None
    if "attn_pattern" in traced.sites:
        with _patched(model, patch):
            patterns = traced.collect(row[:, :-2], ["attn_pattern"])
        attention = torch.stack([patterns["attn_pattern", layer][0] for layer in range(traced.num_layers)]).numpy()
    else:
        missing["attention"] = traced.refused["attn_pattern"]
    return ReadingResult(
        top=list(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        written=written,
        lens=lens,
        probes=_read_probes(model, row, probes) if probes else {},
        attention=attention,
        missing=missing,
    )


def _patched(model: PreTrainedModel, patch: Patch) -> contextlib.AbstractContextManager[None]:
    return intervene(model, patch())


def _read_probes(model: PreTrainedModel, row: Tensor, probes: Probes) -> dict[str, list[int]]:
    streams, *_ = last_streams(model, row[:, :-2])
    labels = sorted({label for site, label in probes if site == "block 0"})
    return {
        label: [
            int(probe.predict(stream.cpu())[0])
            for layer, stream in enumerate(streams)
            if (probe := probes.get((f"block {layer}", label))) is not None
        ]
        for label in labels
    }
