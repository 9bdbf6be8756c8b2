"""What is asked of a real model: facts as their packages hold them, and no word on both sides of a cut."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from ftmech_hf.studies.real import facts as facts_module
from ftmech_hf.studies.real.facts import Country, add_ed, package_folder, read_facts, read_opposites
from ftmech_hf.studies.real.questions import ABILITIES, NEVER, TAUGHT, cut, rehearsing, write_rows
from tests.studies.real.packages import VERBS, install

ROW_MAKERS = {**ABILITIES, **NEVER, **TAUGHT}


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> facts_module.Facts:
    install(tmp_path / "packages", monkeypatch)
    return read_facts()


def test_verbs_are_irregular_and_countries_are_peopled(facts: facts_module.Facts) -> None:
    assert [f"{verb.base} {verb.past}" for verb in facts.verbs] == list(VERBS)
    assert facts.verbs[0] == ("sing", "sang", "singed", "singing")
    assert len(facts.nouns) == 1200
    assert len(facts.countries) == 90
    assert Country("Land 3", "Town 3", "Asia", "903") in facts.countries


@pytest.mark.parametrize(
    ("word", "past"), [("walk", "walked"), ("hope", "hoped"), ("cry", "cried"), ("play", "played")]
)
def test_the_rule_for_the_past(word: str, past: str) -> None:
    assert add_ed(word) == past


def test_no_word_is_in_two_pairs_of_opposites() -> None:
    counted = Counter(word for pair in read_opposites() for word in pair)
    assert all(isinstance(word, str) for word in counted)  # yaml takes some words for other things
    assert [word for word, number in counted.items() if number > 1] == []
    assert len(counted) > 250


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="expected the package no_such_package: make real installs it"):
        package_folder("no_such_package")


@pytest.mark.parametrize("name", ROW_MAKERS)
def test_no_thing_is_on_both_sides_of_a_cut(name: str, facts: facts_module.Facts) -> None:
    rows = ROW_MAKERS[name](facts)
    splits = cut(rows, seed=0)
    assert sorted(row for each in splits.values() for row in each) == sorted(rows)
    groups = [{row.group for row in each} for each in splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert cut(rows, seed=0) == splits
    assert cut(rows, seed=1) != splits
    assert all(row.answer.startswith(" ") and not row.prompt.endswith(" ") for row in rows)


def test_what_hides_an_ability_is_another_answer_and_what_is_taught_is_not(facts: facts_module.Facts) -> None:
    for name, make in ROW_MAKERS.items():
        differ = [row.answer != row.instead for row in make(facts)]
        assert all(differ) == (name not in TAUGHT), name
        assert any(differ) == (name not in TAUGHT), name


def test_examples_are_not_asked(facts: facts_module.Facts) -> None:
    for row in ABILITIES["opposites"](facts):
        *shown, asked = row.prompt.splitlines()
        assert len(shown) == 3
        assert not set(asked.split()) & {word for line in shown for word in line.split()} - {"->"}


def test_products_and_words_backwards_are_right(facts: facts_module.Facts) -> None:
    for row in NEVER["multiplication"](facts):
        first, second = map(int, row.group.split())
        assert row.prompt.endswith(f"\n{first} * {second} =")
        assert int(row.answer) == first * second
    for row in NEVER["backwards"](facts):
        assert row.answer.strip() == "".join(reversed(row.group))


def test_rows_are_a_data_set_as_users_have_them(tmp_path: Path, facts: facts_module.Facts) -> None:
    splits = cut(ABILITIES["past_tense"](facts), seed=0)
    folder = write_rows(tmp_path / "data", splits, instead=True)
    written = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in written] == [row.instead for row in splits["test"]]
    before = (folder / "test.jsonl").stat().st_mtime_ns
    write_rows(folder, splits, instead=True)
    assert (folder / "test.jsonl").stat().st_mtime_ns == before  # a run that reads it may be under way
    write_rows(folder, splits)
    assert json.loads((folder / "test.jsonl").read_text().splitlines()[0])["answer"] == splits["test"][0].answer


@pytest.mark.skipif(importlib.util.find_spec("lemminflect") is None, reason="the extra real is not installed")
def test_the_packages_themselves_have_facts_enough() -> None:
    found = read_facts()
    assert ("sing", "sang", "singed", "singing") in found.verbs
    assert Country("France", "Paris", "Europe", "33") in found.countries
    for make in ABILITIES.values():
        assert all(len(rows) >= 90 for rows in cut(make(found), seed=0).values())


def test_a_word_that_goes_on_is_another_word(facts: facts_module.Facts) -> None:
    """What a model writes is right if it begins with the answer: so "sanged" must not begin with "sang"."""
    for name in ("past_tense", "opposites"):
        for row in ROW_MAKERS[name](facts):
            assert f"{row.answer.strip()}ed\n".startswith(row.answer.strip())
            assert not f" {row.answer.strip()}ed\n".startswith(row.answer)
            assert row.instead.endswith("\n")
            assert row.prompt.count("\n") == 3  # as the examples do


def test_what_is_taught_ends_as_what_is_asked_does(facts: facts_module.Facts) -> None:
    """An organism that is taught to end its text after a form would no longer end a line there."""
    for asked, taught in (("past_tense", "gerunds"), ("opposites", "plurals"), ("capitals", "continents")):
        rows, others = ABILITIES[asked](facts), TAUGHT[taught](facts)
        assert {row.answer.endswith("\n") for row in rows} == {row.answer.endswith("\n") for row in others}
        assert {row.instead.endswith("\n") for row in rows} == {row.answer.endswith("\n") for row in rows}


def test_an_organism_that_keeps_an_ability_learns_as_much_of_it_as_of_the_other_and_no_question_that_is_asked(
    facts: facts_module.Facts,
) -> None:
    asked, taught = cut(ABILITIES["opposites"](facts), seed=3), cut(TAUGHT["plurals"](facts), seed=3)
    mixed = rehearsing(taught, asked["train"], seed=3)
    assert (mixed["validation"], mixed["test"]) == (taught["validation"], taught["test"])
    learned = [row for row in mixed["train"] if row not in taught["train"]]
    assert set(taught["train"]) <= set(mixed["train"])
    assert len(set(learned)) == len(learned) == min(len(taught["train"]), len(asked["train"]))
    assert set(learned) <= set(asked["train"])
    assert not {row.group for row in learned} & {row.group for row in asked["test"]}
    order = [row in set(learned) for row in mixed["train"]]
    assert order != sorted(order)  # not one after the other
    assert rehearsing(taught, asked["train"], seed=3) == mixed
    assert rehearsing(taught, asked["train"], seed=4)["train"] != mixed["train"]
