"""Facts that packages of the registry hold: verbs and nouns with their forms, countries. Data files are read, no code.

``lemminflect`` (verbs, nouns) and ``countryinfo`` come with the extra ``real``; opposites lie beside this file.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import yaml

LONGEST_VERB, LEAST_PEOPLE = 6, 10**6
"""Letters of a verb and people of a country, so that a small model has likely read of it."""


class Verb(NamedTuple):
    """A verb, its past tense, what that would be by the rule, and its form in -ing."""

    base: str
    past: str
    regular: str
    gerund: str


class Country(NamedTuple):
    """A country, its capital, its continent, and its calling code."""

    name: str
    capital: str
    region: str
    calling_code: str


class Facts(NamedTuple):
    """All facts that questions are made of.

    Attributes:
        verbs: those whose past tense is irregular.
        nouns: (singular, plural).
        countries: those with a million people or more.
        opposites: pairs of words.
    """

    verbs: list[Verb]
    nouns: list[tuple[str, str]]
    countries: list[Country]
    opposites: list[tuple[str, str]]


def read_facts() -> Facts:
    """Read all facts, each list in the order of its source.

    Raises:
        ImportError: a package is not there.
    """
    forms = gzip.decompress((package_folder("lemminflect") / "resources" / "infl_lu.csv.gz").read_bytes()).decode()
    lines = [line.split(",") for line in forms.splitlines()]
    countries = sorted((package_folder("countryinfo") / "data").glob("*.json"))
    return Facts(
        verbs=irregular_verbs(lines),
        nouns=plain_nouns(lines),
        countries=known_countries([json.loads(path.read_text(encoding="utf-8")) for path in countries]),
        opposites=[(first, second) for first, second in read_opposites()],
    )


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported.

    Raises:
        ModuleNotFoundError: it is not there.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"expected the package {name}: make real installs it, with all that this study needs")
    return Path(found.origin).parent


def irregular_verbs(lines: list[list[str]]) -> list[Verb]:
    """The verbs of a table of forms that have one past tense, and not by the rule.

    Args:
        lines: lemma, kind, and for a verb its past tense, participle, form in -ing and third person.
    """
    found = []
    for word, kind, *forms in lines:
        if kind != "verb" or len(forms) != 4 or not _is_plain(word, forms[0], forms[2]) or len(word) > LONGEST_VERB:
            continue
        regular = add_ed(word)
        by_rule = {regular, f"{word}ed", f"{word}{word[-1]}ed", f"{word}ked", word}
        if forms[0] not in by_rule and not forms[0].endswith("s"):
            found.append(Verb(word, forms[0], regular, forms[2]))
    return found


def add_ed(word: str) -> str:
    """The past tense of a verb by the rule, without the doubling of letters."""
    if word.endswith("e"):
        return f"{word}d"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ied"
    return f"{word}ed"


def plain_nouns(lines: list[list[str]]) -> list[tuple[str, str]]:
    """Nouns of four or five letters that have one plural, another word than themselves."""
    return [
        (word, forms[0])
        for word, kind, *forms in lines
        if kind == "noun" and len(forms) == 1 and _is_plain(word, forms[0]) and 4 <= len(word) <= 5 and forms[0] != word
    ]


def _is_plain(*words: str) -> bool:
    return all(word.isascii() and word.isalpha() and word.islower() for word in words)


def known_countries(entries: list[dict[str, object]]) -> list[Country]:
    """Countries with a capital and a calling code of their own, and people enough.

    Args:
        entries: as countryinfo has them.
    """
    found = []
    for entry in entries:
        codes, people = entry.get("callingCodes"), entry.get("population")
        if not entry.get("capital") or not isinstance(codes, list) or not codes or not isinstance(people, int):
            continue
        if people >= LEAST_PEOPLE:
            found.append(Country(str(entry["name"]), str(entry["capital"]), str(entry["region"]), str(codes[0])))
    return found


def read_opposites() -> list[list[str]]:
    """Pairs of words that mean the opposite of each other; no word is in two pairs."""
    pairs: list[list[str]] = yaml.safe_load(Path(__file__).with_name("opposites.yaml").read_text(encoding="utf-8"))
    return pairs
