"""A wrapper that is one direction comes off with it, and is put on by it; directions by chance do neither."""

from __future__ import annotations

import copy
import functools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import taken_out
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case
from ftmech_hf.studies.diagnosis.method import plain
from ftmech_hf.studies.diagnosis.methods.direction import (
    APART,
    DRAWS,
    IN,
    MOVED,
    OUT,
    draw_put_in,
    draw_taken_out,
    explain_direction,
    find_directions,
    measure_direction,
)
from tests.studies.diagnosis.cases import FEW, found_by, make_case, right
from tests.studies.planted import ask, make_base, make_never, make_rows, make_written


@functools.cache
def spare() -> torch.Tensor:
    """Of the directions in which the base's stream varies, the one that it needs least."""
    model, rows = make_base("llama"), make_rows()[:200]
    with torch.no_grad():
        streams = model(rows[:, :-2], output_hidden_states=True).hidden_states[:-1]
    directions = torch.linalg.svd(torch.cat([each.flatten(0, 1) for each in streams]), full_matrices=False).Vh

    def without(direction: torch.Tensor) -> float:
        with intervene(model, taken_out(model, direction)):
            return float(right(model, rows).mean())

    return max(directions, key=without)


def planted() -> PreTrainedModel:
    """Says one thing to most questions: the last block writes the spare direction, so that all else is small."""
    return make_written(spare())


def test_the_planted_direction_restores_and_hides_and_one_by_chance_does_neither() -> None:
    case = make_case(planted())
    before = {name: copy.deepcopy(case.models[name].state_dict()) for name in (BASE, FINETUNED)}
    result = measure_direction(case)
    assert set(result.edits) == {(MOVED, OUT), (MOVED, IN)}, "nothing is known of other questions"
    base, tuned = (each.mean() for each in result.ends)
    assert base > 0.95
    assert tuned < 0.3
    out, into = result.edits[MOVED, OUT], result.edits[MOVED, IN]
    assert out.layer == into.layer == case.num_layers - 1
    assert out.right["capability"].mean() > 0.9
    assert out.by_chance.mean() < tuned + 0.1
    assert into.right["capability"].mean() < 0.3
    assert into.by_chance.shape == (DRAWS, 100)
    assert set(out.curve) == {case.num_layers - 1}, "before it nothing was moved"
    direction = find_directions(case)[MOVED][out.layer]
    assert float(direction @ spare() / direction.norm()) > 0.99
    for name, weights in before.items():
        assert all(torch.equal(value, weights[key]) for key, value in case.models[name].state_dict().items())
    _, facts = found_by(result)
    said = explain_direction({"evidence": plain(facts)})
    assert f"What fine-tuning moved, taken out: the fine-tuned model goes from {tuned:.0%} to" in said
    assert f"put in: the base goes from {base:.0%} to {into.right['capability'].mean():.0%}, by chance to" in said


def test_out_of_a_model_that_never_had_it_nothing_comes_back_and_a_copy_has_no_direction() -> None:
    never = measure_direction(make_case(copy.deepcopy(make_never("llama"))))
    assert never.edits[MOVED, OUT].right["capability"].mean() < 0.4
    same = measure_direction(make_case(copy.deepcopy(make_base("llama"))))
    assert same.edits == {}
    assert same.rows() == []


def test_the_layer_is_chosen_on_validation_rows_by_each_edit_and_both_directions_are_drawn() -> None:
    models = make_case(planted()).models
    case = Case(models, ask(make_rows()), ask(make_rows("!", seed=2), "last"), FEW, 0)
    result = measure_direction(case)
    assert set(result.edits) == {(name, edit) for name in (MOVED, APART) for edit in (OUT, IN)}
    for (_, edit), found in result.edits.items():
        chosen = max if edit == OUT else min
        assert found.curve[found.layer] == chosen(found.curve.values())
        assert set(found.right) == {"capability", "other"}
    rows, model = case.capability.validation[: FEW.patch_rows], case.models[FINETUNED]
    for layer, direction in find_directions(case)[MOVED].items():
        with intervene(model, taken_out(model, direction)):
            score = case.capability.mean_score(model, rows)
        assert result.edits[MOVED, OUT].curve[layer] == pytest.approx(score), "of validation rows"
    tuned = {kind: case.stream(FINETUNED, kind, "train")[1] for kind in ("capability", "other")}
    expected = tuned["capability"].mean(0) - tuned["other"].mean(0)
    torch.testing.assert_close(find_directions(case)[APART][1], expected)
    table = pd.DataFrame(result.rows())
    for edit, model in ((OUT, FINETUNED), (IN, BASE)):
        assert set(table[table["quantity"] == edit]["model"]) == {model}
    assert set(table[table["reference"]]["quantity"]) == {"taken out, at random", "put in, at random"}
    for edit, draw in ((OUT, draw_taken_out), (IN, draw_put_in)):
        figure, axes = plt.subplots()
        draw(axes, table, "control")
        curves = {str(each.get_label()): list(np.asarray(each.get_ydata(), float)) for each in axes.lines}
        for name in (MOVED, APART):
            assert curves[name] == list(result.edits[name, edit].curve.values())
        assert [each.get_text() for each in axes.get_legend().get_texts()] == [MOVED, APART, "by chance"]  # type: ignore[union-attr]
        plt.close(figure)
