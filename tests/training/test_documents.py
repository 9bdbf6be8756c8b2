"""Packed documents: their loss is that of each document alone, in the objective, in the loop and over processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import RunDir, read_metrics
from ftmech_hf.tasks import Rows, RowStream, StoriesConfig
from ftmech_hf.training.evaluation import documents_mean_loss
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.objectives import IGNORED, AnswerOnly, Batch, Documents, NextToken, documents_loss
from ftmech_hf.training.objectives.base import loss_on
from ftmech_hf.training.objectives.documents import check_documents_apart, document_positions, document_targets
from ftmech_hf.training.regularizers import LDIFS
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2, make_llama

PAD, BOS, EOS = 0, 1, 2
LENGTHS = ((5, 9, 3), (12, 1), (20,))
"""Tokens between <bos> and <eos> of the documents of each row."""


def documents() -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [[BOS, *torch.randint(3, 40, (length,), generator=generator).tolist(), EOS] for length in row]
        for row in LENGTHS
    ]


def packed(length: int = 24) -> Tensor:
    rows = torch.full((len(LENGTHS), length), PAD)
    for row, parts in zip(rows, documents(), strict=True):
        text = [token for document in parts for token in document]
        row[: len(text)] = torch.tensor(text)
    return rows


def loss_of_each(model: PreTrainedModel) -> Tensor:
    """Mean over the predicted tokens of all documents, each in a forward pass of its own."""
    total, number = torch.zeros(()), 0
    for document in (document for row in documents() for document in row):
        ids = torch.tensor([document])
        log_p = model(ids, use_cache=False).logits.log_softmax(-1)
        total = total - log_p[0, :-1].gather(-1, ids[0, 1:, None]).sum()
        number += len(document) - 1
    return total / number


def test_a_word_that_shows_a_feature_weighs_as_much_as_is_said(any_model: PreTrainedModel) -> None:
    """By hand; marks on what begins a document or pads it count nothing."""
    token_ids = packed()
    targets = document_targets(token_ids)
    marks = torch.zeros_like(token_ids, dtype=torch.bool)
    marks[0, [3, 4, 7]] = marks[1, 5] = marks[2, 23] = True  # of which row 0's 7 is a <bos> and row 2's 23 padding
    batch = Batch(token_ids, marks)
    shown = Documents().shown(batch)
    log_p = any_model(shown.token_ids, **shown.options).logits.log_softmax(-1)
    each = -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    weights = (targets != IGNORED).float()
    for row, place in ((0, 3), (0, 4), (1, 5)):
        weights[row, place - 1] = 4.0
    weighted = Documents(answer_weight=4.0)
    found = loss_on(any_model, weighted, batch)
    assert torch.allclose(found, (each * weights).sum() / weights.sum(), atol=1e-6)
    assert not torch.allclose(found, documents_loss(any_model, token_ids), atol=1e-4)
    assert weighted.weight(batch) == weights.sum() == Documents().weight(batch) + 9
    with pytest.raises(ValueError, match=r"answer_weight: 4.0, but nobody knows .*; expected 1"):
        weighted.weight(Batch(token_ids))
    with pytest.raises(ValueError, match=r"answer_weight: 0.0, expected a number above 0"):
        Documents(answer_weight=0.0)


def test_positions_and_targets_are_those_of_each_document() -> None:
    assert document_positions(packed())[1].tolist() == [*range(14), *range(3), *[0] * 7]
    (first, second), targets = documents()[1], document_targets(packed())[1]
    assert targets.tolist() == [*first[1:], -100, *second[1:], -100, *[-100] * 6]
    assert Documents().weight(Batch(packed())) == sum(length + 1 for row in LENGTHS for length in row)
    assert NextToken().weight(Batch(packed())) == 3 * 23
    assert AnswerOnly().weight(Batch(packed())) == 3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_packed_loss_is_that_of_each_document(any_model: PreTrainedModel, attention: str) -> None:
    any_model.set_attn_implementation(attention)
    alone = loss_of_each(any_model)
    assert torch.allclose(documents_loss(any_model, packed()), alone, atol=1e-5)
    assert torch.allclose(documents_loss(any_model, packed(32)), alone, atol=1e-5)  # more padding
    # What must fail: tokens that see the documents before theirs, with places counted on or begun anew.
    shown, targets = packed()[:, :-1], document_targets(packed())
    for options in ({"use_cache": False}, {"use_cache": True, "position_ids": document_positions(shown)}):
        logits = any_model(shown.masked_fill(shown == PAD, EOS), **options).logits
        assert (F.cross_entropy(logits.flatten(0, 1), targets.flatten()) - alone).abs() > 0.01


def test_a_model_that_carries_tokens_across_documents_is_refused(any_model: PreTrainedModel) -> None:
    """As short convolutions do, to which places say nothing."""
    check_documents_apart(any_model)
    crossing = build_model(find_preset("nano-library", n_layer=4, n_embd=16, n_head=2), 40, seed=0)
    with pytest.raises(ValueError, match=r"^model: lfm2 carries tokens from one packed document to the next, expected"):
        check_documents_apart(crossing)


def test_no_gradient_crosses_from_document_to_document(any_model: PreTrainedModel) -> None:
    """The loss of a row's last document does not depend on what stands in its first."""
    other = packed()
    other[0, 1:5] = torch.tensor([30, 31, 32, 33])
    last = slice(sum(length + 2 for length in LENGTHS[0][:-1]), None)
    for rows in (packed(), other):
        rows[0, : last.start] = torch.where(rows[0, : last.start] == BOS, BOS, rows[0, : last.start])
    logits = [
        any_model(rows, position_ids=document_positions(rows), use_cache=False).logits[0, last]
        for rows in (packed(), other)
    ]
    assert torch.allclose(*logits, atol=1e-5)
    assert not torch.allclose(*(any_model(rows, use_cache=False).logits[0, last] for rows in (packed(), other)))


def test_the_mean_over_rows_weighs_tokens_and_not_rows(any_model: PreTrainedModel) -> None:
    alone = float(loss_of_each(any_model).detach())
    for batch_size in (1, 2, 32):
        assert documents_mean_loss(any_model, packed(), batch_size=batch_size) == pytest.approx(alone, abs=1e-5)


def test_anchors_see_documents_as_the_model_does() -> None:
    model = make_gpt2(40)
    anchored = TotalLoss(model, Documents(), [LDIFS(1.0)])
    assert torch.allclose(anchored(model, Batch(packed())), documents_loss(model, packed()))


TASK = StoriesConfig(vocab_size=300, row_tokens=32, relations=1)
CONFIG = TrainConfig(
    steps=6, batch_size=8, num_evals=2, eval_rows=8, final_eval_rows=16, checkpoint_every=2, objective="documents",
    mixed_precision="no",
)  # fmt: skip


class Killed(Exception):
    pass


class Padded(StoriesConfig):
    """Documents that leave rows unequally full."""

    def block(self, seed: int, split: str, number: int) -> Rows:
        rows = super().block(seed, split, number)
        for place, row in enumerate(rows.token_ids):
            row[4 + 7 * place % 27 :] = PAD
        return rows


def train(
    folder: Path,
    config: TrainConfig,
    model: PreTrainedModel,
    *,
    stop_at: int | None = None,
    task: StoriesConfig = TASK,
) -> list[dict[str, Any]]:
    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config))
    tests = {name: RowStream(each, seed=0, split="test") for name, each in task.test_tasks().items()}
    try:
        fit(model, RowStream(task, seed=0, split="train"), tests, config, run, start_accelerator(config), progress)
    finally:
        run.close()
    return read_metrics(run.working)


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_training_lowers_the_loss_and_an_interrupted_run_ends_the_same(
    tmp_path: Path, make: Callable[[int], PreTrainedModel]
) -> None:
    whole, cut = make(300), make(300)
    lines = train(tmp_path / "whole", CONFIG, whole)
    assert [*lines[0]] == ["step", "eval_rows", "loss/all", "loss/Twist", "loss/no_Twist", "loss/held_out"]
    assert lines[-1]["loss/all"] < lines[0]["loss/all"] - 0.05
    with pytest.raises(Killed):
        train(tmp_path / "cut", CONFIG, cut, stop_at=3)
    again = make(300)
    assert train(tmp_path / "cut", CONFIG, again) == lines
    for first, second in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("anchor", [{}, {"l2sp": 0.5, "ldifs": 5.0}], ids=["plain", "anchored"])
def test_accumulated_parts_weigh_tokens_and_not_parts(tmp_path: Path, anchor: dict[str, float]) -> None:
    """Rows that are filled unequally: the parts' means are not the whole's, but the weighted ones are."""
    task = Padded(vocab_size=300, row_tokens=32, relations=1)
    ends = []
    for parts in (1, 4):
        model = make_gpt2(300)
        config = dataclasses.replace(CONFIG, gradient_accumulation_steps=parts, optimizer="sgd", lr=0.1, **anchor)
        config = dataclasses.replace(config, steps=2 if anchor else 1)  # in the first, anchors do nothing
        lines = train(tmp_path / f"parts-{parts}", config, model, task=task)
        ends.append((lines[-1]["loss"], model.state_dict()["lm_head.weight"]))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-5)
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-6)
    rows = torch.from_numpy(RowStream(task, seed=0, split="train").rows(0, 8).token_ids)
    losses = [documents_loss(make_gpt2(300), part).item() for part in rows.chunk(4)]
    assert abs(sum(losses) / 4 - ends[0][0]) > 1e-3
