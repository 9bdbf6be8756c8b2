"""Raw files in the forms that lie around: where records begin and end, and what a damaged one costs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from ftmech_hf.tasks.stories import raw
from ftmech_hf.tasks.stories.raw import CHUNK, END, LONGEST, raw_records
from ftmech_hf.tasks.stories.records import Damage, read_stories

A, B, C = "Once there was a cat.\nIt was red.", "Tom had a dog.\nThe end.", "Sue saw a bird."
TOLD = f"Features: Dialogue\nWords: cat, red\nStory: \n\n{A}\n{END}\nFeatures: Twist\nStory: {B}\n{END}\nStory: {C}"


def read(path: Path, content: str | bytes) -> tuple[list[str], str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    damage = Damage()
    found = [story.story for story in read_stories(path, damage)]
    for record in raw_records(path):  # each is where it is said to be
        assert path.read_bytes()[record.start :].startswith(record.content)
    return found, str(damage)


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{END}\n{B}\n{END}\n{C}\n{END}\n",
        f"{A}\n{END}\n{B}\n{END}\n{C}",
        f"{A}{END}\n{B}{END}\n{C}{END}",
        f"{END}{A}\n{END}{B}\n{END}{C}",
        f"{END}\n{A}\n\n{END}\n\n{B} {END} {C}\n\n{END}{END}\n\n",
        f"{A}{END}{B}{END}{C}",
        f"  {END}\n{A}\n \n{END}\t{B}{END}{C}",
        TOLD,
        TOLD.replace(f"\n{END}", END),
        TOLD.replace(f"{END}\n", END),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("beginning", ["", "\ufeff"])
def test_marks_separate_records_wherever_they_are(tmp_path: Path, text: str, line_end: str, beginning: str) -> None:
    found, damage = read(tmp_path / "raw.txt", beginning + text.replace("\n", line_end))
    assert (found, damage) == ([A, B, C], "3 records read")


def test_a_mark_is_found_across_pieces_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{A}{END}\n{B}\n{END}{C}\n"
    for size in range(1, len(text)):
        monkeypatch.setattr(raw, "CHUNK", size)
        assert read(tmp_path / "raw.txt", text) == ([A, B, C], "3 records read")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("He said “hi”.".encode("cp1252"), "that are not UTF-8"),
        (b"\0" * 100, "with control characters"),
        (b"A\x1b[31m story.", "with control characters"),
        (b"x" * (LONGEST + 1), "longer than 1,000,000 bytes"),
        (b"x" * (5 * LONGEST), "longer than 1,000,000 bytes"),
        (b"One.\n<|end_of_text|>\nTwo.", "with <|end_of_text|> as text"),
        (b"One.</s>", "with </s> as text"),
        (b"Features: Twist\nStory:", "without a story"),
    ],
)
def test_a_damaged_record_costs_itself_alone(tmp_path: Path, bad: bytes, reason: str) -> None:
    mark = f"\n{END}\n".encode()
    for records in ([bad, A, B], [A, bad, B], [A, B, bad]):
        content = mark.join(each.encode() if isinstance(each, str) else each for each in records)
        found, damage = read(tmp_path / "raw.txt", content)
        assert (found, damage) == ([A, B], f"2 records read; 1 left out: 1 {reason}")


GOOD = {"story": "Once upon a time. “The” end.", "instruction": {"features": ["Twist"], "words": ['a, "]}']}}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (json.dumps({**GOOD, "story": "A \ud800 story."}), "with half a character"),
        (json.dumps({**GOOD, "instruction": {"words": ["\ud800"]}}), "with half a character"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ('{"story": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
        ('{"story": "A\ttab that JSON does not allow."}', "that are not valid JSON"),
        ('{"story": "Once", }', "that are not valid JSON"),
        ('{"story": nul}', "that are not valid JSON"),
        ("nul", "that are not valid JSON"),
        ('{"story": NaN}', "whose story is no text"),
        ('{"story": 1}', "whose story is no text"),
        ('{"story": "Once.", "summary": ["s"]}', "whose summary is no text"),
        ('{"story": ["Once."]}', "whose story is no text"),
        ('{"story": null}', "without a story"),
        ('{"text": "One.<|endoftext|>Two."}', "with <|endoftext|> as text"),
        ("null", "of another form"),
        ("-1.5e3", "of another form"),
        ('"a \\" [ string"', "of another form"),
        ('{"story": "Once.", "instruction": {"features": [["Twist"]]}}', "of another form"),
        ('{"story": "' + "x" * LONGEST + '"}', "longer than 1,000,000 bytes"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_damaged_object_costs_itself_alone(tmp_path: Path, bad: str, reason: str, kind: str) -> None:
    good = json.dumps(GOOD, ensure_ascii=False)
    text = f"[{good}, {bad}\n,{good}]" if kind == "json" else f"{good}\n{bad}\n\n{good}"
    for beginning in ("", "\ufeff"):
        found, damage = read(tmp_path / f"raw.{kind}", beginning + text)
        assert (found, damage) == ([GOOD["story"]] * 2, f"2 records read; 1 left out: 1 {reason}")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_objects_are_found_across_pieces_that_are_read(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "CHUNK", size)
    text = f" [ {json.dumps(GOOD)} , null,{json.dumps(GOOD, indent=2, ensure_ascii=False)},12 ] "
    assert read(tmp_path / "raw.json", text) == ([GOOD["story"]] * 2, "2 records read; 2 left out: 2 of another form")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "Once there was a cat.\n\n" * 1000, r"a\.txt has no <\|endoftext\|>, expected one between stories"),
        ("b.txt", "One.".encode("utf-16"), r"b\.txt is UTF-16, expected UTF-8"),
        ("c.json", '{"data": []}', r"c\.json holds dict, expected a list of records, or one record a line"),
        ("d.json", "Once.", r"d\.json holds something else"),
        ("e.json", "", r"e\.json is not valid JSON: it ends too early"),
        ("f.json", '[{"story": "A."}, {"story": "B', r"f\.json is not valid JSON: it ends too early"),
        ("g.json", '[{"story": "A."}, }]', r"g\.json is not valid JSON: a } without its { at byte 18"),
    ],
)
def test_files_that_are_no_stories_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, content)


def test_one_story_needs_no_mark(tmp_path: Path) -> None:
    assert read(tmp_path / "raw.txt", A) == ([A], "1 records read")
    assert read(tmp_path / "raw.txt", "") == ([], "0 records read")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json"])
def test_a_file_without_marks_is_not_held(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"raw.{kind}"
    words = "word " * 20_000
    path.write_text(
        {"txt": f"{A}{END}" + words * 400, "jsonl": words * 400, "json": "[" + f'"{words}",' * 400 + "]"}[kind]
    )
    tracemalloc.start()
    try:
        list(read_stories(path))
        assert tracemalloc.get_traced_memory()[1] < 12 * CHUNK
    finally:
        tracemalloc.stop()
