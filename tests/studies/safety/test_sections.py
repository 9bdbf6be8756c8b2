"""The page's pictures, drawn from tables that are made up: all of them, what they name, and who can use them."""

from __future__ import annotations

import fnmatch
import itertools
import json

import pandas as pd
import pytest

from ftmech_hf.report.page import Section
from ftmech_hf.studies.safety.answers import ASKED
from ftmech_hf.studies.safety.claims import MEASUREMENTS
from ftmech_hf.studies.safety.plan import ANALYSES, FORGETTING, NEVER_THE_PAPERS, PROTOCOLS, THE_PAPERS
from ftmech_hf.studies.safety.results import runs_table
from ftmech_hf.studies.safety.sections import build_sections
from tests.studies.safety.made_up import lines

SEEDS = (0, 1)
OF_ANSWERS = ("What the models answer", "What attacks do", "How far attacks come", "Soft tokens")


def answers() -> pd.DataFrame:
    """Shares that differ from model to model and from seed to seed."""
    models = ("base", "never", *PROTOCOLS, *(f"{name}-slow" for name in THE_PAPERS), *NEVER_THE_PAPERS)
    parts = ("first", "whole", "after_3")
    return pd.DataFrame(
        [
            {"seed": seed, "model": model, "mixture": mixture, "unsafe": sort, "rows": 100,
             **{f"{answer}_{part}": (place + seed) / 20 for answer in ("complies", "refuses") for part in parts}}
            for seed in SEEDS for place, model in enumerate(models)
            for mixture, sort in (*((each, "all") for each in ASKED), ("unsafe", "by text"))
        ]
    )  # fmt: skip


def table(name: str, *columns: tuple[str, list[object]], **fixed: object) -> pd.DataFrame:
    """Every combination of values, of every seed and every model of an analysis; ``value`` rises along them."""
    rows = itertools.product(SEEDS, ANALYSES[name].models, *(values for _, values in columns))
    names = ("seed", "model", *(column for column, _ in columns))
    found = pd.DataFrame([{**dict(zip(names, row, strict=True)), **fixed} for row in rows])
    return found.assign(value=[0.2 + 0.6 * place / len(found) for place in range(len(found))])


def made_up() -> dict[str, pd.DataFrame | None]:
    mixtures: tuple[str, list[object]] = ("mixture", ["safe", "unsafe", "co_text_2", "misgen"])
    matrices: list[object] = ["h.0.mlp", "h.1.mlp"]
    clusters = table(
        "clusters", mixtures, ("layer", [0, 1, 2]), ("answers", ["all", "succeeded", "failed"]), kinds="own"
    )
    dealt = table("clusters", ("mixture", ["safe", "unsafe"]), ("layer", [0, 1, 2]), kinds="by chance", answers="all")
    middle = (clusters["model"] == ANALYSES["clusters"].models[2]) & (clusters["answers"] == "succeeded")
    along = runs_table(
        {seed: {model: lines(own={each: (0.4, 0.5) for each in (-0.5, 0.0, 1.0, 1.5)}, random={1.5: (0.4, 0.5)})
                for model in ANALYSES["lines"].models} for seed in SEEDS}  # type: ignore[misc]
    )  # fmt: skip
    kinds: list[object] = ["action", "action of a random change", "input gradient"]
    return {
        "clusters": pd.concat([clusters[~middle], dealt]).rename(columns={"value": "safe_side"}),
        "changes": pd.concat([
            table("changes", ("matrix", matrices), quantity="weights", outside=0.7, random_outside=0.8),
            table("changes", mixtures, ("quantity", kinds), answers="all"),
            table("changes", mixtures, ("token", list(range(12))), quantity="divergence"),
        ]),
        "lines": along,
        "direction": table(
            "direction", ("what", ["nothing", "taken out", "put in"]), ("direction", ["none", "refusal", "random 0"]),
            ("prompts", ["safe", "unsafe"]), answer="refused",
        ),
        "relearning": table(
            "relearning", ("way", ["ten", "safe", "one"]), ("unsafe", ["all", "others by text"]), ("step", [0, 1, 32])
        ),
        "soft_tokens": table(
            "soft_tokens", ("number", [1, 4]), ("vectors", ["sought", "random"]), mixture="unsafe"
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    return build_sections(answers(), made_up())


def test_every_claim_leads_to_a_picture(sections: list[Section]) -> None:
    judged = [each.id for each in MEASUREMENTS if each.bar]
    assert [claim for claim in judged if not any(each.shows(claim) for each in sections)] == []
    for section in sections:
        for named in section.claims:
            assert fnmatch.filter(judged, named), named
    assert [each.title for each in sections if each.shows("shallow")] == ["How deep tuning goes"]


def test_a_legend_names_what_only_some_panels_show(sections: list[Section]) -> None:
    """In the middle panel no attack succeeded; the others have a curve of it, which must be named."""
    (stream,) = (each for each in sections if each.title == "Where they lie in the stream")
    curves = [each["name"] for each in json.loads(stream.touch)["curves"]]
    assert curves.count("attack that succeeded") == curves.count("attack that failed") - 1
    assert curves.count("unsafe, means of kinds by chance") == curves.count("unsafe")
    assert "attack that succeeded" in stream.alt


def test_curves_are_told_apart(sections: list[Section]) -> None:
    (again,) = (each for each in sections if each.title == "Tuned again")
    names = {each["name"] for each in json.loads(again.touch)["curves"]}
    assert names == {*THE_PAPERS, *FORGETTING, *NEVER_THE_PAPERS}


def test_what_is_not_finished_is_not_drawn(sections: list[Section]) -> None:
    some = build_sections(answers(), {**dict.fromkeys(ANALYSES), "soft_tokens": made_up()["soft_tokens"]})
    assert [each.title for each in some] == [each.title for each in sections if each.title in OF_ANSWERS]
