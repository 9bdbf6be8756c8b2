"""The preference objective against TRL's DPOTrainer, on the same model, reference and batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftmech_hf.tasks import RowStream, TextConfig
from ftmech_hf.training.objectives import Batch, Preference
from ftmech_hf.training.objectives.base import joined
from ftmech_hf.training.total_loss import TotalLoss
from tests.foreign import pairs, save_gpt2, write_rows

pytestmark = pytest.mark.interop


def models(folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """(the one that is trained, which has moved a little, the one it started from)."""
    save_gpt2(folder)
    start, now = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for p, q in zip(start.parameters(), now.parameters(), strict=True):
            p.mul_(3.0)
            q.mul_(3.0).add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return now, start


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_loss_and_its_gradient_are_those_of_trl(tmp_path: Path, beta: float) -> None:
    from trl import DPOConfig, DPOTrainer

    now, start = models(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    task = TextConfig(dataset=write_rows(tmp_path / "pairs.jsonl", pairs())).in_tokens_of(tokenizer)
    batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(0, 8))

    total = TotalLoss(start, Preference(beta=beta))  # remembers the start
    ours = total(now, batch)
    ours.backward()
    gradient = now.lm_head.weight.grad.clone()
    now.zero_grad()

    arguments = DPOConfig(
        output_dir=str(tmp_path / "dpo"), beta=beta, loss_type="sigmoid", use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    kept = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs(8)])
    trainer = DPOTrainer(model=now, ref_model=start, args=arguments, train_dataset=kept, processing_class=tokenizer)
    both = joined(batch)
    assert both.real is not None
    assert both.answers is not None

    inputs = {"input_ids": both.token_ids, "attention_mask": both.real.long(), "completion_mask": both.answers.long()}
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.model.lm_head.weight.grad, gradient, rtol=1e-3, atol=1e-6)
    # What must fail: chosen and rejected exchanged.
    exchanged = trainer.compute_loss(trainer.model, {name: each.roll(len(batch), 0) for name, each in inputs.items()})
    assert abs(exchanged.item() - ours.item()) > 0.01


@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_lighter_rejected_answer_weighs_the_gains_that_trl_finds(tmp_path: Path) -> None:
    """TRL has one weight for both answers, but says what each gained: of one pair the weighted loss follows."""
    from trl import DPOConfig, DPOTrainer

    now, start = models(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    task = TextConfig(dataset=write_rows(tmp_path / "pairs.jsonl", pairs())).in_tokens_of(tokenizer)
    arguments = DPOConfig(
        output_dir=str(tmp_path / "dpo"), beta=0.7, loss_type="sigmoid", use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    kept = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs(8)])
    trainer = DPOTrainer(model=now, ref_model=start, args=arguments, train_dataset=kept, processing_class=tokenizer)
    weighted, plain = (
        TotalLoss(start, Preference(beta=0.7, rejected_weight=weight)) for weight in (0.1, 1.0)
    )  # remember the start
    for number in range(3):
        batch = Batch.of(RowStream(task, seed=0, split="finetune").rows(number, number + 1))
        both = joined(batch)
        assert both.answers is not None
        real = torch.ones_like(both.token_ids) if both.real is None else both.real.long()
        inputs = {"input_ids": both.token_ids, "attention_mask": real, "completion_mask": both.answers.long()}
        with torch.no_grad():
            trainer.compute_loss(trainer.model, inputs)
            ours, unweighted = weighted(now, batch), plain(now, batch)
        chosen, rejected = (trainer._metrics["eval"][f"rewards/{which}"][-1] for which in ("chosen", "rejected"))
        wanted = -torch.nn.functional.logsigmoid(torch.tensor(chosen - 0.1 * rejected))
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
        assert abs(unweighted - wanted) > 0.01  # what must fail: both weigh alike
