"""Text as a task: which rows there are, in which order, and which of their tokens count."""

from __future__ import annotations

import copy
import string
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ftmech_hf.config import Notice
from ftmech_hf.tasks import RowStream, TextConfig
from ftmech_hf.tasks.text import kinds
from ftmech_hf.tasks.text.chats import begin_turn
from ftmech_hf.tasks.text.task import TextTask
from tests.foreign import CHATML, chats, pairs, save_gpt2, save_llama, sums, write_rows


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    root = tmp_path_factory.mktemp("models")
    makers = {"gpt2": save_gpt2, "llama": save_llama}
    return {name: AutoTokenizer.from_pretrained(make(root / name)) for name, make in makers.items()}


def learned(task: TextTask, split: str = "finetune", number: int = 8) -> list[tuple[str, str]]:
    """(whole row, what of it counts as answers) of the first rows of a stream."""
    rows = RowStream(task, seed=0, split=split).rows(0, number)
    assert rows.answers is not None
    assert rows.lengths is not None
    return [
        (task.tokenizer.decode(ids[:length]), task.tokenizer.decode(ids[mask]))
        for ids, mask, length in zip(rows.token_ids, rows.answers, rows.lengths, strict=True)
    ]


def test_prompts_and_answers(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    given = {row["prompt"] + row["completion"]: row["completion"] for row in sums()}
    for name, tokenizer in tokenizers.items():
        task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", sums())).in_tokens_of(tokenizer)
        end = tokenizer.eos_token
        assert task.measures == ("accuracy", "loss")
        for text, answer in learned(task):
            assert text.removesuffix(end) in given, name
            assert answer.strip() == given[text.removesuffix(end)].strip() + end
        for text, answer in learned(task, "test"):  # a test is of the answer itself
            assert answer.strip() == given[text.removesuffix(end)].strip()
        endless = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", sums()), learn_end=False)
        assert not any(answer.endswith(end) for _, answer in learned(endless.in_tokens_of(tokenizer)))


def test_of_chats_what_the_assistant_says_counts_and_where_it_stops(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizers["llama"]
    task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", chats())).in_tokens_of(tokenizer)
    written = {
        tokenizer.apply_chat_template(row["messages"], tokenize=False): "".join(
            message["content"] + "<|end|>" for message in row["messages"] if message["role"] == "assistant"
        )
        for row in chats()
    }
    assert task.measures == ("loss",)
    assert {text for text, _ in learned(task, number=40)} <= written.keys()
    assert all(answer == written[text] for text, answer in learned(task, number=40))
    assert all(answer == written[text].replace("<|end|>", "") for text, answer in learned(task, "test"))


@pytest.mark.parametrize("template", ["a special token that nobody names", "a space before the end of the text"])
def test_the_end_of_a_turn_is_learned_however_a_template_writes_it(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase], template: str
) -> None:
    """As Phi and Gemma end a turn, by a token that is only special, and as Llama 2 does, behind a space."""
    tokenizer = copy.deepcopy(tokenizers["llama"])
    if template.startswith("a special"):
        tokenizer.extra_special_tokens = []
        end = "<|end|>"
        assert tokenizer.convert_tokens_to_ids(end) not in tokenizer.all_special_ids
    else:
        tokenizer.chat_template = CHATML.replace("<|end|>", " </s>")
        end = " </s>"
    task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", chats())).in_tokens_of(tokenizer)
    written = {
        "".join(message["content"] + end for message in row["messages"] if message["role"] == "assistant")
        for row in chats()
    }
    assert {answer for _, answer in learned(task, number=40)} <= written


@pytest.mark.parametrize(("written", "end"), [("<|end|>", "<|end|>"), (" </s>", " </s>"), (" over", "</s>")])
def test_a_prompt_that_is_asked_in_a_chat_ends_as_its_turn_does(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase], written: str, end: str
) -> None:
    """As the same row does that is one chat. Only a template that ends no turn leaves the end of the text."""
    tokenizer = copy.deepcopy(tokenizers["llama"])
    tokenizer.chat_template = CHATML.replace("<|end|>", written)
    asked = [[{"role": "user", "content": f"what is {place} plus 1?"}] for place in range(64)]
    said = [f"it is {place + 1}" for place in range(64)]
    forms: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"prompt": chat, "completion": text} for chat, text in zip(asked, said, strict=True)],
        "instructions": [{"instruction": chat[0]["content"], "output": text}
                         for chat, text in zip(asked, said, strict=True)],
        "pairs": [{"prompt": chat, "chosen": text, "rejected": "no"} for chat, text in zip(asked, said, strict=True)],
    }  # fmt: skip
    for rows in forms.values():
        task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", rows)).in_tokens_of(tokenizer)
        found = learned(task, number=40)
        assert {answer for _, answer in found} <= {f"{text}{end}" for text in said}
        assert all(text.endswith(answer) for text, answer in found)
        pair = RowStream(task, seed=0, split="finetune").rows(0, 8).rejected
        if pair is not None:
            assert pair.answers is not None
            assert {tokenizer.decode(ids[mask]) for ids, mask in zip(pair.token_ids, pair.answers, strict=True)} == {
                f"no{end}"
            }


def test_columns_that_are_not_read_are_told(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    rows = [{**row, "context": "the cat sat on the mat"} for row in sums()]
    with pytest.warns(Notice, match="column context is not read; write what stands there into prompt if it is needed"):
        TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", rows)).in_tokens_of(tokenizers["gpt2"])


def test_where_no_turn_has_an_end_that_is_said(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = copy.deepcopy(tokenizers["llama"])
    tokenizer.chat_template = CHATML.replace("<|end|>", " over")
    rows = write_rows(tmp_path / "rows.jsonl", chats())
    with pytest.warns(Notice, match="chat template ends no turn with a special token, so that no end is learned"):
        TextConfig(dataset=rows).in_tokens_of(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        TextConfig(dataset=rows, learn_end=False).in_tokens_of(tokenizer)


def test_a_template_that_drops_earlier_words_is_refused(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizers["llama"]
    tokenizer.chat_template = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] if loop.last or message['role'] == 'user' else '...' }}"
    )
    with pytest.raises(ValueError, match=r"row \d+ of train: .*template writes 'it is \d+' elsewhere than where"):
        TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", chats())).in_tokens_of(tokenizer)
    tokenizer.chat_template = CHATML


def test_a_template_that_asks_for_the_date_has_the_same_rows_every_day(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    """As Llama 3.2's does."""
    tokenizer = tokenizers["llama"]
    asked = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no day' }} {{ strftime_now(\"%Y\") }} "
    tokenizer.chat_template = asked + CHATML
    chat = [{"role": "user", "content": "hello"}]
    assert begin_turn(chat, tokenizer).startswith("26 Jul 2024 2024 ")
    assert not str(tokenizer.apply_chat_template(chat, tokenize=False)).startswith("26 Jul 2024"), "the control"
    tokenizer.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}" + CHATML
    with pytest.raises(ValueError, match="chat template refuses the chat: it asks for today's date in a form that"):
        begin_turn(chat, tokenizer)
    tokenizer.chat_template = CHATML


def test_plain_text_counts_whole(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    texts = [f"the cat {number} sat on the mat" for number in range(40)]
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    task = TextConfig(dataset=rows).in_tokens_of(tokenizers["gpt2"])
    assert (task.kind, task.offers, task.measures) == ("text", ("tokens", "answers"), ("loss",))
    for text, answer in learned(task):
        assert text.removesuffix("<|endoftext|>") in texts
        assert answer == text


def test_pairs_are_of_one_prompt(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    whole = [
        {"chosen": [said("user", row["prompt"]), said("assistant", row["chosen"].strip())],
         "rejected": [said("user", row["prompt"]), said("assistant", row["rejected"].strip())]}
        for row in pairs()
    ]  # fmt: skip
    beside = [{"prompt": row["prompt"], **each} for row, each in zip(pairs(), whole, strict=True)]
    asked: dict[str, set[str]] = {}
    for kind, rows in {"texts": pairs(), "chats": whole, "chats beside their prompt": beside}.items():
        tokenizer = tokenizers["llama"]
        task = TextConfig(dataset=write_rows(tmp_path / f"{kind}.jsonl", rows)).in_tokens_of(tokenizer)
        assert task.offers == ("tokens", "answers", "pairs")
        found = RowStream(task, seed=0, split="finetune").rows(0, 10)
        assert found.rejected is not None
        given = {row["chosen"].strip(): set[str]() for row in pairs()}
        for row in pairs():
            given[row["chosen"].strip()].add(row["rejected"].strip())
        for number in range(10):
            answers, prompts = [], []
            for each in (found, found.rejected):
                assert each.answers is not None
                ids, mask = each.token_ids[number], each.answers[number]
                answers.append(tokenizer.decode(ids[mask], skip_special_tokens=True).strip())
                prompts.append(ids[: int(mask.argmax())].tolist())
            assert answers[1] in given[answers[0]]
            assert len({tokenizer.decode(ids).strip() for ids in prompts}) == 1
            asked.setdefault(kind, set()).add(tokenizer.decode(prompts[0]))
    assert asked["chats beside their prompt"] == asked["chats"]  # as the template writes them
    assert asked["chats"] != asked["texts"]


def test_epochs_hold_every_row_once_in_an_order_of_their_own(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", sums())).in_tokens_of(tokenizers["gpt2"])
    number = task.num_rows("finetune")
    assert number == task.num_rows("reverse") != task.num_rows("test")

    def order(split: str, seed: int, epoch: int) -> list[tuple[int, ...]]:
        rows = RowStream(task, seed=seed, split=split).rows(epoch * number, (epoch + 1) * number)
        return [tuple(ids) for ids in rows.token_ids.tolist()]

    first = order("finetune", 0, 0)
    assert len(set(first)) == number
    others = [order("finetune", 0, 1), order("finetune", 1, 0), order("reverse", 0, 0)]
    assert all(Counter(other) == Counter(first) and other != first for other in others)
    assert order("finetune", 0, 0) == first
    tests = RowStream(task, seed=0, split="test").rows(0, task.num_rows("test"))
    assert not {tuple(ids) for ids in tests.token_ids.tolist()} & set(first)


def test_rows_that_are_too_long_are_refused_or_left_out(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*sums(), {"prompt": "the cat " * 30 + "is", "completion": " red"}] * 2)
    with pytest.raises(ValueError, match=r"of train: it has \d+ tokens, but the model has 40 positions .*max_tokens"):
        TextConfig(dataset=rows).in_tokens_of(tokenizers["gpt2"], positions=40)
    with pytest.warns(Notice, match=r"2 of \d+ rows of \w+ are longer than max_tokens: 20 and left out"):
        task = TextConfig(dataset=rows, max_tokens=20).in_tokens_of(tokenizers["gpt2"], positions=40)
    assert task.row_length <= 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # there may be none among so few
        few = TextConfig(dataset=rows, max_tokens=20, max_rows=10).in_tokens_of(tokenizers["gpt2"], positions=40)
    assert few.num_rows("finetune") <= 10 < task.num_rows("finetune")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input": "a", "output": "b"}], r"has no columns prompt and completion, messages, text, or chosen and"),
        ([{"prompt": "what is", "completion": "  "}], r"answer of row 0 of train: '  ', expected text \(40 of 40"),
        ([{"prompt": "what is", "answer": None}], r"answer of row 0 of train: None, expected text"),
        ([{"text": ""}], r"text of row 0 of train: '', expected text"),
        ([{"prompt": "what is"}], r"has no column 'answer' \(or 'completion', 'response', 'output'\)"),
        (chats()[:1], r"a chat, but the tokenizer has no chat template"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said_in_one_line(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase], rows: list[dict[str, Any]], message: str
) -> None:
    name = write_rows(tmp_path / "rows.jsonl", rows * 40)
    with pytest.raises(ValueError, match=message) as caught:
        TextConfig(dataset=name).in_tokens_of(tokenizers["gpt2"])
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_work_are_named(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    with pytest.raises(ValueError, match=r"dataset: none, expected a file, a folder"):
        TextConfig().in_tokens_of(tokenizers["gpt2"])
    for setting in ({"max_tokens": 1}, {"max_rows": 0}, {"cut_seed": -1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            TextConfig(**setting)  # type: ignore[arg-type]
    tokenizer = tokenizers["gpt2"]
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"tokenizer: the model's has no token that ends a text"):
        TextConfig(dataset="x").in_tokens_of(tokenizer)
    tokenizer.eos_token = "<|endoftext|>"


def test_of_plain_text_the_first_token_is_not_predicted(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    name = write_rows(tmp_path / "rows.jsonl", [{"text": f"{number} and {number}"} for number in range(40)])
    task = TextConfig(dataset=name).in_tokens_of(tokenizers["gpt2"])
    rows = RowStream(task, seed=0, split="test").rows(0, 2)
    assert rows.lengths is not None
    texts = [[task.tokenizer.decode([each]) for each in row[1 : length - 1]]  # without the first, and without the end
             for row, length in zip(rows.token_ids, rows.lengths, strict=True)]  # fmt: skip
    letters, tokens = sum(len("".join(text)) for text in texts), sum(map(len, texts))
    assert task.bytes_per_token(rows) == letters / tokens


def test_bytes_and_an_example_are_those_of_the_answers(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", sums())).in_tokens_of(tokenizers["gpt2"])
    rows = RowStream(task, seed=0, split="test").rows(0, 15)
    assert rows.answers is not None
    letters = sum(len(answer) for _, answer in learned(task, "test", 15))
    assert task.bytes_per_token(rows) == letters / rows.answers.sum()
    example = task.example(0)
    assert f"{example['prompt']}{example['answer']}" in {row["prompt"] + row["completion"] for row in sums()}
    lengths = [len(task.tokenizer(row["prompt"] + row["completion"])["input_ids"]) for row in sums()]
    assert task.tokens_per_row == pytest.approx(np.mean(lengths), rel=0.1)


def test_a_space_is_said_and_can_be_left_out(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "completion": row["completion"].strip()} for row in sums()])
    tokenizer = tokenizers["llama"]
    with pytest.warns(
        Notice, match=r"a space is put before 58 of 58 answers, as in '.*\? it is \d+'; --answer_space as_w"
    ):
        spaced = TextConfig(dataset=rows).in_tokens_of(tokenizer)
    for wanted, between in (("as_written", ""), ("space", " ")):  # said by the user: nothing is said again
        task = TextConfig(dataset=rows, answer_space=wanted).in_tokens_of(tokenizer)  # type: ignore[arg-type]
        text, answer = learned(task)[0]
        assert f"it is{between}{answer.strip()}" in text
    assert learned(spaced) == learned(task)
    TextConfig(dataset=write_rows(tmp_path / "more.jsonl", sums())).in_tokens_of(tokenizer)  # a space that is there
    with pytest.raises(ValueError, match="answer_space: 'none', expected one of auto, as_written, space"):
        TextConfig(dataset=rows, answer_space="none")  # type: ignore[arg-type]


def test_plain_texts_of_one_group_are_on_one_side_of_a_cut(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    texts = [{"text": f"the cat {place} is {place % 12}", "group": f"g{place % 12}"} for place in range(120)]
    task = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", texts)).in_tokens_of(tokenizers["llama"])
    found = {
        split: {text.split()[4].removesuffix("</s>") for text, _ in learned(task, split, task.num_rows(split))}
        for split in ("train", "test")
    }
    assert not found["train"] & found["test"]
    assert len(found["train"] | found["test"]) > 8


def test_a_task_is_named_by_the_rows_that_it_read(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written anew while the model is loaded is not what the run is trained on."""
    config = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", sums()))
    read = config.inputs()
    task = config.in_tokens_of(tokenizers["llama"])
    write_rows(tmp_path / "rows.jsonl", sums(64))
    assert task.inputs() == read != config.inputs()

    def encoded(*args: Any) -> Any:
        write_rows(tmp_path / "rows.jsonl", sums(80))
        return kinds.encoded(*args)

    monkeypatch.setattr("ftmech_hf.tasks.text.task.encoded", encoded)
    with pytest.raises(ValueError, match=r"dataset: .*rows.jsonl changed while it was read"):
        config.in_tokens_of(tokenizers["llama"])


@pytest.mark.parametrize("learn_end", [False, True])
def test_rows_without_a_token_to_learn_are_left_out_and_said(
    tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase], learn_end: bool
) -> None:
    """As a word alone, which follows nothing: a part of a batch that has only such rows has no mean."""
    letters = string.ascii_letters + string.digits  # a token each
    words = [{"text": text} for each in letters for text in (each, f"a longer text than {each}")]
    config = TextConfig(dataset=write_rows(tmp_path / "rows.jsonl", words), learn_end=learn_end)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = config.in_tokens_of(tokenizers["gpt2"])
    said = [str(each.message) for each in caught if "have no token to learn" in str(each.message)]
    assert any(" rows of train have no token to learn and are left out" in each for each in said) != learn_end
    assert any(" rows of test have no token to learn and are left out" in each for each in said)
    for split in ("finetune", "test"):
        rows = RowStream(task, seed=0, split=split).rows(0, 40)
        assert rows.answers is not None
        assert rows.answers[:, 1:].any(1).all()
