"""Questions, their answers, and the documents they are asked of: one format for all data sets.

A folder has two tables. ``questions.parquet``: ``id``, ``question``, ``answers`` (texts, each of which is right as a
whole), ``facts`` (what a complete answer says; of each the strings that say it), ``gold_ids`` (documents that tell it)
and ``split``. ``corpus.parquet``: ``doc_id``, ``title``, ``text``. A question with an empty list of answers is
unanswerable; where the cell is null, nobody knows its answers, and nothing it is answered with can be right or wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ftmech_hf.config import tell

QUESTIONS_FILE, CORPUS_FILE = "questions.parquet", "corpus.parquet"
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
QUESTIONS_SCHEMA = pa.schema(
    [("id", _TEXT), ("question", _TEXT), ("answers", _TEXTS), ("facts", pa.list_(_TEXTS)), ("gold_ids", _TEXTS),
     ("split", _TEXT)]
)  # fmt: skip
CORPUS_SCHEMA = pa.schema([("doc_id", _TEXT), ("title", _TEXT), ("text", _TEXT)])


class Asked(NamedTuple):
    """A question, a row of ``questions.parquet``; ``answers`` are None where they are not known."""

    id: str
    question: str
    answers: tuple[str, ...] | None
    facts: tuple[tuple[str, ...], ...]
    gold_ids: tuple[str, ...]
    split: str


class Document(NamedTuple):
    """A document, a row of ``corpus.parquet``."""

    doc_id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text, which retrievers search and models read."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class Collection:
    """Questions and the documents they are asked of.

    Raises:
        ValueError: there are none, ids come twice, something is empty, or a gold document is not there.
    """

    questions: tuple[Asked, ...]
    documents: tuple[Document, ...]

    def __post_init__(self) -> None:
        _check_ids("questions: id", [each.id for each in self.questions])
        _check_ids("corpus: doc_id", [each.doc_id for each in self.documents])
        there = {each.doc_id for each in self.documents}
        for asked in self.questions:
            if not asked.question.strip():
                raise ValueError(f"questions: {asked.id} asks nothing, expected a text")
            if lost := [each for each in asked.gold_ids if each not in there]:
                raise ValueError(f"gold_ids: {lost[0]!r} of question {asked.id} is no document of the corpus")
            if asked.facts and any(not any(each.strip() for each in fact) for fact in asked.facts):
                raise ValueError(f"facts: one of question {asked.id} has no string, expected one that says it")

    def gold_numbers(self, asked: Asked) -> tuple[int, ...]:
        """Places of a question's gold documents among the documents."""
        return tuple(self._places()[each] for each in asked.gold_ids)

    def _places(self) -> dict[str, int]:
        if (found := self.__dict__.get("places")) is None:
            found = self.__dict__["places"] = {each.doc_id: place for place, each in enumerate(self.documents)}
        return found

    def of_split(self, split: str) -> tuple[Asked, ...]:
        """The questions of a split.

        Raises:
            ValueError: there are none; names the splits that there are.
        """
        found = tuple(each for each in self.questions if each.split == split)
        if not found:
            there = ", ".join(sorted({each.split for each in self.questions}))
            raise ValueError(f"split: no question of {split!r}, expected one of {there}")
        return found

    def with_known_answers(self, split: str) -> tuple[Asked, ...]:
        """The questions of a split of which it is known what is right, the unanswerable ones among them.

        Says how many are left out because their answers are not known.

        Raises:
            ValueError: there are no questions, or none has an answer: they are not known, rather than unanswerable.
        """
        asked = self.of_split(split)
        if not any(each.answers for each in asked):
            raise ValueError(
                f"data: no answer is known of {len(asked)} of {len(asked)} questions of split {split!r}, expected some"
            )
        known = tuple(each for each in asked if each.answers is not None)
        if lost := len(asked) - len(known):
            tell(f"data: {lost} of {len(asked)} questions of split {split!r} are left out: their answers are not known")
        return known

    def write(self, folder: Path) -> None:
        """Write both tables."""
        for file, schema, rows in (
            (QUESTIONS_FILE, QUESTIONS_SCHEMA, self.questions),
            (CORPUS_FILE, CORPUS_SCHEMA, self.documents),
        ):
            pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows], schema), folder / file)

    @classmethod
    def read(cls, folder: Path) -> Collection:
        """Read both tables.

        Raises:
            ValueError: a table or a column is not there, or what is in them is wrong.
        """
        questions, corpus = (
            read_table(folder / file, schema.names)
            for file, schema in ((QUESTIONS_FILE, QUESTIONS_SCHEMA), (CORPUS_FILE, CORPUS_SCHEMA))
        )
        return cls(tuple(map(asked_of, questions, count())), tuple(map(document_of, corpus, count())))


def asked_of(row: dict[str, Any], place: int) -> Asked:
    """A question from a row; answers without facts are one fact, said by any of them.

    Args:
        row: its cells; a list without anything but nulls is as little known as none.
        place: number of the row in its table, for errors.

    Raises:
        ValueError: it has no id, no question or no split.
    """
    answers = _texts(row.get("answers"))
    said = row.get("facts")
    each = [said] if _is_one(said) else said or ()
    facts = tuple(_texts(fact) or () for fact in each if fact is not None)
    name = _cell(row, "id", f"row {place} of the questions")
    question, split = (_cell(row, column, f"question {name}") for column in ("question", "split"))
    facts = facts or ((answers,) if answers else ())
    return Asked(name, question, answers, facts, _texts(row.get("gold_ids")) or (), split)


def document_of(row: dict[str, Any], place: int) -> Document:
    """A document from a row.

    Raises:
        ValueError: it has no id or no text.
    """
    name = _cell(row, "doc_id", f"row {place} of the corpus")
    return Document(name, str(row.get("title") or ""), _cell(row, "text", f"document {name}"))


def read_table(path: Path, columns: Iterable[str], setting: str = "data") -> list[dict[str, Any]]:
    """The rows of a parquet file that must have some columns.

    Args:
        path: of the file.
        columns: that it must have.
        setting: that names the file's folder, for errors.

    Raises:
        ValueError: there is no such file, or a column is missing.
    """
    if not path.is_file():
        expected = "" if setting != "data" else "; expected a folder that recipes/import_qa.py wrote"
        raise ValueError(f"{setting}: there is no {path}{expected}")
    table = pq.read_table(path)
    if lost := [name for name in columns if name not in table.column_names]:
        raise ValueError(f"{setting}: {path} has no column {lost[0]!r}, only {', '.join(table.column_names)}")
    return table.to_pylist()


def _cell(row: dict[str, Any], column: str, where: str) -> str:
    if row[column] is None:
        raise ValueError(f"{column}: null in {where}, expected a text")
    return str(row[column])


def _is_one(values: Any) -> bool:
    """Whether a cell holds a text, a number or nothing, and no list."""
    return isinstance(values, str) or not isinstance(values, Iterable)


def _texts(values: Any) -> tuple[str, ...] | None:
    """The texts of a list, or one text or number; None where there is neither, or nothing but nulls in a list."""
    if values is None:
        return None
    if isinstance(values, float) and values.is_integer():  # a column of whole numbers with a null among them
        values = int(values)
    if _is_one(values):
        return (str(values),)
    found = tuple(str(each) for each in values if each is not None)
    return found if found or not len(values) else None


def _check_ids(what: str, ids: list[str]) -> None:
    if not ids:
        raise ValueError(f"{what}: there is none, expected at least one")
    name, number = Counter(ids).most_common(1)[0]
    if number > 1:
        raise ValueError(f"{what}: {name!r} comes {number} times, expected another for each")
