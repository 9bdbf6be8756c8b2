"""Small RASP programs of our own, of many shapes, on which instruments are scored: what each part carries is known.

Between them they have one to five layers, one to four heads, counts, comparisons, pointers, numbers and gates. A good
part of them computes something that its answer does not need: whoever points to it is wrong. Every expression has a
name, by which :class:`ftmech_hf.tasks.variables.Variables` and a compiled model's directions call it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ftmech_hf.tasks.programs import Program

Relation = Callable[[Any, Any], bool]
"""(key, query) -> whether it is selected."""


class _Rasp:
    """The operations of RASP with names, on words and indices."""

    def __init__(self) -> None:
        from tracr.rasp import rasp

        self.rasp, self.words, self.places = rasp, rasp.tokens, rasp.indices

    def pick(self, name: str, keys: Any, queries: Any, relation: Relation, values: Any) -> Any:
        """What the selected positions have in common."""
        return self.rasp.Aggregate(self.rasp.Select(keys, queries, relation), values).named(name)

    def width(self, name: str, keys: Any, queries: Any, relation: Relation) -> Any:
        """How many positions are selected."""
        return self.rasp.SelectorWidth(self.rasp.Select(keys, queries, relation)).named(name)

    def map(self, name: str, function: Callable[[Any], Any], inner: Any) -> Any:
        """A function of each value."""
        return self.rasp.Map(function, inner).named(name)

    def both(self, name: str, function: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
        """A function of two values at the same position."""
        return self.rasp.SequenceMap(function, first, second).named(name)

    def word_at(self, place: int, name: str = "answer") -> Any:
        """The word at a place, everywhere."""
        return self.pick(name, self.places, self.places, lambda key, query: key == place, self.words)

    def back(self, steps: int, values: Any, name: str = "answer") -> Any:
        """What stood so many positions earlier."""
        return self.pick(name, self.places, self.places, lambda key, query: key == query - steps, values)

    def count(self, word: Any, name: str = "answer") -> Any:
        """How often a word stands in the text."""
        return self.width(name, self.words, self.words, lambda key, query: key == word)

    def flagged(self, flag: Any, values: Any = None, name: str = "answer") -> Any:
        """What stands where a flag is 1, or how many there are."""
        if values is None:
            return self.width(name, flag, self.words, lambda key, query: key == 1)
        return self.pick(name, flag, self.words, lambda key, query: key == 1, values)

    def follow(self, pointers: Any, name: str = "answer") -> Any:
        """The word at the place that a number names."""
        return self.pick(name, self.places, pointers, operator.eq, self.words)

    def pairs(self) -> Any:
        """Each word with its place."""
        return self.both("pair", lambda word, place: (word, place), self.words, self.places)

    def share(self, name: str, word: Any, relation: Relation = lambda key, query: True) -> Any:
        """The share of a word among the selected ones.

        From such a number tracr tells 1 / n apart and takes others for the nearest of these.
        """
        flags = self.rasp.numerical(self.map(f"{name}_each", lambda each: float(each == word), self.words))
        chosen = self.rasp.Select(self.places, self.places, relation)
        return self.rasp.numerical(self.rasp.Aggregate(chosen, flags, default=0).named(name))

    def without(self, answer: Any, *unused: Any) -> Any:
        """An answer that is put together with what it does not depend on."""
        for number, each in enumerate(unused):
            name = "answer" if number == len(unused) - 1 else f"kept_{number}"
            answer = self.both(name, lambda needed, idle: needed, answer, each)
        return answer


def _equal(first: Any, second: Any) -> str:
    return "same" if first == second else "other"


def _extreme_word(r: _Rasp, relation: Relation, name: str = "answer") -> Any:
    beyond = r.width("beyond", r.words, r.words, relation)
    return r.flagged(r.map("flag", lambda number: int(number == 0), beyond), r.words, name)


def _middle_word(r: _Rasp) -> Any:
    place = r.width("place", r.words, r.words, operator.lt)
    return r.flagged(r.map("flag", lambda number: int(number == 1), place), r.words)


def _earlier_same(r: _Rasp, name: str = "answer") -> Any:
    pairs = r.pairs()
    return r.width(name, pairs, pairs, lambda key, query: key[0] == query[0] and key[1] < query[1])


def _distinct(r: _Rasp) -> Any:
    return r.flagged(r.map("flag", lambda number: int(number == 0), _earlier_same(r, "earlier")))


def _neighbours_alike(r: _Rasp) -> Any:
    return r.flagged(r.both("flag", lambda one, other: int(one == other), r.words, r.back(1, r.words, "previous")))


def _so_far(r: _Rasp, name: str, pairs: Any, word: Any) -> Any:
    """How often a word stands up to here."""
    return r.width(name, pairs, pairs, lambda key, query: key[0] == word and key[1] <= query[1])


def _depth(r: _Rasp) -> Any:
    pairs = r.pairs()
    return r.both("answer", operator.sub, _so_far(r, "opened", pairs, "("), _so_far(r, "closed", pairs, ")"))


def _gate(r: _Rasp) -> Any:
    choices = r.both("choices", lambda second, last: (second, last), r.word_at(1, "second"), r.word_at(3, "last"))
    return r.both("answer", lambda first, both: both[int(first == "a")], r.word_at(0, "first"), choices)


def _parity(r: _Rasp, places: int) -> Any:
    found = r.map("odd_0", lambda word: int(word == "a"), r.word_at(0, "word_0"))
    for place in range(1, places):
        name = "answer" if place == places - 1 else f"odd_{place}"
        found = r.both(name, lambda odd, word: (odd + (word == "a")) % 2, found, r.word_at(place, f"word_{place}"))
    return found


def _lead(r: _Rasp, weight: float) -> Any:
    shares = [r.share(f"share_{word}", word) for word in "ab"]
    lead = r.rasp.numerical(r.rasp.LinearSequenceMap(*shares, weight, -1).named("lead"))
    return r.map("answer", lambda number: "a" if number > 0 else "b" if number < 0 else "none", lead)


def _rare(r: _Rasp) -> Any:
    full = r.map("full", lambda number: number == 4, r.count("a", "number"))
    return r.both("answer", lambda all_a, word: "full" if all_a else word, full, r.words)


def _hops(r: _Rasp, number: int, name: str = "answer") -> Any:
    pointers = r.words
    for hop in range(number):
        pointers = r.follow(pointers, name if hop == number - 1 else f"{name}_hop_{hop}")
    return pointers


class _Made(NamedTuple):
    """How a program is written, on which words and how many, and at which of them its answer is read."""

    build: Callable[[_Rasp], Any]
    words: tuple[Any, ...]
    length: int
    at: int


AB, ABC, ABCD, NUMBERS = ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d"), (0, 1, 2, 3)

_SMALL = {
    # one head
    "first_word": _Made(lambda r: r.word_at(0), ABC, 4, 3),
    "second_word": _Made(lambda r: r.word_at(1), ABCD, 5, 4),
    "previous_word": _Made(lambda r: r.back(1, r.words), ABC, 5, 3),
    "next_word": _Made(lambda r: r.back(-1, r.words), ABC, 4, 1),
    "two_back": _Made(lambda r: r.back(2, r.words), ABCD, 6, 5),
    "mirrored_word": _Made(
        lambda r: r.pick("answer", r.places, r.places, lambda key, query: key == 3 - query, r.words), ABCD, 4, 0
    ),
    "follow_once": _Made(lambda r: _hops(r, 1), NUMBERS, 4, 0),
    # an MLP alone
    "shifted_word": _Made(lambda r: r.map("answer", lambda word: "bcda"["abcd".index(word)], r.words), ABCD, 3, 1),
    "kind_of_word": _Made(lambda r: r.map("answer", lambda word: word in "ae", r.words), tuple("abcde"), 3, 2),
    "word_and_place": _Made(
        lambda r: r.both("answer", lambda word, place: word * (1 + place % 2), r.words, r.places), ABC, 4, 2
    ),
    # a head and an MLP
    "count_a": _Made(lambda r: r.count("a"), ABC, 5, 2),
    "count_same": _Made(lambda r: r.width("answer", r.words, r.words, operator.eq), ABC, 4, 1),
    "count_smaller": _Made(lambda r: r.width("answer", r.words, r.words, operator.lt), ABCD, 4, 3),
    "count_larger": _Made(lambda r: r.width("answer", r.words, r.words, operator.gt), NUMBERS, 5, 0),
    "count_earlier_same": _Made(_earlier_same, AB, 4, 3),
    "parity_of_a": _Made(lambda r: r.map("answer", lambda number: number % 2, r.count("a", "number")), AB, 5, 0),
    "several_a": _Made(lambda r: r.map("answer", lambda number: number > 1, r.count("a", "number")), ABCD, 5, 4),
    "like_the_first": _Made(lambda r: r.both("answer", _equal, r.word_at(0, "first"), r.words), ABC, 4, 2),
    "ends_alike": _Made(lambda r: r.both("answer", _equal, r.word_at(0, "first"), r.word_at(4, "last")), ABC, 5, 1),
    # several layers
    "two_steps_back": _Made(lambda r: r.back(1, r.back(1, r.words, "previous")), ABC, 5, 4),
    "three_steps_back": _Made(lambda r: r.back(1, r.back(1, r.back(1, r.words, "one"), "two")), ABC, 5, 4),
    "follow_twice": _Made(lambda r: _hops(r, 2), NUMBERS, 4, 1),
    "follow_three_times": _Made(lambda r: _hops(r, 3), (0, 1, 2), 3, 2),
    "count_of_first": _Made(
        lambda r: r.width("answer", r.words, r.word_at(0, "first"), operator.eq), ABC, 4, 3
    ),
    "word_at_count": _Made(
        lambda r: r.pick("answer", r.places, r.count("a", "number"), lambda key, query: key == query % 4, r.words),
        ABC, 4, 3,
    ),
    "smallest_word": _Made(lambda r: _extreme_word(r, operator.lt), ABCD, 4, 1),
    "largest_word": _Made(lambda r: _extreme_word(r, operator.gt), ABC, 5, 4),
    "middle_word": _Made(_middle_word, tuple("abcde"), 3, 2),
    "distinct_words": _Made(_distinct, ABC, 4, 0),
    "neighbours_alike": _Made(_neighbours_alike, AB, 5, 4),
    "depth_of_brackets": _Made(_depth, ("(", ")"), 4, 3),
    # several heads side by side
    "a_less_b": _Made(lambda r: r.both("answer", operator.sub, r.count("a", "as"), r.count("b", "bs")), ABC, 4, 3),
    "more_a_than_b": _Made(lambda r: r.both("answer", operator.gt, r.count("a", "as"), r.count("b", "bs")), ABC, 5, 1),
    "gate": _Made(_gate, ABC, 4, 2),
    "parity_of_three": _Made(lambda r: _parity(r, 3), AB, 4, 3),
    "parity_of_four": _Made(lambda r: _parity(r, 4), AB, 5, 2),
    # numbers
    "some_a": _Made(
        lambda r: r.map("answer", lambda share: "some" if share > 0 else "none", r.share("share", "a")), ABC, 5, 3
    ),
    "mostly_a_so_far": _Made(
        lambda r: r.map("answer", lambda share: "most" if share > 0.4 else "few", r.share("share", "a", operator.le)),
        AB, 5, 2,
    ),
    "who_leads": _Made(partial(_lead, weight=1), ABC, 3, 0),
    "who_leads_twice": _Made(partial(_lead, weight=2), ABC, 3, 2),
    # with parts that the answer does not need
    "first_beside_count": _Made(lambda r: r.without(r.word_at(0, "needed"), r.count("a", "idle")), ABC, 4, 2),
    "count_beside_previous": _Made(
        lambda r: r.without(r.count("a", "needed"), r.back(1, r.words, "idle")), ABC, 4, 3
    ),
    "second_beside_pointers": _Made(
        lambda r: r.without(r.word_at(1, "needed"), _hops(r, 3, "idle")), (0, 1, 2), 3, 2
    ),
    "smallest_beside_last": _Made(
        lambda r: r.without(_extreme_word(r, operator.lt, "needed"), r.word_at(3, "idle")), ABC, 4, 1
    ),
    "parity_beside_parity": _Made(
        lambda r: r.without(
            r.map("needed", lambda number: number % 2, r.count("a", "as")),
            r.map("idle", lambda number: number % 2, r.count("b", "bs")),
        ), ABC, 4, 3,
    ),
    "pointers_beside_two": _Made(
        lambda r: r.without(_hops(r, 2, "needed"), r.word_at(0, "idle"), r.count(1, "idle_too")), (0, 1, 2), 3, 0
    ),
    "own_beside_pairs": _Made(
        lambda r: r.without(r.map("needed", str.upper, r.words), _earlier_same(r, "idle")), AB, 4, 2
    ),
    "times_nothing": _Made(
        lambda r: r.both("answer", lambda some, word: (0 * some, word), r.count("a", "some"), r.word_at(3, "last")),
        ABC, 4, 2,
    ),
    "rarely_needed": _Made(_rare, AB, 4, 1),
}  # fmt: skip


def _build(made: _Made) -> Any:
    return made.build(_Rasp())


SMALL_PROGRAMS: dict[str, Program] = {
    name: Program(name, made.words, made.length, partial(_build, made), answer_position=made.at + 1)
    for name, made in _SMALL.items()
}
"""Name -> program; its texts are as long as they may be, and its answer is read at one position."""
