from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ftmech_hf.jobs.answer_scores import answer_log_probabilities
from ftmech_hf.jobs.behavior import from_capability
from ftmech_hf.jobs.padding import mask_padding, padded_inputs, passes_over_padding
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.models.small import small_model
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks import Capability, PcfgConfig, build_dataset
from ftmech_hf.tasks.pcfg import for_capability
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.tasks.text.reading import Table
from ftmech_hf.tasks.text.splits import read_splits
from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss
from tests.foreign import save_gpt2, save_llama, sums, write_rows

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
    most = questions.again.first_answers.bincount().argmax()
    assert questions.chance == pytest.approx(float((questions.test.first_answers == most).float().mean()))


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
        ({"prompt": ["a ="] * 500, "answer": ["a"] * 500}, r"has 0 validation rows of its own, expected at least 32"),
        (
            {"prompt": ["a ="] * 50},
            r"has no column 'answer' \(or 'completion', 'response', 'output'\) in train, only prompt",
        ),
        ({"prompt": ["a ="] * 50, "answer": ["a"] * 50}, r"has 30 train rows of its own, expected at least 32"),
        (
            {"prompt": [" ".join(each) for each in itertools.product("abc", repeat=5)][:120], "answer": ["a"] * 120},
            r"has 24 validation rows of its own, expected at least 32; a fifth of its rows is cut off for each split "
            r"that it lacks, which takes 160 rows$",
        ),
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
        from_datasets([str(path)], tokenizer, **SIZES, how=QuestionConfig(only_one_token=True))


def test_white_space_after_an_answer_is_not_asked_for(tmp_path: Path) -> None:
    """Nor does it move the cut, or count where an answer is a choice, another one or one of several."""
    save_gpt2(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    prompts = [f"The {one} is {two}, so it was" for one in ("cat", "dog", "car") for two in range(100)]
    rows = [{"prompt": each, "answer": [" felt", " sad"], "other_answer": " no"} for each in prompts]
    plain, spaced = Table.of(rows, "plain"), Table.of([{
        "prompt": each, "answer": [" felt\n", " sad \n", " felt"], "other_answer": " no "
    } for each in prompts], "spaced")  # fmt: skip
    (expected,), (found,) = (from_datasets([table], tokenizer, **SIZES) for table in (plain, spaced))
    for one, other in ((expected.test, found.test), (expected.train, found.train)):
        assert torch.equal(one.token_ids, other.token_ids)
        assert one.accepted == other.accepted
        assert one.accepted is not None
        assert {len(each) for each in one.accepted} == {1}
        assert one.other is not None
        assert other.other is not None
        assert torch.equal(one.other, other.other)
    note = "300 of 300 rows have white space after an answer, which is not asked for"
    assert [note in each for each in found.notes].count(True) == 1
    assert not any("white space" in each for each in expected.notes)
    choices = [{"prompt": each, "choices": [" felt ", " sad"], "answer": "felt"} for each in prompts]
    (chosen,) = from_datasets([Table.of(choices)], tokenizer, **SIZES)
    assert {tokenizer.decode(list(ids)) for ids in chosen.test.answer_ids()} == {"felt"}
    assert chosen.test.right is not None
    assert set(chosen.test.right.tolist()) == {0}


@pytest.mark.parametrize("how", [QuestionConfig(), QuestionConfig(only_one_token=True)])
def test_fewer_rows_than_a_data_set_must_have_may_be_taken(
    how: QuestionConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    prompts = [" ".join(words) + " =" for words in itertools.product("abc", repeat=6)]
    datasets.Dataset.from_dict({"prompt": prompts, "answer": ["a"] * 729}).to_parquet(path)
    (questions,) = from_datasets([str(path)], tokenizer, seed=0, train_rows=5, test_rows=16, how=how)
    assert (len(questions.train), len(questions.validation), len(questions.test)) == (5, 16, 16)


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


def messy(number: int = 400) -> list[dict[str, Any]]:
    """Questions as they come out of a spreadsheet: a fifth of them cannot be asked, and some stand there twice."""
    rows = [{"prompt": " ".join(words) + " =", "answer": words[0]} for words in itertools.product("abc", repeat=6)]
    for place in range(0, number, 5):
        rows[place] = {**rows[place], ["prompt", "answer"][place % 2]: [None, "", f"zebra{place}"][place % 3]}
    return [*rows[:number], *rows[1:5]]


def test_rows_that_cannot_be_asked_are_counted_and_left_out_if_told(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = messy()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        ValueError, match=r"dataset: .*rows\.jsonl: .* \(\d+ of 404 rows .*; --skip_unusable true leaves"
    ):
        from_datasets([str(path)], tokenizer, **SIZES)
    (questions,) = from_datasets([str(path)], tokenizer, **SIZES, how=QuestionConfig(skip_unusable=True))
    note, spaced, twice = questions.notes
    assert "a space is put before" in spaced
    assert note.startswith(f"{path}: 80 of 404 rows cannot be asked and are left out, first ")
    assert twice == f"{path}: 4 of 404 rows have the prompt and answer of another row and are left out"
    for row in questions.test.token_ids.tolist():
        words = tokenizer.convert_ids_to_tokens([token for token in row if token != questions.pad])
        assert words[-2] == words[0]
    # the same rows without the others are asked in the same way, and it is said that some stand there twice
    usable = [row for row in rows if all(row.values()) and "zebra" not in "".join(row.values())]
    assert len(usable) == 324
    path.write_text("".join(json.dumps(row) + "\n" for row in usable))
    (alone,) = from_datasets([str(path)], tokenizer, **SIZES)
    assert alone.notes[1:] == (f"{path}: 4 of 324 rows have the prompt and answer of another row",)
    assert "a space is put before" in alone.notes[0]


def test_too_few_rows_are_left_is_said_with_those_that_were_left_out(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"prompt": "a =", "answer": None}] * 99))
    with pytest.raises(ValueError, match="has 0 train rows of its own, expected at least 32; 99 of 99 rows cannot be"):
        from_datasets([str(path)], tokenizer, **SIZES, how=QuestionConfig(skip_unusable=True))


def test_long_prompts_are_refused_left_out_or_cut(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(mixed_lengths(1500)).to_parquet(path)
    sizes = {**SIZES, "positions": 8}
    with pytest.raises(ValueError, match="tokens, but the model has 8 positions"):
        from_datasets([str(path)], tokenizer, **sizes)
    longest = {}
    for how in (QuestionConfig(skip_unusable=True), QuestionConfig(cut_prompts=True)):
        (questions,) = from_datasets([str(path)], tokenizer, **sizes, how=how)
        longest[how.cut_prompts] = questions.test.token_ids.shape[1] - 2
        assert ("lose their beginning" if how.cut_prompts else "left out, first row") in " ".join(questions.notes)
    assert longest == {False: 8, True: 8}


def test_the_side_on_which_a_tokenizer_pads_changes_nothing(tmp_path: Path) -> None:
    """Rows in a batch, filled on the left as we do or on the right as a tokenizer may, are rows alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "llama")).eval(), None
    name = write_rows(tmp_path / "sums.jsonl", sums(160))
    found = {}
    for side in ("left", "right"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama", padding_side=side)
        (questions,) = from_datasets([name], tokenizer, **SIZES)
        assert questions.pad is not None
        found[side] = answer_log_probabilities(mask_padding(model, questions.pad), questions.test)
    torch.testing.assert_close(found["left"], found["right"], rtol=0, atol=0, equal_nan=True)
    assert tokenizer is not None
    for row, answer, measured in zip(questions.test.token_ids, questions.test.answer, found["right"], strict=True):
        ids = row[row != questions.pad][None]
        with torch.no_grad():
            alone = model(ids).logits[0].log_softmax(-1)
        length = int(answer.sum())
        expected = [
            float(alone[ids.shape[1] - 2 - length + n, ids[0, ids.shape[1] - 1 - length + n]]) for n in range(length)
        ]
        assert measured[-length:].tolist() == pytest.approx(expected, abs=1e-4)


CAPITALS = """
France Paris|Germany Berlin|Argentina Buenos Aires|Bolivia La Paz|Brazil Brasília|Chad N'Djamena|Cuba Havana|Egypt Cairo
Ethiopia Addis Ababa|Guatemala Guatemala City|Haiti Port-au-Prince|Iceland Reykjavik|India New Delhi|Japan Tokyo
Kazakhstan Astana|Kuwait Kuwait City|Luxembourg Luxembourg|Malaysia Kuala Lumpur|Mauritius Port Louis|Panama Panama City
Mongolia Ulaanbaatar|Singapore Singapore|Togo Lomé|Trinidad Port of Spain|Tonga Nuku'alofa|America Washington, D.C.
Vietnam Hanoi|Yemen Sana'a|Grenada St. George's|Paraguay Asunción|Brunei Bandar Seri Begawan|Benin Porto-Novo
"""


@pytest.mark.parametrize("answer", ["{}", " {}"], ids=["bare", "with its space"])
def test_capitals_are_asked_whatever_they_are_called(answer: str, tmp_path: Path) -> None:
    """Names of several tokens, with accents, apostrophes and commas: every one of them is a question."""
    save_gpt2(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    pairs = [each.partition(" ")[::2] for each in CAPITALS.replace("\n", "|").strip("|").split("|")]
    starts = ("T", "Note that t", "A fact: t", "Here t", "Also, t", "So t")
    rows = [
        {"prompt": f"{start}he capital of {country} is", "answer": answer.format(capital), "group": f"{start}{country}"}
        for country, capital in pairs for start in starts
    ]  # fmt: skip
    path = write_rows(tmp_path / "capitals.jsonl", rows)
    (questions,) = from_datasets(
        [path], tokenizer, seed=0, train_rows=400, test_rows=400, how=QuestionConfig(skip_unusable=True)
    )
    assert not any("left out" in note for note in questions.notes)
    assert questions.again is not None
    parts = (questions.again, questions.validation, questions.test)
    assert sum(map(len, parts)) == len(rows)
    assert max(int(part.lengths.max()) for part in parts) > 5
    texts = {str(tokenizer.decode(row[row != questions.pad][:-1])) for part in parts for row in part.token_ids}
    assert texts == {f"{row['prompt']} {row['answer'].strip()}" for row in rows}


def test_rows_know_what_they_are_about(task: PcfgConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """A row's group stays with it whatever is left out, shuffled, cut or put into another form."""
    words = [word for word in task.vocabulary if word.isalnum()][:16]
    rows = [
        {"prompt": f"{one} {two}", "answer": f" {two}", "group": None if one == words[0] else one}
        for one in words for two in words
    ]  # fmt: skip
    once = Table.of([*rows, *rows[::3]], "twice")
    (asked,) = from_datasets([once], tokenizer, **{**SIZES, "test_rows": 99}, how=QuestionConfig(skip_unusable=True))
    for found in (asked.test, asked.validation, asked.again, asked.test.first_tokens(), asked.test.each_token()):
        assert found is not None
        assert found.groups is not None
        firsts = [tokenizer.decode(row[-4]) for row in found.token_ids]
        about = [prompt if first == words[0] else first for first, prompt in zip(
            firsts, map(tokenizer.decode, found.token_ids[:, -4:-2]), strict=True
        )]  # fmt: skip
        pairs = set(zip(about, found.groups.tolist(), strict=True))
        assert len(pairs) == len(set(about)) == len(set(found.groups.tolist()))
    assert asked.test[[3, 0]].groups.tolist() == [asked.test.groups[3], asked.test.groups[0]]  # type: ignore[union-attr,index]
    plain = Table.of([{key: row[key] for key in ("prompt", "answer")} for row in rows], "plain")
    assert from_datasets([plain], tokenizer, **SIZES)[0].test.groups is None


def test_rows_that_are_left_out_do_not_move_the_cut(task: PcfgConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Who trained on the data set cut all of its rows; what was trained on must not come to be asked."""
    words = [word for word in task.vocabulary if word.isalnum()][:16]
    once = [{"prompt": f"{one} {two}", "answer": f" {two}"} for one in words for two in words]
    table = Table.of([*once, *once[::3]], "twice")
    cut = read_splits(table, 0, lambda rows, split: rows)
    (asked,) = from_datasets([table], tokenizer, **{**SIZES, "test_rows": 99}, how=QuestionConfig(skip_unusable=True))
    assert any("have the prompt and answer of another row and are left out" in note for note in asked.notes)
    prompts = [tokenizer.decode(row[-4:-2]) for row in asked.test.token_ids.tolist()]
    assert len(prompts) > 32
    assert len(set(prompts)) == len(prompts)
    assert set(prompts) <= set(cut["test"]["prompt"])


@pytest.mark.parametrize(
    ("kind", "passes"), [("llama", True), ("gpt2", True), ("roberta", False), ("recurrent_gemma", False)]
)
def test_a_model_that_answers_otherwise_to_a_padded_row_is_refused(kind: str, passes: bool) -> None:
    """Whether it takes positions says nothing: some count them anew, or let padding into a convolution."""
    model = small_model(kind)
    before, state = model.training, torch.get_rng_state()
    shown = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    if passes:
        assert padded_inputs(model, shown)["position_ids"].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    else:
        with pytest.raises(
            ValueError, match=r"answers otherwise to a row that is padded .*give it prompts of one length"
        ):
            padded_inputs(model, shown)
    assert model.training == before
    assert torch.equal(torch.get_rng_state(), state)
    half = small_model(kind).bfloat16()
    if passes:
        padded_inputs(half, shown)


@pytest.mark.parametrize("kind", ["bloom", "mpt", "mamba", "mamba2", "falcon_mamba", "xlnet"])
def test_a_model_that_takes_no_positions_may_pass_over_padding(kind: str) -> None:
    """The mask alone says it all to recurrent models, and to those that count positions from it."""
    model = moved(small_model(kind))
    ids = torch.randint(4, 58, (3, 9), generator=torch.Generator().manual_seed(1))
    shown = torch.ones_like(ids)
    shown[0, :4] = 0
    told = padded_inputs(model, shown)
    assert list(told) == ["attention_mask"]
    with torch.no_grad():
        padded = model(input_ids=ids, use_cache=False, **told).logits[0, 4:]
        alone = model(input_ids=ids[:1, 4:], use_cache=False).logits[0]
        other = model(input_ids=ids, use_cache=False).logits[0, 4:]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)
    assert (other - alone).abs().max() > 1e-2, "what stands before them does change answers"


def test_a_recurrent_model_that_forgets_its_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="its rows differ in length, and rwkv answers otherwise to a row that is pad"):
        padded_inputs(moved(small_model("rwkv")), torch.tensor([[0, 1, 1], [1, 1, 1]]))


@torch.no_grad()
def moved(model: PreTrainedModel) -> PreTrainedModel:
    """A model away from where it was drawn, where some parts do nothing yet."""
    numbers = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        width = weights.shape[-1] ** 0.5 if weights.ndim > 1 else 1.0
        weights.add_(0.2 * torch.randn(weights.shape, generator=numbers) / width)
    return model.eval()


def test_rows_longer_than_the_tokens_that_attention_chooses_are_not_padded() -> None:
    """In shorter ones all are chosen, and a trial of such rows says whether padding is passed over."""
    model = small_model("deepseek_v32")
    assert model.config.index_topk == 4
    assert "position_ids" in padded_inputs(model, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="deepseek_v32 chooses 4 tokens to attend to, which may be others where a row"):
        padded_inputs(model, torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))


def test_a_model_that_answers_nan_does_not_pass_the_trial() -> None:
    """Nothing is larger than nan: a comparison the other way round let it pass."""
    model = small_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="answers otherwise to a row that is padded"):
        padded_inputs(model, torch.tensor([[0, 1, 1], [1, 1, 1]]))


@pytest.mark.parametrize("offset", [0.0, -100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_all_logits_have_in_common_hides_no_difference(dtype: torch.dtype, offset: float) -> None:
    """GPT-2's lie about -100 and differ by a few: a model that moves with its padding passed for their sake."""
    for seed in range(3):
        for kind, passes in (("roberta", False), ("phi", True)):  # with a bias of its logits each
            torch.manual_seed(seed)
            model = small_model(kind)
            model.init_weights()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(10.0 if parameter.ndim > 1 else 1.0)
                model.get_output_embeddings().bias.fill_(offset)
            assert passes_over_padding(model.to(dtype), 5) == passes


def test_tokens_that_continue_a_cache_are_no_rows() -> None:
    """Positions of whole rows are told to a model that is called with them; one token more has what its cache says."""
    model, told = small_model("llama"), []
    mask_padding(model, 0)
    model.model.register_forward_pre_hook(lambda _, args, named: told.append(named["position_ids"]), with_kwargs=True)
    rows = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        cache = model(rows, use_cache=True).past_key_values
        following = model(torch.tensor([[9]]), past_key_values=cache, use_cache=True).logits[:, -1]
        whole = model(torch.tensor([[5, 6, 7, 8, 9]])).logits[:, -1]
    assert [each if each is None else each.tolist() for each in told] == [[[0, 1, 2, 3]], None, [[0, 1, 2, 3, 4]]]
    torch.testing.assert_close(following, whole, atol=1e-5, rtol=1e-5)


def test_whoever_reads_in_a_model_sees_nothing_of_the_trial() -> None:
    model, seen = small_model("llama"), list[torch.Size]()
    block = model.model.layers[1]
    first = block.register_forward_hook(lambda module, given, output: seen.append(output.shape))
    block.register_forward_pre_hook(lambda module, given, named: seen.append(given[0].shape), with_kwargs=True)
    padded_inputs(model, torch.ones(1, 5))
    assert seen == []
    model(torch.ones(2, 3, dtype=torch.long))
    assert [shape[:2] for shape in seen] == [(2, 3), (2, 3)]
    first.remove()
    model(torch.ones(2, 3, dtype=torch.long))
    assert len(seen) == 3
