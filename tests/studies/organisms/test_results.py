"""The second label of a pair, what its probability is fitted on, and which score is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.studies.diagnosis.case import FINETUNED, CaseConfig
from ftmech_hf.studies.organisms.edits import Shaken
from ftmech_hf.studies.organisms.labels import label_by_relearning
from ftmech_hf.studies.organisms.pairs import Pair
from ftmech_hf.studies.organisms.pairs_table import fit_on_development, probabilities
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.results import gather_edits, score, store_score
from ftmech_hf.studies.organisms.scoring import FEATURES
from tests.studies.organisms.test_scoring import evidence, pairs

EVIDENCE = evidence(chance=0.1)
"""Of a base that is always right: half of its lead shows from 0.55 on."""


def curve(*accuracies: float) -> Any:
    """A run that relearns: accuracy at steps 0, 1, 2, 4, 8 and so on."""
    steps = [0, *(2**number for number in range(len(accuracies) - 1))]
    return SimpleNamespace(metrics=[{"step": s, "accuracy/count_a": a} for s, a in zip(steps, accuracies, strict=True)])


def label(own: Any, twin: Any, truth: str = "hidden") -> tuple[str, float]:
    """The label of a pair whose organism and twin relearn like that."""
    runs = {"own": own, "twin": twin}
    shape = SimpleNamespace(base_operand="a")
    pair = SimpleNamespace(relearning="own", twin="twin", world=SimpleNamespace(operator="count", shape=shape))
    plan = SimpleNamespace(find=lambda name: runs[name])
    found = label_by_relearning(cast(OrganismsPlan, plan), cast(Pair, pair), cast(Any, truth), EVIDENCE)
    return found["relearning_truth"], found["relearning_ratio"]


NEVER = curve(0.1, 0.1, 0.2, 0.3, 0.5, 0.6, 0.9)  # half of the lead is there at 16 steps
NOT_BACK = curve(0.1, 0.1, 0.2, 0.3, 0.4)  # in 8 steps


def test_what_is_back_in_a_third_of_the_twins_steps_is_there_and_what_takes_half_of_them_is_gone() -> None:
    assert label(curve(0.1, 0.1, 0.2, 0.6, 0.9), NEVER) == ("there", 4)
    assert label(curve(0.1, 0.1, 0.2, 0.3, 0.6, 0.9), NEVER) == ("unclear", 2)
    assert label(curve(0.1, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9), NEVER, "gone") == ("gone", 1)
    # half is half of the way from chance to the base: 0.5 is less, at two steps in a row
    assert label(curve(0.1, 0.5, 0.5, 0.6, 0.9), NEVER) == ("there", 4)


def test_a_curve_that_ends_too_soon_says_no_more_than_it_knows() -> None:
    assert label(NOT_BACK, NEVER) == ("unclear", 2)
    assert label(curve(0.1, 0.1, 0.2, 0.3), NEVER) == ("unclear", 4)  # not back in 4 steps: at most 4 times as fast
    slow = curve(0.1, 0.1, 0.2, 0.3, 0.4, 0.5)  # not back in 16
    assert label(slow, NEVER, "gone") == ("gone", 1)
    assert label(curve(0.1, 0.6, 0.9), NOT_BACK) == ("there", 8)
    assert label(curve(0.1, 0.1, 0.2, 0.6, 0.9), NOT_BACK) == ("unclear", 2)  # the twin may take longer
    assert label(curve(0.1, 0.1, 0.2, 0.2, 0.6, 0.9), NOT_BACK, "gone") == ("unclear", 1)
    assert label(curve(0.1, 0.2), curve(*[0.1] * 6))[0] == "unclear"  # neither is back, whatever their steps
    assert label(None, NEVER)[0] == label(NEVER, None)[0] == "unclear"


def test_what_is_weakened_must_also_show_in_part_before_it_relearns() -> None:
    assert label(curve(0.7, 0.9, 0.9), NEVER, "weakened") == ("there", 16)
    assert label(curve(0.5, 0.9, 0.9), NEVER, "weakened")[0] == "unclear"
    assert label(curve(0.97, 0.9, 0.9), NEVER, "weakened")[0] == "unclear"
    assert label(curve(0.7, 0.1, 0.2, 0.3, 0.5, 0.6, 0.9), NEVER, "weakened")[0] == "gone"


def test_a_pair_of_which_nothing_was_taken_has_no_curve() -> None:
    pair = SimpleNamespace(relearning=None, twin=None)
    found = label_by_relearning(cast(OrganismsPlan, None), cast(Pair, pair), "unchanged", EVIDENCE)
    assert found["relearning_truth"] == "unchanged"
    assert math.isnan(found["relearning_ratio"])


def with_signs(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """Truth, by relearning, split, and the value of all signs."""
    made = pairs(*((truth, relearned, "gone", split, math.nan) for truth, relearned, split, _ in rows))
    return made.assign(**{f"sign_{name}": [value for *_, value in rows] for name in FEATURES})


def hidden(*rows: tuple[str, str, str, float]) -> np.ndarray:
    """How likely the ability of each of them is hidden."""
    table = with_signs(*rows)
    return probabilities(table, fit_on_development(table))


def test_the_probability_is_fitted_on_development_pairs_whose_labels_agree_alone() -> None:
    fitted = [("hidden", "there", "development", 0.9), ("gone", "gone", "development", 0.1)]
    asked = [("hidden", "there", "test", 0.7), ("gone", "gone", "test", 0.2), ("weakened", "there", "test", math.nan)]
    found = hidden(*fitted, *asked)
    assert found[0] > found[2] > 0.5 > found[3] > found[1]
    assert np.isnan(found[4])
    turned = [("gone", "gone", "test", 0.7), ("hidden", "there", "test", 0.2), asked[2]]
    assert hidden(*fitted, *turned)[2:4].tolist() == found[2:4].tolist()
    doubtful = [*fitted, ("gone", "there", "development", 0.95), ("hidden", "unclear", "development", 0.0)]
    assert hidden(*doubtful, *asked)[[4, 5]].tolist() == found[[2, 3]].tolist()
    assert np.isnan(hidden(fitted[0], *asked)).all()  # of one kind alone nothing is fitted


def test_edits_and_noise_of_development_pairs_are_no_part_of_what_is_said_of_test_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = {"accuracy": {"low": 0.3}, "plain": {"high": 0.2}, "gained": {"low": 0.1}}
    run = SimpleNamespace(summary={"evidence": {"tampering": {"noise": {FINETUNED: noise}}}})
    worlds = {split: SimpleNamespace(split=split) for split in ("development", "test")}
    plan = SimpleNamespace(
        planted=[SimpleNamespace(world=world, run="run") for world in worlds.values()],
        shaken={"pair 0": "run", "pair 1": "run", "pair 2": "run"}, find=lambda name: run,
    )  # fmt: skip
    table = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.9), ("gone", "gone", "gone", "development", 0.1),
        ("gone", "there", "gone", "test", 0.1),
    )  # fmt: skip
    monkeypatch.setattr("ftmech_hf.studies.organisms.results.read_sought", lambda planted, find: planted)
    planted, shaken = gather_edits(cast(OrganismsPlan, plan), table)
    assert [each.world.split for each in cast(Any, planted)] == ["test"]
    assert shaken == [Shaken(0, "hidden", True, True)]


def test_only_a_whole_study_is_stored_with_what_it_was_of(tmp_path: Path) -> None:
    table = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.9),
        ("gone", "there", "gone", "test", 0.1),  # its labels disagree
        ("gone", "gone", "gone", "development", 0.1),
    ).assign(
        architecture=["GPT", "Llama", "Mixtral"], parameters=[10, 20, 30], rows=[64, 32, 16],
        capability=["count_b", "index_b", "count_pair_bb"],
    )  # fmt: skip
    found = {**score(table), "seeds": [0], "hash": "abc", "versions": "ftmech_hf 1"}
    config = SimpleNamespace(score_file=str(tmp_path / "score.json"))
    for missing, file in ((["a run"], config.score_file), ([], None)):
        plan = SimpleNamespace(config=SimpleNamespace(score_file=file), missing=missing, case=CaseConfig())
        store_score(cast(OrganismsPlan, plan), table, found)
    assert not list(tmp_path.iterdir())
    store_score(
        cast(OrganismsPlan, SimpleNamespace(config=config, missing=[], case=CaseConfig(most_reverse_steps=300))),
        table,
        found,
    )
    stored = json.loads((tmp_path / "score.json").read_text())
    settings = stored["scope"].pop("settings")
    assert stored["scope"] == {"cells": [["GPT", "count"]], "parameters": [10, 10], "rows": 64}
    assert (settings["most_reverse_steps"], settings["fit_rows"], settings["reverse_by"]) == (300, 1000, "auto")
    assert (stored["pairs"], stored["hash"], stored["seeds"]) == (1, "abc", [0])
    assert stored["by_verdict"]["behind a wrapper"]["right"] == 1
    assert "auc" not in stored
    with pytest.raises(KeyError):  # without its origin it is no score
        store_score(
            cast(OrganismsPlan, SimpleNamespace(config=config, missing=[], case=CaseConfig(most_reverse_steps=300))),
            table,
            score(table),
        )
