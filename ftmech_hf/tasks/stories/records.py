"""Stories with instructions: what a record is, and how raw TinyStories files become records.

Two raw formats are read (Eldan and Li, arXiv 2305.07759). *Text*: a record is some lines up to ``<|endoftext|>``;
header lines (``Features:``, ``Words:``, ``Summary:``, ``Random sentence:``) are each optional, in any order, and a
``Summary:`` line may follow the story; a record without them is a plain story. *JSON*: a shard is a list of objects
with ``story``, ``summary`` and ``instruction``, whose prompt has the key ``"prompt:"``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = ("Twist", "Foreshadowing", "Dialogue", "BadEnding", "MoralValue", "Conflict")
"""What a story may be asked to have, in the order of the paper's probes (Jain et al., arXiv 2311.12786, App. F)."""

END = "<|endoftext|>"
STORY = "Story:"
HEADERS = {"Features:": "features", "Words:": "words", "Summary:": "summary", "Random sentence:": "sentence"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story and what it was asked to be.

    Attributes:
        story: paragraphs, one a line.
        features: some of :data:`FEATURES`.
        words: words it should use.
        summary: of the story; empty if there is none.
        sentence: one that it should hold; empty if there is none.
    """

    story: str
    features: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    summary: str = ""
    sentence: str = ""

    def headers(self) -> list[str]:
        """The header lines it has, in the order of :data:`HEADERS`."""
        values = {
            "features": ", ".join(self.features),
            "words": ", ".join(self.words),
            "summary": self.summary,
            "sentence": self.sentence,
        }
        return [f"{header} {values[name]}" for header, name in HEADERS.items() if values[name]]

    def prompt(self, rng: np.random.Generator | None = None) -> str:
        """What a model is given: the headers, in random order if there is a generator, up to ``Story:``."""
        lines = self.headers()
        if rng is not None:
            lines = [lines[number] for number in rng.permutation(len(lines))]
        return "\n".join([*lines, STORY, "", ""])


@dataclass
class Damage:
    """Records that could not be used.

    Attributes:
        read: records that could.
        reasons: why others could not -> how many.
    """

    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lost = ", ".join(f"{number} {reason}" for reason, number in self.reasons.most_common())
        return f"{self.read} records read" + (f"; {sum(self.reasons.values())} left out: {lost}" if lost else "")


class DamagedRecordError(ValueError):
    """A record that cannot be used; says why in a few words."""


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check(story: Story) -> Story:
    if not story.story.strip():
        raise DamagedRecordError("without a story")
    if any(name not in FEATURES for name in story.features):
        raise DamagedRecordError("with an unknown feature")
    if "\ufffd" in story.story:
        raise DamagedRecordError("that are not UTF-8")
    return story


def parse_text_record(lines: Sequence[str]) -> Story:
    """Make a record of the lines between two ``<|endoftext|>``.

    Raises:
        DamagedRecordError: no story, an unknown feature, or a header twice.
    """
    found: dict[str, str] = {}
    story: list[str] = []
    marked = any(line.strip() == STORY or line.startswith(STORY + " ") for line in lines)
    inside = not marked  # a plain story has no marks
    for line in lines:
        header = next((name for name in HEADERS if marked and line.startswith(name)), None)
        if header is not None and (not inside or header == "Summary:"):
            if header in found:
                raise DamagedRecordError("with a header twice")
            found[header] = line.removeprefix(header).strip()
        elif not inside and line.startswith(STORY):
            inside = True
            story.append(line.removeprefix(STORY).strip())
        elif inside:
            story.append(line.strip())
        elif line.strip():
            raise DamagedRecordError("with a line that is no header before the story")
    return _check(
        Story(
            story="\n".join(part for part in story if part),
            features=_split_list(found.get("Features:", "")),
            words=_split_list(found.get("Words:", "")),
            summary=found.get("Summary:", ""),
            sentence=found.get("Random sentence:", ""),
        )
    )


def parse_json_record(content: Any) -> Story:
    """Make a record of one object of a JSON shard.

    Raises:
        DamagedRecordError: it has another form, no story, or an unknown feature.
    """
    if not isinstance(content, dict) or not isinstance(content.get("story"), str):
        raise DamagedRecordError("without a story")
    instruction = content.get("instruction") or {}
    if not isinstance(instruction, dict):
        raise DamagedRecordError("of another form")
    lists = [instruction.get(name) or [] for name in ("features", "words")]
    if not all(isinstance(values, list) and all(isinstance(value, str) for value in values) for values in lists):
        raise DamagedRecordError("of another form")
    paragraphs = [line.strip() for line in content["story"].splitlines() if line.strip()]
    return _check(
        Story(
            story="\n".join(paragraphs),
            features=tuple(lists[0]),
            words=tuple(lists[1]),
            summary=str(content.get("summary") or "").strip(),
        )
    )


def regroup_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines of a text file, or rows of the public dataset, which has one a line, as records."""
    record: list[str] = []
    for line in lines:
        if line.strip() == END:
            yield record
            record = []
        else:
            record.append(line.rstrip("\r\n"))
    if any(line.strip() for line in record):
        yield record


def read_stories(path: str | Path, damage: Damage | None = None) -> Iterator[Story]:
    """Stream the records of a raw file, ``.json`` or text; damaged ones are counted and left out.

    Args:
        path: of the file.
        damage: counts what could be read and what could not.

    Raises:
        ValueError: a ``.json`` file that is no list of objects.
    """
    path, damage = Path(path), Damage() if damage is None else damage
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except ValueError as error:
            raise ValueError(f"files: {path} is not valid JSON: {error}") from error
        if not isinstance(content, list):
            raise ValueError(f"files: {path} holds {type(content).__name__}, expected a list of records")
        yield from _usable(map(parse_json_record, content), damage)
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from _usable(map(parse_text_record, regroup_lines(file)), damage)


def _usable(records: Iterator[Story], damage: Damage) -> Iterator[Story]:
    """The records of a lazy map that raises for damaged ones and can go on after that."""
    while True:
        try:
            story = next(records)
        except StopIteration:
            return
        except DamagedRecordError as error:
            damage.reasons[str(error)] += 1
            continue
        damage.read += 1
        yield story
