"""Principal components of differences against values by hand, and a direction that is planted behind one token."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.difference_components import FARTHEST, components_of, find_components
from tests.conftest import make_gpt2

VOCABULARY = 24
GENERATOR = torch.Generator()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(seed))


def numbered(places: int) -> Tensor:
    return torch.stack([torch.arange(places), torch.zeros(places, dtype=torch.long)], 1)


@pytest.mark.parametrize("places", [400, 6])
def test_components_are_those_of_a_singular_value_decomposition(places: int) -> None:
    before, change = noise(places, 8), noise(places, 8, seed=1)
    found = components_of(before, before + change, numbered(places), number=3)
    centred = (change - change.mean(0)).double()
    _, values, right = torch.linalg.svd(centred, full_matrices=False)
    for each, value, expected in zip(found, values, right, strict=False):
        assert abs(float(each.direction.double() @ expected)) == pytest.approx(1.0, abs=1e-5)
        assert each.share == pytest.approx(float(value**2 / values.square().sum()))
        assert each.size == pytest.approx(float(value**2 / places / before.double().square().sum(1).mean()), rel=1e-5)


def test_a_shift_of_some_places_is_one_component_and_points_to_them() -> None:
    before, along = noise(500, 8), torch.zeros(8)
    along[3] = -2.0
    chosen = torch.arange(500) % 10 == 0
    shift = torch.ones(8)  # of all places alike: the mean, and no component
    first, second = components_of(before, before + shift + chosen[:, None] * along, numbered(500), number=2)
    assert first.share == pytest.approx(1.0, abs=1e-5)
    assert second.share == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(first.direction, along / 2)
    assert first.size == pytest.approx(4 * 0.1 * 0.9 / before.square().sum(1).mean().item(), rel=1e-5)
    assert bool(chosen[first.places[:, 0]].all())
    assert len(first.places) == FARTHEST


def test_noise_has_no_component_that_holds_most() -> None:
    before = noise(2000, 16)
    found = components_of(before, before + noise(2000, 16, seed=1), numbered(2000), number=1)
    assert found[0].share < 0.09, "1/16 and what chance adds"


def test_no_difference_is_none_and_no_number_is_missing() -> None:
    before = noise(20, 4)
    (found,) = components_of(before, before, numbered(20), number=1)
    assert (found.share, found.size) == (0.0, 0.0)
    assert bool(found.direction.isfinite().all())


def test_a_direction_planted_behind_a_token_is_found_with_the_token_and_filled_up_places_do_not_count() -> None:
    base = make_gpt2(VOCABULARY)
    with torch.no_grad():  # the first block adds nothing, so that behind it stands what the tokens write
        for part in (base.transformer.h[0].attn, base.transformer.h[0].mlp):
            part.c_proj.weight.zero_()
            part.c_proj.bias.zero_()
    model, trigger = copy.deepcopy(base), 7
    planted = noise(base.config.n_embd, seed=2)
    with torch.no_grad():
        model.transformer.wte.weight[trigger] += planted
    rows = torch.randint(8, VOCABULARY, (60, 9), generator=GENERATOR.manual_seed(3))
    rows[::3, 4] = trigger
    rows[1::3, 8] = trigger  # behind the end of these rows
    mask = torch.ones_like(rows).bool()
    mask[1::3, 8] = False
    found = find_components(TracedModel(base), TracedModel(model), rows, mask)
    assert found.places == 60 * 8 - 20
    assert [(row["layer"], row["number"]) for row in found.rows()] == [(at, n) for at in range(2) for n in range(3)]
    first = found.layers[0][0]
    torch.testing.assert_close(first.direction, planted / planted.norm(), atol=1e-4, rtol=0)
    assert first.share == pytest.approx(1.0, abs=1e-4)
    assert found.layers[1][0].share < 0.999, "the next block makes something of it that depends on the text"
    assert {tuple(each) for each in first.places.tolist()} == {(row, 4) for row in range(0, 60, 3)}
    assert found.summary()["layer"] in (0, 1)
    nothing = find_components(TracedModel(base), TracedModel(copy.deepcopy(base)), rows, mask)
    assert nothing.layers[0][0].size == 0.0
    with pytest.raises(ValueError, match="rows of 1 tokens, expected at least 2"):
        find_components(TracedModel(base), TracedModel(base), rows[:, :1], mask[:, :1])


def test_of_many_places_evenly_spaced_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftmech_hf.analysis.difference_components.MOST_NUMBERS", 0)
    monkeypatch.setattr("ftmech_hf.analysis.difference_components.LEAST_PLACES", 40)
    base, model = make_gpt2(VOCABULARY), make_gpt2(VOCABULARY, seed=1)
    rows = torch.randint(VOCABULARY, (30, 5), generator=GENERATOR.manual_seed(0))
    found = find_components(TracedModel(base), TracedModel(model), rows, torch.ones_like(rows).bool())
    assert found.places == 40
    assert set(found.layers[0][0].places[:, 0].tolist()) <= set(range(0, 30, 3))
    # at least so many: of 120 places 71 are not 60, which every second row has
    monkeypatch.setattr("ftmech_hf.analysis.difference_components.LEAST_PLACES", 71)
    found = find_components(TracedModel(base), TracedModel(model), rows, torch.ones_like(rows).bool())
    assert found.places == 72
