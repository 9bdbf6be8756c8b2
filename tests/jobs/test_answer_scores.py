"""Losses and scores of answers of several tokens, against sums over their tokens and against greedy decoding."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel
from ftmech_hf.jobs import answer_scores
from ftmech_hf.jobs import written_answers as answers
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import (
    answer_log_probabilities,
    answer_loss,
    given_answers,
    gives_answer,
    prefers_answer,
    tokens_after,
    written_answers,
)
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss
from tests.conftest import make_gpt2, make_llama

PAD, END = 0, 2


def make_rows(number: int, lengths: Sequence[int], answers: Sequence[int], *, seed: int = 0) -> AnswerRows:
    """Rows with prompts and answers of these lengths, in turn, padded where they differ."""
    random = torch.Generator().manual_seed(seed)
    rows, masks = [], []
    for place in range(number):
        prompt, answer = lengths[place % len(lengths)], answers[place % len(answers)]
        rows.append([*torch.randint(3, 40, (prompt + answer,), generator=random).tolist(), END])
        masks.append([*[False] * prompt, *[True] * answer, False])
    same = len({(len(row), sum(mask)) for row, mask in zip(rows, masks, strict=True)}) == 1
    return AnswerRows.stack(rows, masks, None if same else PAD)


def alone(rows: AnswerRows) -> list[tuple[Tensor, Tensor]]:
    """Each row without padding: the prompt (1, P) and the answer (A,)."""
    found = []
    for ids, answer in zip(rows.token_ids, rows.answer, strict=True):
        start = int(answer.nonzero()[0])
        prompt = ids[:start]
        found.append((prompt[prompt != PAD][None] if rows.pad is not None else prompt[None], ids[answer]))
    return found


def token_losses(model: PreTrainedModel, rows: AnswerRows) -> list[list[float]]:
    """The loss of every token of every answer: one forward pass each, of what stands before it."""
    found = []
    for prompt, answer in alone(rows):
        losses = []
        for number, token in enumerate(answer):
            shown = torch.cat([prompt, answer[None, :number]], 1)
            losses.append(float(-model(shown).logits[0, -1].log_softmax(-1)[token]))
        found.append(losses)
    return found


def write_greedily(model: PreTrainedModel, prompt: Tensor, number: int) -> Tensor:
    settings = {"max_new_tokens": number, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert isinstance(written, Tensor)
    return written[0, prompt.shape[1] :]


@pytest.mark.parametrize(("lengths", "answers"), [((6,), (3,)), ((4, 9, 6), (1, 3)), ((5,), (2, 3))])
@torch.no_grad()
def test_the_loss_is_the_mean_over_the_tokens_of_the_answers(
    any_model: PreTrainedModel, lengths: Sequence[int], answers: Sequence[int]
) -> None:
    rows = make_rows(6, lengths, answers)
    expected = [loss for losses in token_losses(any_model, rows) for loss in losses]
    assert rows.num_answer_tokens == len(expected)
    mean = torch.tensor(expected).mean()
    torch.testing.assert_close(answer_loss(any_model, rows), mean, rtol=1e-4, atol=1e-5)
    # a row for every token says the same
    each = dataclasses.replace(rows, pad=PAD).each_token()
    torch.testing.assert_close(answer_loss(any_model, each), mean, rtol=1e-4, atol=1e-5)
    # controls: the answer is taken to begin one token later, and every row to be one token further to the left
    if min(answers) > 1:
        later = rows.answer.clone()
        later[torch.arange(len(rows)), rows.answer.int().argmax(1)] = False
        shifted = AnswerRows(token_ids=rows.token_ids, answer=later, pad=rows.pad)
        assert (answer_loss(any_model, shifted) - mean).abs() > 0.01
    moved = torch.cat([rows.token_ids[:, -1:], rows.token_ids[:, :-1]], 1)
    moved = AnswerRows(token_ids=moved, answer=rows.answer, pad=rows.pad)
    assert (answer_loss(any_model, moved) - mean).abs() > 0.01


@torch.no_grad()
def test_answers_of_one_token_are_those_of_the_objective_bit_for_bit(any_model: PreTrainedModel) -> None:
    token_ids = make_rows(40, (8,), (1,)).token_ids
    rows = AnswerRows.one_token(token_ids)
    assert torch.equal(answer_loss(any_model, rows), answer_only_loss(any_model, token_ids))
    assert gives_answer(any_model, rows).double().mean() == answer_accuracy(any_model, token_ids)
    assert torch.equal(given_answers(any_model, rows)[:, 0], answer_logits(any_model, token_ids).argmax(-1))
    assert torch.equal(rows.prompts()[0], token_ids[:, :-2])
    assert rows.first_tokens() is rows


@pytest.mark.parametrize(("lengths", "answers"), [((6,), (3,)), ((4, 9, 6), (1, 3, 2))])
@torch.no_grad()
def test_a_row_is_right_if_greedy_decoding_gives_the_answer(
    any_model: PreTrainedModel, lengths: Sequence[int], answers: Sequence[int]
) -> None:
    rows = make_rows(24, lengths, answers)
    ids = rows.token_ids.clone()
    expected = []
    for number, (prompt, answer) in enumerate(alone(rows)):
        said = write_greedily(any_model, prompt, len(answer))
        if number % 2:  # what the model says, and in every fourth row but for the last token
            said[-1] = said[-1] if number % 4 == 1 else (said[-1] + 1) % 37 + 3
            ids[number, rows.answer[number]] = said
        truth = write_greedily(any_model, prompt, len(answer))
        expected.append(torch.equal(ids[number, rows.answer[number]], truth))
    asked = AnswerRows(token_ids=ids, answer=rows.answer, pad=rows.pad)
    assert gives_answer(any_model, asked).tolist() == expected
    assert 4 <= sum(expected) <= 8
    # a control: the first token alone is right more often
    assert gives_answer(any_model, asked.first_tokens()).sum() > sum(expected)


@torch.no_grad()
def test_padded_rows_are_answered_as_rows_alone(any_model: PreTrainedModel) -> None:
    rows = make_rows(9, (4, 9, 6), (1, 3, 2))
    parts = [answer_loss(any_model, rows[[number]].without_empty_columns()) for number in range(9)]
    lengths = rows.lengths.tolist()
    mean = sum(float(loss) * length for loss, length in zip(parts, lengths, strict=True)) / sum(lengths)
    assert float(answer_loss(any_model, rows)) == pytest.approx(mean, rel=1e-4)
    said = given_answers(any_model, rows)
    each = [given_answers(any_model, rows[[number]])[0].tolist() for number in range(9)]
    assert [row[-length:] for row, length in zip(said.tolist(), lengths, strict=True)] == each
    assert given_answers(any_model, rows, batch_size=4).tolist() == said.tolist()
    # a model that passes over padding whoever calls it says the same, to the last bit
    hooked = mask_padding(copy.deepcopy(any_model), PAD)
    first = rows.first_tokens()
    assert torch.equal(answer_only_loss(hooked, first.token_ids), answer_loss(any_model, first))
    bare = AnswerRows(token_ids=rows.token_ids, answer=rows.answer)  # the control: nothing is said of padding
    assert (answer_loss(any_model, bare) - answer_loss(any_model, rows)).abs() > 0.01


@torch.no_grad()
def test_a_part_of_rows_that_are_all_shorter_than_the_longest_answer_is_scored(any_model: PreTrainedModel) -> None:
    """Short questions with short answers, and one long answer, by which parts are of four rows."""
    rows = make_rows(16, (3,), (*[2] * 15, 12))
    given, likely = written_answers(any_model, rows, batch_size=48)
    assert given.shape == likely.shape == (16, 12)
    for number, losses in enumerate(token_losses(any_model, rows)):
        length = len(losses)
        assert likely[number, -length:].neg().tolist() == pytest.approx(losses, rel=1e-4)
        assert likely[number, :-length].isnan().all()
        (prompt, answer), said = alone(rows)[number], given[number, -length:]
        assert said[0] == write_greedily(any_model, prompt, 1)[0]
        assert (given[number, :-length] < 0).all()
        assert bool(gives_answer(any_model, rows, batch_size=48)[number]) == torch.equal(said, answer)


@torch.no_grad()
def test_the_first_of_two_answers_is_preferred_by_its_first_token() -> None:
    model, rows = make_gpt2(40), make_rows(20, (4, 7), (1, 2))
    other = (rows.first_answers + 1) % 37 + 3
    asked = AnswerRows(token_ids=rows.token_ids, answer=rows.answer, pad=rows.pad, other=other)
    expected = []
    for (prompt, answer), rival in zip(alone(asked), other, strict=True):
        logits = model(prompt).logits[0, -1]
        expected.append(bool(logits[answer[0]] > logits[rival]))
    assert prefers_answer(model, asked, batch_size=3).tolist() == expected
    assert 0 < sum(expected) < 20
    with pytest.raises(ValueError, match="expected another answer to each"):
        prefers_answer(model, rows)


def test_the_loss_has_gradients_of_the_answers_alone() -> None:
    model, rows = make_llama(40), make_rows(5, (4, 7), (3, 2))
    output = model.get_output_embeddings().weight
    assert isinstance(output, Tensor)
    loss = answer_loss(model, rows)
    changed = AnswerRows(token_ids=rows.token_ids.clone(), answer=rows.answer, pad=rows.pad)
    changed.token_ids[:, -1] = 7  # the end is not predicted
    assert torch.equal(answer_loss(model, changed), loss)
    loss.backward()
    assert output.grad is not None
    hand = torch.stack(
        [
            F.cross_entropy(model(torch.cat([prompt, answer[None, :number]], 1)).logits[:, -1], answer[None, number])
            for prompt, answer in alone(rows)
            for number in range(len(answer))
        ]
    ).mean()
    expected = torch.autograd.grad(hand, output)[0]
    torch.testing.assert_close(output.grad, expected, rtol=1e-3, atol=1e-6)


def test_a_model_of_nan_answers_nothing() -> None:
    """As one does whose type of number is too small: the first token it knows would be its answer to everything."""
    model = make_gpt2(40)
    rows = make_rows(6, (4,), (2,))
    rows = dataclasses.replace(rows, other=(rows.first_answers + 1) % 37 + 3)
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(float("nan"))
    for ask in (given_answers, answer_log_probabilities, gives_answer, prefers_answer, tokens_after):
        with pytest.raises(ValueError, match=r"^model: it answers with nan or inf, expected numbers; .*dtype: float32"):
            ask(model, rows)
    with pytest.raises(ValueError, match="nan or inf"):
        answers.write_greedily(model, rows, 2)
    model.transformer.h[0].mlp.c_proj.weight.data.fill_(6e4)
    half = model.half()
    with pytest.raises(ValueError, match=r"^model: block 0 of gpt2 gives nan or inf in float16.*dtype: float32"):
        TracedModel(half)


@pytest.mark.cuda
@torch.no_grad()
def test_rows_follow_the_model_to_its_device(any_model: PreTrainedModel) -> None:
    rows = make_rows(24, (4, 9, 6), (1, 3, 2))
    rows = dataclasses.replace(rows, other=(rows.first_answers + 1) % 37 + 3)
    loss, said, preferred = (each(any_model, rows) for each in (answer_loss, given_answers, prefers_answer))
    moved = any_model.cuda()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(answer_loss(moved, rows).cpu(), loss, rtol=1e-3, atol=1e-4)
    assert given_answers(moved, rows).tolist() == said.tolist()
    assert prefers_answer(moved, rows).tolist() == preferred.tolist()


@pytest.mark.parametrize("ask", [
    given_answers, lambda model, rows: tokens_after(model, rows), prefers_answer,
    lambda model, rows: answers.write_greedily(model, rows, 4),
])  # fmt: skip
def test_no_pass_is_of_more_tokens_than_are_read_together(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_llama(40), []
    rows = make_rows(12, (16, 4), (1,))
    rows = dataclasses.replace(rows, other=torch.full((12,), 3))
    whole = ask(model, rows)
    monkeypatch.setattr(answer_scores, "TOKENS", 70)
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    parts = ask(model, rows)
    assert parts == whole if isinstance(whole, list) else torch.equal(parts, whole)
    assert len(seen) > 3
    assert max(each.numel() for each in seen) <= 70
