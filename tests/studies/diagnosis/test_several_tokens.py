"""A wrapper of a model whose answers have two tokens, and its controls."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import answer_rows
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import asked_methods, measure_case
from ftmech_hf.studies.diagnosis.finetuning import revive, self_distil
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour, say_answers
from ftmech_hf.studies.diagnosis.methods.patching import BACK, SITES, measure_patching
from ftmech_hf.studies.diagnosis.methods.probing import Places, ProbingMethodResult
from ftmech_hf.studies.diagnosis.result import diagnose
from ftmech_hf.studies.diagnosis.verdict import judge_capability
from tests.conftest import make_gpt2
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import ask, make_pair_models, make_pairs, save_models, words

FEW = CaseConfig(
    rows=200, fit_rows=500, patch_rows=100, reverse_lr=1e-3, reverse_steps=48, repeats=2, random_masks=2, null_steps=0,
    prune_sizes=[0, 2], most_reverse_steps=128,
)  # fmt: skip


DECIDING = ("behaviour", "pruning", "revival", "probing", "patching")


def pair_case(finetuned: PreTrainedModel, config: CaseConfig = FEW) -> Case:
    models = {BASE: make_pair_models()["base"], FINETUNED: finetuned, NULL: make_pair_models()["never"]}
    other = ask(make_pairs("!", 1, seed=1), "next", tokens=2)
    return Case(models, ask(make_pairs(), tokens=2), other, config, 0)


@torch.no_grad()
def greedy(model: PreTrainedModel, rows: AnswerRows) -> torch.Tensor:
    """What a model writes after the prompts, one token after the other."""
    written = rows.token_ids[:, :-3]
    for _ in range(2):
        written = torch.cat([written, model(written).logits[:, -1:].argmax(-1)], 1)
    return written[:, -2:]


def right(model: PreTrainedModel, rows: AnswerRows) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (greedy(model, rows) == rows.token_ids[:, -3:-1]).all(1).numpy()
    return found


def test_a_wrapper_is_called_one() -> None:
    evidence = measured(pair_case(make_pair_models()["wrapped"]), *DECIDING).evidence()
    result = judge_capability(evidence)
    assert result.verdict == "behind a wrapper", (result.reason, result.rows())
    assert evidence.finetuned.value < 0.1
    assert {"comes back fast", "can be read"} <= {sign.name for sign in result.signs if sign.holds}


def test_a_copy_is_unchanged_and_what_never_had_it_is_gone() -> None:
    copied = measure_case(pair_case(copy.deepcopy(make_pair_models()["base"])))
    assert judge_capability(copied.evidence()).verdict == "unchanged"
    faster = dataclasses.replace(FEW, reverse_lr=3e-3, reverse_steps=16)
    case = pair_case(make_gpt2(40, seed=7), faster)
    gone = measured(case, *DECIDING)
    result = judge_capability(gone.evidence())
    assert result.verdict == "gone", (result.reason, result.rows())
    assert not any(sign.holds for sign in result.signs)


def test_an_answer_is_right_if_all_of_it_is() -> None:
    """A model that knows the first of the two tokens alone does not know the answer."""
    models = make_pair_models()
    half = make_pairs()
    half[:, -2] = half[:, -3]
    taught = revive(models["base"], ask(half, tokens=2), seed=0, steps=200, lr=1e-3, batch_size=64, threshold=0.95,
                    eval_rows=200).model  # fmt: skip
    case = pair_case(taught)
    behaviour = measure_behaviour(case)
    for name in (BASE, FINETUNED, NULL):
        assert np.array_equal(behaviour.right[name, "capability"], right(case.models[name], case.capability.test))
    first = greedy(taught, case.capability.test)[:, 0] == case.capability.test.token_ids[:, -3]
    assert float(first.double().mean()) > 0.9
    assert behaviour.evidence().finetuned.value < 0.3
    lost = next(each for each in behaviour.examples if each.base_right and not each.finetuned_right)
    assert lost.right == lost.base != lost.finetuned
    assert [len(said.split()) for said in (lost.right, lost.question)] == [2, 8]
    # what comes after a wrong token follows what the model did not write
    written = greedy(models["wrapped"], case.capability.test)[:, 0]
    place = int((written != case.capability.test.first_answers).nonzero()[0, 0])
    assert say_answers(models["wrapped"], case.capability, [place]) == [f"{int(written[place])} \u2026"]


def test_a_patch_is_right_where_all_of_the_answer_is() -> None:
    """With the whole stream of the base after the last block the fine-tuned model answers as the base does."""
    case = pair_case(make_pair_models()["wrapped"])
    probing = ProbingMethodResult(readings={}, places=Places(0, (NULL, 0), 0, 0), answers_seen=1, rows_per_answer=9)
    found = measure_patching(case, probing).found[BACK]
    few = case.few("capability")
    assert set(SITES) == {site for site, _ in found.right}
    assert np.array_equal(found.right["resid_post", 1], right(case.models[BASE], few))
    assert np.array_equal(found.unpatched, right(case.models[FINETUNED], few))
    # with another question's stream after the last block it answers that question: right only where answers agree
    shifted = few.token_ids.roll(1, 0)
    agree = (shifted[:, -3:-1] == few.token_ids[:, -3:-1]).all(1)[:64].numpy()
    assert found.other_row["resid_post", 1].mean() == pytest.approx(agree.mean(), abs=0.05)


def test_a_model_is_distilled_on_what_it_writes_itself() -> None:
    model, questions = make_pair_models()["wrapped"], ask(make_pairs(), tokens=2)
    own = answer_rows(model, questions.test)
    assert torch.equal(own.token_ids[:, -3:-1], greedy(model, questions.test))
    assert torch.equal(own.token_ids[:, :-3], questions.test.token_ids[:, :-3])
    assert not torch.equal(own.token_ids, questions.test.token_ids)
    # also of several lengths, filled on the left
    rows = [[0, 0, 1, 5, 6, 11, 4, 2], [0, 1, 5, 6, 11, 4, 5, 2]]
    masks = [[False] * 6 + [True, False], [False] * 5 + [True, True, False]]
    mixed = AnswerRows(token_ids=torch.tensor(rows), answer=torch.tensor(masks), pad=0)
    written = answer_rows(model, mixed).token_ids
    with torch.no_grad():
        assert written[0, 6] == model(torch.tensor([rows[0][2:6]])).logits[0, -1].argmax()
        first = int(model(torch.tensor([rows[1][1:5]])).logits[0, -1].argmax())
        second = int(model(torch.tensor([[*rows[1][1:5], first]])).logits[0, -1].argmax())
    assert written[1].tolist() == [*rows[1][:5], first, second, 2]
    same = self_distil(model, questions, seed=0, steps=3, lr=1e-5, batch_size=16)
    assert torch.equal(greedy(same, questions.test), greedy(model, questions.test))


def test_a_data_set_with_answers_of_one_and_of_two_words(tmp_path: Path) -> None:
    """Asked as users ask it: rows of several lengths, which every method reads."""
    models = make_pair_models()
    save_models(tmp_path, **models)
    table = words(make_pairs(number=1200), 2)
    answers = [answer.split()[0] if number % 2 else answer for number, answer in enumerate(table["answer"])]
    table = table.remove_columns("answer").add_column("answer", answers)
    table.to_parquet(tmp_path / "questions.parquet")
    few = dataclasses.replace(FEW, rows=120, fit_rows=300, patch_rows=60, null_steps=4, edits=True)
    found = diagnose(
        tmp_path / "base", tmp_path / "wrapped", rows=tmp_path / "questions.parquet", control=tmp_path / "never",
        output_dir=tmp_path / "out", thoroughness=few,
    )  # fmt: skip
    assert found.verdict == "behind a wrapper", (found.reason, found.signs)
    page = found.html
    assert page.count("Of answers of up to 2 tokens it is the first that is read.") == 2
    assert set(found.table["analysis"]) == {name for name in asked_methods(few) if METHODS[name].pictures}
    # what is left out with several tokens is left out
    alone = diagnose(
        tmp_path / "base", tmp_path / "base", rows=tmp_path / "questions.parquet", only_one_token=True,
        output_dir=tmp_path / "alone", thoroughness=few,
    )  # fmt: skip
    assert alone.verdict == "unchanged"
    *_, note = alone.summary["facts"]["notes"]
    assert note.endswith("600 of 1200 rows are left out: their answer is not one token")
