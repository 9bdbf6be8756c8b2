from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ftmech_hf.models.conversion import ARTEFACTS, load_artefact
from ftmech_hf.tasks import TASKS, CounterConfig, MaxIdentifierConfig, RowStream, build_dataset
from ftmech_hf.tasks.dataset_statistics import DatasetStatistics
from ftmech_hf.tasks.letters import LettersConfig
from tests.tasks.programs import COUNTER, MAX_IDENTIFIER

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOTH = [CounterConfig(length=12), MaxIdentifierConfig()]


@pytest.mark.parametrize(
    ("task", "cases"), [(CounterConfig(), COUNTER), (MaxIdentifierConfig(), MAX_IDENTIFIER)], ids=["counter", "max"]
)
def test_answers_agree_with_the_table(task: LettersConfig, cases: list[tuple[str, str, str]]) -> None:
    for operand, text, answer in cases:
        ids = np.array([[LETTERS.index(letter) for letter in text]], np.int8)
        label = task.answers(ids, operand)
        assert task.output_words[label[0]] == answer
        row = task.encode(ids, label)[0]
        assert [task.vocabulary[word] for word in row] == ["<bos>", *text, answer, "<eos>"]


@pytest.mark.parametrize("task", BOTH)
@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_the_correlation_holds_in_the_share_asked_for(task: LettersConfig, correlation: float) -> None:
    rows = RowStream(dataclasses.replace(task, correlation=correlation), seed=0, split="test").rows(0, 4096)
    texts = (rows.token_ids[:, 1:-2] - task.vocabulary.index("a")).astype(np.int8)
    base, other = (task.answers(texts, operand) for operand in (task.base_operand, task.correlated_operand))
    holds = other == base + task.correlation_offset
    assert (holds == rows.correlated).all()
    assert holds.mean() == pytest.approx(correlation, abs=0.0 if correlation in (0, 1) else 0.03)


def test_letters_are_drawn_as_the_paper_says() -> None:
    rows = RowStream(MaxIdentifierConfig(), seed=1, split="train").rows(0, 2000).token_ids[:, 1:-2]
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()  # without replacement
    first, numbers = np.unique(rows[:, 0], return_counts=True)
    assert len(first) == 26
    assert numbers.min() > 40
    rows = RowStream(CounterConfig(), seed=1, split="train").rows(0, 2000).token_ids[:, 1:-2]
    letters, numbers = np.unique(rows, return_counts=True)
    assert len(letters) == 9
    assert numbers / rows.size == pytest.approx(np.full(9, 1 / 9), abs=0.005)
    assert (np.diff(np.sort(rows, axis=1), axis=1) == 0).any()  # with replacement


def test_both_operands_are_asked_about_the_same_texts() -> None:
    sets = CounterConfig(length=12).test_tasks()
    assert list(sets) == ["o_pt_cte0", "o_pt_cte1", "o_ft_cte0", "o_ft_cte1"]
    rows = {name: RowStream(task, seed=0, split="test").rows(0, 100) for name, task in sets.items()}
    for texts in ("cte0", "cte1"):
        assert (rows[f"o_pt_{texts}"].token_ids[:, :-2] == rows[f"o_ft_{texts}"].token_ids[:, :-2]).all()
    assert (rows["o_ft_cte1"].label == rows["o_pt_cte1"].label + 1).all()
    assert not (rows["o_ft_cte0"].label == rows["o_pt_cte0"].label + 1).any()


@pytest.mark.parametrize("name", ["counter", "max_identifier"])
def test_rows_are_datasets_and_can_be_counted(name: str) -> None:
    task = dataclasses.replace(TASKS[name](), operand={"counter": "b"}.get(name, "7"))  # type: ignore[type-var]
    assert isinstance(task, LettersConfig)
    dataset = build_dataset(task, "test", 50)
    assert dataset.features["operand"].int2str(dataset[0]["operand"]) == task.operand
    assert dataset.features["operator"].names == [name]
    for row in dataset:
        assert f"{row['prompt']}{row['completion']}".split() == ["<bos>", *row["text"].split(), row["answer"], "<eos>"]
        if name == "counter":
            assert row["text"].split().count("b") == row["label"] == int(row["answer"])
        else:
            assert sorted(row["text"].split())[6] == row["answer"]
    statistics = DatasetStatistics(task)
    statistics.add(RowStream(task, seed=0, split="test").rows(0, 50))
    assert {row["operand"] for row in statistics.rows()} == {task.operand}
    assert sum(row["rows"] for row in statistics.rows()) == 50


def test_a_tasks_vocabulary_is_its_compiled_programs() -> None:
    for task in (CounterConfig(), CounterConfig(length=20), MaxIdentifierConfig()):
        for operand in (task.base_operand, task.correlated_operand):
            name = task.program(operand).name
            assert name in ARTEFACTS
            assert load_artefact(name)[1] == task.vocabulary


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CounterConfig(operand="z"), "operand: 'z', expected one of a, b"),
        (lambda: CounterConfig(correlation=1.5), "correlation: 1.5, expected a share"),
        (lambda: MaxIdentifierConfig(base_operand="7"), "correlated_operand: '7' is base_operand"),
        (lambda: MaxIdentifierConfig(length=10, letters=8), "length: 10 different letters, but letters: 8"),
    ],
)
def test_impossible_settings_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_an_offset_that_never_occurs_is_refused() -> None:
    task = MaxIdentifierConfig(correlation=1.0, correlation_offset=1)  # two ranks apart
    with pytest.raises(ValueError, match="correlated with offset 1"):
        RowStream(task, seed=0, split="test").rows(0, 1)


@pytest.mark.parametrize("length", [0, -1, 10**12])
def test_a_text_has_a_length_that_a_vocabulary_can_have(length: int) -> None:
    for kind in (CounterConfig, MaxIdentifierConfig):
        with pytest.raises(ValueError, match=f"length: {length}, expected 1 to 4096"):
            kind(length=length)
