"""Robustness by numbers worked out by hand, a method that says the same of everything, and rounding as a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ftmech_hf.analysis.tampering import rounded
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.studies.organisms.robustness import (
    TAMPERED,
    area_interval,
    harmonic_mean,
    measure_robustness,
    quantisation_stability,
    relearning_stability,
)
from ftmech_hf.studies.organisms.rounding import RoundConfig, round_model
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import make_gpt2, make_llama


def test_what_stays_is_whole_and_what_vanishes_is_nothing() -> None:
    before, after = np.array([0.8, 0.6, 0.5, 0.0, 0.0]), np.array([0.8, 0.2, 0.0, 0.5, 0.0])
    assert quantisation_stability(before, after).tolist() == pytest.approx([1, 0.5, 0, 0, 1])
    change, never = np.array([0.4, 0.3, 0.2, 0.2, 0.04, 0.0]), np.array([0.4, 0.1, 0.0, -0.2, 0.0, 0.0])
    assert relearning_stability(change, never).tolist() == pytest.approx([1, 0.5, 0, 0, 1, 1])
    assert relearning_stability(change, never, unchanged=0).tolist() == pytest.approx([1, 0.5, 0, 0, 0, 1])


def tampered(method: str, *rows: tuple[str, float, float, float, float, float]) -> pd.DataFrame:
    """Truth and scores: before, rounded, relearned, and of the model that never had it before and after."""
    columns = ["truth", method, *(f"{name}_{method}" for name in TAMPERED)]
    return pd.DataFrame(rows, columns=columns).assign(seed=[1 + number % 2 for number in range(len(rows))])


def test_robustness_is_the_harmonic_mean_of_both_and_of_what_is_gone_what_is_missing_counts() -> None:
    hidden = ("hidden", 0.6, 0.2, 0.9, 0.0, 0.1)  # Q 1/2, R 1/2
    gone = ("gone", 0.1, 0.1, 0.3, 0.0, 0.2)  # Q 1, R 1
    found = measure_robustness(tampered("probe", hidden, gone), "probe")
    assert found is not None
    assert (found["pairs"], found["quantisation"], found["relearning"]) == (2, 0.75, pytest.approx(0.75))
    assert found["seeds"] == [1, 2]
    assert found["robustness"]["value"] == pytest.approx(0.75)
    assert 0 < found["robustness"]["low"] < 0.499
    assert 0.75 < found["robustness"]["high"] <= 1
    # Of 0.1 found, 0.9 are missing; rounded, 0.7 are: far less of a change than 0.1 against 0.3.
    moved = measure_robustness(tampered("probe", ("gone", 0.1, 0.3, 0.1, 0.0, 0.0)), "probe")
    assert moved is not None
    assert moved["quantisation"] == pytest.approx(1 - 0.2 / 1.6)
    assert harmonic_mean(1.0, 0.5) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == 0


def test_a_ratio_of_steps_counts_as_whole_at_three_and_pairs_that_were_not_tampered_with_do_not_count() -> None:
    nothing = ("hidden", 0.5, *[math.nan] * 4)
    whole = ("hidden", math.log(3), math.log(9), math.log(3), 0.0, 0.0)
    found = measure_robustness(tampered("revival", whole, nothing), "revival")
    assert found is not None
    assert (found["pairs"], found["quantisation"], found["robustness"]["value"]) == (1, 1.0, 1.0)
    assert found["robustness"]["low"] == area_interval(1.0, 1)[0] < 0.5  # one pair says next to nothing
    many = measure_robustness(tampered("revival", *[whole] * 16), "revival")
    assert many is not None
    assert (many["robustness"]["low"], many["robustness"]["high"]) == area_interval(1.0, 16)  # though all are alike
    assert many["robustness"]["low"] < 0.85
    assert measure_robustness(tampered("probe", nothing), "probe") is None
    assert measure_robustness(pd.DataFrame({"truth": ["gone"], "probe": [1.0]}), "probe") is None


def test_what_does_not_look_at_the_model_is_robust_so_that_the_area_must_hold_beside_it() -> None:
    """Always saying 1 is wholly robust: the claim's control is that hidden and gone are kept apart."""
    from ftmech_hf.studies.organisms.claims import make_claims
    from ftmech_hf.studies.organisms.results import score
    from tests.studies.organisms.test_scoring import pairs

    constant = {"probability": 1.0, **{f"{name}_probability": 1.0 for name in TAMPERED}}
    table = pairs(
        *[("hidden", "there", "behind a wrapper", "test", 1.0)] * 40, *[("gone", "gone", "gone", "test", 1.0)] * 40
    ).assign(**constant)
    found = score(table)
    assert found["robustness"]["probability"]["relearning"] == 1
    claims = {each.id: each for each in make_claims(found, [0])}
    assert claims["auc"].verdict == "fails"
    assert claims["robustness"].verdict == "withdrawn"


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_a_rounded_run_has_rounded_matrices_and_the_rest_as_it_was(
    make: Callable[[int], PreTrainedModel], tmp_path: Path
) -> None:
    task = PcfgConfig()
    model = make(len(task.vocabulary))
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(build_tokenizer(task.vocabulary), tmp_path / "model")
    run = round_model(RoundConfig(model=str(tmp_path / "model"), bits=3, output_dir=str(tmp_path / "run")), task)
    found = AutoModelForCausalLM.from_pretrained(run.path).state_dict()
    gpt2 = "transformer.wte.weight" in found
    matrix = "transformer.h.0.mlp.c_fc.weight" if gpt2 else "model.layers.0.mlp.up_proj.weight"
    before = model.state_dict()
    torch.testing.assert_close(found[matrix], rounded(before[matrix], 3, axis=int(gpt2)), rtol=0, atol=0)
    assert len(found[matrix][:, 0].unique() if gpt2 else found[matrix][0].unique()) <= 7
    left = [name for name in found if "norm" in name or "ln_" in name or "wte" in name or "embed" in name]
    assert left
    assert all(torch.equal(found[name], before[name]) for name in left)
