"""Facts about countries as a small collection to try things with: the data files of the package ``countryinfo``.

Two documents a country, with words that a question does not use, but for "of" and "the", which all documents have:
where few have them a retriever of words takes them for rare ones, and finds every question in the Republic of the
Congo. Two questions for one fact and one for both of the second document's. Every other country's questions are those
that are taught, ``train``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftmech_hf.retrieval.collection import Asked, Collection, Document

LEAST_PEOPLE = 10**6


def read_countries(source: Path, split: str) -> Collection:
    """The countries of a million people or more of which all facts are there, in the order of their names.

    Args:
        source: folder of the package's JSON files, one a country.
        split: what the questions that are not taught are called.
    """
    files = sorted(source.glob("*.json"))
    if not files:
        raise ValueError(f"source: {source} holds no JSON file, expected countryinfo's folder data")
    known = [row for path in files if _whole(row := json.loads(path.read_text(encoding="utf-8")))]
    known.sort(key=lambda row: str(row["name"]))
    documents, questions = list[Document](), list[Asked]()
    for number, row in enumerate(known):
        documents += _documents(row)
        questions += _questions(row, "train" if number % 2 else split)
    return Collection(tuple(questions), tuple(documents))


def _whole(row: dict[str, Any]) -> bool:
    named = all(row.get(each) for each in ("name", "capital", "subregion", "callingCodes", "currencies"))
    return named and (row.get("population") or 0) >= LEAST_PEOPLE


def _documents(row: dict[str, Any]) -> Iterator[Document]:
    name, code, money = row["name"], row["callingCodes"][0], row["currencies"][0]
    place = f"{name} lies in the region of {row['subregion']}, governed from {row['capital']}."
    codes = f"One dials +{code} to reach {name}, where the prices of goods stand in {money}."
    yield Document(f"{name}-place", name, place)
    yield Document(f"{name}-codes", name, codes)


def _questions(row: dict[str, Any], split: str) -> Iterator[Asked]:
    name, code, money = row["name"], str(row["callingCodes"][0]), row["currencies"][0]
    dialled, capital = (f"+{code}", code), (row["capital"],)
    asked = (
        ("capital", "What is the capital", capital, (capital,), "place"),
        ("calling", "What is the calling code", dialled, (dialled,), "codes"),
        ("both", "What are the calling code and the currency code", (f"+{code}, {money}", f"+{code} and {money}"),
         (dialled, (money,)), "codes"),
    )  # fmt: skip
    for kind, words, answers, facts, document in asked:
        yield Asked(f"{name}-{kind}", f"{words} of {name}?", answers, facts, (f"{name}-{document}",), split)
