from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import pytest

from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, TextConfig, for_capability
from ftmech_hf.tasks.floors import beside_text, stream_floor
from ftmech_hf.tasks.letters import CounterConfig
from tests.tasks.text.test_tokens import byte_level


def answers_of(stream: RowStream, number: int) -> list[int]:
    return stream.rows(0, number).token_ids[:, -2].tolist()


@pytest.mark.parametrize("number", [64, 300])
def test_the_floor_of_a_capability_is_that_of_its_labels(task: PcfgConfig, number: int) -> None:
    asked = for_capability(task, Capability("count", "a"))
    stream = RowStream(asked, seed=3, split="test")
    found = stream_floor(stream, number)
    answers = answers_of(stream, number)
    assert found.floor == max(Counter(answers).values()) / number
    chosen = Counter(answers_of(RowStream(asked, seed=3, split="validation"), 1024))
    guess = min(chosen, key=lambda answer: (-chosen[answer], answer))
    assert found.text_free == answers.count(guess) / number
    assert stream_floor(RowStream(asked, seed=3, split="test"), number) == found
    # the control: a floor of other rows is another one
    assert stream_floor(RowStream(asked, seed=4, split="test"), number) != found


def test_what_a_prompt_says_beside_its_text_is_operator_operand_and_parameter(task: PcfgConfig) -> None:
    rows = RowStream(task, seed=0, split="test").rows(0, 50)
    beside = beside_text(task, rows)
    assert set(map(tuple, beside[:, 1:4])) == set(map(tuple, rows.token_ids[:, 1:4]))
    assert all(len(set(column)) == 1 for column in np.delete(beside, [1, 2, 3], axis=1).T)  # the frame says nothing
    assert beside.shape[1] == task.row_length - task.text_length - 2


def test_a_guess_from_several_questions_beats_every_constant(task: PcfgConfig) -> None:
    found = stream_floor(RowStream(task, seed=0, split="test"), 1000)
    rows = RowStream(task, seed=0, split="test").rows(0, 1000)
    best = sum(
        max(Counter(rows.token_ids[mask, -2].tolist()).values())
        for question in {tuple(row) for row in rows.token_ids[:, 1:4].tolist()}
        if (mask := (rows.token_ids[:, 1:4] == question).all(1)).any()
    )
    assert found.floor < found.text_free <= best / 1000


def test_rows_about_letters_ask_nothing() -> None:
    task = CounterConfig(length=8, letters=3, correlation=1.0)
    for asked in task.test_tasks().values():
        stream = RowStream(asked, seed=0, split="test")
        assert set(map(tuple, beside_text(asked, stream.rows(0, 30)).tolist())) == {
            (stream.rows(0, 1).token_ids[0, 0],)
        }
        found = stream_floor(stream, 200)
        assert found.text_free <= found.floor == max(Counter(answers_of(stream, 200)).values()) / 200


def test_an_answer_of_a_data_set_is_the_whole_answer(tmp_path: object) -> None:
    def table(answers: list[str], first: int) -> datasets.Dataset:
        prompts = [f"what is question {number} about ?" for number in range(first, first + len(answers))]
        return datasets.Dataset.from_dict({"prompt": prompts, "answer": answers})

    splits = datasets.DatasetDict(
        train=table(["12", "13"] * 8, 0),
        validation=table(["14"] * 3 + ["13"] * 2, 100),
        test=table(["12", "12", "13", "14", "14", "12", "15", "12"], 200),
    )
    splits.save_to_disk(str(tmp_path))
    text = TextConfig(dataset=str(tmp_path), answer_space="as_written").in_tokens_of(byte_level(adds=False))
    found = stream_floor(RowStream(text, seed=0, split="test"), 8)
    # all eight begin with 1; no whole answer is right for more than four; of the other rows 14 is the most frequent
    assert (found.rows, found.floor, found.text_free) == (8, 4 / 8, 2 / 8)
    assert beside_text(text, text.block(0, "test", 0)).shape[1] == 0
