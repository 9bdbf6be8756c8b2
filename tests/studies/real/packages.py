"""Stand-ins for the packages of the extra ``real``: a few words and countries in the files that those have."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

VERBS = ("sing sang", "swim swam", "drink drank", "begin began", "ring rang", "sink sank", "run ran", "come came",
         "know knew", "grow grew", "throw threw", "blow blew", "draw drew", "drive drove", "ride rode", "rise rose",
         "speak spoke", "break broke", "steal stole", "freeze froze", "wear wore", "swear swore", "find found",
         "bind bound", "hold held", "feel felt", "keep kept", "sleep slept", "sweep swept", "win won")  # fmt: skip
OTHERS = [
    "walk,verb,walked,walked,walking,walks",  # by the rule
    "stop,verb,stopped,stopped,stopping,stops",
    "learn,verb,learned/learnt,learned,learning,learns",  # two past tenses
    "understand,verb,understood,understood,understanding,understands",  # long
    "beware,verb,,,,",
    "login,verb,logged-in,logged-in,logging,logins",
    "London,noun,Londons", "sheep,noun,sheep", "fish,noun,fish/fishes",
]  # fmt: skip


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages ``lemminflect`` and ``countryinfo`` that are found before any others.

    Args:
        folder: where they are written.
        monkeypatch: puts them on the path.
    """
    verbs = [f"{base},verb,{past},{past},{base}ing,{base}s" for base, past in (pair.split() for pair in VERBS)]
    made = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefghijklm", repeat=4), 1200)]
    lines = [*verbs, *OTHERS, *(f"{word},noun,{word}s" for word in made)]
    words = folder / "lemminflect" / "resources"
    countries = folder / "countryinfo" / "data"
    for place in (words, countries):
        place.mkdir(parents=True)
        (place.parent / "__init__.py").write_text("raise AssertionError('no code of it is run')\n")
    (words / "infl_lu.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for number in range(90):
        entry = {"name": f"Land {number}", "capital": f"Town {number}", "region": "Asia", "population": 10**6 + number,
                 "callingCodes": [str(900 + number)]}  # fmt: skip
        (countries / f"land_{number}.json").write_text(json.dumps(entry))
    (countries / "rock.json").write_text(json.dumps({**entry, "name": "Rock", "population": 12}))
    (countries / "ice.json").write_text(json.dumps({**entry, "name": "Ice", "capital": ""}))
    monkeypatch.syspath_prepend(str(folder))
