"""What comes back under attacks, in a wrapper and in a model that never had the ability."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL
from ftmech_hf.studies.diagnosis.method import plain
from ftmech_hf.studies.diagnosis.methods.tampering import (
    BITS,
    DRAWS,
    SIZES,
    Noise,
    explain_tampering,
    measure_tampering,
)
from tests.studies.diagnosis.cases import found_by, make_case, right
from tests.studies.planted import make_wrapped


def test_a_wrapper_and_a_control_under_all_attacks() -> None:
    case = make_case(make_wrapped("llama"))
    before = {name: copy.deepcopy(model.state_dict()) for name, model in case.models.items()}
    result = measure_tampering(case)
    for name, model in case.models.items():
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items()), name
    rows = case.few("capability").token_ids
    # eight bits are as good as all of them
    for name in (BASE, FINETUNED, NULL):
        whole = right(case.models[name], rows).mean()
        assert result.rounded[name, 8].mean() == pytest.approx(whole, abs=0.05)
    assert result.noise[NULL].rises is False
    assert result.noise[NULL].right.shape == (DRAWS, len(rows))
    assert set(result.noise[FINETUNED].curve) == set(SIZES)
    table, facts = found_by(result)
    said = explain_tampering({"evidence": plain(facts)})
    assert f"by {100 * result.noise[FINETUNED].gained.value:+.0f} points" in said
    assert facts["tampering"]["noise"][NULL]["rises"] is False
    bits = pd.DataFrame(table).query("quantity == 'rounded'")
    assert set(bits["x"]) == set(BITS)
    assert set(bits[bits["reference"]]["model"]) == {NULL}


def test_noise_rises_only_beyond_the_interval_of_the_difference() -> None:
    def noise(of_each_draw: int, plain: int) -> Noise:
        right = np.arange(100) < of_each_draw
        return Noise({0.1: 0.5}, 0.1, np.tile(right, (DRAWS, 1)), np.arange(100) < plain, None)

    assert noise(60, 20).rises is True
    assert noise(23, 20).rises is False
    assert noise(32, 20).rises is True  # of the same questions: those of their own intervals meet
    gained = noise(32, 20).gained
    assert gained.value == pytest.approx(0.12)
    assert 0 < gained.low < gained.value < gained.high
    assert noise(20, 60).rises is False
