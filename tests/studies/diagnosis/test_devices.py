"""A diagnosis follows its models: to their type of number, and to the device where they compute."""

from __future__ import annotations

import copy
import math

import pandas as pd
import pytest
import torch

from ftmech_hf.studies.diagnosis.case import Case
from ftmech_hf.studies.diagnosis.diagnosis import MeasuredResult
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.verdict import judge_capability
from tests.simulated_gpu import simulated_gpu
from tests.studies.diagnosis.cases import make_case, measured
from tests.studies.planted import make_wrapped


def moved(device: str, dtype: torch.dtype) -> Case:
    case = make_case(make_wrapped("llama"), patch_rows=64)
    # copies: planted models are made once, and other tests take them as they are
    models = {name: copy.deepcopy(model).to(device, dtype) for name, model in case.models.items()}  # type: ignore[call-overload]
    case.models = models
    return case


def check(found: MeasuredResult, case: Case) -> None:
    """All methods ran, and saw what was planted. Training back is not compared: bfloat16 loses its small steps."""
    evidence, rows = found.evidence(), found.rows()
    assert evidence.base.value > 0.95
    assert evidence.finetuned.value < 0.5
    assert judge_capability(evidence, case.rule).verdict in ("behind a wrapper", "undecided")
    assert {row["analysis"] for row in rows} >= set(METHODS) - {"null models"}
    assert not any(math.isnan(row["value"]) for row in rows)


def test_all_methods_take_models_in_bfloat16() -> None:
    case = moved("cpu", torch.bfloat16)
    check(measured(case, *METHODS), case)
    assert {model.dtype for model in case.everyone.values()} == {torch.bfloat16}


def test_all_methods_follow_models_to_another_device() -> None:
    # the grid of attacks trains as training back does, and in place as well: there torch asks of a device what the
    # simulated one does not have
    methods, found = [name for name in METHODS if name != "attack grid"], {}
    for device in ("cpu", "gpu"):
        case = make_case(
            make_wrapped("llama"), rows=64, fit_rows=160, patch_rows=24, random_masks=2, repeats=2, reverse_steps=4,
            most_reverse_steps=4,
        )  # fmt: skip
        with simulated_gpu() as seen:
            case.models = {name: copy.deepcopy(model).to(device) for name, model in case.models.items()}
            found[device] = pd.DataFrame(measured(case, *methods).rows())
            assert {model.device.type for model in case.everyone.values()} == {device}
        assert bool(seen.waits) == (device == "gpu")
        # of the change of a matrix, small singular values are told from rounding: nothing else needs such numbers
        needed = {"ftmech_hf/models/directions.py"} if device == "gpu" else set()
        assert {place.partition(":")[0] for place in seen.doubles} == needed
    pd.testing.assert_frame_equal(found["gpu"], found["cpu"])


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_methods_take_models_on_a_gpu(dtype: torch.dtype) -> None:
    case = moved("cuda", dtype)
    check(measured(case, *METHODS), case)
    assert {model.device.type for model in case.everyone.values()} == {"cuda"}
