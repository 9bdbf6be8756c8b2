from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import find_units
from ftmech_hf.explorer import edits
from ftmech_hf.explorer.edits import Edit, EditedModel, FoundUnits, patch_of, units_mask
from ftmech_hf.models import directions
from ftmech_hf.models.interpolation import interpolate_weights, mix_weights
from ftmech_hf.training.evaluation import answer_accuracy
from tests.conftest import make_gpt2, make_llama
from tests.studies.planted import make_base, make_rows, make_wrapped


def bits(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: weight.detach().view(torch.int32).clone() for name, weight in model.named_parameters()}


def same_bits(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return all(torch.equal(value, bits(other)[name]) for name, value in bits(one).items())


def distance(one: PreTrainedModel, other: PreTrainedModel) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(torch.cat([(p - q).detach().flatten() for p, q in pairs]).norm())


def test_whatever_was_edited_before_the_ends_are_the_two_models_to_the_bit() -> None:
    base, tuned = make_gpt2(40, seed=0), make_gpt2(40, seed=1)
    with torch.no_grad():
        tuned.lm_head.weight[3] = -0.0  # which sums of products make 0.0
    before = bits(base), bits(tuned)
    edited = EditedModel(base, tuned, FoundUnits("row", ["transformer.h.1.mlp.c_fc[2]"]))
    for edit in (
        Edit(scale=0.3),
        Edit(directions=2),
        Edit(zero_rows=True),
        Edit(scale=1.7, directions=1, zero_rows=True, at_random=True),
    ):
        with edited.edited(edit) as model:
            assert not same_bits(model, tuned)
        with edited.edited(Edit()) as model:
            assert same_bits(model, tuned)
        with edited.edited(edit):
            pass
        with edited.edited(Edit(scale=0.0)) as model:
            assert same_bits(model, base)
    for model, kept in zip((base, tuned), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in bits(model).items())


def test_an_edit_that_fails_midway_is_not_taken_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say: the page lives on, and going back must be the model to the bit."""
    base, tuned = make_llama(40, seed=0), make_llama(40, seed=1)
    edited, calls = EditedModel(base, tuned), []

    def mix(before: Tensor, after: Tensor, share: float) -> Tensor:
        calls.append(share)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("no memory")
        return mix_weights(before, after, share)

    monkeypatch.setattr(edits, "mix_weights", mix)
    with pytest.raises(torch.OutOfMemoryError), edited.edited(Edit(scale=0.0)):
        pass
    with edited.edited(Edit()) as model:
        assert same_bits(model, tuned)


def test_a_scaled_change_is_the_interpolated_model() -> None:
    base, tuned = make_llama(40, seed=0), make_llama(40, seed=1)
    edited = EditedModel(base, tuned)
    for scale in (0.5, -1.0, 1.3):
        with edited.edited(Edit(scale=scale)) as model:
            expected, far = (
                dict(interpolate_weights(base, tuned, to).named_parameters()) for to in (scale, scale + 0.1)
            )
            for name, weight in model.named_parameters():
                if torch.equal(tuned.get_parameter(name), base.get_parameter(name)):
                    assert torch.equal(weight, tuned.get_parameter(name))  # and not what rounding would make of it
                else:
                    assert torch.equal(weight, expected[name])
                    assert not torch.equal(weight, far[name])


def test_directions_add_up_to_the_whole_change() -> None:
    base, tuned = make_gpt2(40, seed=0), make_gpt2(40, seed=1)
    edited = EditedModel(base, tuned)
    assert edited.most_directions == 16
    far = []
    for number in (1, 4, 16):
        with edited.edited(Edit(directions=number)) as model:
            far.append(distance(model, tuned))
    assert far[0] > far[1] > 0.5
    assert far[2] < 1e-4
    with edited.edited(Edit(scale=0.25, directions=16)) as model:  # all of them, a fourth of each
        assert distance(model, interpolate_weights(base, tuned, 0.25)) < 1e-4
    assert 0 < edited.share < 1  # embeddings and vectors changed too


def test_in_sixteen_bits_all_directions_are_the_whole_change_to_the_bit() -> None:
    """Of differences and products that are rounded themselves the sum is another model."""
    base, tuned = (make_gpt2(40, seed=seed).bfloat16() for seed in (0, 1))
    edited = EditedModel(base, tuned)
    with edited.edited(Edit(directions=16)) as model:
        same = [
            float((weight == tuned.get_parameter(name)).double().mean()) for name, weight in model.named_parameters()
        ]
    assert min(same) > 0.99


def test_of_large_matrices_some_directions_are_kept_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "LARGE", 8)
    monkeypatch.setattr(directions, "LOW_RANK", 4)
    edited = EditedModel(make_gpt2(40, seed=0), make_gpt2(40, seed=1))
    assert edited.most_directions == 5, "four, and all"
    assert {found.shape[1] for found in edited.directions.values()} == {4}


@pytest.mark.parametrize("at_random", [False, True])
def test_a_patch_stays_where_a_model_reads_the_prompt_again(at_random: bool) -> None:
    """A model that keeps nothing of what it read computes the prompt anew for every token that is written."""
    generator = torch.Generator().manual_seed(0)
    donor, longer = torch.randn(1, 3, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    write = patch_of(donor, Edit(patch_from="base", at_random=at_random, seed=1))
    first = write(longer[:, :3])
    assert torch.equal(first, donor) != at_random
    again = write(longer)
    assert torch.allclose(again[:, :3], first)
    assert torch.equal(again[:, 3:], longer[:, 3:])
    assert torch.equal(write(longer[:, 3:4]), longer[:, 3:4]), "one token of those since"
    assert torch.equal(write(longer[:, :3]), longer[:, :3]), "a stream of that length that came later"


def test_zeroed_rows_are_those_that_were_found_and_come_back() -> None:
    base, tuned = make_gpt2(40, seed=0), make_gpt2(40, seed=1)
    edited = EditedModel(
        base, tuned, FoundUnits("row", ["transformer.h.0.mlp.c_fc[5]", "transformer.h.1.attn.c_proj[0]"])
    )
    with edited.edited(Edit(zero_rows=True)) as model:
        assert not model.get_parameter("transformer.h.0.mlp.c_fc.weight")[:, 5].any()
        assert not model.get_parameter("transformer.h.1.attn.c_proj.weight")[:, 0].any()
        assert bool(model.get_parameter("transformer.h.0.mlp.c_fc.weight")[:, 4].all())
    with edited.edited(Edit(zero_rows=True, at_random=True, seed=3)) as model:
        zeroed = sum(
            int((group.sum_over(group.weight.detach().abs()) == 0).sum()) for group in find_units(model, "row").values()
        )
        assert zeroed == 2
        assert bool(model.get_parameter("transformer.h.0.mlp.c_fc.weight")[:, 5].all())
    assert same_bits(edited.model, tuned)


def test_a_random_edit_is_as_large_in_every_parameter() -> None:
    base, tuned = make_gpt2(40, seed=0), make_gpt2(40, seed=1)
    edited = EditedModel(base, tuned)
    for edit in (Edit(scale=0.25), Edit(directions=3)):
        found = []
        for at_random in (False, True):
            with edited.edited(Edit(scale=edit.scale, directions=edit.directions, at_random=at_random)) as model:
                ends = dict(tuned.named_parameters())
                found.append({name: (weight - ends[name]).detach() for name, weight in model.named_parameters()})
        for name, difference in found[0].items():
            assert float(found[1][name].norm()) == pytest.approx(float(difference.norm()), rel=1e-4, abs=1e-6), name
        assert not any(torch.equal(value, found[1][name]) for name, value in found[0].items() if value.any())


def test_taking_the_wrapper_off_brings_the_answers_back_and_as_large_an_edit_at_random_does_not() -> None:
    base, wrapped, rows = make_base("gpt2"), make_wrapped("gpt2"), make_rows(seed=9, number=200)
    edited = EditedModel(base, wrapped)
    right = {}
    for name, edit in {"none": Edit(), "off": Edit(scale=0.0), "at random": Edit(scale=0.0, at_random=True)}.items():
        with edited.edited(edit) as model:
            right[name] = answer_accuracy(model, rows)
    assert right["off"] > 0.95
    assert right["none"] < 0.3
    assert right["at random"] < 0.4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": 7.0}, "scale: 7.0, expected -1 to 2"),
        ({"scale": float("nan")}, "scale: nan"),
        ({"directions": -1}, "directions: -1"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_impossible_edits_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Edit(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["transformer.h.9.mlp.c_fc[1]", "transformer.h.0.mlp.c_fc[999]", "c_fc", "x[1, 2]"])
def test_units_of_another_model_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no unit of this model"):
        units_mask(find_units(make_gpt2(40), "row"), [name])


def test_models_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="other names or shapes"):
        EditedModel(make_gpt2(40), make_gpt2(41))
