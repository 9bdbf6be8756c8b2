"""Where two models predict otherwise, against values by hand and models whose difference is planted."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis import place_context
from ftmech_hf.analysis.output_difference import (
    OutputDifferenceResult,
    PlaceGroup,
    _Sums,
    compare_outputs,
    group_places,
    places_of,
)
from ftmech_hf.analysis.place_context import find_context
from tests.conftest import make_gpt2

VOCABULARY = 24


@pytest.fixture
def base() -> PreTrainedModel:
    return make_gpt2(VOCABULARY)


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, VOCABULARY, (64, 12), generator=torch.Generator().manual_seed(0))


def promoting(base: PreTrainedModel, token: int, by: float = 2.0) -> PreTrainedModel:
    """A copy whose logit of a token is higher by the same everywhere."""
    model = copy.deepcopy(base)
    head = torch.nn.Linear(base.config.n_embd, VOCABULARY)
    with torch.no_grad():
        head.weight.copy_(base.lm_head.weight)
        head.bias.zero_()
        head.bias[token] = by
    model.lm_head = head
    return model.eval()


def test_kl_and_gain_are_those_of_a_computation_in_numpy(base: PreTrainedModel, rows: Tensor) -> None:
    other = make_gpt2(VOCABULARY, seed=1)
    found = compare_outputs(base, {"other": other}, rows, torch.ones_like(rows).bool(), batch_size=7)["other"]
    with torch.no_grad():
        logits = [model(rows[:, :-1]).logits.double().numpy() for model in (base, other)]
    p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in logits)
    np.testing.assert_allclose(found.kl, (q * np.log(q / p)).sum(-1), rtol=1e-4, atol=1e-6)
    came = rows[:, 1:, None].numpy()
    gain = np.log(np.take_along_axis(q, came, -1) / np.take_along_axis(p, came, -1))[..., 0]
    np.testing.assert_allclose(found.gain, gain, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.probability, (q - p).mean((0, 1)), rtol=1e-3, atol=1e-6)
    assert found.mean_kl == pytest.approx((q * np.log(q / p)).sum(-1).mean(), rel=1e-4)
    np.testing.assert_allclose(found.row_gain(), gain.mean(1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.row_gain(22), gain.sum(1) / 22, rtol=1e-3, atol=1e-5)
    assert (found.choices.numpy() == np.stack([p.argmax(-1), q.argmax(-1)], -1)).all()
    highest = np.bincount((np.log(q) - np.log(p)).argmax(-1).ravel(), minlength=VOCABULARY)
    np.testing.assert_allclose(found.promoted, highest / highest.sum(), atol=1e-6)


def test_of_places_that_count_the_numbers_are_those_of_all_places_to_the_last_bit(
    base: PreTrainedModel, rows: Tensor
) -> None:
    other, mask = make_gpt2(VOCABULARY, seed=1), torch.ones_like(rows).bool()
    for row in range(len(rows)):
        mask[row, 3 + row % 10 :] = False
    places = torch.rand(len(rows), 11, generator=torch.Generator().manual_seed(3)) < 0.7
    found = compare_outputs(base, {"": other}, rows, mask, places=places, top=2, batch_size=len(rows))[""]
    counted = mask[:, 1:] & mask[:, :-1] & places
    assert torch.equal(found.predicted, counted)
    with torch.no_grad():
        shown = mask[:, :-1].long()
        before, after = (
            model(rows[:, :-1], attention_mask=shown, use_cache=False).logits.float().log_softmax(-1)
            for model in (base, other)
        )
    rise = after - before
    assert torch.equal(found.kl, (after.exp() * rise).sum(-1) * counted)
    assert torch.equal(found.gain, rise.gather(-1, rows[:, 1:, None])[..., 0] * counted)
    number = int(counted.sum())
    gained = (after.exp() - before.exp())[counted].sum(0).double()
    assert torch.equal(found.probability, (gained / number).float())
    promoted = torch.bincount(rise[counted].topk(1).indices.flatten(), minlength=VOCABULARY).double()
    assert torch.equal(found.promoted, (promoted / number).float())


def test_what_stands_where_nothing_is_counted_makes_no_number(base: PreTrainedModel, rows: Tensor) -> None:
    """What a model makes of tokens that fill a row may be no number, and that times 0 is none either."""
    counted = torch.ones(2, 3).bool()
    counted[1, 2] = False
    sums = _Sums(VOCABULARY, 1)
    before, after = torch.randn(2, 2, 3, VOCABULARY, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    after[1, 2] = torch.nan
    sums.add(before, after, rows[:2, :3], counted)
    found = sums.result(counted)
    assert found.kl[1, 2] == found.gain[1, 2] == 0
    assert found.kl.isfinite().all()
    assert found.mean_kl > 0


def test_a_model_that_predicts_nan_is_refused_where_it_counts(base: PreTrainedModel, rows: Tensor) -> None:
    """A mean would be nan, and groups of places come in any order."""
    broken = copy.deepcopy(base)

    def spoil(model: PreTrainedModel, args: Any, kwargs: Any, output: Any) -> Any:
        output.logits[((args[0] if args else kwargs["input_ids"]) == 5).cumsum(1) > 0] = torch.nan
        return output

    broken.register_forward_hook(spoil, with_kwargs=True)
    mask = torch.ones_like(rows, dtype=torch.bool)
    places = torch.ones_like(rows[:, 1:], dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^model: it answers with nan or inf"):
        compare_outputs(base, {"": broken}, rows, mask, places=places)
    begins = (rows != 5).cumprod(1).bool()[:, :-1]
    found = compare_outputs(base, {"": broken}, rows, mask, places=begins)[""]
    assert 0 < int(begins.sum()) < begins.numel()
    assert found.kl[begins].isfinite().all()


def test_a_model_beside_itself_differs_nowhere(base: PreTrainedModel, rows: Tensor) -> None:
    found = compare_outputs(base, {"same": base}, rows, torch.ones_like(rows).bool())["same"]
    assert not found.kl.any()
    assert not found.gain.any()
    assert not found.probability.any()
    assert not found.promoted.any(), "no token is likelier, not even the first"


def test_a_token_that_is_promoted_everywhere_is_first_everywhere(base: PreTrainedModel, rows: Tensor) -> None:
    found = compare_outputs(base, {"more": promoting(base, 5)}, rows, torch.ones_like(rows).bool())["more"]
    assert found.promoted[5] == 1.0
    assert found.promoted.sum() == pytest.approx(1.0)
    assert found.probability.argmax() == 5
    assert found.probability.sum() == pytest.approx(0.0, abs=1e-5)


def test_ids_that_are_no_tokens_do_not_count(base: PreTrainedModel, rows: Tensor) -> None:
    beyond = rows.clamp(max=VOCABULARY - 2)
    models = {"more": promoting(base, VOCABULARY - 1)}
    found = compare_outputs(base, models, beyond, torch.ones_like(rows).bool(), tokens=VOCABULARY - 1)["more"]
    assert len(found.promoted) == VOCABULARY - 1
    assert found.mean_kl == pytest.approx(0.0, abs=1e-6), "of the tokens, nothing changed beside each other"


def test_what_fills_rows_up_counts_nowhere(base: PreTrainedModel, rows: Tensor) -> None:
    mask = torch.ones_like(rows).bool()
    mask[:, 8:] = False
    filled = torch.where(mask, rows, 0)
    models = {"other": make_gpt2(VOCABULARY, seed=1)}
    whole, cut = (
        compare_outputs(base, models, ids, marks)["other"]
        for ids, marks in ((rows[:, :8], mask[:, :8]), (filled, mask))
    )
    torch.testing.assert_close(cut.kl[:, :7], whole.kl)
    assert not cut.kl[:, 7:].any()
    assert cut.mean_kl == pytest.approx(whole.mean_kl)
    torch.testing.assert_close(cut.promoted, whole.promoted)


def test_rows_filled_up_at_the_beginning_are_refused(base: PreTrainedModel, rows: Tensor) -> None:
    mask = torch.ones_like(rows).bool()
    mask[:, 0] = False
    with pytest.raises(ValueError, match=r"mask: \(64, 12\), expected \(64, 12\), with what fills up at the end"):
        compare_outputs(base, {}, rows, mask)


def test_the_group_of_a_planted_trigger_comes_first(base: PreTrainedModel, rows: Tensor) -> None:
    """The model differs two tokens after a token 7; the rest of its difference is noise."""
    found = compare_outputs(base, {"same": base}, rows, torch.ones_like(rows).bool())["same"]
    noise = 0.1 * torch.rand(found.kl.shape, generator=torch.Generator().manual_seed(1))
    kl = noise + 3.0 * torch.nn.functional.pad(rows[:, :-2] == 7, (1, 0))[:, : noise.shape[1]]
    first, second, *_ = group_places(dataclasses.replace(found, kl=kl), rows, least=10)
    assert (first.token, first.distance) == (7, 1)
    assert first.mean == pytest.approx(3.05, abs=0.05)
    assert first.low > 2.5
    assert second.low < 0.1, "no other group stands out, nor do the same places under another name"
    places = (rows[:, :-2] == 7).nonzero()
    assert first.places == len(places)
    row, place = places_of(found, first, rows)
    assert torch.stack([row, place - 1], 1).tolist() == places.tolist()


def test_a_group_of_few_rows_is_left_out_and_rows_count_once(base: PreTrainedModel) -> None:
    rows = torch.tensor([[9] * 6, *([[3, 4, 5, 6, 7, 8]] * 5)])
    found = compare_outputs(base, {"other": make_gpt2(VOCABULARY, seed=1)}, rows, torch.ones_like(rows).bool())["other"]
    groups = group_places(found, rows, least=2)
    assert 9 not in {group.token for group in groups}, "it has five places, all of one row"
    assert groups
    assert all(group.places % 5 == 0 for group in groups)
    assert {group.token for group in group_places(found, rows, least=1)} >= {9}


@pytest.mark.parametrize("at_a_time", [1, 2**24])
def test_what_stands_somewhere_before_is_named_only_if_it_matters(
    base: PreTrainedModel, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places after a token 4 differ in the rows that have a token 6 before, and not where it comes later."""
    monkeypatch.setattr(place_context, "MOST_AT_A_TIME", at_a_time)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(8, VOCABULARY, (200, 9), generator=generator)
    rows[:, 5] = 4
    rows[:100, 2] = 6
    rows[100:, 7] = 6
    found = compare_outputs(base, {"same": base}, rows, torch.ones_like(rows).bool())["same"]
    kl = 0.5 * torch.rand(found.kl.shape, generator=generator)
    group = PlaceGroup(token=4, distance=0, places=200, mean=0.0, low=0.0)
    assert find_context(kl, places_of(found, group, rows), rows) is None, "of noise nothing is said"
    kl[:100, 5] += 2.0
    context = find_context(kl, places_of(found, group, rows), rows)
    assert context is not None
    assert context.token == 6
    assert context.present == pytest.approx(2.25, abs=0.05)
    assert context.absent == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("spread", [0.25, 1.0])
def test_rows_that_differ_as_a_whole_name_no_token(base: PreTrainedModel, spread: float) -> None:
    """A dozen places of the group in each row, whose values are alike: they are no dozen observations."""
    named = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(10, 400, (120, 48), generator=generator)
        rows[:, ::4] = 4
        found = OutputDifferenceResult(
            kl=0.5 * torch.rand((120, 47), generator=generator) + spread * torch.rand((120, 1), generator=generator),
            gain=torch.zeros(120, 47), predicted=torch.ones(120, 47).bool(),
            choices=torch.zeros(120, 47, 2), promoted=torch.zeros(400), probability=torch.zeros(400), top=1,
        )  # fmt: skip
        group = PlaceGroup(token=4, distance=0, places=1400, mean=0.0, low=0.0)
        named += find_context(found.kl, places_of(found, group, rows), rows) is not None
    assert named <= 1


def test_a_group_that_is_surely_high_comes_before_one_that_may_be_higher(base: PreTrainedModel) -> None:
    rows = torch.randint(10, 24, (200, 12), generator=torch.Generator().manual_seed(3))
    rows[:100, 5], rows[100:112, 5] = 4, 6
    found = compare_outputs(base, {"same": base}, rows, torch.ones_like(rows).bool())["same"]
    kl = torch.zeros_like(found.kl)
    kl[:100, 5] = 1.0
    kl[100:112:2, 5] = 2.6  # 1.3 on the mean of twelve rows, of which half have nothing
    first, *_ = group_places(dataclasses.replace(found, kl=kl), rows, number=1, least=10)
    assert first.token == 4
    assert first.low == pytest.approx(1.0, abs=1e-6)


def test_of_two_names_of_the_same_places_the_nearer_token_is_said(base: PreTrainedModel) -> None:
    """A 5 stands before nearly every 7, and now and then alone: what follows 7 is not said to come after 5."""
    rows = torch.randint(10, 24, (200, 12), generator=torch.Generator().manual_seed(3))
    rows[:, 4], rows[:, 5] = 5, 7
    rows[0, 8] = 7  # once without it, where nothing differs
    found = compare_outputs(base, {"same": base}, rows, torch.ones_like(rows).bool())["same"]
    kl = torch.zeros_like(found.kl)
    kl[:, 5] = 2.0
    first, second = group_places(dataclasses.replace(found, kl=kl), rows, number=2, least=10)
    assert (first.token, first.distance) == (7, 0)
    assert second.low < 0.1
    kl[:100, 5] = 0.0  # where half of them differ, and all of what follows 9
    rows[100:, 2] = 9
    first, *_ = group_places(dataclasses.replace(found, kl=kl), rows, number=1, least=10)
    assert (first.token, first.distance) == (9, 3), "a nearer name of twice as many places is another group"
