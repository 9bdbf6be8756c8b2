"""Stories with instructions: what a record is, and how raw TinyStories files become records.

Two raw formats are read (Eldan and Li, arXiv 2305.07759). *Text*: a record is what stands between two marks
``<|endoftext|>``, wherever in a line they are (:mod:`ftmech_hf.tasks.stories.raw`); header lines (``Features:``,
``Words:``, ``Summary:``, ``Random sentence:``) are each optional, in any order, and a ``Summary:`` line may follow the
story; a record without them is a plain story. *JSON*: a shard is a list of objects with ``story``, ``summary`` and
``instruction``, whose prompt has the key ``"prompt:"``; features and words may also stand beside the story, and lists
may be written as text with commas. An object with ``text`` alone is a record as in text files. What is neither is
counted by its reason and left out: a value becomes text only if it is text.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftmech_hf.tasks.stories.raw import END, RawRecord, raw_records

FEATURES = ("Twist", "Foreshadowing", "Dialogue", "BadEnding", "MoralValue", "Conflict")
"""What a story may be requested to have, in the order of the paper's probes (Jain et al., arXiv 2311.12786, App. F)."""

STORY = "Story:"
HEADERS = {"Features:": "features", "Words:": "words", "Summary:": "summary", "Random sentence:": "sentence"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story and what was requested of it.

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


LOST = "lost"
"""The key under which rows of a table that could not be read say why."""

MARK = re.compile(r"<\|\w+\|>|</s>")
"""What other models end or begin a text with; ``<bos>`` and its like are text here, as every model reads it."""

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def _check(story: Story) -> Story:
    whole = "\n".join([story.story, story.summary, story.sentence, *story.words])
    if not story.story.strip():
        raise DamagedRecordError("without a story")
    if any(name not in FEATURES for name in story.features):
        raise DamagedRecordError("with an unknown feature")
    if "\ufffd" in whole:
        raise DamagedRecordError("that are not UTF-8")
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise DamagedRecordError("with half a character") from None
    if CONTROL.search(whole):
        raise DamagedRecordError("with control characters")
    if found := MARK.search(whole):
        raise DamagedRecordError(f"with {found[0]} as text")
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
    if not isinstance(content, dict):
        raise DamagedRecordError("of another form")
    if LOST in content:
        raise DamagedRecordError(str(content[LOST]))
    if content.get("story") is None and content.get("text") is not None:
        return parse_text(_as_text(content, "text"))
    instruction = content.get("instruction")
    if instruction is None or isinstance(instruction, str):  # the prompt in words tells nothing more
        instruction = content
    if not isinstance(instruction, dict):
        raise DamagedRecordError("of another form")
    paragraphs = [line.strip() for line in _as_text(content, "story").splitlines() if line.strip()]
    return _check(
        Story(
            story="\n".join(paragraphs),
            features=_as_list(instruction.get("features")),
            words=_as_list(instruction.get("words")),
            summary=" ".join(_as_text(content, "summary").split()),
            sentence=" ".join(_as_text(content, "sentence").split()),
        )
    )


def _as_text(content: Mapping[str, Any], name: str) -> str:
    """A value that is text, or none."""
    value = content.get(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if value is not None and not isinstance(value, str):
        raise DamagedRecordError(f"whose {name} is no text")
    return value or ""


def _as_list(value: Any) -> tuple[str, ...]:
    """Texts: a list of them, one text with commas between, or a list that was written down as text."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return _split_list(value)
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(value.strip())
    values = [] if value is None else value
    if not isinstance(values, list | tuple) or not all(isinstance(each, str) for each in values):
        raise DamagedRecordError("of another form")
    return tuple(values)


def parse_text(text: str) -> Story:
    """Make a record of a text between two marks.

    Raises:
        DamagedRecordError: it cannot be used.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()
    return parse_text_record(text.removeprefix(END).removesuffix(END).split("\n"))


def parse_record(record: RawRecord, *, is_json: bool) -> Story:
    """Make a record of what lies in a file.

    Raises:
        DamagedRecordError: it cannot be used.
    """
    if record.reason:
        raise DamagedRecordError(record.reason)
    if is_json:
        return parse_json_record(load_json(record))
    return parse_text(record.content.decode("utf-8", errors="replace"))


def load_json(record: RawRecord) -> Any:
    """The value that is written in a file.

    Raises:
        DamagedRecordError: it is none.
    """
    if record.reason:
        raise DamagedRecordError(record.reason)
    try:
        return json.loads(record.content.decode("utf-8", errors="replace"))
    except RecursionError:
        raise DamagedRecordError("nested too deeply") from None
    except ValueError:
        raise DamagedRecordError("that are not valid JSON") from None


def read_stories(path: str | Path, damage: Damage | None = None) -> Iterator[Story]:
    """Stream the records of a raw file, text, ``.json`` or ``.jsonl``; damaged ones are counted and left out.

    Args:
        path: of the file.
        damage: counts what could be read and what could not.

    Raises:
        ValueError: a ``.json`` file that is no list, or a text without marks.
    """
    for _, story in read_placed(path, Damage() if damage is None else damage):
        yield story


JSON = (".json", ".jsonl")


def read_placed(path: str | Path, damage: Damage) -> Iterator[tuple[RawRecord, Story]]:
    """:func:`read_stories` with where each record lies."""
    path = Path(path)
    for record in raw_records(path):
        try:
            story = parse_record(record, is_json=path.suffix in JSON)
        except DamagedRecordError as error:
            damage.reasons[str(error)] += 1
            continue
        damage.read += 1
        yield record, story
