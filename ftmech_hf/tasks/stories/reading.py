"""Which features a procedural story has, read off its sentences: the exact judge, and the words that it goes by."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from ftmech_hf.tasks.stories.generator import lexicon

DECISIVE = {
    # feature -> the kinds of sentences that decide, and the words in them
    "Twist": (("belief", "believed"), ("reveal", "revealed")),
    "Foreshadowing": (("hint", "hinted"), ("event", "broken")),
    "Dialogue": (("quoted", "saying"), ("reported", "report")),
    "BadEnding": (("hope", "hoped"), ("outcome", "happened")),
    "MoralValue": (("closing", "known"),),
    "Conflict": (("wants", "hero_activity"), ("wants", "friend_activity")),
}


def _alternatives(slot: str) -> str:
    """What may stand in a slot, as a regular expression."""
    content = lexicon()
    both = {name: [*content[name]["seen"], *content[name]["held_out"]] for name in content if name != "beats"}
    kinds: dict[str, list[str]] = {
        "names": both["names"],
        "creature": [entry[0] for entry in both["creatures"]],
        "plural": [entry[1] for entry in both["creatures"]],
        "thing": both["things"],
        "activity": both["activities"],
        "wish": [entry[0] for entry in both["wishes"]],
        "hoped": [form[0] for entry in both["wishes"] for form in entry[1:]],
        "happened": [form[1] for entry in both["wishes"] for form in entry[1:]],
        "known": [*both["lessons"], *both["facts"]],
        "saying": [entry[0] for entry in both["sayings"]],
        "report": [entry[1] for entry in both["sayings"]],
        "place": both["places"],
        "spot": both["spots"],
    }
    kind = {
        "hero": "names", "friend": "names", "speaker": "names", "believed": "creature", "revealed": "creature",
        "first_plural": "plural", "second_plural": "plural", "one_thing": "thing", "other_thing": "thing",
        "hinted": "thing", "broken": "thing", "one_activity": "activity", "other_activity": "activity",
        "hero_activity": "activity", "friend_activity": "activity",
    }.get(slot, slot)  # fmt: skip
    return "|".join(re.escape(value) for value in sorted(set(kinds[kind]), key=len, reverse=True))


@functools.cache
def _patterns(beat: str) -> tuple[re.Pattern[str], ...]:
    """A pattern per form of a sentence; its groups are the slots.

    What a form says twice need not be the same: whose name a story forgets, has a twist all the same.
    """
    forms = [*lexicon()["beats"][beat]["seen"], *lexicon()["beats"][beat]["held_out"]]
    patterns = []
    for form in forms:
        parts, named = re.split(r"\{(\w+)\}", form), set[str]()
        text = ""
        for number, piece in enumerate(parts):
            if number % 2 == 0:
                text += re.escape(piece)
            elif piece in named:
                text += f"(?:{_alternatives(piece)})"
            else:
                text += f"(?P<{piece}>{_alternatives(piece)})"
                named.add(piece)
        patterns.append(re.compile(text))
    return tuple(patterns)


def _find(beat: str, text: str) -> re.Match[str] | None:
    """The first sentence of this kind; its groups are its slots."""
    found = [match for pattern in _patterns(beat) if (match := pattern.search(text))]
    return min(found, key=lambda match: match.start()) if found else None


class Evidence(NamedTuple):
    """A sentence that decides whether a story has a feature; places are characters of the story.

    Attributes:
        beat: what kind of sentence it is.
        sentence: its first place and the one after its last.
        slot: the same for the words that decide.
    """

    beat: str
    sentence: tuple[int, int]
    slot: tuple[int, int]


def find_evidence(text: str, feature: str) -> list[Evidence]:
    """The sentences that decide whether a procedural story has a feature, as far as they are there.

    Raises:
        ValueError: an unknown feature.
    """
    if feature not in DECISIVE:
        raise ValueError(f"feature: unknown {feature!r}, expected one of {', '.join(DECISIVE)}")
    matches = [(beat, slot, _find(beat, text)) for beat, slot in DECISIVE[feature]]
    return [Evidence(beat, match.span(), match.span(slot)) for beat, slot, match in matches if match]


def answer_places(text: str) -> list[tuple[int, int]]:
    """Where a procedural story says which features it has: the last words that decide of each that it tells of."""
    found = [find_evidence(text, feature) for feature in DECISIVE]
    return [evidence[-1].slot for evidence in found if evidence]


def judge(text: str) -> dict[str, bool | None]:
    """Which features a story has, read off its sentences; None where the sentences that would tell are missing.

    It knows nothing of how the story was made, so it judges stories that a model wrote.
    """
    matches = {beat: _find(beat, text) for beat in lexicon()["beats"]}
    found = {beat: match.groupdict() if match else {} for beat, match in matches.items()}

    def compare(first: str | None, second: str | None, *, equal: bool) -> bool | None:
        return None if first is None or second is None else (first == second) == equal

    hoped = {
        entry[0]: {form[0]: form[1] for form in entry[1:]}
        for part in ("seen", "held_out") for entry in lexicon()["wishes"][part]
    }  # fmt: skip
    wish, outcome = found["hope"], found["outcome"]
    wanted = hoped.get(wish.get("wish", ""), {}).get(wish.get("hoped", ""))
    same_wish = wish.get("wish") == outcome.get("wish")
    known = found["closing"].get("known")
    lessons = [*lexicon()["lessons"]["seen"], *lexicon()["lessons"]["held_out"]]
    quoted, reported = bool(found["quoted"]), bool(found["reported"])
    wants = found["wants"]
    return {
        "Twist": compare(found["belief"].get("believed"), found["reveal"].get("revealed"), equal=False),
        "Foreshadowing": compare(found["hint"].get("hinted"), found["event"].get("broken"), equal=True),
        "Dialogue": True if quoted or '"' in text else False if reported else None,
        "BadEnding": compare(wanted, outcome.get("happened") if same_wish else None, equal=False),
        "MoralValue": None if known is None else known in lessons,
        "Conflict": compare(wants.get("hero_activity"), wants.get("friend_activity"), equal=False),
    }
