"""The library as a task: rows of pretraining, or questions about a world with documents beside them or without."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ftmech_hf.tasks.epochs import in_epochs
from ftmech_hf.tasks.library.documents import Question
from ftmech_hf.tasks.library.questions import RANKED, Asked, Context, Style, make_row
from ftmech_hf.tasks.library.rows import KINDS, PEOPLE, ROOM, Row, draw_fresh, draw_row
from ftmech_hf.tasks.library.world import FRIEND, PLACE, RELATIONS, VOCABULARY, WORLDS, find_world
from ftmech_hf.tasks.schema import EOS, PAD, Rows, Task, split_generator

LONGEST_DOCUMENT, LONGEST_QUESTION = 16, 26
"""Tokens: two facts and a friend; and a question for three facts with its answer, and ``<bos>``."""

PEOPLE_OF = {"all": (0, None), "trained": (0, 250), "held_out": (250, None)}
"""Who is asked about, of the people of a world: from which number on, and up to which."""

GATE: dict[str, dict[str, Any]] = {
    "one": {"asked": ["one"], "context": "oracle"},
    "several": {"asked": ["several"], "context": "oracle"},
    "friend": {"asked": ["friend"], "context": "oracle"},
    "heart": {"world": "known"},
    "missing": {"context": "missing"},
}
"""What a pretrained model must be able to do: read one fact from four documents, several, and the friend's; know the
known world by heart; and say that it does not know what no document tells. People of ``domain`` are new to it."""


@dataclass(frozen=True, kw_only=True)
class LibraryConfig(Task):
    """Which rows."""

    block_rows = 64
    offers = ("tokens", "answers")
    fixed_places = False
    operator_names = operand_names = (FRIEND, *RELATIONS)
    vocabulary = VOCABULARY

    mixture: Literal["pretraining", "questions"] = field(
        default="pretraining", metadata={"help": "pretraining: many questions a row; questions: one, about a world"}
    )
    world: str = field(default="domain", metadata={"help": f"of questions: {', '.join(WORLDS)}"})
    world_seed: int = field(default=0, metadata={"help": "of what is true in the worlds"})
    people: str = field(default="all", metadata={"help": f"who is asked about: {', '.join(PEOPLE_OF)}"})
    asked: list[str] = field(
        default_factory=lambda: ["one"], metadata={"help": f"what is asked, in turn: {', '.join(get_args(Asked))}"}
    )
    context: Context = field(
        default="none",
        metadata={"help": "documents beside a question: none; oracle (those it needs, and others that a search finds); "
                  "bm25, tfidf; missing: those of other people that a search finds; swapped: oracle, but what it asks "
                  "for has another value there; shuffled: what is found for another question"},
    )  # fmt: skip
    top_k: int = field(default=4, metadata={"help": "documents beside a question"})
    gold_at: int | None = field(
        default=None, metadata={"help": "of oracle and swapped: place of the first document it needs, from 0 on"}
    )
    style: Style = field(default="full", metadata={"help": "full answers, or terse ones: their first fact alone"})
    pairs: int = field(default=0, metadata={"help": "different questions; fewer are the first of more; 0 for no end"})
    pretraining_share: float = field(
        default=0.0, metadata={"help": "of questions: share of rows of pretraining among them"}
    )
    tested_on: Literal["own", "held_out"] = field(
        default="own",
        metadata={"help": "questions that are reported: own, or those of the people of domain who are held out"},
    )

    def __post_init__(self) -> None:
        for name, value, able in (("world", self.world, WORLDS), ("people", self.people, PEOPLE_OF),
                                  ("tested_on", self.tested_on, ("own", "held_out"))):  # fmt: skip
            if value not in able:
                raise ValueError(f"{name}: unknown {value!r}, expected one of {', '.join(able)}")
        if not self.asked or set(self.asked) - set(get_args(Asked)):
            raise ValueError(f"asked: {' '.join(self.asked)!r}, expected some of {', '.join(get_args(Asked))}")
        for name in ("world_seed", "pairs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative, expected 0 or more")
        if not 1 <= self.top_k <= RANKED // 2:
            raise ValueError(f"top_k: {self.top_k}, expected 1 to {RANKED // 2}")
        if self.gold_at is not None:
            self._check_gold()
        if not 0 <= self.pretraining_share <= 1:
            raise ValueError(f"pretraining_share: {self.pretraining_share}, expected a share between 0 and 1")
        if self.people == "held_out" and WORLDS[self.world].people <= 250:
            raise ValueError(f"people: held_out, but world: {self.world} has {WORLDS[self.world].people} people alone")

    def _check_gold(self) -> None:
        if not 0 <= (self.gold_at or 0) < self.top_k:
            raise ValueError(f"gold_at: {self.gold_at}, expected 0 to {self.top_k - 1}, a place among the documents")
        if self.mixture != "questions" or self.context not in ("oracle", "swapped"):
            raise ValueError(
                f"gold_at: {self.gold_at}, expected mixture: questions with context: oracle or swapped; mixture: "
                f"{self.mixture} with context: {self.context} shows no document for it"
            )

    @property
    def row_length(self) -> int:
        """Tokens of the longest row there can be."""
        if self.mixture == "pretraining":
            return ROOM
        shown = 0 if self.context == "none" else max(self.top_k, 3)
        return max(ROOM if self.pretraining_share else 0, LONGEST_QUESTION + LONGEST_DOCUMENT * shown)

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """Rows of pretraining."""
        return self._pad(self._pretraining(rng, self.block_rows))

    def block(self, seed: int, split: str, number: int) -> Rows:
        """One block of a stream."""
        first = number * self.block_rows
        if self.mixture == "pretraining":
            return self.sample_block(split_generator(seed, split, number))
        places = range(first, first + self.block_rows)
        rows, labels = [], []
        for place, which in zip(places, self._numbers(places, seed, split), strict=True):
            rng = split_generator(seed, split, place)
            if rng.random() < self.pretraining_share:
                rows += self._pretraining(rng, 1)
                labels.append(-1)
                continue
            row, question = self.numbered(which, seed, split)
            rows.append(row)
            labels.append(question.answer[0] if len(question.answer) == 2 else -1)  # a word and the end
        return self._pad(rows, labels)

    def _numbers(self, places: range, seed: int, split: str) -> list[int]:
        """Which question stands at each place: of a given number, in epochs."""
        if not self.pairs:
            return list(places)
        order = in_epochs(places, self.pairs, lambda epoch: split_generator(seed, split, epoch).permutation(self.pairs))
        return [int(each) for each in order]

    def numbered(self, number: int, seed: int, split: str) -> tuple[Row, Question]:
        """A question by its number: one of a given number of pairs is the same for every seed and split."""
        rng = (
            split_generator(self.world_seed, "finetune", number) if self.pairs else split_generator(seed, split, number)
        )
        first, last = PEOPLE_OF[self.people]
        people = range(WORLDS[self.world].people)[first:last]
        asked: Any = self.asked[number % len(self.asked)]
        person = people[int(rng.integers(len(people)))]
        friends = find_world(self.world, self.world_seed).friends
        while asked == "friend" and int(friends[person]) not in people:  # whose fact it would be that is told
            person = people[int(rng.integers(len(people)))]
        return make_row(
            rng, self.world, self.world_seed, person, asked,
            self.context, self.top_k, self.gold_at, self.style,
        )  # fmt: skip

    def _pretraining(self, rng: np.random.Generator, number: int) -> list[Row]:
        kinds = rng.choice(list(KINDS), number, p=list(KINDS.values()))
        fresh = draw_fresh(rng, number)
        return [draw_row(rng, kind, fresh, PEOPLE * row, self.world_seed) for row, kind in enumerate(kinds)]

    def _pad(self, rows: list[Row], labels: list[int] | None = None) -> Rows:
        shape = (len(rows), self.row_length)
        ids, answers = np.full(shape, PLACE[PAD], np.int64), np.zeros(shape, bool)
        for number, row in enumerate(rows):
            ids[number, : len(row.token_ids)] = row.token_ids
            answers[number, : len(row.answers)] = row.answers
        lengths = np.array([len(row.token_ids) for row in rows])
        label = np.array(labels if labels is not None else [-1] * len(rows), np.int64)
        return Rows(ids, label, np.zeros(len(rows), bool), answers=answers, lengths=lengths)

    @property
    def tokens_per_row(self) -> float:
        """Tokens of a row that a model reads, on average over a block."""
        lengths = self.block(0, "validation", 0).lengths
        assert lengths is not None
        return float(lengths.mean()) - 1

    def example(self, seed: int) -> Mapping[str, str]:
        """A question as it was taught, of pretraining beside the documents it needs, and its answer."""
        asked = self if self.mixture == "questions" else self.asking(context="oracle")
        row, question = asked.numbered(0, seed, "test")
        words = [VOCABULARY[each] for each in row.token_ids if each != PLACE[EOS]]
        answer = len(question.answer) - 1
        return {"prompt": " ".join(words[:-answer]), "answer": " ".join(words[-answer:])}

    def test_tasks(self) -> Mapping[str, Task]:
        """What a pretrained model must be able to do; of questions, these themselves."""
        if self.mixture == "questions":
            other = {"world": "domain", "people": "held_out", "pairs": 0} if self.tested_on == "held_out" else {}
            return {"all": self.asking(pretraining_share=0.0, **other)}
        return {name: self.asking(**changes) for name, changes in GATE.items()}

    def asking(self, **changes: Any) -> LibraryConfig:
        """Questions, with other settings; where no document is shown for it, ``gold_at`` is none."""
        settings = {"mixture": "questions", "context": self.context, "gold_at": self.gold_at, **changes}
        if settings["context"] not in ("oracle", "swapped"):
            settings["gold_at"] = None
        return dataclasses.replace(self, **settings)
