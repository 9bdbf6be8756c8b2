"""What a comparison finds of each kind in a model, beside what null models show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.analysis.activation_difference import ActivationDifferenceResult, read_direction
from ftmech_hf.analysis.difference_components import ComponentsResult
from ftmech_hf.analysis.output_difference import (
    OutputDifferenceResult,
    PlaceGroup,
    group_places,
    places_of,
)
from ftmech_hf.analysis.place_context import find_context
from ftmech_hf.studies.compare.finding import LESS_LIKELY, Finding, Kind, Words
from ftmech_hf.studies.compare.texts import Windows

LEAST_ROWS = 30
"""Rows in which a group of places must occur."""


LEAST_TOKENS = 8
"""Of a text that a model wrote; see :meth:`OutputDifferenceResult.row_gain`."""


class Written(NamedTuple):
    """Texts that a model wrote.

    Attributes:
        texts: with the prompts that they begin with.
        outputs: on them, the prompts left out.
    """

    texts: Windows
    outputs: OutputDifferenceResult

    def gains(self) -> Tensor:
        """By how much each is likelier to the model than to the base, nats per token."""
        return self.outputs.row_gain(LEAST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one model beside the base.

    Attributes:
        outputs: on the texts.
        written: how much stronger what the model learned was made -> what it then wrote; 0: the model as it is.
        activations: at the beginning of the texts.
        components: of the differences anywhere in them.
    """

    outputs: OutputDifferenceResult
    written: Mapping[float, Written]
    activations: ActivationDifferenceResult | None
    components: ComponentsResult | None


def find_all(
    found: Mapping[str, Measured],
    name: str,
    nulls: Sequence[str],
    base: TracedModel | None,
    windows: Windows,
    words: Words,
    *,
    top: int,
) -> list[Finding]:
    """Everything that one model differs in, each kind's strongest first.

    Args:
        found: name of a model -> what was measured of it.
        name: of the model that is asked about.
        nulls: names of the models that say what is found by chance.
        base: to read directions with; None where activations were not compared.
        windows: the texts.
        words: how tokens are said.
        top: findings of a kind.
    """
    pair, others = found[name], [found[each] for each in nulls]
    return [
        *_outputs(pair, others), *_places(pair, others, windows, words, top), *_tokens(pair, others, words, top),
        *_texts(pair, others, windows, words, top), *_completions(pair, others, words, top),
        *_amplified(pair, others, words, top), *_shift(pair, others, base, words, top),
        *_components(pair, others, base, windows, words, top),
    ]  # fmt: skip


def _outputs(pair: Measured, nulls: Sequence[Measured]) -> list[Finding]:
    null = max(each.outputs.mean_kl for each in nulls)
    return [Finding(kind="outputs", what="all texts", score=pair.outputs.mean_kl, null_score=null)]


def _places(pair: Measured, nulls: Sequence[Measured], windows: Windows, words: Words, top: int) -> list[Finding]:
    least = min(LEAST_ROWS, len(windows.mask) // 4)

    def strongest(each: Measured, number: int) -> list[PlaceGroup]:
        return group_places(each.outputs, windows.token_ids, number=number, least=least)

    null = max((group.low for each in nulls for group in strongest(each, 1)), default=0.0)
    return [
        Finding(kind="places", what=_say_place(group, words), score=group.low, null_score=max(null, 0.0),
                where=_say_rows(pair.outputs, group, windows, words))
        for group in strongest(pair, top)
    ]  # fmt: skip


def _say_place(group: PlaceGroup, words: Words) -> str:
    word = words.token(group.token)
    if group.distance == 0:
        return f"what follows {word}"
    return f"what comes {group.distance + 1} tokens after {word}"


def _say_rows(result: OutputDifferenceResult, group: PlaceGroup, windows: Windows, words: Words) -> str:
    """What the two models say there, and before which places they differ most."""
    places = row, place = places_of(result, group, windows.token_ids)
    before, after = result.choices[row, place].T
    other = before != after
    said = []
    if other.any():
        at = int(torch.where(other, result.kl[row, place], -1.0).argmax())
        example = f"{words.token(int(after[at]))} for {words.token(int(before[at]))}"
        said = [f"another first choice at {float(other.double().mean()):.0%} of these places, such as {example}"]
    found = find_context(result.kl, places, windows.token_ids)
    if found is not None:
        said.append(f"with {words.token(found.token)} before: {found.present:.2g} nats, without: {found.absent:.2g}")
    return "; ".join(said)


def _tokens(pair: Measured, nulls: Sequence[Measured], words: Words, top: int) -> list[Finding]:
    """Tokens that became likelier, and those that became less likely: what is said more, and what no more."""
    null = max(float(each.outputs.probability.abs().max()) for each in nulls)
    gained = pair.outputs.probability
    chosen = gained.abs().topk(min(top, len(gained))).indices.tolist()
    rising = "rises most" if pair.outputs.top == 1 else f"is among the {pair.outputs.top} that rise most"
    return [
        Finding(kind="tokens", what=words.token(each), score=float(gained[each].abs()), null_score=null,
                where=f"{rising} at {float(pair.outputs.promoted[each]):.0%} of the places" if gained[each] > 0
                else LESS_LIKELY)
        for each in chosen if gained[each]
    ]  # fmt: skip


def _texts(pair: Measured, nulls: Sequence[Measured], windows: Windows, words: Words, top: int) -> list[Finding]:
    null = max(float(each.outputs.row_kl().max()) for each in nulls)
    found = []
    for each in pair.outputs.row_kl().topk(min(top, len(windows.mask))).indices.tolist():
        place = int(pair.outputs.kl[each].argmax())
        row = windows.row(each)
        found.append(
            Finding(kind="texts", what=words.text(row), score=float(pair.outputs.row_kl()[each]), null_score=null,
                    where=f"most after {words.text(row[max(0, place - 7) : place + 1])}")
        )  # fmt: skip
    return found


def _completions(pair: Measured, nulls: Sequence[Measured], words: Words, top: int) -> list[Finding]:
    return _likelier(pair, nulls, words, top, "completions", 0.0)


def _amplified(pair: Measured, nulls: Sequence[Measured], words: Words, top: int) -> list[Finding]:
    found = [
        finding for strength in pair.written if strength
        for finding in _likelier(pair, nulls, words, top, "amplified", strength)
    ]  # fmt: skip
    return sorted(found, key=lambda each: -each.ratio)[:top]


def _likelier(
    pair: Measured, nulls: Sequence[Measured], words: Words, top: int, kind: Kind, strength: float
) -> list[Finding]:
    """Texts written at one strength, those that the base finds least likely first."""
    null = max(float(each.written[strength].gains().max()) for each in nulls)
    wrote = pair.written[strength]
    gains = wrote.gains()
    where = f"{strength:g} times stronger" if strength else ""
    return [
        Finding(
            kind=kind, what=words.text(wrote.texts.row(each)), score=float(gains[each]), null_score=null, where=where
        )
        for each in gains.topk(min(top, len(gains))).indices.tolist()
    ]


SHIFTS = 3
"""Of all blocks: neighbouring ones say much the same."""


def _shift(
    pair: Measured, nulls: Sequence[Measured], base: TracedModel | None, words: Words, top: int
) -> list[Finding]:
    """Shifts behind all blocks, each beside the null models' largest behind the same block."""
    if pair.activations is None or base is None:
        return []
    found = []
    for layer, each in pair.activations.layers.items():
        null = max(other.activations.layers[layer].odds for other in nulls if other.activations is not None)
        tokens = _say_tokens(base, each.mean, words)
        found.append(
            Finding(kind="shift", what=f"towards {tokens}", score=each.odds, null_score=null,
                    where=f"behind block {layer}, {each.relative_norm:.1%} of the stream")
        )  # fmt: skip
    return sorted(found, key=lambda each: -each.ratio)[: min(top, SHIFTS)]


def _say_tokens(base: TracedModel, direction: Tensor, words: Words) -> str:
    """The tokens that a direction writes most; of a model that streams alone say nothing of, that."""
    try:
        return ", ".join(words.token(token) for token in read_direction(base.model, direction, 8))
    except NoLensError:
        return "what cannot be read as tokens in this architecture"


def _components(
    pair: Measured, nulls: Sequence[Measured], base: TracedModel | None, windows: Windows, words: Words, top: int
) -> list[Finding]:
    """Components behind all blocks, each beside the null models' largest behind the same block."""
    if pair.components is None or base is None:
        return []
    found = []
    for layer, components in pair.components.layers.items():
        null = max(other.components.layers[layer][0].size for other in nulls if other.components is not None)
        for each in components:
            if each.size:
                tokens = _say_tokens(base, each.direction, words)
                where = f"behind block {layer}, {each.share:.0%} of the differences' variance; "
                where += _say_farthest(each.places, windows, words)
                found.append(
                    Finding(kind="components", what=f"towards {tokens}", score=each.size, null_score=null, where=where)
                )
    return sorted(found, key=lambda each: -each.ratio)[:top]


def _say_farthest(places: Tensor, windows: Windows, words: Words) -> str:
    """Which token most of the places farthest along a component follow, and the farthest place."""
    read = windows.token_ids[places[:, 0], places[:, 1]]
    tokens, counts = read.unique(return_counts=True)
    most = int(counts.argmax())
    row, place = (int(each) for each in places[0])
    before = words.text([int(each) for each in windows.token_ids[row, max(0, place - 7) : place + 1]])
    return (
        f"farthest in what follows {words.token(int(tokens[most]))} ({int(counts[most])} of {len(places)} places), "
        f"first after {before}"
    )
