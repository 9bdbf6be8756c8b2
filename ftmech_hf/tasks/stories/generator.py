"""Simple English stories whose features are true by construction; :mod:`.reading` reads them off the text again.

Most features are relations between two sentences, so that no single word gives them away:

- Twist: what a noise turns out to be is not what the hero thought it was.
- Foreshadowing: the thing that breaks is the one that looked weak before.
- BadEnding: the opposite of what the hero hoped for happens.
- Conflict: the two friends want different things.
- Dialogue: somebody is quoted, where else the same is reported.
- MoralValue: what the hero has learned at the end is a lesson and not a fact.

Both animals, things and activities that a relation is about are named wherever a story tells of it, whether it holds
or not. A story tells of all six relations, or of fewer to be shorter; those of its features are always told.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml

from ftmech_hf.tasks.stories.records import FEATURES, Story

Part = Literal["seen", "held_out"]
"""Which words, plots and sentences a story is made of: those of training, or those that training never sees."""

MAX_FEATURES = 3
"""Stories have none to three features, as in TinyStories."""


BEATS: Mapping[str, tuple[str, ...]] = {
    "Twist": ("animals", "belief", "reveal"),
    "Foreshadowing": ("objects", "hint", "event"),
    "Dialogue": ("quoted", "reported"),
    "BadEnding": ("hope", "outcome"),
    "MoralValue": ("closing",),
    "Conflict": ("choice", "wants"),
}
"""The sentences that tell of each feature's relation, whether it holds or not."""


@functools.cache
def lexicon() -> Mapping[str, Any]:
    """The content of ``lexicon.yaml``."""
    text = resources.files("ftmech_hf.tasks.stories").joinpath("lexicon.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content


class _Draw:
    """Chooses from the lexicon."""

    def __init__(self, rng: np.random.Generator, part: Part) -> None:
        self.rng, self.part = rng, part

    def one(self, name: str) -> Any:
        return self.several(name, 1)[0]

    def several(self, name: str, number: int) -> list[Any]:
        entries = lexicon()[name][self.part]
        return [entries[place] for place in self.rng.choice(len(entries), number, replace=False)]

    def halves(self, name: str) -> list[Any]:
        """An entry of the list's first half, and one of its second."""
        entries = lexicon()[name][self.part]
        middle = len(entries) // 2
        return [entries[self.rng.integers(middle)], entries[self.rng.integers(middle, len(entries))]]

    def order(self, first: Any, second: Any) -> tuple[Any, Any]:
        return (first, second) if self.rng.random() < 0.5 else (second, first)

    def sentence(self, beat: str, slots: Mapping[str, str]) -> str:
        forms = lexicon()["beats"][beat][self.part]
        return str(forms[self.rng.integers(len(forms))]).format(**slots)


@dataclass(frozen=True)
class _Plot:
    """The slots of every sentence, and the features they give."""

    slots: Mapping[str, str]
    features: tuple[str, ...]


def _plot(draw: _Draw, features: Sequence[str], *, animals_apart: bool = False) -> _Plot:
    hero, friend = draw.several("names", 2)
    animals = draw.halves("creatures") if animals_apart else draw.several("creatures", 2)
    believed, other_creature = draw.order(*animals) if animals_apart else animals
    broken, other_thing = draw.several("things", 2)
    activity, other_activity = draw.several("activities", 2)
    wish, *outcomes = draw.one("wishes")
    hoped, opposite = draw.order(*outcomes)
    first, second = animals if animals_apart else draw.order(believed, other_creature)
    one, other = draw.order(broken, other_thing)
    one_activity, second_activity = draw.order(activity, other_activity)
    saying, report = draw.one("sayings")
    slots = {
        "hero": hero,
        "friend": friend,
        "speaker": draw.order(hero, friend)[0],
        "place": draw.one("places"),
        "spot": draw.one("spots"),
        "first_plural": first[1],
        "second_plural": second[1],
        "believed": believed[0],
        "revealed": (other_creature if "Twist" in features else believed)[0],
        "one_thing": one,
        "other_thing": other,
        "hinted": broken if "Foreshadowing" in features else other_thing,
        "broken": broken,
        "one_activity": one_activity,
        "other_activity": second_activity,
        "hero_activity": activity,
        "friend_activity": other_activity if "Conflict" in features else activity,
        "saying": saying,
        "report": report,
        "wish": wish,
        "hoped": hoped[0],
        "happened": (opposite if "BadEnding" in features else hoped)[1],
        "known": draw.one("lessons" if "MoralValue" in features else "facts"),
    }
    return _Plot(slots, tuple(name for name in FEATURES if name in features))


def _beats(draw: _Draw, plot: _Plot, told: Sequence[str]) -> list[list[str]]:
    """The sentences in their paragraphs: causes in any order, then what comes of them in any order."""
    speech = "quoted" if "Dialogue" in plot.features else "reported"
    wanted = {"opening", *(beat for name in told for beat in BEATS[name])}
    beginning = ["opening", *draw.rng.permutation(["animals", "objects", "choice"])]
    middle = [*draw.rng.permutation(["hint", "wants", speech, "hope", "belief"])]
    end = [*draw.rng.permutation(["event", "reveal", "outcome"]), "closing"]
    kept = [[beat for beat in part if beat in wanted] for part in (beginning, middle, end)]
    paragraphs = [[draw.sentence(beat, plot.slots) for beat in part] for part in kept if part]
    fewest, most = len(told) // len(FEATURES), len(told) // 2
    for filler in draw.several("fillers", int(draw.rng.integers(fewest, most + 1))):
        part = paragraphs[draw.rng.integers(len(paragraphs))]
        part.insert(int(draw.rng.integers(1, max(2, len(part)))), filler)
    return paragraphs


def draw_features(rng: np.random.Generator) -> tuple[str, ...]:
    """None to :data:`MAX_FEATURES` features, every number as likely."""
    number = int(rng.integers(MAX_FEATURES + 1))
    chosen = {FEATURES[place] for place in rng.choice(len(FEATURES), number, replace=False)}
    return tuple(name for name in FEATURES if name in chosen)


def _told(rng: np.random.Generator, certain: Sequence[str], relations: int) -> tuple[str, ...]:
    """The features whose relation a story tells of: some for certain, and others at random up to a number."""
    others = [name for name in FEATURES if name not in certain]
    number = max(0, relations - len(set(certain)))
    if number >= len(others):
        return FEATURES
    chosen = {*certain, *(others[place] for place in rng.choice(len(others), number, replace=False))}
    return tuple(name for name in FEATURES if name in chosen)


def make_story(
    rng: np.random.Generator,
    *,
    features: Sequence[str] | None = None,
    part: Part = "seen",
    relations: int = len(FEATURES),
    always: Sequence[str] = (),
    animals_apart: bool = False,
) -> Story:
    """A story and its instruction.

    Args:
        rng: all that is random comes from it.
        features: those it has and no others; drawn by :func:`draw_features` if None.
        part: of the lexicon.
        relations: of how many features it tells whether they hold; always of those that do.
        always: features of which it tells in any case.
        animals_apart: the first of its two animals is one of one half of the list, the second one of the other half.

    Raises:
        ValueError: an unknown feature, or a number of relations that cannot be.
    """
    chosen = draw_features(rng) if features is None else tuple(features)
    for name in (*chosen, *always):
        if name not in FEATURES:
            raise ValueError(f"features: unknown {name!r}, expected some of {', '.join(FEATURES)}")
    if not 1 <= relations <= len(FEATURES):
        raise ValueError(f"relations: {relations}, expected 1 to {len(FEATURES)}")
    told = _told(rng, [*chosen, *always], relations)
    draw = _Draw(rng, part)
    plot = _plot(draw, chosen, animals_apart=animals_apart)
    paragraphs = _beats(draw, plot, told)
    sentences = [sentence for paragraph in paragraphs for sentence in paragraph if '"' not in sentence]
    slots = ["place", *(["spot"] if "Twist" in told else [])]
    slots += ["one_thing", "other_thing"] if "Foreshadowing" in told else []
    words = {plot.slots[name].split()[-1] for name in slots}
    return Story(
        story="\n".join(" ".join(paragraph) for paragraph in paragraphs),
        features=plot.features,
        words=tuple(rng.permutation(sorted(words))[:3].tolist()),
        summary=draw.sentence("summary", plot.slots),
        sentence=sentences[rng.integers(len(sentences))],
    )
