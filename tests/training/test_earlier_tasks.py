from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.earlier_tasks import EWC, DarkExperience, LwF, OLoRA, fisher_information
from ftmech_hf.training.objectives import AnswerOnly, Batch, NextToken, Objective
from ftmech_hf.training.regularizers import Regularizer
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2


def rows_of(number: int = 6) -> Tensor:
    return torch.randint(3, 40, (number, 12), generator=torch.Generator().manual_seed(0))


def moved(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def term(model: PreTrainedModel, regularizer: Regularizer, batch: Batch, objective: Objective | None = None) -> Tensor:
    """What a regularizer adds after the model has moved away from where it started."""
    total = TotalLoss(model, objective or AnswerOnly(), [regularizer])
    free = TotalLoss(model, objective or AnswerOnly())
    moved(model)
    with torch.no_grad():
        return total(model, batch) - free(model, batch)


@torch.no_grad()
def divergence(before: Tensor, now: Tensor, temperature: float) -> Tensor:
    p, q = ((each / temperature).softmax(-1) for each in (before, now))
    return temperature**2 * (p * (p / q).log()).sum(-1).mean()


@pytest.mark.parametrize("objective", [AnswerOnly(), NextToken()])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_starts_answers_are_stayed_near(temperature: float, objective: Objective) -> None:
    model, start, rows = make_gpt2(40), make_gpt2(40), rows_of()
    found = term(model, LwF(3.0, temperature=temperature), Batch(rows), objective)
    now, before = (each(rows[:, :-2]).logits[:, -1] for each in (model, start))
    torch.testing.assert_close(found, 3 * divergence(before, now, temperature), rtol=1e-4, atol=1e-6)
    assert found > 0.01
    unmoved = make_gpt2(40)
    free, held = (TotalLoss(unmoved, objective, each)(unmoved, Batch(rows)) for each in ([], [LwF(3.0)]))
    torch.testing.assert_close(held, free)


def test_old_questions_are_asked_of_new_texts() -> None:
    model, start, rows = make_gpt2(40), make_gpt2(40), rows_of()
    questions = torch.tensor([[7, 8, 9], [10, 11, 12]])
    found = term(model, LwF(1.0, questions=questions), Batch(rows))
    asked = rows.clone()
    for row in asked:
        row[1:4] = questions[int(row.sum()) % 2]
    assert len({tuple(row[1:4].tolist()) for row in asked}) == 2
    now, before = (each(asked[:, :-2]).logits[:, -1] for each in (model, start))
    torch.testing.assert_close(found, divergence(before, now, 2.0), rtol=1e-4, atol=1e-6)
    now, before = (each(rows[:, :-2]).logits[:, -1] for each in (model, start))
    assert not torch.isclose(found, divergence(before, now, 2.0), rtol=1e-2)  # of the rows as they are


def ragged() -> tuple[Batch, Tensor]:
    """Rows of 12, 9 and 12 tokens, with answers of 2, 1 and 3 tokens."""
    rows, lengths = rows_of(3), torch.tensor([12, 9, 12])
    answers = torch.zeros(3, 12, dtype=torch.bool)
    answers[0, 5:7], answers[1, 8], answers[2, 9:12] = True, True, True
    real = torch.arange(12) < lengths[:, None]
    return Batch(rows, answers, real, from_first=7), answers


def test_answers_of_several_tokens_are_stayed_near() -> None:
    model, start = make_gpt2(40), make_gpt2(40)
    batch, answers = ragged()
    found = term(model, LwF(1.0), batch)
    now, before = (each(batch.token_ids).logits[:, :-1][answers[:, 1:]] for each in (model, start))
    assert len(now) == 6
    torch.testing.assert_close(found, divergence(before, now, 2.0), rtol=1e-4, atol=1e-6)


def test_weights_that_matter_are_held() -> None:
    model, start = make_gpt2(40), make_gpt2(40)
    draw = torch.Generator().manual_seed(3)
    fisher = {name: torch.rand(p.shape, generator=draw) for name, p in model.named_parameters()}
    found = term(model, EWC(4.0, fisher), Batch(rows_of()))
    pairs = zip(model.named_parameters(), start.parameters(), strict=True)
    expected = 2 * sum((fisher[name] * (p - q).square()).sum() for (name, p), q in pairs)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-3, atol=1e-4)


def test_permuted_information_is_the_same_numbers_at_other_places() -> None:
    fisher = {"a": torch.arange(40.0).view(5, 8), "b": torch.arange(7.0)}
    control = EWC(1.0, fisher, permuted=True, seed=0).fisher
    for name, each in fisher.items():
        assert control[name].shape == each.shape
        assert torch.equal(control[name].flatten().sort().values, each.flatten())
        assert not torch.equal(control[name], each)
    assert all(torch.equal(each, fisher[name]) for name, each in EWC(1.0, fisher).fisher.items())


class Softmax(torch.nn.Module):
    """Logits W x of the token before the answer, one-hot: its Fisher information is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, token_ids: Tensor, **_: object) -> object:
        logits = torch.nn.functional.one_hot(token_ids, 5).float() @ self.weight.T
        return type("Output", (), {"logits": logits[:, -1:]})


def test_fisher_information_is_that_of_a_softmax() -> None:
    """Of a logit of class k: p_k (1 - p_k), where the input is one; labels that are given would say something else."""
    model = Softmax()
    last = torch.randint(0, 4, (1500,), generator=torch.Generator().manual_seed(1))  # token 4 never comes
    found = fisher_information(model, [Batch(torch.tensor([[0, int(t), 0, 0]])) for t in last], seed=0)["weight"]
    p = model.weight.detach().softmax(0)
    shares = torch.bincount(last, minlength=5) / len(last)
    expected = shares * p * (1 - p)
    torch.testing.assert_close(found, expected, rtol=0.25, atol=0.006)
    assert found[:, 4].abs().max() == 0
    given = shares * (torch.eye(4)[0][:, None] - p).square()  # the label is always class 0
    assert (given - expected).abs().max() > 10 * (found - expected).abs().max()


def test_information_of_answers_of_several_tokens_is_of_all_of_them() -> None:
    """The mean of squared gradients of log p, and not the squared mean: rows one by one, by hand."""
    model = make_gpt2(40)
    batch, answers = ragged()
    whole = Batch(batch.token_ids[:1], answers[:1], None, 7)
    found = fisher_information(model, [whole] * 200, seed=0)
    logits = model(whole.token_ids).logits[:, :-1][answers[:1, 1:]]
    bias = torch.zeros(2, 40, requires_grad=True)
    p = (logits.detach() + bias).softmax(-1)
    assert found["lm_head.weight"].shape == (40, 16)
    hidden = model(whole.token_ids, output_hidden_states=True).hidden_states[-1][:, :-1][answers[:1, 1:]]
    # E of the squared sum over tokens: variances add, as tokens are drawn apart
    expected = torch.einsum("tk,td->kd", (p * (1 - p)).detach(), hidden.detach().square())
    relative = float((found["lm_head.weight"] - expected).norm() / expected.norm())
    assert relative < 0.25
    one = torch.einsum("tk,td->kd", (p * (1 - p)).detach()[:1], hidden.detach().square()[:1])
    assert float((one - expected).norm() / expected.norm()) > 2 * relative  # of one token alone


@pytest.mark.parametrize("objective", [AnswerOnly(), NextToken()])
def test_logits_on_replayed_rows_are_held(objective: Objective) -> None:
    model, rows = make_gpt2(40).requires_grad_(False), rows_of()
    kept = torch.tensor([-1, 2, -1, 0, -1, -1])
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    replay = DarkExperience(3.0, logits, torch.ones(3, dtype=torch.int64), share=0.5)
    found = term(model, replay, Batch(rows, kept=kept), objective)
    now = model(rows[:, :-2]).logits[:, -1]
    apart = [(now[1] - logits[2]).square().mean(), (now[3] - logits[0]).square().mean()]
    expected = 3 * sum(apart) / (0.5 * 6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    none = term(model, replay, Batch(rows, kept=torch.full((6,), -1)), objective)
    assert none == pytest.approx(0, abs=1e-6)


def test_logits_of_answers_of_several_tokens_are_held() -> None:
    model = make_gpt2(40)
    batch, answers = ragged()
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    replay = DarkExperience(1.0, logits, torch.tensor([2, 1, 3]), share=1.0)
    kept = Batch(batch.token_ids, batch.answers, batch.real, 7, kept=torch.tensor([2, -1, 2]))
    with pytest.raises(RuntimeError, match="size"):  # the first row has two tokens, the third kept one three
        term(model, replay, kept)
    kept = Batch(batch.token_ids, batch.answers, batch.real, 7, kept=torch.tensor([0, 1, 2]))
    found = term(model, replay, kept)
    now = model(batch.token_ids).logits[:, :-1][answers[:, 1:]]
    torch.testing.assert_close(found, (now - logits).square().mean(-1).sum() / (3 * 2), rtol=1e-4, atol=1e-5)


def test_adapters_are_kept_apart_from_earlier_ones() -> None:
    model = add_adapter(make_gpt2(40), AdapterConfig(adapter="lora", lora_rank=2), base="", seed=0)
    model.requires_grad_(False)
    mine = {name: p for name, p in model.named_parameters() if ".lora_A." in name}
    earlier = {
        name.replace(".default.", "."): torch.randn(3, p.shape[1], generator=torch.Generator().manual_seed(2))
        for name, p in mine.items()
    }
    found = OLoRA(0.5, [earlier, earlier])
    total = TotalLoss(model, AnswerOnly(), [found])
    apart = total(model, Batch(rows_of())) - TotalLoss(model, AnswerOnly())(model, Batch(rows_of()))
    expected = 0.5 * 2 * sum((earlier[name.replace(".default.", ".")] @ p.T).abs().sum() for name, p in mine.items())
    torch.testing.assert_close(apart, torch.as_tensor(expected), rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # orthogonal to all earlier directions: nothing is left
        for name, p in mine.items():
            basis = torch.linalg.qr(earlier[name.replace(".default.", ".")].T).Q
            p.copy_(p - (p @ basis) @ basis.T)
    apart = total(model, Batch(rows_of())) - TotalLoss(model, AnswerOnly())(model, Batch(rows_of()))
    assert math.isclose(float(apart), 0, abs_tol=1e-3)


def test_what_is_replayed_weighs_the_same_in_whatever_parts_a_step_is_taken() -> None:
    """Of answers of several lengths: parts have as many rows, and more or fewer tokens."""
    model = make_gpt2(40).requires_grad_(False)
    batch, answers = ragged()
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([0, 1, 2])

    def whole(parts: list[slice]) -> float:
        found = 0.0
        tokens = [int(answers[each].sum()) for each in parts]
        for each, number in zip(parts, tokens, strict=True):
            part = Batch(batch.token_ids[each], answers[each], None if batch.real is None else batch.real[each], 7,
                         kept=kept[each])  # fmt: skip
            replay = DarkExperience(1.0, logits, torch.tensor([2, 1, 3]), share=1.0)
            total = TotalLoss(model, AnswerOnly(), [replay])
            alone = TotalLoss(model, AnswerOnly(), [])
            weights = {"weight": number / sum(tokens), "row_weight": len(part) / 3}
            found += float(total(model, part, **weights) - alone(model, part, **weights))
        return found

    at_once = whole([slice(0, 3)])
    assert at_once > 0.01
    assert whole([slice(0, 1), slice(1, 2), slice(2, 3)]) == pytest.approx(at_once, rel=1e-4)
