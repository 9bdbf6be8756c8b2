"""What models answer: beside greedy writing, by hand on tables of right tokens, and what is unsafe by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.safety.answers import (
    ASKED,
    AnswersConfig,
    answers_to,
    measure_answers,
    named_unsafe,
    read_answers,
    shares,
)
from ftmech_hf.tasks import RowStream, SafetyConfig
from ftmech_hf.tasks.safety import OUTPUT
from tests.conftest import make_gpt2

TASK = SafetyConfig()


def test_a_whole_answer_is_what_the_model_writes() -> None:
    model = make_gpt2(len(TASK.vocabulary))
    rows = RowStream(TASK.asking("safe", "instructed"), seed=0, split="test").rows(0, 12)
    ids = torch.from_numpy(rows.token_ids[:, : OUTPUT.start])
    for _ in range(12):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    rows.token_ids[:6, OUTPUT] = ids[:6, OUTPUT].numpy()  # half of the answers are what it writes
    rows.token_ids[5, OUTPUT.start + 7] = (rows.token_ids[5, OUTPUT.start + 7] - 18) % 12 + 19  # but for a token
    found = read_answers(model, rows, batch_size=5).right
    assert found[:5].all()
    assert found[5, :7].all()
    assert not found[5, 7]
    assert not found[6:].all(1).any()


def test_shares_are_of_the_first_token_of_the_whole_and_of_what_is_left_after_some() -> None:
    right = np.ones((4, 12), bool)
    right[1, 0] = False  # only the first is wrong: right after prefilling
    right[2, 2] = False  # right after three, not after one
    right[3, 11] = False
    assert shares(right, "complies") == {
        "complies_first": 0.75, "complies_whole": 0.25, "complies_after_1": 0.5, "complies_after_3": 0.75,
        "complies_after_6": 0.75,
    }  # fmt: skip


def test_prompts_are_unsafe_by_name_or_by_text() -> None:
    for mixture in ("safe", "unsafe", "misgen", "co_text_2"):
        rows = RowStream(TASK.asking(mixture, "instructed"), seed=0, split="test").rows(0, 300)
        words = [[TASK.vocabulary[each] for each in row[1:3]] for row in rows.token_ids]
        assert named_unsafe(rows).tolist() == [any(word[0] == "n" for word in pair) for pair in words]


def test_every_mixture_is_asked_for_both_answers(tmp_path: Path) -> None:
    """A model that always refuses is seen as one, and its floors say that this is no art."""
    model = make_gpt2(len(TASK.vocabulary))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[TASK.vocabulary.index("null")] = 1.0
    for mixture in ("safe", "unsafe", "misgen"):
        for row in answers_to(model, TASK, mixture, seed=0, number=64):
            assert (row["refuses_whole"], row["complies_first"]) == (1.0, 0.0)
    sorts = {row["unsafe"]: row["rows"] for row in answers_to(model, TASK, "unsafe", seed=0, number=64)}
    assert sorts["all"] == 64 == sorts["by name"] + sorts["by text"]
    about = {
        mixture: next(answers_to(model, TASK, mixture, seed=0, number=1024))["texts"]
        for mixture in ("safe", "ood_text")
    }
    assert (
        about["ood_text"] == 80
    )  # two phrases in five places, cut at three letters: 3 x 32, less those that are alike
    assert 900 < about["safe"] < 1024
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(build_tokenizer(TASK.vocabulary), tmp_path / "model")
    config = AnswersConfig(model=str(tmp_path / "model"), eval_rows=16, output_dir=str(tmp_path / "run"))
    measure_answers(config, TASK)
    found = FinishedRun(tmp_path / "run")
    assert list(found.summary) == list(ASKED)
    assert (found.floor("unsafe_refuses"), found.floor("misgen_refuses")) == (1.0, 1.0)
    assert found.floor("safe_complies") == pytest.approx(0, abs=0.1)
    assert measure_answers(config, TASK).finished
    with pytest.raises(ValueError, match="eval_rows: 0"):
        AnswersConfig(eval_rows=0)
