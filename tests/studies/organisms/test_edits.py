"""Planted edits: where they are planted, when they count as found, and what is claimed of them and of noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from ftmech_hf.models.presets import find_preset
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.clusters import widened_by_clusters
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.organisms.edits import (
    Planted,
    Shaken,
    Sought,
    _mean,
    describe_edit,
    edit_claims,
    planted_places,
    read_noise,
    read_sought,
    score_edits,
)
from ftmech_hf.studies.organisms.pairs import World
from ftmech_hf.tasks import PcfgShape
from recipes.readme.organisms import edits_tables

OTHER = "attn of block 5"
WORLD = cast(
    World,
    SimpleNamespace(operator="count", preset="nano", seed=3, shape=PcfgShape(base_operand="b", correlated_operand="c")),
)


def looked_for(place: str, found: tuple[str, int] | None, *, restored: float = 1.0, by_chance: float = 0.0,
               tried: bool = True, most: str = "mlp of block 2", next_most: str = "attn of block 9",
               without_other: float = 0.2) -> Sought:  # fmt: skip
    """An edit, and the run that looked for it, in which two parts of blocks changed most."""
    edit = found and {"place": found[0], "directions": found[1], "size": 0.5, "restored": restored,
                      "restored_by_chance": by_chance, "accuracy": {}}  # fmt: skip
    sizes = {"block 2": 0.9, "all blocks": 1.0, "everything": 1.0, most: 0.6, next_most: 0.5, "ln_1 of block 0": 0.1}
    share = "share of the change"
    rows = [("scaled", None, 1.0, 0.5), *((share, site, 0, value) for site, value in sizes.items()),
            (share, next_most, 1, 0.7), ("tried on validation rows", most, 0, 0.99),
            *(("tried on validation rows", OTHER, *each) for each in ((1, 0.5), (0, without_other)))]  # fmt: skip
    table = pd.DataFrame(rows if tried else rows[:1], columns=["quantity", "site", "x", "value"])
    evidence = {"smallest_edit": edit, "base": {"value": 1.0}, "finetuned": {"value": 0.2}}
    run = SimpleNamespace(summary={"evidence": evidence}, table=table)
    planted = Planted(WORLD, place, "run", OTHER, "taken", "kept")
    return Sought(planted, cast(FinishedRun, run), left=0.125, kept=0.975)


def test_they_stand_in_every_part_of_every_block_that_an_adapter_takes() -> None:
    places = planted_places(find_preset("nano"))
    assert places["attn of block 0"] == "0.attn.c_proj"
    assert places["mlp of block 2"] == "2.mlp.c_proj"
    assert len(places) == 6
    assert planted_places(find_preset("nano-llama"))["mlp of block 1"] == "1.mlp.down_proj"
    assert list(planted_places(find_preset("nano-moe"))) == [f"self_attn of block {block}" for block in range(3)]
    assert planted_places(find_preset("nano-library")) == {}


def test_an_edit_is_found_in_its_place_and_in_one_direction_alone() -> None:
    edits = [
        looked_for("attn of block 0", ("attn of block 0", 1), restored=0.9, by_chance=0.1),
        looked_for("attn of block 1", ("attn of block 1", 2), restored=1.0, by_chance=-0.1),
        looked_for("attn of block 2", ("mlp of block 2", 1), restored=0.8, by_chance=0.3),
        looked_for("mlp of block 0", ("mlp of block 0", 0), restored=1.0, by_chance=0.1),  # all that changed there
        looked_for("mlp of block 1", None),  # none brings it back
        looked_for("mlp of block 2", None, tried=False),  # nothing is lost
    ]
    score = score_edits(edits, [])
    assert [row["found"] for row in score["places"]] == [True, False, False, False, False]
    assert score["places"][0]["planted"] == "attn of block 0, count, nano, seed 3"
    assert [each["planted"] for each in score["too_little"]] == ["mlp of block 2, count, nano, seed 3"]
    assert [row["found_in"] for row in score["places"]][2:] == ["mlp of block 2", "mlp of block 0", None]
    assert (score["planted"], score["edit_found"]["of"], score["edit_found"]["value"]) == (6, 5, 0.2)
    assert score["edit_by_chance"] is None, "one alone was found, and others are not what was planted"
    assert score["edit_restores"]["value"] == pytest.approx(0.74), "what nothing brings back counts, too"
    assert score["edit_by_rule"]["value"] == 0
    assert score["noise_rises"] is None
    assert [claim.id for claim in edit_claims(score)] == ["edit_found", "edit_by_rule"]


def test_edits_of_one_base_that_are_alike_are_no_many() -> None:
    alike = _mean([(seed, 0.1 * seed) for seed in range(5) for _ in range(6)])
    mixed = _mean([(number % 5, 0.1 * (number // 6)) for number in range(30)])
    assert alike is not None
    assert mixed is not None
    assert alike["value"] == pytest.approx(0.2) == mixed["value"]
    low, high = scipy.stats.t.interval(0.95, 4, 0.2, np.std([0, 0.1, 0.2, 0.3, 0.4], ddof=1) / 5**0.5)
    assert (alike["low"], alike["high"]) == (pytest.approx(low), pytest.approx(high)), "five bases, and no thirty"
    assert mixed["high"] - mixed["low"] < 0.6 * (high - low)


def test_what_needs_no_search_is_tried_by_size_and_by_order() -> None:
    edits = [
        looked_for("attn of block 0", None), looked_for("mlp of block 2", None),
        looked_for("attn of block 1", None, most="attn of block 1"),
        looked_for("attn of block 2", None, next_most="attn of block 2"),
        looked_for("mlp of block 0", None, most="attn of block 10", next_most="mlp of block 0"),
    ]  # fmt: skip
    score = score_edits(edits, [])
    assert [row["by_rule"] for row in score["places"]] == [
        [], ["larger", "earlier"], ["larger", "earlier"], ["smaller", "earlier"], ["smaller", "earlier"]
    ]  # fmt: skip
    assert score["by_rule"] == {"larger": 2, "smaller": 2, "earlier": 4, "later": 0}
    assert (score["edit_by_rule"]["value"], score["edit_by_rule"]["of"]) == (0.8, 5)
    assert {row["other"] for row in score["places"]} == {OTHER}


def test_the_other_edit_is_described_by_what_it_took_and_by_what_comes_back_without_it() -> None:
    runs = {
        "run": looked_for("attn of block 0", None, without_other=0.6).run,
        "taken": SimpleNamespace(metrics=[
            {"step": 0, "accuracy/token_at_null": 1.0}, {"step": 300, "loss": 1.0, "accuracy/token_at_null": 0.25}
        ]),
        "kept": SimpleNamespace(table=pd.DataFrame({"alpha": [1.0], "count_b": [0.9], "count_c_cte0": [0.1]})),
    }  # fmt: skip
    planted = Planted(WORLD, "attn of block 0", "run", OTHER, "taken", "kept")
    sought = read_sought(planted, lambda name: cast(FinishedRun, runs[name]))
    assert sought is not None
    told = describe_edit(sought)
    assert (told["other_left"], told["kept"], told["place"], told["model"]) == (
        0.25, 0.9, "attn of block 0", "count, nano"
    )  # fmt: skip
    assert told["without_other"] == pytest.approx(0.5), "of the lead from 0.2 to 1"
    for missing in runs:
        assert (
            read_sought(planted, lambda name, gone=missing: None if name == gone else cast(FinishedRun, runs[name]))
            is None
        )


def test_of_a_study_that_is_not_whole_nothing_is_judged() -> None:
    edits = [looked_for("attn of block 0", ("attn of block 0", 1), by_chance=0.01 * n) for n in range(80)]
    claims = edit_claims(score_edits(edits, [Shaken(3, "hidden", True, True)] * 80), whole=False)
    assert {claim.verdict for claim in claims} == {None}
    assert claims[0].measured == 100


def test_noise_is_judged_by_the_intervals_of_both_and_by_that_of_the_difference() -> None:
    found = {"accuracy": {"low": 0.3}, "plain": {"high": 0.25}, "gained": {"low": 0.02}}
    assert read_noise(3, "hidden", found) == Shaken(3, "hidden", True, True)
    assert read_noise(3, "hidden", {**found, "plain": {"high": 0.3}}) == Shaken(3, "hidden", False, True)
    assert read_noise(3, "gone", {**found, "gained": {"low": 0.0}}) == Shaken(3, "gone", True, False)
    with pytest.raises(ValueError, match="noise: was measured by an earlier version; remove the runs named shaken"):
        read_noise(3, "hidden", {"accuracy": {"low": 0.3}, "rises": False})


def test_noise_is_counted_by_what_is_true() -> None:
    shaken = [
        *[Shaken(3, "hidden", True, True)] * 2, Shaken(3, "hidden", True, False), Shaken(3, "hidden", False, False),
        Shaken(3, "gone", False, True), Shaken(3, "weakened", True, True),
    ]  # fmt: skip
    score = score_edits([], shaken)
    assert score["noise"] == {
        "hidden": {"rises": 3, "gains": 2, "of": 4}, "gone": {"rises": 0, "gains": 1, "of": 1},
        "weakened": {"rises": 1, "gains": 1, "of": 1},
    }  # fmt: skip
    assert (score["noise_gains"]["value"], score["noise_gains_alarms"]["value"]) == (0.5, 1)
    assert score["noise_rises"]["value"] == 0.75
    assert (score["noise_alarms"]["value"], score["noise_alarms"]["of"]) == (0.5, 2)
    assert score["edit_found"] is None
    assert score["edit_by_chance"] is None


def test_an_interval_is_as_much_wider_as_pairs_of_a_seed_are_alike() -> None:
    """Forty pairs of eight seeds: all of four of them, or half of each."""
    alike = [Shaken(seed, "hidden", seed < 4, True) for seed in range(8) for _ in range(5)]
    mixed = [Shaken(seed, "hidden", (seed + number) % 2 == 0, True) for seed in range(8) for number in range(5)]
    wide, narrow = (score_edits([], each)["noise_rises"] for each in (alike, mixed))
    assert wide["value"] == narrow["value"] == 0.5
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])
    every = score_edits([], alike)["noise_gains"]
    assert every["low"] == widened_by_clusters(share_interval(40, 40), [True] * 40, [each.seed for each in alike]).low
    assert every["low"] < share_interval(40, 40).low - 0.02
    assert score_edits([], alike)["seeds"] == {"edits": [], "noise": [*range(8)]}


def by_id(score: dict[str, Any]) -> dict[str, Any]:
    return {claim.id: claim for claim in edit_claims(score)}


def test_claims_are_in_per_cent_with_their_bars() -> None:
    edits = [looked_for("attn of block 0", ("attn of block 0", 1), by_chance=0.01 * n) for n in range(80)]
    claims = by_id(score_edits(edits, [Shaken(3, "hidden", True, True)] * 80 + [Shaken(3, "gone", True, True)] * 20))
    assert {claims[name].verdict for name in ("noise_gains", "edit_by_rule")} == {"holds"}
    assert (claims["edit_found"].measured, claims["edit_found"].verdict) == (100.0, "holds")
    assert (claims["edit_by_chance"].measured, claims["edit_by_chance"].verdict) == (pytest.approx(39.5), "fails")
    assert (claims["noise_rises"].measured, claims["noise_rises"].verdict) == (100.0, "holds")
    assert (claims["noise_alarms"].measured, claims["noise_alarms"].verdict) == (100.0, "fails")
    assert claims["noise_alarms"].seeds == [3]


def test_a_table_counts_what_nothing_brings_back_as_nothing() -> None:
    edits = [
        looked_for("attn of block 0", ("attn of block 0", 1)), looked_for("mlp of block 1", None),
        looked_for("mlp of block 2", None, tried=False),
    ]  # fmt: skip
    planted, places, noise = edits_tables(score_edits(edits, [Shaken(3, "hidden", True, False)]))
    assert planted.splitlines()[-1] == (
        "| count, nano | 1 of 2 (1 more took too little) | 50% | 50% | 0% | 0% | 98% | 12% | 0, 0, 0, 0 |"
    )
    assert places.splitlines()[-3:] == [
        "| attn of block 0 | 1 of 1 | 0, 0, 0, 0 |", "| mlp of block 1 | 0 of 1 | 0, 0, 0, 0 |",
        "| mlp of block 2 | 0 of 0 (1 more took too little) | 0, 0, 0, 0 |",
    ]  # fmt: skip
    assert noise.splitlines()[-1] == "| hidden | 1 of 1 | 0 of 1 |"
    (alone,) = edits_tables(score_edits([], [Shaken(3, "gone", False, False)]))
    assert alone.splitlines()[-1] == "| gone | 0 of 1 | 0 of 1 |"
    lost, _, _ = edits_tables(score_edits(edits[1:2], []))
    assert lost.splitlines()[-1] == "| count, nano | 0 of 1 | — | 0% | — | 0% | 98% | 12% | 0, 0, 0, 0 |"
