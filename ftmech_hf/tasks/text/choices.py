"""Multiple choice as tables have it: what there is to choose from, and which of it is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ftmech_hf.tasks.text.chats import shown


class Choice(NamedTuple):
    """What there is to choose from, as it stands in a table, and the place of what is right."""

    choices: list[Any]
    right: int


def read_choice(value: Any, answer: Any) -> Choice:
    """What a row lets choose from, and which of it its answer names.

    Args:
        value: a list of texts; or as some data sets have it a mapping with ``text`` and ``label``, lists both.
        answer: one of the texts, or the label of one, or its place: a whole number from 0, or a letter from A.

    Raises:
        ValueError: there are fewer than two, two are the same, or the answer names none or may name two of them.
    """
    labels: list[Any] = []
    if isinstance(value, Mapping):
        labels, value = list(value.get("label") or []), value.get("text")
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{shown(value)}, expected a list of at least two texts")
    texts = [str(each).strip() for each in value]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{shown(value)} holds a text twice, expected different ones")
    named = _named(answer, texts, [str(each).strip() for each in labels])
    if named is None:
        raise ValueError(f"the answer {shown(answer)} is none of {shown(value)}, nor the label or place of one")
    return Choice(value, named)


def _named(answer: Any, texts: list[str], labels: list[str]) -> int | None:
    word = str(answer).strip()
    is_number = isinstance(answer, int | np.integer) and not isinstance(answer, bool)
    if word in texts:
        place = texts.index(word)
        if is_number and int(answer) < len(texts) and int(answer) != place:
            raise ValueError(f"the answer {answer} is both one of the texts and the place of another, expected text")
        return place
    if labels:
        return labels.index(word) if word in labels else None
    if word.isascii() and word.isdigit() and int(word) < len(texts):
        return int(word)
    letter = ord(word) - ord("A") if len(word) == 1 else -1
    return letter if 0 <= letter < len(texts) else None
