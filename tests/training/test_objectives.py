from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import AnswerOnly, Batch, NextToken, OwnAnswers, answer_only_loss, next_token_loss
from ftmech_hf.training.objectives.base import loss_on
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2


def test_losses_agree_with_a_full_forward_pass(any_model: PreTrainedModel) -> None:
    torch.manual_seed(0)
    rows = torch.randint(3, 40, (6, 12))
    log_p = any_model(rows).logits.log_softmax(-1)
    picked = log_p[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    assert torch.allclose(next_token_loss(any_model, rows), -picked.mean(), atol=1e-6)
    assert torch.allclose(answer_only_loss(any_model, rows), -picked[:, -2].mean(), atol=1e-6)


def test_an_answer_weighs_as_much_as_is_said(any_model: PreTrainedModel) -> None:
    """By hand: of a row's eleven predicted tokens the last but one, its answer, counts four times."""
    torch.manual_seed(0)
    rows = torch.randint(3, 40, (6, 12))
    log_p = any_model(rows).logits.log_softmax(-1)
    picked = -log_p[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    weighted = NextToken(answer_weight=4.0)
    expected = (picked.sum() + 3 * picked[:, -2].sum()) / (6 * (10 + 4))
    assert torch.allclose(loss_on(any_model, weighted, Batch(rows)), expected, atol=1e-6)
    assert not torch.allclose(expected, picked.mean(), atol=1e-4)
    assert weighted.weight(Batch(rows)) == 6 * 14
    assert NextToken().weight(Batch(rows)) == 6 * 11
    alone = loss_on(any_model, NextToken(answer_weight=1e6), Batch(rows))
    assert torch.allclose(alone, picked[:, -2].mean(), atol=1e-4)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_an_answer_weighs_something(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"answer_weight: .*, expected a number above 0"):
        NextToken(answer_weight=wrong)


def test_the_answer_only_loss_ignores_all_but_the_answer(any_model: PreTrainedModel) -> None:
    rows = torch.randint(3, 40, (6, 12))
    other_end = rows.clone()
    other_end[:, -1] = 5
    assert torch.equal(answer_only_loss(any_model, rows), answer_only_loss(any_model, other_end))
    other_answer = rows.clone()
    other_answer[:, -2] = (rows[:, -2] + 1) % 40
    assert not torch.equal(answer_only_loss(any_model, rows), answer_only_loss(any_model, other_answer))


def test_accuracy_counts_argmax_over_the_whole_vocabulary(any_model: PreTrainedModel) -> None:
    rows = torch.randint(3, 40, (10, 12))
    rows[:7, -2] = answer_logits(any_model, rows).argmax(-1)[:7]
    rows[7:, -2] = (answer_logits(any_model, rows).argmax(-1)[7:] + 1) % 40
    for batch_size in (1, 3, 256):
        assert answer_accuracy(any_model, rows, batch_size=batch_size) == 0.7


def test_own_answers_teach_nothing_to_the_model_that_gave_them() -> None:
    """The gradient at the start, a mean over many draws, vanishes beside that of one draw and of other answers."""
    model = make_gpt2(40)
    rows = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    lengths = torch.zeros(4, 12, dtype=torch.bool)
    lengths[:, 8:10] = True
    for batch in (Batch(rows), Batch(rows, lengths, None, 4)):
        total = TotalLoss(model, OwnAnswers())
        gradients = []
        for seed in range(100):
            torch.manual_seed(seed)
            model.zero_grad()
            total(model, batch).backward()
            gradients.append(model.lm_head.weight.grad.clone())
        mean = torch.stack(gradients).mean(0)
        assert mean.norm() < 0.25 * gradients[0].norm()
        model.zero_grad()
        loss_on(model, AnswerOnly(), batch).backward()
        assert mean.norm() < 0.25 * model.lm_head.weight.grad.norm()
