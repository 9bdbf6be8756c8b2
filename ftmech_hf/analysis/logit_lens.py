"""At which layer does the model settle on its answer, and on which one? The logit lens (nostalgebraist, 2020).

The stream after every block is handed to the model's own last norm and unembedding: it is put where the last block's
output is, so that this holds for every architecture, and the last layer's reading is the model's answer. A model of
which it is not, since its logits are made of more than that stream, is refused. Blocks are run once, and what follows
them at the position that predicts the answer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations.lens import streams_read
from ftmech_hf.statistics.clusters import Groups, share_right


@dataclass(frozen=True)
class LensResult:
    """What each layer would answer.

    Attributes:
        first: name of an answer -> whether it has the highest logit, bool (L, B).
        log_probability: name of an answer -> its log-probability, nats, (L, B).
        majority: name of an answer -> share of its most frequent token: what naming one token always would give.
    """

    first: dict[str, NDArray[np.bool_]]
    log_probability: dict[str, NDArray[np.float32]]
    majority: dict[str, float]

    def rows(self, groups: Groups = None) -> list[dict[str, Any]]:
        """The tidy table: one row per layer and answer, with intervals that know of rows which belong together."""
        return [
            {"layer": layer, "answer": name, "log_probability": float(self.log_probability[name][layer].mean()),
             "majority": self.majority[name], **share_right(hits, groups)._asdict()}
            for name, layers in self.first.items()
            for layer, hits in enumerate(layers)
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Per answer: the first layer at which it leads in at least half of the rows, None if there is none."""
        return {
            name: next((layer for layer, hits in enumerate(layers) if hits.mean() >= 0.5), None)
            for name, layers in self.first.items()
        }


@torch.no_grad()
def logit_lens(
    model: PreTrainedModel, token_ids: Tensor, answers: Mapping[str, Tensor], *, batch_size: int = 128
) -> LensResult:
    """Read answers off every layer at the position that predicts them.

    Args:
        model: any causal LM.
        token_ids: whole rows (B, T).
        answers: name -> token id of that answer for every row, (B,); the rows' own answer need not be among them.
        batch_size: rows of one forward pass.

    Raises:
        NoLensError: the last layer's reading is not what the model answers.
    """
    first: dict[str, list[Tensor]] = {name: [] for name in answers}
    log_probability: dict[str, list[Tensor]] = {name: [] for name in answers}
    for start in range(0, len(token_ids), batch_size):
        part = {name: token[start : start + batch_size] for name, token in answers.items()}
        with streams_read(model, token_ids[start : start + batch_size, :-2]) as (streams, read):
            found = [_score(read(stream), part) for stream in streams]  # (V,) logits of one layer at a time
        for name in answers:
            first[name].append(torch.stack([hits[name] for hits, _ in found]))
            log_probability[name].append(torch.stack([scores[name] for _, scores in found]))
    return LensResult(
        {name: torch.cat(parts, 1).numpy() for name, parts in first.items()},
        {name: torch.cat(parts, 1).numpy() for name, parts in log_probability.items()},
        {name: float(torch.bincount(token).max() / len(token)) for name, token in answers.items()},
    )


def _score(logits: Tensor, answers: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whether each answer (B,) leads in logits (B, V), and its log-probability, on the CPU."""
    best, log_probabilities = logits.argmax(-1).cpu(), F.log_softmax(logits, -1)
    scores = {
        name: log_probabilities.gather(-1, token.to(logits.device)[:, None])[:, 0].cpu()
        for name, token in answers.items()
    }
    return {name: best == token.cpu() for name, token in answers.items()}, scores
