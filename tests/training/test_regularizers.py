from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.keeping import Keeping, regularizers_of, total_loss_of
from ftmech_hf.training.objectives import OBJECTIVES, AnswerOnly, Batch, Documents, NextToken, Objective
from ftmech_hf.training.objectives.documents import PAD_ID
from ftmech_hf.training.regularizers import L2SP, LDIFS, channel_distance, feature_distance
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2


def total_loss(model: torch.nn.Module, objective: Objective, **strengths: Any) -> TotalLoss:
    return total_loss_of(model, objective, TrainConfig(**strengths))


def rows_of(number: int = 6) -> torch.Tensor:
    return torch.randint(3, 40, (number, 12), generator=torch.Generator().manual_seed(0))


def test_the_feature_distance_is_that_of_unit_vectors() -> None:
    first = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=-1)
    assert torch.allclose(feature_distance((first,), (second,)), (2 - 2 * cosine).mean())
    assert torch.allclose(feature_distance((first, second), (3 * first, -second)), torch.tensor(2.0))  # 0 and 4


def test_anchors_cost_nothing_at_the_start_and_what_they_say_elsewhere(any_model: PreTrainedModel) -> None:
    rows = rows_of()
    start = {name: p.detach().clone() for name, p in any_model.named_parameters()}
    anchored = {kind: total_loss(any_model, AnswerOnly(), **{kind: 0.5}) for kind in ("l2sp", "ldifs")}
    free, batch = total_loss(any_model, AnswerOnly()), Batch(rows)
    plain = free(any_model, batch)
    for each in anchored.values():
        assert torch.allclose(each(any_model, batch), plain)
    before = any_model(rows[:, :-2], output_hidden_states=True).hidden_states
    with torch.no_grad():
        for p in any_model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    plain = free(any_model, batch)
    squared = sum((p - start[name]).square().sum() for name, p in any_model.named_parameters())
    assert torch.allclose(anchored["l2sp"](any_model, batch), plain + 0.5 * squared)
    after = any_model(rows[:, :-2], output_hidden_states=True).hidden_states
    apart = feature_distance(after, before)
    assert apart > 1e-3
    assert torch.allclose(anchored["ldifs"](any_model, batch), plain + 0.5 * apart)


@pytest.mark.parametrize(("kind", "weight"), [("l2sp", 1.0), ("ldifs", 10.0)])
def test_an_anchor_holds_the_model_back(kind: str, weight: float) -> None:
    def moved(strength: float) -> float:
        model = make_gpt2(40)
        total = total_loss(model, AnswerOnly(), **({kind: strength} if strength else {}))
        before = model(rows_of()[:, :-2], output_hidden_states=True).hidden_states
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(30):
            total(model, Batch(rows_of())).backward()
            optimizer.step()
            optimizer.zero_grad()
        start = make_gpt2(40)
        with torch.no_grad():
            after = model(rows_of()[:, :-2], output_hidden_states=True).hidden_states
            pairs = zip(model.parameters(), start.parameters(), strict=True)
            distances = {
                "l2sp": sum((p - q).square().sum() for p, q in pairs),
                "ldifs": feature_distance(after, before),
            }
        return float(distances[kind])

    free, held = moved(0.0), moved(weight)
    assert held < 0.7 * free


def anchored_gradients(model: torch.nn.Module, rows: torch.Tensor, anchored: TotalLoss) -> torch.Tensor:
    """Of the anchor's term alone: that of the sum, less that of the loss with the same dropout."""
    found = []
    for each in (anchored, total_loss(model, anchored.objective)):
        torch.manual_seed(3)
        model.zero_grad()
        each(model, Batch(rows)).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return found[0] - found[1]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("objective", ["next_token", "answer_only", "documents"])
@pytest.mark.parametrize("kind", ["plain", "dropout", "lora"])
def test_the_distance_of_features_starts_at_nothing(kind: str, objective: str, precision: str) -> None:
    """Under autocast as accelerate puts it on, in training mode, with dropout in the model or in an adapter."""
    model = make_gpt2(40, dropout=0.2 if kind == "dropout" else 0.0)
    if kind == "lora":
        model = add_adapter(model, AdapterConfig(adapter="lora", lora_rank=2, lora_dropout=0.2), base="", seed=0)
    anchored = total_loss(model, OBJECTIVES[objective](), ldifs=10.0)
    prepared = Accelerator(mixed_precision=precision, cpu=True).prepare(model).train()
    rows = rows_of()
    rows[:, 0], rows[2:, 6:] = 1, PAD_ID
    assert anchored_gradients(prepared, rows, anchored).abs().max() == 0
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    assert anchored_gradients(prepared, rows, anchored).norm() > 0.01


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state()


def test_the_distance_of_features_is_a_mean_over_tokens_and_not_over_padding() -> None:
    model = make_gpt2(40)
    free, anchored = total_loss(model, Documents()), total_loss(model, Documents(), ldifs=2.0)
    start = make_gpt2(40)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    documents = [[1, 5, 6, 7, 8, 9, 2], [1, 30, 31, 2]]
    found = []
    for length in (8, 11, 20):
        rows = torch.tensor([document + [PAD_ID] * (length - len(document)) for document in documents])
        found.append(anchored(model, Batch(rows)) - free(model, Batch(rows)))
    distances = []
    for document in documents:  # each in a pass of its own, without any padding
        ids = torch.tensor([document])
        states = [each(ids, output_hidden_states=True).hidden_states for each in (model, start)]
        cosines = torch.stack([torch.cosine_similarity(*pair, dim=-1)[0] for pair in zip(*states, strict=True)])
        distances.append((2 - 2 * cosines).mean(0))
    expected = 2.0 * torch.cat(distances).mean()
    assert expected > 0.01
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-3, atol=1e-5)


def test_an_anchor_changes_nothing_of_what_dropout_draws_next() -> None:
    model = make_gpt2(40, dropout=0.2).train()
    after = []
    for strengths in ({}, {"l2sp": 0.1, "ldifs": 1.0}):
        torch.manual_seed(5)
        total_loss(model, NextToken(), **strengths)(model, Batch(rows_of()))
        after.append(torch.rand(3))
    assert torch.equal(*after)
    assert model.training


@pytest.mark.cuda
def test_the_distance_of_features_starts_at_nothing_on_a_gpu() -> None:
    model = make_gpt2(40, dropout=0.2, attn="sdpa")
    accelerator = Accelerator(mixed_precision="bf16")
    anchored = total_loss(model, NextToken(), ldifs=10.0).to(accelerator.device)
    prepared = accelerator.prepare(model).train()
    batch = Batch(rows_of()).to(accelerator.device)
    torch.manual_seed(0)
    total = anchored(prepared, batch)
    torch.manual_seed(0)
    assert float(total - total_loss(model, NextToken())(prepared, batch)) == pytest.approx(0, abs=1e-6)


def test_what_is_switched_on_is_added_with_its_strength() -> None:
    config = TrainConfig(l2sp=0.25, ldifs=0.0)
    assert [(type(each), each.strength) for each in regularizers_of(config)] == [(L2SP, 0.25)]
    both = regularizers_of(TrainConfig(l2sp=0.25, ldifs=0.5))
    assert [(type(each), each.strength) for each in both] == [(L2SP, 0.25), (LDIFS, 0.5)]
    assert regularizers_of(TrainConfig()) == []


def test_positions_that_do_not_count_are_left_out_of_the_distance() -> None:
    one, other = torch.tensor([[[1.0, 0], [3, 0], [0, 2]]]), torch.tensor([[[0.0, 1], [5, 0], [0, -1]]])
    for counted, expected in (([1, 1, 0], 1.0), ([1, 0, 1], 3.0), ([0, 1, 0], 0.0), ([0, 0, 0], 0.0)):
        distance = feature_distance((one, one), (other, one), torch.tensor([counted]).bool())
        assert distance == pytest.approx(expected / 2)  # the second tap has none
    with pytest.raises(ValueError, match="zip"):
        feature_distance((one, one), (other,))


def test_each_term_has_the_weight_of_what_it_is_a_mean_over() -> None:
    model = make_gpt2(40)
    totals = {names: total_loss(model, AnswerOnly(), **dict.fromkeys(names, 0.5)) for names in TERMS}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    batch = Batch(rows_of())
    plain, l2sp, ldifs, _ = (totals[names](model, batch) for names in TERMS)
    terms = plain, l2sp - plain, ldifs - plain
    assert all(term > 1e-3 for term in terms)
    for names, (_, of_l2sp, of_ldifs) in zip(TERMS, [(1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)], strict=True):
        found = totals[names](model, batch, weight=0.25, feature_weight=0.5)
        expected = 0.25 * (terms[0] + of_l2sp * terms[1]) + 0.5 * of_ldifs * terms[2]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


TERMS: list[tuple[str, ...]] = [(), ("l2sp",), ("ldifs",), ("l2sp", "ldifs")]


def test_the_start_is_the_trained_weights_and_goes_where_it_is_sent() -> None:
    model = make_gpt2(40, dropout=0.3)
    model.transformer.h[0].requires_grad_(False)
    total = total_loss(model, AnswerOnly(), l2sp=1.0)
    assert total.start is not None
    assert set(total.start.weights) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in total.start.weights.values())
    shown = AnswerOnly().shown(Batch(rows_of()))
    expected = model(shown.token_ids, **shown.options).logits.detach()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    for training in (True, False):
        torch.testing.assert_close(total.start.outputs(model.train(training), shown), expected)
        assert model.training == training
    assert total.to(torch.device("meta")) is total
    assert {p.device.type for p in total.start.weights.values()} == {"meta"}
    free = total_loss(model, AnswerOnly())
    assert free.start is None
    assert free.to(torch.device("meta")) is free


def moved(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def test_the_originals_distance_is_that_of_channels_over_their_row() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 5, generator=draw), torch.randn(2, 4, 5, generator=draw)
    counted = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    apart = []
    for row, length in ((0, 4), (1, 2)):
        for channel in range(5):
            one, other = first[row, :length, channel], second[row, :length, channel]
            apart.append((one / one.norm() - other / other.norm()).square().sum())
    expected = torch.stack(apart).sum() / (6 * 5)  # 6 positions, 5 channels
    torch.testing.assert_close(channel_distance((first,), (second,), counted), expected)
    everything = torch.ones(2, 4).bool()
    assert channel_distance((first,), (-first,), everything) == pytest.approx(4 / 4)  # at most 4 / T
    assert not torch.isclose(channel_distance((first,), (second,), everything), feature_distance((first,), (second,)))


def test_features_are_compared_as_the_setting_says() -> None:
    model = make_gpt2(40)
    batch, start = Batch(rows_of()), make_gpt2(40)
    totals = [total_loss(model, AnswerOnly(), ldifs=2.0, ldifs_norm=norm) for norm in ("width", "positions")]
    last = total_loss(model, AnswerOnly(), lfl=2.0)
    moved(model)
    plain = total_loss(model, AnswerOnly())(model, batch)
    states = [each(rows_of()[:, :-2], output_hidden_states=True).hidden_states for each in (model, start)]
    everything = torch.ones(6, 10).bool()
    torch.testing.assert_close(totals[0](model, batch) - plain, 2 * feature_distance(*states))
    torch.testing.assert_close(totals[1](model, batch) - plain, 2 * channel_distance(*states, everything))
    torch.testing.assert_close(last(model, batch) - plain, (states[0][-1] - states[1][-1]).square().sum(-1).mean())


def test_an_anchor_model_is_stayed_near_in_place_of_the_start() -> None:
    model, batch = make_gpt2(40), Batch(rows_of())
    near = {
        name: total_loss_of(model, AnswerOnly(), TrainConfig(ldifs=1.0), Keeping(anchor=anchor))
        for name, anchor in (("start", None), ("itself", make_gpt2(40)), ("other", make_gpt2(40, seed=1)))
    }
    plain = total_loss(model, AnswerOnly())(model, batch)
    states = [
        each(rows_of()[:, :-2], output_hidden_states=True).hidden_states for each in (model, make_gpt2(40, seed=1))
    ]
    torch.testing.assert_close(near["other"](model, batch) - plain, feature_distance(*states))
    assert feature_distance(*states) > 0.1
    moved(model)
    assert torch.equal(near["start"](model, batch), near["itself"](model, batch))
    assert not torch.isclose(near["start"](model, batch), near["other"](model, batch))


def test_an_anchor_model_is_found_under_an_adapter_and_refused_if_it_has_another_shape() -> None:
    adapted = add_adapter(make_gpt2(40), AdapterConfig(adapter="lora", lora_rank=2), base="", seed=0)
    batch = Batch(rows_of())
    near = total_loss_of(adapted, AnswerOnly(), TrainConfig(ldifs=1.0), Keeping(anchor=make_gpt2(40)))
    assert torch.equal(near(adapted, batch), total_loss(adapted, AnswerOnly())(adapted, batch))
    with pytest.raises(ValueError, match=r"anchor_model: it has no .*wte.weight of shape \[40, 16\]"):
        total_loss_of(make_gpt2(40), AnswerOnly(), TrainConfig(ldifs=1.0), Keeping(anchor=make_gpt2(41)))


def test_weights_are_averaged_with_those_of_the_start() -> None:
    model, start = make_gpt2(40), make_gpt2(40)
    total = total_loss(model, AnswerOnly(), average=0.25)
    trained = [p.detach().clone() for p in moved(model).parameters()]
    total.average_with_start(model)
    for now, before, after in zip(model.parameters(), start.parameters(), trained, strict=True):
        torch.testing.assert_close(now, 0.25 * before + 0.75 * after)
    total_loss(model, AnswerOnly(), l2sp=1.0).average_with_start(moved(model))
    assert not torch.equal(next(model.parameters()), next(start.parameters()))
