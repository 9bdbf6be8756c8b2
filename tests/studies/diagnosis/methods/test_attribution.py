"""Neurons are ranked on validation rows, patched on test rows, and beside as many by chance."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from ftmech_hf.activations.patches import patched_logits, record_activations
from ftmech_hf.analysis.attribution import PlacedUnit, attribute_patches
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED
from ftmech_hf.studies.diagnosis.methods.attribution import (
    DRAWS,
    AttributionMethodResult,
    draw_attribution,
    explain_attribution,
    measure_attribution,
)
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_wrapped


def first(right: int, number: int = 40) -> np.ndarray:
    return np.arange(number) < right


def result(strongest: Mapping[int, int], by_chance: Mapping[int, int]) -> AttributionMethodResult:
    """Number of neurons -> how many of 40 rows are right."""
    return AttributionMethodResult(
        right={number: {"capability": first(right)} for number, right in strongest.items()},
        by_chance={number: np.tile(first(right), (DRAWS, 1)) for number, right in by_chance.items()},
        strongest=[PlacedUnit("mlp_act", 0, unit) for unit in (4, 2, 0, 1, 3)],
        groups={"capability": None},
    )


def test_the_fewest_that_bring_back_more_than_chance_and_than_none() -> None:
    found = result({0: 5, 1: 6, 3: 30, 10: 38, 12: 40}, {1: 5, 3: 5, 10: 5})
    assert found.fewest() == 3
    facts = found_by(found)[1]["neurons"]
    # chosen on every other row, reported on those between
    assert facts["accuracy"] == share_interval(15, 20)
    assert facts["by_chance"] == mean_over_draws(np.tile(first(5)[1::2], (DRAWS, 1)))
    assert facts["alone"] == share_interval(2, 20)
    assert [each["unit"] for each in facts["strongest"]] == [4, 2, 0]
    assert result({0: 5, 3: 30, 10: 38}, {3: 28, 10: 5}).fewest() == 10  # three by chance do as well
    assert result({0: 28, 3: 30, 10: 31}, {3: 5, 10: 5}).fewest() is None  # none do as well
    assert result({0: 5, 3: 30}, {}).fewest() is None  # all that there are show nothing about which


def test_what_is_said_and_drawn() -> None:
    found = result({0: 5, 1: 6, 3: 30}, {1: 5, 3: 5})
    table = pd.DataFrame(found.rows())
    assert table[["quantity", "x", "value", "reference"]].values.tolist() == [
        ["strongest neurons", 0, 5 / 40, False], ["strongest neurons", 1, 6 / 40, False],
        ["strongest neurons", 3, 30 / 40, False], ["neurons at random", 1, 5 / 40, True],
        ["neurons at random", 3, 5 / 40, True],
    ]  # fmt: skip
    said = explain_attribution({"evidence": {"neurons": found_by(found)[1]["neurons"] | {
        name: found_by(found)[1]["neurons"][name]._asdict() for name in ("accuracy", "by_chance", "alone")
    }}})  # fmt: skip
    assert "3 of 5 neurons bring accuracy from 10% to 75%, by chance to 10%; the first: 4 of block 0, 2 of" in said
    assert "bring back no more than neurons by chance" in explain_attribution({"evidence": {"neurons": None}})
    figure, axes = plt.subplots()
    draw_attribution(axes, table, "control")
    assert [list(each.get_ydata()) for each in axes.lines[:2]] == [[5 / 40, 6 / 40, 30 / 40], [5 / 40, 5 / 40]]
    plt.close(figure)


def test_it_ranks_on_validation_rows_and_patches_test_rows_exactly() -> None:
    case = make_case(make_wrapped("llama"), patch_rows=60)
    found = measure_attribution(case)
    base, finetuned = case.models[BASE], case.models[FINETUNED]
    validation, test = case.capability.validation[:60], case.few("capability")
    expected = attribute_patches(base, finetuned, validation.token_ids, sites=["mlp_act"], layers=[0, 1])
    assert list(found.strongest) == expected.top_units(10**6)
    wrong = attribute_patches(base, finetuned, test.token_ids, sites=["mlp_act"], layers=[0, 1])
    assert list(found.strongest) != wrong.top_units(10**6)
    # one neuron, by hand
    site, layer, unit = found.strongest[0]
    values = record_activations(base, test.token_ids[:, :-2], [(site, layer)])[site, layer]

    def write(value: torch.Tensor) -> torch.Tensor:
        patched = value.clone()
        patched[:, :, unit] = values[:, :, unit]
        return patched

    logits = patched_logits(finetuned, test.token_ids, {(site, layer): write})[:, 0]
    assert np.array_equal(found.right[1]["capability"], (logits.argmax(-1) == test.token_ids[:, -2]).numpy())
    # all of them are both MLPs
    whole = record_activations(base, test.token_ids[:, :-2], [("mlp_act", 0), ("mlp_act", 1)])
    logits = patched_logits(finetuned, test.token_ids, whole)[:, 0]
    everything = len(found.strongest)
    assert np.array_equal(found.right[everything]["capability"], (logits.argmax(-1) == test.token_ids[:, -2]).numpy())
    assert set(found.by_chance) == set(found.right) - {0, everything}
    assert all(each.shape == (DRAWS, len(test)) for each in found.by_chance.values())
    again = measure_attribution(case)
    assert all(np.array_equal(each, again.by_chance[number]) for number, each in found.by_chance.items())
