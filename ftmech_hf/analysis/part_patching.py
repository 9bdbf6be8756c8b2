"""What does each part of a model carry? Parts of a row's computation are exchanged with another row's, one by one.

Interchange interventions (Geiger et al., arXiv 2106.02997; Vig et al., arXiv 2004.12265). A part is a head or an MLP at
one position. In place of another row's activation it may get zeros or the mean over rows: ablation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.patches import Part, Place, patched_logits, record_activations

Source = Literal["other row", "zero", "mean"]
"""What a part computes with instead of its own value."""


@dataclass(frozen=True)
class PartPatchingResult:
    """What happens to the answers when one part computes with something else.

    Attributes:
        changed: part -> share of rows whose most likely token is another one than before.
        effect: part -> by how much the logit of a row's own answer, less that of the other row's, falls; a mean.
    """

    changed: dict[Part, float]
    effect: dict[Part, float]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per part."""
        return [{**part._asdict(), "changed": self.changed[part], "effect": self.effect[part]} for part in self.changed]

    def summary(self) -> dict[str, Any]:
        """How many parts there are, and how many of them change an answer."""
        return {"parts": len(self.changed), "carry": sum(share > 0 for share in self.changed.values())}


@torch.no_grad()
def patch_parts(
    model: PreTrainedModel,
    token_ids: Tensor,
    other_ids: Tensor,
    parts: Sequence[Part],
    *,
    source: Source = "other row",
    batch_size: int = 1024,
) -> PartPatchingResult:
    """Patch every part by itself.

    Args:
        model: that computes; its answer is the most likely token at the end of the prompt.
        token_ids: whole rows (B, T), which end with an answer of one token, that is not read, and one token more.
        other_ids: for each row the one whose activations it gets, (B, T).
        parts: which.
        source: what they get.
        batch_size: rows of one forward pass, those of several parts together.

    Raises:
        ValueError: an unknown source, or other rows of another shape.
    """
    if source not in get_args(Source):
        raise ValueError(f"source: {source!r}, expected one of {', '.join(get_args(Source))}")
    if other_ids.shape != token_ids.shape:
        raise ValueError(f"other_ids: of shape {tuple(other_ids.shape)}, expected {tuple(token_ids.shape)}")
    clean, others = _answers(model, token_ids, batch_size), _answers(model, other_ids, batch_size)
    own, other = clean.argmax(-1), others.argmax(-1)
    before = _margin(clean, own, other)
    changed, effect = dict[Part, float](), dict[Part, float]()
    for place, several in _by_place(parts, max(1, batch_size // len(token_ids))):
        given = _given(model, other_ids, place, source, batch_size)
        for chunk in several:
            for part, logits in zip(chunk, _patched(model, token_ids, place, chunk, given, batch_size), strict=True):
                changed[part] = float((logits.argmax(-1) != own).cpu().double().mean())
                effect[part] = float((before - _margin(logits, own, other)).cpu().double().mean())
    return PartPatchingResult({part: changed[part] for part in parts}, {part: effect[part] for part in parts})


def _answers(model: PreTrainedModel, token_ids: Tensor, batch_size: int) -> Tensor:
    return torch.cat([patched_logits(model, rows, {})[:, -1] for rows in token_ids.split(batch_size)])


def _margin(logits: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """The logit of each row's own answer less that of the other row's."""
    return (logits.gather(-1, own[:, None]) - logits.gather(-1, other[:, None]))[:, 0]


def _by_place(parts: Sequence[Part], at_once: int) -> Iterator[tuple[Place, list[list[Part]]]]:
    """Place -> its parts, so many at once."""
    found: dict[Place, list[Part]] = {}
    for part in parts:
        found.setdefault((part.site, part.layer), []).append(part)
    for place, each in found.items():
        yield place, [each[start : start + at_once] for start in range(0, len(each), at_once)]


def _given(model: PreTrainedModel, other_ids: Tensor, place: Place, source: Source, batch_size: int) -> Tensor:
    """What parts of a place get on each row, (B, T, N)."""
    if source == "zero":
        few = record_activations(model, other_ids[:1, :-2], [place])[place]
        return torch.zeros_like(few).expand(len(other_ids), -1, -1)
    found = torch.cat([record_activations(model, rows[:, :-2], [place])[place] for rows in other_ids.split(batch_size)])
    return found if source == "other row" else found.mean(0, keepdim=True).expand_as(found)


def _patched(
    model: PreTrainedModel, token_ids: Tensor, place: Place, parts: Sequence[Part], given: Tensor, batch_size: int
) -> Sequence[Tensor]:
    """Logits (B, V) with each of some parts of a place patched."""
    found: list[list[Tensor]] = [[] for _ in parts]
    size = max(1, batch_size // len(parts))
    for rows, values in zip(token_ids.split(size), given.split(size), strict=True):

        def write(value: Tensor, number: int = len(rows), values: Tensor = values) -> Tensor:
            patched = value.clone()
            for start, part in enumerate(parts):
                there = slice(start * number, (start + 1) * number), part.position, slice(part.first, part.end)
                patched[there] = values[:, part.position, part.first : part.end].to(value)
            return patched

        logits = patched_logits(model, rows.repeat(len(parts), 1), {place: write})[:, -1]
        for each, part_logits in zip(found, logits.split(len(rows)), strict=True):
            each.append(part_logits)
    return [torch.cat(each) for each in found]
