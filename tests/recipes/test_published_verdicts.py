"""A published verdict is that of the interval, the bar and the controls that stand in the code today."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from ftmech_hf.report.claims import Measurement, decide
from ftmech_hf.report.readings import Ends
from ftmech_hf.studies.compare_organisms import claims as compare_organisms
from ftmech_hf.studies.continual import claims as continual
from ftmech_hf.studies.continual.stories import claims as continual_stories
from ftmech_hf.studies.organisms.claims import ALL_BARS
from ftmech_hf.studies.pcfg import claims as pcfg
from ftmech_hf.studies.retrieval import claims as retrieval
from ftmech_hf.studies.safety import claims as safety
from ftmech_hf.studies.safety import texts_page
from ftmech_hf.studies.tinystories import claims as tinystories
from tests.recipes.commands import block_of

MEASURED: dict[str, Sequence[Measurement]] = {
    "results": pcfg.MEASUREMENTS, "stories claims": tinystories.CLAIMS, "safety": safety.MEASUREMENTS,
    "safety of texts": texts_page.MEASURED, "continual": continual.MEASUREMENTS,
    "continual stories claims": continual_stories.MEASUREMENTS, "retrieval": retrieval.MEASUREMENTS,
    "organisms": ALL_BARS, "compare organisms": compare_organisms.BARS,
}  # fmt: skip
"""Block of a README -> what its claims are made of, in their order."""


def ends_of(text: str) -> Ends | None:
    """An interval as it is written."""
    if text == "—":
        return None
    if text.endswith("or more"):
        return float(text.split()[0]), None
    if text.startswith("up to"):
        return None, float(text.split()[-1])
    low, high = text.split(" to ")
    return float(low), float(high)


def published(block: str) -> list[tuple[Measurement, Ends | None, str]]:
    """Every claim with a bar that stands in a block: what it is, its interval and its verdict."""
    left, found = list(MEASURED[block]), []
    for line in block_of(block).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 5 or not re.fullmatch(r"[<>]= -?[\d.]+", cells[-2]):
            continue
        while left and left[0].statement != cells[0]:
            left.pop(0)
        assert left, f"{cells[0]}: no such claim, or not in this order"
        measurement = left.pop(0)
        assert measurement.bar == cells[-2], measurement.id
        found.append((measurement, ends_of(cells[-3]), cells[-1]))
    return found


def is_at_its_bar(ends: Ends | None, bar: str) -> bool:
    """Whether an end is the bar as it is written, so that rounding hides on which side it is."""
    return ends is not None and float(bar.split()[1]) in ends


def names_of(said: str, block: str, controls: Sequence[str]) -> list[str]:
    """Which of a claim's controls its verdict names by what they state, behind what that leans on."""
    found, known = [], [each for each in MEASURED[block] if each.id in controls]
    for stated in re.findall(r"\*([^*]*)\*", said):
        (name,) = (each.id for each in known if re.fullmatch(rf"(.*\. )?{re.escape(each.statement)}", stated))
        found.append(name)
    return found


@pytest.mark.parametrize("block", MEASURED)
def test_a_published_verdict_follows_from_what_stands_beside_it(block: str) -> None:
    rows = published(block)
    assert rows
    rounded = {each.id for each, ends, _ in rows if is_at_its_bar(ends, each.bar)}
    known = {each.id: decide(ends, each.bar) for each, ends, said in rows if not said.startswith("not judged")}
    for each, ends, said in rows:
        if said == "not judged" or rounded & {each.id, *each.controls}:  # a seed is missing, or nobody can tell
            continue
        verdict = decide(ends, each.bar)
        fail = [name for name in each.controls if known.get(name) == "fails"]
        if verdict == "holds" and fail:
            assert re.search(r" withdrawn: its controls? \*.*\* fails?$", said), each.id
            assert names_of(said, block, each.controls) == fail, each.id
        elif verdict == "holds" and any(name not in known for name in each.controls):
            assert said.startswith("not judged: control"), each.id
        else:
            assert said.partition(";")[0].split()[-1] == verdict, each.id
            known_open = [name for name in each.controls if known[name] == "undecided"] if verdict == "holds" else []
            assert not known_open or re.search(r"; its controls? \*.*\* (is|are) undecided", said), each.id
            assert names_of(said, block, each.controls) == known_open, each.id
