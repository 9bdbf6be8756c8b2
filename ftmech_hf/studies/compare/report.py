"""What a comparison says in a paragraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.studies.compare.finding import LESS_LIKELY, Finding
from ftmech_hf.studies.compare.where import PlaceEffect, main_place

NOTHING = "Nothing was found beyond what changes of this size do that teach nothing."
UNCHANGED = "The weights of the two models are the same."


def answer_in_words(findings: Sequence[Finding], weights: Mapping[str, Any], places: Sequence[PlaceEffect] = ()) -> str:
    """What stands out, in plain words.

    Args:
        findings: of every kind, each kind's strongest first.
        weights: the summary of the change of the weights.
        places: of the change, those that do most first.
    """
    if not any(each.score for each in findings):
        return NOTHING if weights["parameters"] else UNCHANGED
    standing: dict[str, Finding] = {}
    for each in findings:
        if each.stands_out:
            standing.setdefault(each.kind, each)
    if not standing:
        return NOTHING
    said = [_SAYINGS[kind](each) for kind, each in standing.items()]
    where = f" The matrix that changed most is {weights['most_changed']}." if weights["changed"] else ""
    return " ".join(said) + where + _say_place_of_change(places)


def _say_place_of_change(places: Sequence[PlaceEffect]) -> str:
    """The place whose change does most alone, if edits at random and null models do less."""
    found = main_place(places)
    if found is None:
        return ""
    return (
        f" Alone, the change of {found.place} does most ({found.kl:.2g} nats per token; turned at random "
        f"{max(found.by_chance):.2g}, in null models at most {max(found.in_nulls, default=0.0):.2g})."
    )


def _times(finding: Finding) -> str:
    return f"{finding.ratio:.1f} times as much as in any null model" if finding.null_score > 0 else "in no null model"


def _say_outputs(each: Finding) -> str:
    return f"On all texts the fine-tuned model predicts otherwise: {each.score:.2g} nats per token, {_times(each)}."


def _say_places(each: Finding) -> str:
    where = f" ({each.where})" if each.where else ""
    return f"It differs most in {each.what}{where}, {_times(each)}."


def _say_tokens(each: Finding) -> str:
    changed = "lost" if each.where == LESS_LIKELY else "gained"
    return f"The token that {changed} most is {each.what}, {each.score:.1%} of all probability, {_times(each)}."


def _say_texts(each: Finding) -> str:
    return f"The text on which it differs most: \u201c{_short(each.what)}\u201d, {each.where}."


def _say_completions(each: Finding) -> str:
    return f"What it writes and the base would not: \u201c{_short(each.what)}\u201d, {_times(each)}."


def _say_amplified(each: Finding) -> str:
    return f"When what it learned is made {each.where}, it writes: \u201c{_short(each.what)}\u201d, {_times(each)}."


def _say_shift(each: Finding) -> str:
    return f"Whatever the text, its stream is shifted {each.what}, {each.where}."


def _say_components(each: Finding) -> str:
    return f"In some texts its stream is moved {each.what}, {_times(each)}: {each.where}."


def _short(text: str, letters: int = 120) -> str:
    return text if len(text) <= letters else f"{text[:letters]} \u2026"


_SAYINGS = {
    "outputs": _say_outputs, "places": _say_places, "tokens": _say_tokens, "texts": _say_texts,
    "completions": _say_completions,
    "amplified": _say_amplified, "shift": _say_shift,
    "components": _say_components,
}  # fmt: skip
