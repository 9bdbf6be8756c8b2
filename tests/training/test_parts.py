"""Which rows a process takes in a step, in which parts, and how much each of them weighs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from ftmech_hf.tasks import PcfgConfig, RowStream, TextConfig
from ftmech_hf.training.earlier_tasks import LwF
from ftmech_hf.training.objectives import OBJECTIVES, AnswerOnly, Batch, Documents, Objective
from ftmech_hf.training.parts import Parts
from ftmech_hf.training.regularizers import LDIFS
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2
from tests.foreign import pairs, save_gpt2, sums, write_rows
from tests.training.test_documents import PAD, Padded

CONFIG = TrainConfig(steps=9, batch_size=24, gradient_accumulation_steps=2)
PROCESSES, STEP = 3, 5


def parts_of(stream: RowStream, objective: Objective, *, everywhere: float = 0.0, features: bool = False) -> list[Any]:
    """Of all processes in turn; ``everywhere`` is what their sums are said to be on average."""

    def reduce(here: Tensor, reduction: str) -> Tensor:
        assert reduction == "mean"
        handed.append(float(here))
        return torch.tensor(everywhere)

    handed: list[float] = []
    total = TotalLoss(make_gpt2(40), objective, [LDIFS(1.0)] if features else [])
    found = []
    for index in range(PROCESSES):
        process: Any = SimpleNamespace(
            num_processes=PROCESSES, process_index=index, device=torch.device("cpu"), reduce=reduce
        )
        found.append(Parts(stream, CONFIG, total, process).of_step(STEP))
        # a process hands over what it counted itself
        counts = (objective.weight, objective.num_shown)
        assert set(handed) <= {float(sum(count(part) for part, _ in found[-1])) for count in counts}
        handed.clear()
    return found


def test_every_row_of_a_step_is_in_one_part_of_one_process(task: PcfgConfig) -> None:
    stream = RowStream(task, seed=0, split="train")
    found = parts_of(stream, AnswerOnly())
    assert [[len(part) for part, _ in parts] for parts in found] == [[4, 4]] * PROCESSES
    rows = torch.cat([part.token_ids for parts in found for part, _ in parts])
    assert torch.equal(rows, torch.from_numpy(stream.rows(STEP * 24, STEP * 24 + 24).token_ids))
    weights = [weight for parts in found for _, weight in parts]
    assert weights == [{"weight": 0.5, "feature_weight": 0.5, "row_weight": 0.5, "answer_weight": 0.5}] * 6


def test_tokens_weigh_alike_in_whichever_part_of_whichever_process() -> None:
    stream = RowStream(Padded(vocab_size=300, row_tokens=32, relations=1), seed=0, split="train")
    rows = torch.from_numpy(stream.rows(STEP * 24, STEP * 24 + 24).token_ids)
    numbers = [Documents().weight(Batch(part)) for part in rows.split(4)]
    assert len(set(numbers)) > 1
    mean = sum(numbers) / PROCESSES
    found = [weight for parts in parts_of(stream, Documents(), everywhere=mean) for _, weight in parts]
    assert [each["weight"] for each in found] == pytest.approx([number / mean for number in numbers])
    assert [each["feature_weight"] for each in found] == [each["weight"] for each in found]
    assert sum(each["weight"] for each in found) == pytest.approx(PROCESSES)  # gradients are means over processes
    assert [each["row_weight"] for each in found] == [0.5] * 6  # and parts have as many rows


def test_what_compares_features_weighs_by_the_tokens_that_are_shown() -> None:
    stream = RowStream(Padded(vocab_size=300, row_tokens=32, relations=1), seed=0, split="train")
    rows = torch.from_numpy(stream.rows(STEP * 24, STEP * 24 + 24).token_ids)
    shown = [int((part[:, :-1] != PAD).sum()) for part in rows.split(4)]
    predicted = [Documents().weight(Batch(part)) for part in rows.split(4)]
    found = [weight for parts in parts_of(stream, Documents(), everywhere=7.0, features=True) for _, weight in parts]
    assert [each["weight"] for each in found] == pytest.approx([number / 7 for number in predicted])
    assert [each["feature_weight"] for each in found] == pytest.approx([number / 7 for number in shown])
    assert shown != predicted


@pytest.mark.parametrize("name", ["next_token", "answer_only", "preference"])
def test_what_is_a_mean_over_answers_is_the_same_in_whatever_parts_a_step_is_taken(tmp_path: Path, name: str) -> None:
    """Beside objectives that count all tokens, those of answers, and pairs."""
    objective = OBJECTIVES[name]()
    rows = write_rows(tmp_path / "rows.jsonl", pairs() if objective.needs == "pairs" else sums())
    tokenizer = AutoTokenizer.from_pretrained(save_gpt2(tmp_path / "gpt2"))
    stream = RowStream(TextConfig(dataset=rows).in_tokens_of(tokenizer), seed=0, split="finetune")
    model = make_gpt2(len(tokenizer))
    kept, free = TotalLoss(model, objective, [LwF(1.0)]), TotalLoss(model, objective)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    process: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    found = []
    for number in (1, 2, 4):
        config = TrainConfig(steps=1, batch_size=8, gradient_accumulation_steps=number)
        taken = Parts(stream, config, kept, process).of_step(0)
        if number > 1:
            tokens = [part.num_answered.sum() for part, _ in taken if part.num_answered is not None]
            assert len(set(tokens)) > 1
            assert [each["answer_weight"] for _, each in taken] == pytest.approx([n / sum(tokens) for n in tokens])
        with torch.no_grad():
            found.append(float(sum(kept(model, part, **of) - free(model, part, **of) for part, of in taken)))
    assert found[0] > 0.01
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-3)
