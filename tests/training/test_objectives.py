from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss, next_token_loss


def test_losses_agree_with_a_full_forward_pass(any_model: PreTrainedModel) -> None:
    torch.manual_seed(0)
    rows = torch.randint(3, 40, (6, 12))
    log_p = any_model(rows).logits.log_softmax(-1)
    picked = log_p[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    assert torch.allclose(next_token_loss(any_model, rows), -picked.mean(), atol=1e-6)
    assert torch.allclose(answer_only_loss(any_model, rows), -picked[:, -2].mean(), atol=1e-6)


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
