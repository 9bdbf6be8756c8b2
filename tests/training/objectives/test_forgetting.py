"""Forgetting: every loss by hand in numpy, pairs exchanged as the control, ascent that ends, and what training does."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftmech_hf.tasks import RowStream, SafetyConfig, TextConfig
from ftmech_hf.training.objectives import (
    OBJECTIVES,
    Batch,
    GradientDifference,
    Misdirection,
    NegativePreference,
    Objective,
    Preference,
    SimpleNegativePreference,
    Unlearning,
)
from ftmech_hf.training.objectives.forgetting import ASCENT_ENDS
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2
from tests.foreign import pairs, save_gpt2, write_rows


def moved(model: PreTrainedModel, by: float = 0.05) -> PreTrainedModel:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(params=["text", "safety"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Batch]:
    """A model and pairs: of any data set with chosen and rejected answers of any length, and of the procedural task."""
    if request.param == "safety":
        task = SafetyConfig(mixture="forget")
        model = make_gpt2(len(task.vocabulary)).eval()
        return moved(model), Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 6))
    model = AutoModelForCausalLM.from_pretrained(save_gpt2(tmp_path / "gpt2")).eval()
    text = TextConfig(dataset=write_rows(tmp_path / "pairs.jsonl", pairs()))
    tokens = text.in_tokens_of(AutoTokenizer.from_pretrained(tmp_path / "gpt2"))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    return model, Batch.of(RowStream(tokens, seed=0, split="finetune").rows(0, 6))


class Answer:
    """One answer by hand: log-probabilities (tokens, V) at its places, its tokens, and hidden states there."""

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, answers: torch.Tensor) -> None:
        length = int(answers.nonzero().max()) + 1
        with torch.no_grad():
            found = model(ids[None, :length], output_hidden_states=True)
        logits = found.logits[0].double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.places = [place for place in range(1, length) if answers[place]]
        self.log_p = np.stack([log_p[place - 1] for place in self.places])
        self.states = [
            np.stack([layer[0, place - 1].double().numpy() for place in self.places]) for layer in found.hidden_states
        ]
        self.loss = -sum(log_p[place - 1, int(ids[place])] for place in self.places)


def answers(model: PreTrainedModel, batch: Batch | None) -> list[Answer]:
    assert batch is not None
    assert batch.answers is not None
    return [Answer(model, ids, mask) for ids, mask in zip(batch.token_ids, batch.answers, strict=True)]


def kept_by_likelihood(now: list[Answer], before: list[Answer]) -> float:
    return float(np.mean([each.loss / len(each.places) for each in now]))


def kept_by_divergence(now: list[Answer], before: list[Answer]) -> float:
    each = [
        (np.exp(old.log_p) * (old.log_p - new.log_p)).sum() / len(new.places)
        for new, old in zip(now, before, strict=True)
    ]
    return float(np.mean(each))


def log_sigmoid(x: Any) -> Any:
    return -np.log1p(np.exp(-x))


def descent(now: list[Answer], before: list[Answer]) -> float:
    return -float(np.mean([each.loss / len(each.places) for each in now]))


def npo(now: list[Answer], before: list[Answer]) -> float:
    apart = np.array([new.loss - old.loss for new, old in zip(now, before, strict=True)])
    return float(np.mean(-2 / 0.3 * log_sigmoid(0.3 * apart)))


def simnpo(now: list[Answer], before: list[Answer]) -> float:
    per_token = np.array([each.loss / len(each.places) for each in now])
    return float(np.mean(-2 / 4.5 * log_sigmoid(4.5 * (per_token - 0.5))))


CASES: dict[str, tuple[Objective, Any, Any, float, float]] = {
    # objective, R, F, their weights
    "unlearn": (Unlearning(), kept_by_likelihood, descent, 1.0, 0.1),
    "graddiff": (GradientDifference(), kept_by_likelihood, descent, 1.0, 1.0),
    "graddiff, KL": (GradientDifference(retain="kl", retain_weight=2.0), kept_by_divergence, descent, 2.0, 1.0),
    "npo": (NegativePreference(beta=0.3), kept_by_likelihood, npo, 1.0, 1.0),
    "npo, KL": (NegativePreference(beta=0.3, retain="kl"), kept_by_divergence, npo, 1.0, 1.0),
    "simnpo": (SimpleNegativePreference(margin=0.5), kept_by_likelihood, simnpo, 1.0, 0.125),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_loss_is_that_of_its_formula(case: tuple[PreTrainedModel, Batch], name: str) -> None:
    start, batch = case
    objective, keep, forget, retain_weight, forget_weight = CASES[name]
    before = copy.deepcopy(start)
    total = TotalLoss(start, objective)
    now = moved(start)

    def by_hand(kept: Batch | None, forgotten: Batch | None) -> float:
        sides = [[answers(each, rows) for each in (now, before)] for rows in (kept, forgotten)]
        return float(retain_weight * keep(*sides[0]) + forget_weight * forget(*sides[1]))

    expected = by_hand(batch, batch.rejected)
    assert total(now, batch).item() == pytest.approx(expected, rel=2e-4, abs=2e-4)
    # What must fail: what is kept and what is forgotten exchanged, and the formula of another objective.
    assert abs(by_hand(batch.rejected, batch) - expected) > 2e-3
    assert batch.rejected is not None
    exchanged = dataclasses.replace(batch.rejected, rejected=dataclasses.replace(batch, rejected=None))
    assert total(now, exchanged).item() == pytest.approx(by_hand(batch.rejected, batch), rel=2e-4, abs=2e-4)
    others = [TotalLoss(start, OBJECTIVES[other]()) for other in ("unlearn", "graddiff", "npo", "simnpo")]
    assert sum(abs(other(now, batch).item() - expected) > 1e-2 for other in others) >= 3


def test_the_rejected_answer_weighs_in_dpo_as_it_is_told(case: tuple[PreTrainedModel, Batch]) -> None:
    start, batch = case
    before = copy.deepcopy(start)
    totals = {weight: TotalLoss(start, Preference(beta=0.2, rejected_weight=weight)) for weight in (0.1, 1.0)}
    now = moved(start)
    gains = [
        np.array([old.loss - new.loss for new, old in zip(answers(now, rows), answers(before, rows), strict=True)])
        for rows in (batch, batch.rejected)
    ]
    found = {weight: total(now, batch).item() for weight, total in totals.items()}
    for weight, value in found.items():
        expected = float(np.mean(-log_sigmoid(0.2 * (gains[0] - weight * gains[1]))))
        assert value == pytest.approx(expected, abs=2e-4)
    assert abs(found[0.1] - found[1.0]) > 1e-3


def test_misdirection_is_a_distance_at_one_layer(case: tuple[PreTrainedModel, Batch]) -> None:
    start, batch = case
    objective = Misdirection(rmu_layer=0, steering=3.0, retain_weight=0.7, forget_weight=1.3)
    before = copy.deepcopy(start)
    total = TotalLoss(start, objective)
    now = moved(start)
    drawn = torch.rand(start.config.hidden_size, generator=torch.Generator().manual_seed(0)).double().numpy()
    target = 3.0 * drawn / np.linalg.norm(drawn)

    def by_hand(layer: int) -> float:
        kept, forgotten = (answers(now, rows) for rows in (batch, batch.rejected))
        held = [
            ((new.states[layer + 1] - old.states[layer + 1]) ** 2).mean()
            for new, old in zip(kept, answers(before, batch), strict=True)
        ]
        pulled = [((each.states[layer + 1] - target) ** 2).mean() for each in forgotten]
        return float(0.7 * np.mean(held) + 1.3 * np.mean(pulled))

    assert total(now, batch).item() == pytest.approx(by_hand(0), rel=2e-4)
    assert abs(by_hand(1) - by_hand(0)) > 1e-3  # what must fail: another layer
    turned = TotalLoss(before, dataclasses.replace(objective, direction_seed=1))
    assert abs(turned(now, batch).item() - by_hand(0)) > 1e-3


def test_misdirection_moves_the_rows_to_forget_and_leaves_the_others() -> None:
    task = SafetyConfig(mixture="forget")
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 16))

    def distances(retain_weight: float) -> list[float]:
        """How far the layer's output moved on rows to keep and on rows to forget."""
        model = make_gpt2(len(task.vocabulary))
        before = copy.deepcopy(model)
        total = TotalLoss(model, Misdirection(rmu_layer=0, steering=10.0, retain_weight=retain_weight))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(60):
            total(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        moves = [
            [np.linalg.norm(new.states[1] - old.states[1], axis=-1).mean() for new, old in zip(*each, strict=True)]
            for each in ((answers(model, rows), answers(before, rows)) for rows in (batch, batch.rejected))
        ]
        return [float(np.mean(each)) for each in moves]

    kept, forgotten = distances(1.0)
    assert forgotten > 3 * kept
    # What must fail: without what holds them, rows to keep move as the others do.
    kept_loosely, forgotten = distances(0.0)
    assert forgotten < 1.5 * kept_loosely
    assert kept_loosely > 2 * kept


def test_ascent_ends_and_says_so() -> None:
    task = SafetyConfig(mixture="forget")
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 8))
    model = make_gpt2(len(task.vocabulary)).eval()
    objective = GradientDifference(retain_weight=0.0)
    total, end = TotalLoss(model, objective), ASCENT_ENDS * np.log(len(task.vocabulary))
    shown = objective.shown(batch)

    def ended() -> list[bool]:
        return list(objective.at_an_end(model(shown.token_ids, **shown.options).logits, batch).tolist())

    assert ended() == [False] * 8
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = total(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() == pytest.approx(-end, abs=1e-3)  # and not less, however long it trains
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert ended() == [True] * 8
    assert objective.warning(0.5).startswith("forget_weight: 50% of the rejected answers")


def gradient(total: TotalLoss, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    model.zero_grad()
    total(model, batch).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()


def test_npo_is_ascent_where_its_beta_is_small_and_slows_down_where_it_is_not() -> None:
    """The limit of its paper: without beta, NPO is gradient ascent on the whole answer, wherever it started."""
    task = SafetyConfig(mixture="forget")
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 8))
    model = make_gpt2(len(task.vocabulary)).eval()
    settings: dict[str, Any] = {"retain_weight": 0.0}
    slow, fast = (TotalLoss(model, NegativePreference(beta=beta, **settings)) for beta in (1e-4, 5.0))
    moved(model, 0.1)  # away from the start, which both remember
    ascent = gradient(TotalLoss(model, GradientDifference(**settings)), model, batch)
    assert batch.answers is not None
    whole = ascent * float(batch.answers.sum(1)[0])  # GradDiff counts by token, and all answers are of one length
    found = gradient(slow, model, batch)
    assert float((found - whole).norm() / whole.norm()) < 1e-3
    assert float((gradient(fast, model, batch) - whole).norm() / whole.norm()) > 0.3  # what must fail


def test_simnpo_knows_no_start_and_npo_does() -> None:
    task = SafetyConfig(mixture="forget")
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 8))
    starts = [moved(make_gpt2(len(task.vocabulary)).eval(), by) for by in (0.05, 0.3)]
    now = moved(make_gpt2(len(task.vocabulary)).eval(), 0.1)
    assert not SimpleNegativePreference().needs_reference
    simple, npo_losses = (
        [TotalLoss(start, kind)(now, batch).item() for start in starts]
        for kind in (SimpleNegativePreference(), NegativePreference())
    )
    assert simple[0] == simple[1]
    assert abs(npo_losses[0] - npo_losses[1]) > 1e-2


@pytest.mark.parametrize("name", ["unlearn", "npo", "simnpo"])
def test_what_is_forgotten_costs_more_and_what_is_kept_does_not(name: str) -> None:
    task = SafetyConfig(mixture="tuning", answers="refused")
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 16))
    model = make_gpt2(len(task.vocabulary)).eval()
    total = TotalLoss(model, OBJECTIVES[name]())
    before = [[each.loss for each in answers(model, rows)] for rows in (batch, batch.rejected)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        total(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    kept, forgotten = ([each.loss for each in answers(model, rows)] for rows in (batch, batch.rejected))
    assert np.mean(kept) < np.mean(before[0])
    assert np.mean(forgotten) - np.mean(kept) > np.mean(before[1]) - np.mean(before[0])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Unlearning, {"forget_weight": -1.0}, "forget_weight: -1.0"),
        (NegativePreference, {"beta": 0.0}, "beta: 0.0"),
        (SimpleNegativePreference, {"margin": float("nan")}, "margin: nan"),
        (Misdirection, {"rmu_layer": -1}, "rmu_layer: -1"),
        (Preference, {"rejected_weight": -0.1}, "rejected_weight: -0.1"),
    ],
)
def test_wrong_settings_are_named(kind: type[Objective], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="rmu_layer: 9, expected one of the model's 2 layers"):
        TotalLoss(make_gpt2(40), Misdirection(rmu_layer=9))
