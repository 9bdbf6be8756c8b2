"""What people call their columns, and what becomes of a row in each form."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from ftmech_hf.tasks.text.choices import read_choice
from ftmech_hf.tasks.text.columns import Chat, unread_columns
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.tables import ACCEPTED, CHAT, text_columns
from tests.tasks.text.test_tokens import CHATML, ask, byte_level

USER, MODEL = "<|user|>\n", "<|end|>\n<|assistant|>\n"


def read(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast, chat: Chat = "auto") -> dict[str, Any]:
    rows = datasets.Dataset.from_list([row])
    return dict(text_columns(rows, tokenizer, "TABLE", "train", chat=chat)[0])


@pytest.mark.parametrize(
    ("row", "chat", "template", "prompt", "answer"),
    [
        ({"instruction": "what is", "response": "she"}, "auto", False, "what is", "she"),
        ({"instruction": "what is", "response": "she"}, "auto", True, f"{USER}what is{MODEL}", "she"),
        ({"instruction": "what is", "response": "she"}, "never", True, "what is", "she"),
        ({"instruction": "what is", "input": "bear", "output": "she"}, "auto", False, "what is\n\nbear", "she"),
        ({"instruction": "what is", "input": "", "output": "she"}, "auto", True, f"{USER}what is{MODEL}", "she"),
        ({"prompt": "what is", "response": "she"}, "auto", True, "what is", "she"),
        ({"prompt": "what is", "response": " she"}, "always", True, f"{USER}what is{MODEL}", "she"),
        (
            {"question": "what is", "system": "Mia was sad", "answer": "she"}, "auto", True,
            f"<|system|>\nMia was sad<|end|>\n{USER}what is{MODEL}", "she",
        ),
        ({"question": "what is", "system": None, "answer": "she"}, "auto", True, f"{USER}what is{MODEL}", "she"),
        (
            {"messages": [{"role": "user", "content": "what is"}, {"role": "assistant", "content": "she"}],
             "system": "Mia"}, "auto", True, f"<|system|>\nMia<|end|>\n{USER}what is{MODEL}", "she",
        ),
        # answers as chats beside a prompt that is text, as tables of preferences and of conversations have them
        (
            {"prompt": "what is", "completion": [{"role": "assistant", "content": "she"}]}, "auto", True,
            f"{USER}what is{MODEL}", "she",
        ),
        (
            {"prompt": "what is", "answer": [{"role": "user", "content": "what is"},
                                             {"role": "assistant", "content": "she"}]}, "auto", True,
            f"{USER}what is{MODEL}", "she",
        ),
        (
            {"prompt": "what is", "completion": [{"role": "assistant", "content": "she"}]}, "never", True,
            "what is", "she",
        ),
        (
            {"prompt": "what is", "messages": [{"role": "user", "content": "what is"},
                                               {"role": "assistant", "content": "she"}]}, "auto", True,
            f"{USER}what is{MODEL}", "she",
        ),
    ],
)  # fmt: skip
def test_a_row_is_asked_as_its_columns_say(
    row: dict[str, Any], chat: Chat, template: bool, prompt: str, answer: str
) -> None:
    found = read(row, byte_level(template=CHATML if template else None), chat)
    assert (found["prompt"], found["answer"]) == (prompt, answer)
    assert found[CHAT] == (MODEL in prompt)


@pytest.mark.parametrize("nothing", [None, " "])
def test_a_column_without_a_system_prompt_needs_no_template(nothing: str | None) -> None:
    found = read({"prompt": "what is", "system": nothing, "answer": "she"}, byte_level())
    assert (found["prompt"], found[CHAT]) == ("what is", False)


def test_a_system_prompt_needs_a_template() -> None:
    with pytest.raises(ValueError, match="prompt of row 0 of train: a chat, but the tokenizer has no chat template"):
        read({"prompt": "what is", "system": "Mia", "answer": "she"}, byte_level())


@pytest.mark.parametrize("value", [["she", " he ", "she"], '["she", " he "]'])
@pytest.mark.parametrize("column", ["answer", "answers"])
def test_every_text_of_a_list_is_right(value: Any, column: str) -> None:
    notes: list[str] = []
    rows = datasets.Dataset.from_list([{"prompt": "what is", column: value}])
    (found,) = text_columns(rows, byte_level(), "TABLE", "train", notes=notes)
    assert (found["answer"], found[ACCEPTED]) == ("she", [" he "])
    assert notes == [f"column {column} holds lists: each of their texts counts as right"]


def test_text_that_looks_like_a_list_stays_text_where_other_answers_are_no_lists() -> None:
    rows = datasets.Dataset.from_list([{"prompt": "a", "answer": '["she"]'}, {"prompt": "b", "answer": "he"}])
    found = text_columns(rows, byte_level(), "TABLE", "train")
    assert found["answer"][:] == ['["she"]', "he"]
    assert ACCEPTED not in found.column_names


def test_what_begins_a_text_is_written_once() -> None:
    """A template that writes the token which the tokenizer adds to every text."""
    tokenizer = byte_level(adds=True, template="<s>" + CHATML)
    chat = [{"role": "user", "content": "what is"}]
    for prompts in ([chat], ["<s>what is"], ["what is"]):
        (row,) = ask(tokenizer, prompts, ["she"]).rows
        assert row.count(tokenizer.bos_token_id) == 1
        assert row[0] == tokenizer.bos_token_id
    # and one that does not write it: nothing is added to what a template writes
    (row,) = ask(byte_level(adds=True, template=CHATML), [chat], ["she"]).rows
    assert tokenizer.bos_token_id not in row


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [
        (["she", "he"], "he", 1),
        (["she", "he"], " he", 1),
        (["she", "he"], 0, 0),
        (["she", "he"], "1", 1),
        (["she", "he"], "B", 1),
        (["3", "4", "5"], "4", 1),
        (["3", "1", "0"], "1", 1),
        (["0", "1"], 1, 1),
        ({"text": ["she", "he"], "label": ["1", "2"]}, "2", 1),
        ({"text": ["she", "he"], "label": ["A", "B"]}, "he", 1),
    ],
)
def test_an_answer_names_a_choice(choices: Any, answer: Any, place: int) -> None:
    assert read_choice(choices, answer).right == place


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (["she", "he"], "bear", "the answer 'bear' is none of"),
        (["she", "he"], 2, "the answer 2 is none of"),
        (["she", "he"], "C", "the answer 'C' is none of"),
        (["she", "he"], True, "the answer True is none of"),
        ({"text": ["she", "he"], "label": ["1", "2"]}, "0", "the answer '0' is none of"),
        (["1", "2", "0"], 1, "the answer 1 is both one of the texts and the place of another"),
        (["she"], "she", "expected a list of at least two texts"),
        ("she or he", "she", "expected a list of at least two texts"),
        (["she", "she "], "she", "holds a text twice"),
    ],
)
def test_an_answer_that_names_no_choice_or_two_is_refused(choices: Any, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_choice(choices, answer)


def test_a_choice_is_the_answer_and_all_of_them_are_kept_in_order() -> None:
    found = read({"question": "what is", "choices": ["she", "he", "7"], "answer": 1}, byte_level())
    assert (found["answer"], found["choices"]) == ("he", ["she", "he", "7"])
    tokenizer = byte_level()
    rows = datasets.Dataset.from_list([{"prompt": "what is", "choices": '["she", "he"]', "answer": "A"}])
    assert text_columns(rows, tokenizer, "TABLE", "train")["answer"][:] == ["she"]


def test_rows_that_are_no_text_are_refused_or_left_out_and_counted() -> None:
    rows = datasets.Dataset.from_list(
        [{"prompt": "what is", "answer": answer, "kind": n} for n, answer in enumerate(["she", None, "he", " "])]
    )
    with pytest.raises(ValueError, match=r"TABLE: answer of row 1 of train: None, .*\(2 of 4 rows are like that\)"):
        text_columns(rows, byte_level(), "TABLE", "train", faults=Faults("TABLE", flag="skip_unusable"))
    faults = Faults("TABLE", skip=True, flag="skip_unusable")
    found = text_columns(rows, byte_level(), "TABLE", "train", faults=faults)
    assert (found["answer"][:], found["kind"][:]) == (["she", "he"], [0, 2])
    assert faults.note(4) == (
        "2 of 4 rows cannot be asked and are left out, first answer of row 1 of train: None, expected text"
    )
    assert Faults("TABLE").note(4) is None


@pytest.mark.parametrize(
    ("columns", "unread"),
    [
        (("question", "context", "answers"), ["context"]),
        (("prompt", "passage", "input", "answer"), ["passage", "input"]),
        (("instruction", "input", "output"), []), (("messages", "context"), ["context"]), (("text", "context"), []),
    ],
)  # fmt: skip
def test_columns_of_texts_that_are_passed_over_are_named(columns: tuple[str, ...], unread: list[str]) -> None:
    notes = unread_columns(columns)
    assert [note.split()[1] for note in notes] == unread
    assert all(f"into {columns[0]} if it is needed" in note for note in notes)
