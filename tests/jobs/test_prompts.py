from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ftmech_hf.jobs.behavior import from_capability
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks import Capability, PcfgConfig, build_dataset
from ftmech_hf.tasks.pcfg import for_capability
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss

SIZES = {"seed": 0, "train_rows": 40, "test_rows": 40}


@pytest.fixture
def tokenizer(task: PcfgConfig) -> PreTrainedTokenizerFast:
    return build_tokenizer(task.vocabulary)


def write(folder: Path, task: PcfgConfig, **splits: int) -> Path:
    folder.mkdir()
    for split, number in splits.items():
        stream = "finetune" if split == "train" else split
        build_dataset(task, stream, number).to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_data_set_of_the_task_asks_what_the_task_asks(
    task: PcfgConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    asked = for_capability(task, Capability("count", "a"))
    folder = write(tmp_path / "count_a", asked, train=200, validation=50, test=400)
    questions = from_datasets([str(folder)], tokenizer, **SIZES)[0]
    expected = from_capability(task, Capability("count", "a"), seed=0, train_rows=40, test_rows=400)
    assert questions.name == "count_a"
    assert questions.pad is None
    assert questions.again is not None
    assert (len(questions.train), len(questions.again), len(questions.validation)) == (40, 160, 40)
    # the same rows, but for prompts that another split has as well
    there = {tuple(row) for row in expected.test.token_ids.tolist()}
    assert {tuple(row) for row in questions.test.token_ids.tolist()} <= there
    trained = {
        tuple(row[:-2]) for row in torch.cat([questions.again.token_ids, questions.validation.token_ids]).tolist()
    }
    assert not trained & {tuple(row[:-2]) for row in questions.test.token_ids.tolist()}
    label = (expected.test.first_answers == expected.train.first_answers.bincount().argmax()).float().mean()
    assert expected.chance == pytest.approx(float(label))


def test_the_other_answer_is_that_for_the_other_operand(task: PcfgConfig) -> None:
    for asked, other in (("a", "b"), ("b", "a")):
        questions = from_capability(task, Capability("count", asked), **SIZES)
        words = [[task.vocabulary[token] for token in row] for row in questions.test.token_ids.tolist()]
        counts = [row[5:-4][-task.count_window :].count(other) for row in words]
        assert questions.test.other is not None
        assert [task.vocabulary[token] for token in questions.test.other.tolist()] == [str(count) for count in counts]


def mixed_lengths(number: int) -> dict[str, Any]:
    """Prompts of several lengths: which of two words stands first?"""
    rng = np.random.default_rng(0)
    words = rng.choice(["a", "b"], (number, 9))
    lengths = rng.integers(3, 9, number)
    return {
        "prompt": [" ".join(row[:length]) + " =" for row, length in zip(words, lengths, strict=True)],
        "answer": [str(row[0]) for row in words],
        "other_answer": [str(row[1]) for row in words],
    }


def test_one_table_is_cut_in_three_and_short_rows_are_filled(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = datasets.Dataset.from_dict(mixed_lengths(1500))
    path = tmp_path / "rows.parquet"
    rows.to_parquet(path)
    questions = from_datasets([str(path)], tokenizer, **SIZES)[0]
    assert questions.pad is not None
    assert questions.pad not in tokenizer("a b = <eos>")["input_ids"]
    for row, other in zip(questions.test.token_ids.tolist(), questions.test.other.tolist(), strict=True):  # type: ignore[union-attr]
        words = tokenizer.convert_ids_to_tokens([token for token in row if token != questions.pad])
        assert row.count(questions.pad) == next(n for n, token in enumerate(row) if token != questions.pad)
        assert words[-2] == words[0]
        assert words[-1] == "<eos>"
        assert tokenizer.convert_ids_to_tokens(other) == words[1]
    # the same from a folder of save_to_disk, and never from another cut
    rows.save_to_disk(tmp_path / "saved")
    again = from_datasets([str(tmp_path / "saved")], tokenizer, **SIZES)[0]
    assert torch.equal(again.test.token_ids, questions.test.token_ids)
    assert not torch.equal(
        from_datasets([str(path)], tokenizer, **{**SIZES, "seed": 1})[0].train.token_ids, questions.train.token_ids
    )


def test_two_data_sets_are_filled_with_one_token_that_neither_has(
    task: PcfgConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    datasets.Dataset.from_dict(mixed_lengths(1500)).to_parquet(tmp_path / "rows.parquet")
    folder = write(tmp_path / "even", for_capability(task, Capability("count", "a")), train=200, test=400)
    alone, even = (from_datasets([str(path)], tokenizer, **SIZES)[0] for path in (tmp_path / "rows.parquet", folder))
    together = from_datasets([str(tmp_path / "rows.parquet"), str(folder)], tokenizer, **SIZES)
    assert even.pad is None
    assert together[0].pad == together[1].pad is not None
    assert not (together[1].test.token_ids == together[1].pad).any()
    assert torch.equal(together[1].test.token_ids, even.test.token_ids)
    assert alone.test.token_ids.shape == together[0].test.token_ids.shape


def test_a_model_answers_filled_rows_as_it_answers_them_alone(
    any_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(mixed_lengths(1500)).to_parquet(path)
    questions = from_datasets([str(path)], tokenizer, **SIZES)[0]
    rows = questions.test.token_ids % 38 + 1  # into the vocabulary of the model
    pad = 0
    rows[questions.test.token_ids == questions.pad] = pad
    alone = torch.cat([answer_logits(any_model, row[row != pad][None]) for row in rows])
    wrong = answer_logits(any_model, rows)
    masked = answer_logits(mask_padding(any_model, pad), rows)
    torch.testing.assert_close(masked, alone, rtol=1e-4, atol=1e-4)
    assert (wrong - alone).abs().max() > 0.1
    # whoever calls it
    assert answer_accuracy(any_model, rows) == float((alone.argmax(-1) == rows[:, -2]).float().mean())
    expected = torch.nn.functional.cross_entropy(alone, rows[:, -2])
    torch.testing.assert_close(answer_only_loss(any_model, rows), expected, rtol=1e-4, atol=1e-4)


def test_training_rows_pass_over_all_before_any_comes_twice(task: PcfgConfig) -> None:
    questions = from_capability(task, Capability("count", "a"), seed=0, train_rows=10, test_rows=10, again_rows=40)
    rows = torch.cat([questions.training_rows(0, step, 16).token_ids for step in range(5)])
    assert questions.again is not None
    first, second = rows[:40], rows[40:]
    assert sorted(first.tolist()) == sorted(questions.again.token_ids.tolist())
    assert sorted(second.tolist()) == sorted(questions.again.token_ids.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(questions.training_rows(0, 3, 16).token_ids, rows[48:64])
    assert not torch.equal(questions.training_rows(1, 3, 16).token_ids, rows[48:64])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["a ="] * 500, "answer": ["a"] * 500}, r"has 0 test rows of its own, expected at least 32"),
        ({"prompt": ["a ="] * 50}, r"has no column 'answer' \(or 'completion'\) in train, only prompt"),
        ({"prompt": ["a ="] * 50, "answer": ["a"] * 50}, r"has 30 train rows of its own, expected at least 32"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    columns: dict[str, Any], message: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    with pytest.raises(ValueError, match=message):
        from_datasets([str(path)], tokenizer, **SIZES)[0]


def test_answers_of_several_tokens_are_asked_or_left_out(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    prompts = [" ".join(words) + " =" for words in itertools.product("abc", repeat=6)]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"prompt": prompts, "answer": ["a b"] * 729}).to_parquet(path)
    (questions,) = from_datasets([str(path)], tokenizer, **SIZES)
    assert {tuple(tokenizer.convert_ids_to_tokens(answer)) for answer in questions.test.answer_ids()} == {("a", "b")}
    with pytest.raises(ValueError, match=r"without answers of several tokens, has 0 train rows of its own"):
        from_datasets([str(path)], tokenizer, **SIZES, only_one_token=True)


def test_no_such_data_set(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset: cannot read .*nowhere: no such folder or file"):
        from_datasets([str(tmp_path / "nowhere")], tokenizer, **SIZES)[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="dataset: cannot read"):
        from_datasets([str(tmp_path / "empty")], tokenizer, **SIZES)[0]


def test_its_hash_is_that_of_its_rows(task: PcfgConfig, tmp_path: Path) -> None:
    one, same, other = (
        write(tmp_path / name, task, train=number) for name, number in (("one", 8), ("same", 8), ("other", 9))
    )
    assert dataset_hash(str(one)) == dataset_hash(str(same)) != dataset_hash(str(other))
