"""DPO: the loss by hand from log-probabilities, the reference, and that it is what training minimises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftmech_hf.tasks import RowStream, TextConfig
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.objectives import Batch, Preference
from ftmech_hf.training.total_loss import TotalLoss
from tests.foreign import pairs, save_gpt2, write_rows


@pytest.fixture
def start(tmp_path: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(save_gpt2(tmp_path / "gpt2")).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    return model


@pytest.fixture
def batch(tmp_path: Path, start: PreTrainedModel) -> Batch:
    task = TextConfig(dataset=write_rows(tmp_path / "pairs.jsonl", pairs())).in_tokens_of(
        AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    )
    assert task.offers == ("tokens", "answers", "pairs")
    return Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 6))


def moved(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


def answer_log_p(model: PreTrainedModel, batch: Batch) -> Any:
    """Sums over the tokens of each answer, row by row, with nothing of the padding."""
    found = []
    assert batch.answers is not None
    for ids, answers in zip(batch.token_ids, batch.answers, strict=True):
        length = int(answers.nonzero().max()) + 1
        with torch.no_grad():
            logits = model(ids[None, :length]).logits[0].double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = [place for place in range(1, length) if answers[place]]
        found.append(sum(log_p[place - 1, int(ids[place])] for place in places))
    return np.array(found)


def by_hand(model: PreTrainedModel, reference: PreTrainedModel, batch: Batch, beta: float) -> float:
    assert batch.rejected is not None
    margins = [answer_log_p(each, batch) - answer_log_p(each, batch.rejected) for each in (model, reference)]
    return float(np.mean(np.log1p(np.exp(-beta * (margins[0] - margins[1])))))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_loss_is_that_of_the_paper(start: PreTrainedModel, batch: Batch, beta: float) -> None:
    reference = AutoModelForCausalLM.from_config(start.config).eval()
    reference.load_state_dict(start.state_dict())
    total = TotalLoss(start, Preference(beta=beta))
    assert total(start, batch).item() == pytest.approx(np.log(2), abs=1e-6)  # nothing is told apart at the start
    found = total(moved(start), batch).item()
    expected = by_hand(start, reference, batch, beta)
    assert abs(expected - np.log(2)) > 0.01
    assert found == pytest.approx(expected, abs=1e-4)
    # What must fail: chosen and rejected exchanged, another beta, no reference.
    assert batch.rejected is not None
    exchanged = dataclasses.replace(batch.rejected, rejected=dataclasses.replace(batch, rejected=None))
    assert total(start, exchanged).item() == pytest.approx(by_hand(start, reference, exchanged, beta), abs=1e-4)
    assert abs(total(start, exchanged).item() - expected) > 0.01
    assert abs(by_hand(start, reference, batch, 2 * beta) - expected) > 0.01
    start_again = TotalLoss(start, Preference(beta=beta))
    assert abs(start_again(start, batch).item() - expected) > 0.01


def test_pairs_weigh_alike_however_they_are_put_together(start: PreTrainedModel, batch: Batch) -> None:
    total = TotalLoss(start, Preference())
    moved(start)
    assert Preference().weight(batch) == 6
    assert batch.rejected is not None
    alone = []
    for place in range(6):
        halves = [
            Batch(each.token_ids[[place]], each.answers[[place]], None if each.real is None else each.real[[place]],
                  each.from_first)
            for each in (batch, batch.rejected)
        ]  # fmt: skip
        alone.append(total(start, dataclasses.replace(halves[0], rejected=halves[1])).item())
    assert np.mean(alone) == pytest.approx(total(start, batch).item(), abs=1e-5)
    assert np.std(alone) > 1e-3


def test_the_reference_has_no_dropout_no_gradient_and_with_an_adapter_is_the_base(
    start: PreTrainedModel, batch: Batch
) -> None:
    assert batch.real is not None
    with torch.no_grad():
        base = start(batch.token_ids[:, :-1], attention_mask=batch.real[:, :-1].long()).logits[:, -3:]
    adapted = add_adapter(start, AdapterConfig(adapter="lora", lora_rank=2, lora_dropout=0.5), base="", seed=0)
    total = TotalLoss(adapted, Preference())
    assert total.start is not None
    moved(adapted).train()
    shown = Preference().shown(batch)
    found = total.start.outputs(adapted, shown)[: len(batch), -3:]
    assert not found.requires_grad
    assert adapted.training
    torch.testing.assert_close(found, base, rtol=1e-4, atol=1e-4)
    assert all("lora" in name for name in total.start.weights)


def test_training_comes_to_prefer_what_is_chosen(start: PreTrainedModel, batch: Batch) -> None:
    total = TotalLoss(start, Preference(beta=0.5))
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-3)
    assert batch.rejected is not None
    before = answer_log_p(start, batch) - answer_log_p(start, batch.rejected)
    for _ in range(15):
        total(start, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = answer_log_p(start, batch) - answer_log_p(start, batch.rejected)
    assert (after > before).all()


def test_beta_is_positive() -> None:
    with pytest.raises(ValueError, match=r"beta: 0, expected a number above 0"):
        Preference(beta=0)
