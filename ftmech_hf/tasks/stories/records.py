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
from typing import Any, NamedTuple

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


class RawRecord(NamedTuple):
    """A record as it lies in its file.

    Attributes:
        start: its first byte's place in the file.
        content: its bytes, without what separates it from the next.
    """

    start: int
    content: bytes


CHUNK = 1 << 20
"""Bytes of a JSON shard that are read at a time."""


def raw_records(path: Path) -> Iterator[RawRecord]:
    """The records of a raw file, ``.json`` or text, one after the other; the file is never held whole.

    Raises:
        ValueError: a ``.json`` file that is no list.
    """
    yield from _json_objects(path) if path.suffix == ".json" else _text_blocks(path)


def _text_blocks(path: Path) -> Iterator[RawRecord]:
    """What stands between the lines ``<|endoftext|>``."""
    start, place, lines, end = 0, 0, list[bytes](), END.encode()
    with path.open("rb") as file:
        for line in file:
            place += len(line)
            if line.strip() == end:
                yield RawRecord(start, b"".join(lines))
                start, lines = place, []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        yield RawRecord(start, b"".join(lines))


def _json_objects(path: Path) -> Iterator[RawRecord]:
    """The items of a JSON list."""
    decoder, buffer, base, place = json.JSONDecoder(), "", 0, 0
    with path.open(encoding="latin-1", newline="") as file:  # a character a byte; JSON's own signs are ASCII

        def skip(signs: str) -> str:
            """The next character that is none of these; it stays."""
            nonlocal buffer, base, place
            while True:
                while place < len(buffer) and buffer[place] in signs:
                    place += 1
                if place < len(buffer):
                    return buffer[place]
                base, place, buffer = base + len(buffer), 0, file.read(CHUNK)
                if not buffer:
                    raise ValueError(f"files: {path} is not valid JSON: it ends too early")

        if (first := skip(" \t\r\n")) != "[":
            kind = {"{": "dict", '"': "str"}.get(first, "something else")
            raise ValueError(f"files: {path} holds {kind}, expected a list of records")
        place += 1
        while skip(" \t\r\n,") != "]":
            try:
                _, end = decoder.raw_decode(buffer, place)
            except ValueError as error:
                more = file.read(max(CHUNK, len(buffer)))
                if not more:
                    raise ValueError(f"files: {path} is not valid JSON: {error}") from error
                base, buffer, place = base + place, buffer[place:] + more, 0
                continue
            yield RawRecord(base + place, buffer[place:end].encode("latin-1"))
            place = end


def parse_record(content: bytes, *, is_json: bool) -> Story:
    """Make a record of its bytes.

    Raises:
        DamagedRecordError: it cannot be used.
    """
    text = content.decode("utf-8", errors="replace")
    if is_json:
        return parse_json_record(json.loads(text))
    return parse_text_record(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))


def read_stories(path: str | Path, damage: Damage | None = None) -> Iterator[Story]:
    """Stream the records of a raw file, ``.json`` or text; damaged ones are counted and left out.

    Args:
        path: of the file.
        damage: counts what could be read and what could not.

    Raises:
        ValueError: a ``.json`` file that is no list of objects.
    """
    for _, story in read_placed(path, Damage() if damage is None else damage):
        yield story


def read_placed(path: str | Path, damage: Damage) -> Iterator[tuple[RawRecord, Story]]:
    """:func:`read_stories` with where each record lies."""
    path = Path(path)
    for record in raw_records(path):
        try:
            story = parse_record(record.content, is_json=path.suffix == ".json")
        except DamagedRecordError as error:
            damage.reasons[str(error)] += 1
            continue
        damage.read += 1
        yield record, story
