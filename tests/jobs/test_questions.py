"""When an answer is right: any that is accepted, the right choice, or exactly what is written."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import answer_log_probabilities, choice_scores, chooses_answer, gives_answer
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.jobs.written_answers import answers_in_words, write_greedily, writes_answer
from tests.foreign import save_gpt2, sums, write_rows

SIZES: dict[str, Any] = {"seed": 0, "train_rows": 60, "test_rows": 60}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = save_gpt2(tmp_path_factory.mktemp("foreign") / "gpt2")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def rows_with(**columns: Any) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "group": row["group"], **columns} for row in sums(165)]


def asked(
    folder: Path, gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], rows: list[dict[str, Any]], **how: Any
) -> Behavior:
    name = write_rows(folder / "rows.jsonl", rows)
    (behavior,) = from_datasets([name], gpt2[1], **SIZES, how=QuestionConfig(**how))
    mask_padding(gpt2[0], None)
    return behavior


@torch.no_grad()
def written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int) -> str:
    """What transformers' own greedy decoding writes."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def spans(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[float]:
    """Log-probability of every token of an answer after the prompt and the tokens before it, one pass each."""
    shown, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
    assert whole[: len(shown)] == shown
    return [
        float(model(torch.tensor([whole[:place]])).logits[0, -1].log_softmax(-1)[whole[place]])
        for place in range(len(shown), len(whole))
    ]


def prompts_of(behavior: Behavior, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    ids, shown = behavior.test.prompts()
    assert shown is not None
    return [str(tokenizer.decode(row[mask])) for row, mask in zip(ids, shown, strict=True)]


def test_any_accepted_answer_is_right_and_no_other(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """The model writes what it writes to each prompt: that is accepted by every second row, in second place."""
    model, tokenizer = gpt2
    rows = rows_with()
    for place, row in enumerate(rows):
        said = written(model, tokenizer, row["prompt"], 3)
        row["answer"] = [" the dog is red", *([said] if place % 2 else [" no"]), " fish"]
        row["known"] = said
    behavior = asked(tmp_path, gpt2, rows)
    known = {row["prompt"]: (place % 2 == 1, row["known"]) for place, row in enumerate(rows)}
    prompts = prompts_of(behavior, tokenizer)
    expected = [known[prompt][0] for prompt in prompts]
    assert 10 < sum(expected) < 50
    assert gives_answer(model, behavior.test).tolist() == expected
    assert behavior.score(model, behavior.test).tolist() == expected
    assert gives_answer(model, behavior.test[5:9]).tolist() == expected[5:9]
    assert gives_answer(model, behavior.test[[7, 3]]).tolist() == [expected[7], expected[3]]
    # naming the first of them would be right in every row; naming another answer in none
    assert behavior.chance == 1.0
    assert sum("several answers" in note or "holds lists" in note for note in behavior.notes) == 1


def test_a_choice_is_right_if_it_is_the_most_likely(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = gpt2
    choices = [" the cat sat on the mat", " no", " blue fish", " 7"]
    rows = rows_with(choices=choices)
    for place, row in enumerate(rows):
        row["answer"] = choices[0] if place % 3 == 0 else choices[1 + place % 3]
    for how, reduce in (("per_token", lambda each: sum(each) / len(each)), ("sum", sum)):
        behavior = asked(tmp_path, gpt2, rows, choice_score=how)
        scores = choice_scores(model, behavior.test, per_token=how == "per_token")
        prompts, right = prompts_of(behavior, tokenizer), {row["prompt"]: row["answer"] for row in rows}
        expected = []
        for prompt, found in zip(prompts, scores, strict=True):
            each = [reduce(spans(model, tokenizer, prompt, choice)) for choice in choices]
            assert found.tolist() == pytest.approx(each, abs=1e-4)
            expected.append(choices[each.index(max(each))])
        assert behavior.says is not None
        assert behavior.says(model, behavior.test) == expected
        truth = [said == right[prompt] for said, prompt in zip(expected, prompts, strict=True)]
        assert behavior.score(model, behavior.test).tolist() == truth
        assert how.partition("_")[0].replace("per", "mean").replace("sum", "summed") in behavior.right_if
    # of four choices a quarter, if always taking the place that is most often right gives no more
    most = behavior.again.right.bincount().argmax()  # type: ignore[union-attr]
    assert behavior.chance == pytest.approx(max(0.25, float((behavior.test.right == most).double().mean())))


@pytest.mark.parametrize(("places", "floor"), [([0, 0, 0, 0, 0], 1.0), ([0, 1, 2, 3, 4], None)])
def test_the_floor_is_guessing_or_the_place_that_is_most_often_right(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path, places: list[int], floor: float | None
) -> None:
    rows = rows_with(choices=[" no", " 7", " cat", " is", " the"])
    for number, row in enumerate(rows):
        row["answer"] = places[number % 5]
    behavior = asked(tmp_path, gpt2, rows)
    assert behavior.chance == (floor or pytest.approx(0.2, abs=0.15))
    assert behavior.chance >= 0.2


def test_of_choices_that_are_equally_likely_a_coin_chooses(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, _ = gpt2
    behavior = asked(tmp_path, gpt2, rows_with(choices=[" no", " 7", " cat"], answer=" 7"))
    even = torch.nn.Module.train(AutoModelForCausalLM.from_config(model.config), False)
    torch.nn.init.zeros_(even.get_output_embeddings().weight)
    rows, right = behavior.test, torch.tensor([0, 1, 2])
    shares = torch.stack([
        chooses_answer(even, dataclasses.replace(rows, right=each.expand(len(rows)))) for each in right
    ]).double()  # fmt: skip
    assert shares.sum(0).tolist() == [1.0] * len(rows)  # each row chooses one of them
    assert shares.mean(1).min() > 0.1
    turned = dataclasses.replace(rows, choices=[each[::-1] for each in rows.choices or ()], right=2 - rows.right)
    assert chooses_answer(even, turned).tolist() == chooses_answer(even, rows).tolist()
    says = behavior.says(even, rows)
    assert [each == " 7" for each in says] == chooses_answer(even, rows).tolist()


def test_an_exact_answer_is_all_that_is_written(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """The first tokens of what a model goes on to write begin its answer, and are not it."""
    model, tokenizer = gpt2
    rows = rows_with()
    for row in rows:
        row["answer"] = written(model, tokenizer, row["prompt"], 3)
    begins, exact = (asked(tmp_path, gpt2, rows, judged_by=how) for how in ("begins", "exact"))
    assert begins.score(model, begins.test).all()
    assert not exact.score(model, exact.test).any()
    # a model that ends after three tokens writes exactly these
    ids = write_greedily(model, exact.test, 3)
    assert [str(tokenizer.decode(each)) for each in ids] == [
        written(model, tokenizer, prompt, 3) for prompt in prompts_of(exact, tokenizer)
    ]
    fourth = write_greedily(model, exact.test, 4)
    ends = frozenset(row[3] for row in fourth)
    assert write_greedily(model, exact.test, 9, ends=ends) == [
        row[: next((n for n, token in enumerate(row) if token in ends), 9)]
        for row in write_greedily(model, exact.test, 9)
    ]


def test_a_row_has_room_of_its_own() -> None:
    """Of a model with 16 positions a prompt of 3 tokens goes on for as long as alone, beside one of 15."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval()
    rows = [[*range(3, 6), 9, 2], [*([5] * 14), 6, 9, 2]]
    masks = [[False] * (len(row) - 2) + [True, False] for row in rows]
    together = AnswerRows.stack(rows, masks, pad=0)
    written = write_greedily(model, together, 6)
    assert [len(each) for each in written] == [6, 2]
    assert written == [write_greedily(model, together[[row]].without_empty_columns(), 6)[0] for row in (0, 1)]


def test_a_turn_ends_with_a_special_token_that_nobody_names(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """As the ``<|end|>`` of a chat, where the end of a text is another token."""
    model, tokenizer = gpt2[0], copy.deepcopy(gpt2[1])
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)], special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model = copy.deepcopy(model)
    model.resize_token_embeddings(len(tokenizer))
    assert end not in tokenizer.all_special_ids
    says = Recite(model, [*tokenizer(" the cat")["input_ids"], end] * 4)
    behavior = asked(tmp_path, (model, tokenizer), rows_with(answer=["the cat", " no"]), judged_by="exact")
    says.start = behavior.test.prompts()[0].shape[1]
    assert writes_answer(tokenizer)(says, behavior.test).all()  # type: ignore[arg-type]
    assert set(answers_in_words(says, behavior.test, tokenizer, 30)) == {"the cat"}  # type: ignore[arg-type]


def test_white_space_and_what_follows_a_new_line_do_not_count(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """A model that writes the same tokens after every prompt, whatever stands there."""
    model, tokenizer = gpt2
    says = Recite(model, tokenizer(" the cat\nthe dog")["input_ids"])
    for answer, right in (
        ("the cat", True), (" the cat ", True), ("the", False), ("the cat\nthe dog", True), ("the cat\nno", False),
    ):  # fmt: skip
        behavior = asked(tmp_path, gpt2, rows_with(answer=[answer, " no"]), judged_by="exact")
        says.start = behavior.test.prompts()[0].shape[1]
        assert writes_answer(tokenizer)(says, behavior.test).tolist() == [right] * len(behavior.test), answer  # type: ignore[arg-type]
    words = answers_in_words(says, behavior.test, tokenizer, 30)  # type: ignore[arg-type]
    assert words == ["the cat"] * len(behavior.test)
    assert answers_in_words(says, behavior.test, tokenizer, 2)[0].endswith("\u2026")  # type: ignore[arg-type]


class Recite(torch.nn.Module):
    """A causal language model that recites some tokens, and then ends, from a position on."""

    def __init__(self, like: PreTrainedModel, token_ids: list[int]) -> None:
        super().__init__()
        self.config, self.device, self.start = like.config, torch.device("cpu"), 0
        self.token_ids = [*token_ids, int(like.config.eos_token_id)]

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **settings: Any) -> Any:
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        place = min(input_ids.shape[1] - self.start, len(self.token_ids) - 1)
        logits[:, -1, self.token_ids[place]] = 1
        return type("Output", (), {"logits": logits})


def test_log_probabilities_are_of_every_token_and_nothing_else(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = gpt2
    rows = rows_with()
    for place, row in enumerate(rows):
        row["answer"] = [" is", " the dog is", " the cat"][place % 3]
    behavior = asked(tmp_path, gpt2, rows)
    answers = {row["prompt"]: row["answer"] for row in rows}
    found = answer_log_probabilities(model, behavior.test)
    for prompt, measured in zip(prompts_of(behavior, tokenizer), found, strict=True):
        expected = spans(model, tokenizer, prompt, answers[prompt])
        assert measured[-len(expected) :].tolist() == pytest.approx(expected, abs=1e-4)
        assert measured[: -len(expected)].isnan().all()


def test_ways_that_change_nothing_are_refused(
    gpt2: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    rows = rows_with(choices=[" a", " b"])
    for row in rows:
        row["answer"] = " a"
    for name in ("choices", "plain"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="judged_by: exact, but the data set has choices"):
        asked(tmp_path / "choices", gpt2, rows, judged_by="exact")
    for row in rows:
        del row["choices"]
    with pytest.raises(ValueError, match="choice_score: sum, but the data set has no choices"):
        asked(tmp_path / "plain", gpt2, rows, choice_score="sum")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"judged_by": "eye"}, "judged_by: 'eye', expected one of begins, exact"),
        ({"choice_score": "mean"}, "choice_score: 'mean', expected one of per_token, sum"),
        ({"chat": "yes"}, "chat: 'yes', expected one of auto, always, never"),
    ],
)
def test_unknown_ways_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuestionConfig(**setting)
