from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior, from_capability, from_task, judged_writing
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.pruning_sweep import prune_for
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.models.conversion import load_artefact
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.statistics.floors import FloorResult
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, SafetyConfig, StoriesConfig, for_capability
from ftmech_hf.tasks.letters import MaxIdentifierConfig
from ftmech_hf.tasks.text.tokens import Whole
from ftmech_hf.training.evaluation import answer_accuracy
from tests.jobs.lexicon import LAYER, LEXICON, NEURON, VOCABULARY, hide, make_speaker, write_questions
from tests.tasks.text.test_tokens import byte_level, sentence_pieces

SIZES: dict[str, Any] = {"seed": 0, "train_rows": 40, "test_rows": 50}


def test_rows_of_a_task_are_those_of_its_splits(task: PcfgConfig, any_model: PreTrainedModel) -> None:
    asked = for_capability(task, Capability("count", "a"))
    behavior = from_task(asked, again_rows=30, **SIZES)
    for rows, split, number in (
        (behavior.train, "probe", 40), (behavior.validation, "validation", 50), (behavior.test, "test", 50),
        (behavior.again, "reverse", 30),
    ):  # fmt: skip
        assert rows is not None
        expected = RowStream(asked, seed=0, split=split).rows(0, number).token_ids
        assert rows.token_ids.tolist() == expected.tolist()
        assert rows.first_answers.tolist() == expected[:, -2].tolist()
    rows = behavior.test.token_ids % 40
    assert behavior.mean_score(any_model, AnswerRows.one_token(rows)) == answer_accuracy(any_model, rows)
    assert behavior.spell(behavior.test.token_ids[0, :3].tolist()) == "<bos> count a"
    with pytest.raises(ValueError, match="task: rows of StoriesConfig end in no answer"):
        from_task(StoriesConfig(), **SIZES)


def test_an_answer_of_a_task_may_have_many_tokens() -> None:
    behavior = from_task(SafetyConfig(mixture="unsafe"), seed=0, train_rows=8, test_rows=40)
    rows = RowStream(SafetyConfig(mixture="unsafe"), seed=0, split="test").rows(0, 40)
    assert behavior.test.lengths.tolist() == [12] * 40
    assert (behavior.test.token_ids[behavior.test.answer].view(40, 12).numpy() == rows.token_ids[:, 18:30]).all()
    assert (behavior.test.labels["answer"] == rows.token_ids[:, 18]).all()
    assert behavior.floors["answer"].floor < 0.1


def test_a_program_that_is_right_has_the_whole_behavior() -> None:
    task = MaxIdentifierConfig()
    model, vocabulary = load_artefact("max_identifier_5_26x10")
    assert vocabulary == task.vocabulary
    behavior = from_task(task, tests={"o_pt": task, **task.test_tasks()}, **SIZES)
    assert list(behavior.tests) == ["o_pt", "o_pt_cte0", "o_pt_cte1", "o_ft_cte0", "o_ft_cte1"]
    assert behavior.mean_score(model, behavior.test) == 1
    assert behavior.mean_score(model, behavior.tests["o_ft_cte0"]) < 0.5  # another question
    elsewhere = RowStream(task, seed=0, split="validation").rows(0, 1024).token_ids[:, -2].tolist()
    most = max(sorted(set(elsewhere)), key=elsewhere.count)
    assert behavior.chance == pytest.approx(behavior.test.first_answers.tolist().count(most) / 50)


def test_the_other_answer_is_that_for_the_other_operand(task: PcfgConfig) -> None:
    for asked, other in (("a", "b"), ("b", "a")):
        rows = from_capability(task, Capability("count", asked), **SIZES).test
        words = [[task.vocabulary[token] for token in row] for row in rows.token_ids.tolist()]
        counts = [row[5:-4][-task.count_window :].count(other) for row in words]
        assert rows.other is not None
        assert [task.vocabulary[token] for token in rows.other.tolist()] == [str(count) for count in counts]


@pytest.mark.parametrize("like", ["gpt2", "llama"])
@pytest.mark.parametrize("adds", [False, True])
def test_a_data_set_is_asked_in_the_tokenizer_of_the_model(like: str, adds: bool, tmp_path: Path) -> None:
    tokenizer = byte_level(adds=adds) if like == "gpt2" else sentence_pieces(adds=adds)
    numbers = [(a, b) for a in range(1, 40) for b in range(1, 16)]
    columns = {"prompt": [f"what is {a} + {b} =" for a, b in numbers], "answer": [a + b for a, b in numbers]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "sums.parquet")
    (behavior,) = from_datasets([str(tmp_path / "sums.parquet")], tokenizer, **SIZES)
    assert behavior.name == "sums.parquet"
    assert behavior.train.lengths.unique().tolist() == [1, 2]  # digits are tokens of their own
    for rows in (behavior.train, behavior.validation, behavior.test, behavior.again):
        assert rows is not None
        token_ids, shown = rows.prompts()
        assert shown is not None
        for ids, real, answer in zip(token_ids, shown, rows.answer_ids(), strict=True):
            prompt = tokenizer.decode(ids[real], skip_special_tokens=True).strip()
            a, b = prompt.removeprefix("what is ").removesuffix(" =").split(" + ")
            assert int(behavior.spell(answer)) == int(a) + int(b)
            assert (ids[real][0] == tokenizer.bos_token_id) == adds


def test_rows_whose_answer_is_several_tokens_can_be_left_out(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.parquet", number=1000)
    (behavior,) = from_datasets(
        [questions], build_tokenizer(VOCABULARY), how=QuestionConfig(only_one_token=True), **SIZES
    )
    for rows in (behavior.train, behavior.validation, behavior.test):
        assert set(rows.lengths.tolist()) == {1}
        assert {behavior.spell(answer) for answer in rows.answer_ids()} == {"w5", "w3"}
    assert list(behavior.test.labels) == ["answer"]
    assert any("rows are left out: their answer is not one token" in note for note in behavior.notes)


def test_a_judge_reads_what_the_model_writes(tmp_path: Path) -> None:
    """A judge who asks for the answer at the beginning of the text says what the score of the rows says."""
    questions = write_questions(tmp_path / "questions.parquet")
    tokenizer, model = build_tokenizer(VOCABULARY), make_speaker(questions)
    (behavior,) = from_datasets([questions], tokenizer, **SIZES)

    def begins_with_answer(prompt: str, text: str) -> bool:
        return text.split()[: len(LEXICON[prompt.split()[-2]].split())] == LEXICON[prompt.split()[-2]].split()

    judged = dataclasses.replace(behavior, score=judged_writing(tokenizer, begins_with_answer, max_new_tokens=3))
    right = behavior.score(model, behavior.test)
    assert judged.score(model, behavior.test).tolist() == right.tolist()
    assert judged.mean_score(model, behavior.test) > 0.9
    assert judged.mean_score(hide(model), behavior.test) == 0  # the control
    # a sweep takes a judge's word as well as any other score
    found = prune_for(hide(model), judged, unit="activation", sizes=[0, 1], num_random=0, num_random_at_best=1)
    assert found.pruning.pruned == [f"mlp_act.{LAYER}[{NEURON}]"]
    assert found.pruning.at_best("importance", "test") > 0.9
    words = judged_writing(tokenizer, lambda _, text: len(text.split()) / 3, max_new_tokens=3, temperature=2.0)
    scores = words(model, behavior.test)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, words(model, behavior.test))
    assert 0 < float(scores.mean()) <= 1


def test_a_judge_reads_up_to_where_a_turn_ends(tmp_path: Path) -> None:
    """As of a chat, whose model ends with another token than its tokenizer's."""
    questions = write_questions(tmp_path / "questions.parquet")
    tokenizer, model = build_tokenizer(VOCABULARY), make_speaker(questions)
    (behavior,) = from_datasets([questions], tokenizer, **SIZES)
    asked = behavior.test[(behavior.test.lengths > 1).nonzero()[:4, 0]]
    read: list[str] = []
    judge = judged_writing(tokenizer, lambda _, text: bool(read.append(text)), max_new_tokens=3)
    judge(model, asked)
    at = next(place for place, text in enumerate(read) if len(set(text.split()[:2])) == 2)
    first, second, *_ = read[at].split()
    last = tokenizer.get_vocab()[second]
    read.clear()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, last]
    judge(model, asked)
    assert read[at] == first


def test_training_rows_pass_over_all_before_any_comes_twice(task: PcfgConfig) -> None:
    asked = for_capability(task, Capability("count", "a"))
    behavior = from_task(asked, seed=0, train_rows=10, test_rows=10, again_rows=40)
    assert behavior.again is not None
    rows = torch.cat([behavior.training_rows(0, step, 16).token_ids for step in range(5)])
    first, second = rows[:40], rows[40:]
    assert sorted(first.tolist()) == sorted(behavior.again.token_ids.tolist()) == sorted(second.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(behavior.training_rows(0, 3, 16).token_ids, rows[48:64])
    assert not torch.equal(behavior.training_rows(1, 3, 16).token_ids, rows[48:64])
    without = from_task(asked, seed=0, train_rows=10, test_rows=10)
    assert sorted(without.training_rows(0, 0, 10).token_ids.tolist()) == sorted(without.train.token_ids.tolist())


def test_a_behavior_without_rows_to_report_is_refused() -> None:
    rows = AnswerRows.one_token(torch.ones(3, 4, dtype=torch.long))
    for tests in ({}, {"validation": rows}):
        with pytest.raises(ValueError, match="expected at least one, none called validation"):
            Behavior(name="nothing", train=rows, validation=rows, tests=tests)
    known = Behavior(name="known", train=rows, validation=rows, tests={"test": rows}, floor=0.5)
    assert known.chance == 0.5
    assert np.isclose(dataclasses.replace(known, floor=None).chance, 1)


def test_what_is_accepted_counts_for_the_floor_and_for_the_guess() -> None:
    """Elsewhere 7 is the answer; of four rows with answers 5 and 6 three accept it as well."""

    def answered(*answers: int, **more: Any) -> AnswerRows:
        return AnswerRows.one_token(torch.tensor([[1, answer, 2] for answer in answers]), **more)

    seven, train = Whole((1, 7, 2), 1), answered(7, 7, 7, 5)
    rows = answered(5, 5, 6, 6, accepted=[[seven], [], [seven], [seven]])
    behavior = Behavior(name="seven", train=train, validation=train, tests={"test": rows})
    assert behavior.floors == {"test": FloorResult(rows=4, floor=3 / 4, text_free=3 / 4)}
    # the control: where 7 is not accepted
    alone = dataclasses.replace(behavior, tests={"test": answered(5, 5, 6, 6)})
    assert alone.floors == {"test": FloorResult(rows=4, floor=2 / 4, text_free=0)}
