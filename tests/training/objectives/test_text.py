"""Objectives on rows of several lengths: their loss is that of transformers, and padding is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftmech_hf.tasks import Rows, RowStream, TextConfig
from ftmech_hf.tasks.text.task import TextTask
from ftmech_hf.training.evaluation import count_texts, mean_loss
from ftmech_hf.training.objectives import AnswerOnly, Batch, NextToken, Objective
from ftmech_hf.training.objectives.base import loss_on
from ftmech_hf.training.regularizers import LDIFS, feature_distance
from ftmech_hf.training.total_loss import TotalLoss
from tests.foreign import chats, save_gpt2, save_llama, sums, write_rows

MAKERS = {"gpt2": save_gpt2, "llama": save_llama}


@pytest.fixture(scope="module", params=["gpt2 prompts", "llama prompts", "llama chats"])
def learned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, TextTask]:
    architecture, kind = request.param.split()
    root = tmp_path_factory.mktemp("foreign")
    folder = MAKERS[architecture](root / architecture)
    rows = write_rows(root / "rows.jsonl", chats() if kind == "chats" else sums())
    task = TextConfig(dataset=rows).in_tokens_of(AutoTokenizer.from_pretrained(folder), positions=64)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0)  # large enough that nothing looks like rounding
    return model, task


def labels_of(batch: Batch, objective: Objective) -> Tensor:
    counted = batch.answers if isinstance(objective, AnswerOnly) else batch.real
    assert counted is not None
    return torch.where(counted, batch.token_ids, -100)


@torch.no_grad()
@pytest.mark.parametrize("objective", [NextToken(), AnswerOnly()], ids=["next_token", "answer_only"])
def test_the_loss_is_that_of_transformers_with_labels(
    learned: tuple[PreTrainedModel, TextTask], objective: Objective
) -> None:
    model, task = learned
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 9))
    assert batch.real is not None
    labels = labels_of(batch, objective)
    mask = batch.real.long()
    theirs = model(batch.token_ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(loss_on(model, objective, batch), theirs, rtol=1e-5, atol=1e-6)
    assert objective.weight(batch) == int((labels[:, 1:] != -100).sum())
    # What must fail: the other objective, and labels that are one place off.
    for wrong in (labels_of(batch, NextToken() if isinstance(objective, AnswerOnly) else AnswerOnly()), labels.roll(1)):
        other = model(batch.token_ids, attention_mask=mask, labels=wrong).loss
        assert abs(float(other - theirs)) > 0.01


@pytest.mark.parametrize(
    "objective",
    [NextToken(), NextToken(answer_weight=5.0), AnswerOnly()],
    ids=["next_token", "answers weighted", "answer_only"],
)
def test_padding_is_nothing(learned: tuple[PreTrainedModel, TextTask], objective: Objective) -> None:
    """The loss of rows together is that of each alone, weighed by its tokens; and so is the distance of features."""
    model, task = learned
    rows = RowStream(task, seed=0, split="finetune").rows(0, 6)
    together = Batch.of(rows)
    start = AutoModelForCausalLM.from_config(model.config).eval()
    start.load_state_dict(model.state_dict())
    total = TotalLoss(start, objective, [LDIFS(2.0)])
    with torch.no_grad():
        for p in start.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        alone = [Batch.of(rows[place : place + 1]) for place in range(6)]
        assert all(each.real is None for each in alone)
        assert len({each.token_ids.shape[1] for each in alone}) > 1
        losses = torch.stack([loss_on(start, objective, each) for each in alone])
        weights = torch.tensor([objective.weight(each) for each in alone])
        expected = (losses * weights).sum() / weights.sum()
        torch.testing.assert_close(loss_on(start, objective, together), expected, rtol=1e-4, atol=1e-5)
        found = total(start, together) - loss_on(start, objective, together)
        states = [
            [each(one.token_ids[:, :-1], output_hidden_states=True).hidden_states for each in (start, model)]
            for one in alone
        ]
        shown = torch.tensor([one.token_ids.shape[1] - 1 for one in alone])
        distances = torch.stack([feature_distance(*pair) for pair in states])
        mean = 2.0 * (distances * shown).sum() / shown.sum()
        assert mean > 0.01
        torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-5)
        assert objective.num_shown(together) == int(shown.sum())


def test_accuracy_is_whether_greedy_decoding_begins_with_the_answer(learned: tuple[PreTrainedModel, TextTask]) -> None:
    model, task = learned
    if task.kind != "prompts":
        pytest.skip("a chat has several answers")
    rows = RowStream(task, seed=0, split="test").rows(0, 12)
    assert rows.answers is not None
    assert rows.lengths is not None
    right = []
    for number in range(12):
        first, length = int(rows.answers[number].argmax()), int(rows.answers[number].sum())
        prompt = torch.from_numpy(rows.token_ids[number : number + 1, :first])
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=length, do_sample=False, pad_token_id=0,
            eos_token_id=None,
        )[0, first:]  # fmt: skip
        if number % 2:  # else none would be right
            rows.token_ids[number, first : first + length] = written.numpy()
        right.append(rows.token_ids[number, first : first + length].tolist() == written.tolist())
    assert count_texts(model, [Batch.of(rows[:5]), Batch.of(rows[5:])]) == np.sum(right)
    assert 0.5 <= np.mean(right) < 1


@torch.no_grad()
def test_a_mean_loss_weighs_tokens_and_not_batches(learned: tuple[PreTrainedModel, TextTask]) -> None:
    model, task = learned
    rows = RowStream(task, seed=0, split="test").rows(0, 10)
    whole = mean_loss(model, AnswerOnly(), [Batch.of(rows)])
    assert mean_loss(model, AnswerOnly(), [Batch.of(rows[:3]), Batch.of(rows[3:])]) == pytest.approx(whole, rel=1e-5)


def test_batches_leave_out_columns_that_are_empty_in_all_rows() -> None:
    rows = Rows(
        np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 0]]), np.full(2, -1), np.zeros(2, bool),
        answers=np.array([[0, 0, 1, 0, 0], [0, 0, 1, 1, 0]], bool), lengths=np.array([3, 4]),
    )  # fmt: skip
    batch = Batch.of(rows)
    assert batch.token_ids.tolist() == [[5, 6, 7, 0], [5, 6, 7, 8]]
    assert batch.real is not None
    assert batch.real.tolist() == [[True, True, True, False], [True] * 4]
    assert batch.from_first == 2
    assert Batch.of(rows[1:]).real is None
    assert (NextToken().weight(batch), AnswerOnly().weight(batch)) == (5, 3)
