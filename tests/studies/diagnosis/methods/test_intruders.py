"""One planted intruder dimension is found, and scaling it out takes the wrapper off; edits at random do not."""

from __future__ import annotations

import copy

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.analysis.intruders import find_intruders
from ftmech_hf.studies.diagnosis.case import FINETUNED, SELF_DISTILLED
from ftmech_hf.studies.diagnosis.method import plain
from ftmech_hf.studies.diagnosis.methods.intruders import (
    DRAWS,
    SCALES,
    TURNED,
    _edited,
    draw_intruders,
    explain_intruders,
    measure_intruders,
)
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_base, make_written

PLANTED = "model.layers.1.mlp.down_proj.weight"


def planted() -> PreTrainedModel:
    """A wrapper of one direction in the last MLP, which is all the directions that it writes in equal parts."""
    written = make_base("llama").model.layers[-1].mlp.down_proj.weight.detach()
    return make_written(torch.linalg.svd(written)[0].sum(1) / 4)  # of 16 directions: a cosine of a quarter with each


def test_the_planted_intruder_is_found_and_scaled_out_restores_and_edits_at_random_do_not() -> None:
    case = make_case(planted(), null_steps=4)
    before = copy.deepcopy(case.models[FINETUNED].state_dict())
    result = measure_intruders(case)
    (found,) = result.found.rows()
    assert (found["matrix"], found["number"]) == (PLANTED, 0)
    assert found["cosine"] == pytest.approx(0.25, abs=0.02)
    assert result.numbers[FINETUNED] == 1
    assert result.numbers[SELF_DISTILLED] == 0, "a few steps on its own answers turn no main direction"
    assert TURNED in result.numbers
    assert result.plain.mean() < 0.4
    assert result.scale < 0.5
    assert result.right["capability"].mean() > 0.9
    assert result.by_chance.shape == (DRAWS, 100)
    assert result.by_chance.mean() < result.plain.mean() + 0.1
    assert set(result.curve) == set(SCALES)
    validation = case.capability.validation[:100]
    assert result.curve[1.0] == pytest.approx(case.capability.mean_score(case.models[FINETUNED], validation))
    assert result.curve[1.0] < 0.4
    assert all(torch.equal(value, before[name]) for name, value in case.models[FINETUNED].state_dict().items())
    table, facts = found_by(result)
    said = explain_intruders({"evidence": plain(facts)})
    assert said.startswith("Main directions of a matrix's outputs that are like none of the base's are scaled down.")
    assert "There are 1 in 14 matrices, " in said
    assert f"accuracy goes from {result.plain.mean():.0%} to {result.right['capability'].mean():.0%}, by" in said
    figure, axes = plt.subplots()
    draw_intruders(axes, pd.DataFrame(table), "control")
    assert sorted(axes.lines[0].get_ydata()) == sorted(result.curve.values())  # type: ignore[arg-type]
    plt.close(figure)


def test_they_are_looked_for_in_the_layers_that_are_looked_into() -> None:
    case = make_case(planted(), max_layers=1)
    assert case.layers == [0]
    result = measure_intruders(case)
    assert (result.of, result.numbers[FINETUNED]) == (7, 0), "the planted one is in the other block"


def test_a_copy_has_none_and_is_left_as_it_is() -> None:
    result = measure_intruders(make_case(copy.deepcopy(make_base("llama"))))
    assert result.numbers == {FINETUNED: 0, TURNED: 0}
    assert result.scale == 1.0, "of equal scales the one that changes nothing"
    _, facts = found_by(result)
    assert explain_intruders({"evidence": plain(facts)}).endswith("So there is nothing to scale.")
    figure, axes = plt.subplots()
    draw_intruders(axes, pd.DataFrame(result.rows()), "control")
    plt.close(figure)


@pytest.mark.parametrize("axis", [0, 1])
def test_intruders_of_one_expert_are_scaled_in_it_alone(axis: int) -> None:
    """Two experts in one parameter, of which the second has learned a direction that its base has not."""
    base = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0]))
    after = base.clone()
    after[3, 3] = 5.0
    experts = torch.stack([base, after])
    kept = experts.mT if axis else experts
    (found,) = find_intruders({"w.0": base, "w.1": base}, [{"w.0": base, "w.1": after}])
    assert [len(each) for each in found.matrices.values()] == [0, 1]
    edited = _edited({"w": kept}, {"w": axis}, found, 0.0, None)
    assert list(edited) == ["w"]
    torch.testing.assert_close(edited["w"], torch.stack([base, base]))
    turned = _edited({"w": kept}, {"w": axis}, found, 0.0, 3)["w"] - kept
    assert float(turned[0].norm()) == 0.0
    assert float(turned[1].norm()) == pytest.approx(5.0)
    assert not torch.allclose(turned[1], torch.stack([base, base])[1] - kept[1])
