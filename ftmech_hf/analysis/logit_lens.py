"""At which layer does the model settle on its answer, and on which one? The logit lens (nostalgebraist, 2020).

The stream after every block is handed to the model's own last norm and unembedding. This is done by writing it where
the last block's output is, so that it holds for every architecture, and the last layer's reading is the model's answer.
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

from ftmech_hf.activations import intervene
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.training.evaluation import answer_logits


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

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per layer and answer."""
        return [
            {"layer": layer, "answer": name, "log_probability": float(self.log_probability[name][layer].mean()),
             "majority": self.majority[name], **share_interval(int(hits.sum()), len(hits))._asdict()}
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
    """
    last = int(model.config.num_hidden_layers) - 1
    first: dict[str, list[Tensor]] = {name: [] for name in answers}
    log_probability: dict[str, list[Tensor]] = {name: [] for name in answers}
    for start in range(0, len(token_ids), batch_size):
        rows = token_ids[start : start + batch_size]
        logits = torch.stack([_read(model, rows, layer, last) for layer in range(last + 1)])
        log_probabilities = F.log_softmax(logits, -1)
        best = logits.argmax(-1)
        for name, token in answers.items():
            part = token[start : start + batch_size]
            first[name].append(best == part)
            log_probability[name].append(log_probabilities.gather(-1, part.expand(last + 1, -1)[..., None])[..., 0])
    return LensResult(
        {name: torch.cat(parts, 1).numpy() for name, parts in first.items()},
        {name: torch.cat(parts, 1).numpy() for name, parts in log_probability.items()},
        {name: float(torch.bincount(token).max() / len(token)) for name, token in answers.items()},
    )


def _read(model: PreTrainedModel, rows: Tensor, layer: int, last: int) -> Tensor:
    """Answer logits (B, V) when the stream after ``layer`` is taken for the last one."""
    if layer == last:
        return answer_logits(model, rows)
    seen: dict[int, Tensor] = {}

    def keep(stream: Tensor) -> Tensor:
        seen[0] = stream
        return stream

    with intervene(model, {("resid_post", layer): keep, ("resid_post", last): lambda _: seen[0]}):
        return answer_logits(model, rows)
