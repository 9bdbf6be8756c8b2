"""A table is read by what it is, and every form of it gives the same rows."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks.text.chats import render_chat
from ftmech_hf.tasks.text.encoding import ANSWER, chat_rows
from ftmech_hf.tasks.text.reading import read_table
from ftmech_hf.tasks.text.tables import text_columns
from tests.tasks.text.test_tokens import byte_level

ROWS = [
    {"prompt": f'Q{n}: "a", b\nc =', "answer": answer} for n, answer in enumerate(["007", "None", "NA", "1.0", "é"])
]


def write(path: Path, form: str) -> Path:
    frame = pd.DataFrame(ROWS)
    if form == "parquet":
        frame.to_parquet(path)
    elif form in ("csv", "bom"):
        frame.to_csv(path, index=False, encoding="utf-8-sig" if form == "bom" else "utf-8")
    elif form == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif form == "gz":
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.parametrize("name", ["rows", "rows.txt", None], ids=["no suffix", "another suffix", "its suffix"])
@pytest.mark.parametrize("form", ["parquet", "csv", "bom", "tsv", "gz", "jsonl", "json"])
def test_a_file_is_read_by_what_it_is(form: str, name: str | None, tmp_path: Path) -> None:
    suffix = {"bom": "csv", "gz": "csv.gz"}.get(form, form)
    path = write(tmp_path / (name or f"rows.{suffix}"), form)
    assert [dict(row) for row in read_table(str(path))["train"]] == ROWS


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_a_folder_is_read_by_its_files(form: str, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "table" / f"{split}.{form}", form)
    loaded = read_table(str(tmp_path / "table"))
    assert {split: [dict(row) for row in rows] for split, rows in loaded.items()} == {"train": ROWS, "test": ROWS}


DATED = [{"prompt": "when?", "answer": day, "said": [{"role": "user", "content": day}]}
         for day in ("2020-01-02", "2020-01-02T03:04:05Z", "2020-01-02 03:04")]  # fmt: skip


@pytest.mark.parametrize("lines", [True, False])
def test_text_of_json_that_looks_like_a_date_is_text(lines: bool, tmp_path: Path) -> None:
    def save(path: Path, rows: list[dict[str, Any]]) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))

    for number, rows in enumerate([DATED, DATED[:1], DATED[1:2], DATED[2:]]):
        save(tmp_path / f"rows{number}.json", rows)
        assert read_table(str(tmp_path / f"rows{number}.json"))["train"][:] == datasets.Dataset.from_list(rows)[:]
    save(tmp_path / "folder" / "train.json", DATED[:1])
    later = {**DATED[0], "answer": "who knows", "said": None}
    save(tmp_path / "folder" / "test.json", [later])
    loaded = read_table(str(tmp_path / "folder"))
    assert {split: rows["answer"][:] for split, rows in loaded.items()} == {
        "train": ["2020-01-02"], "test": ["who knows"],
    }  # fmt: skip


def test_files_of_a_folder_are_read_as_each_is_by_itself(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt;answer\na;01\n")
    (tmp_path / "test.csv").write_text("prompt,answer,note\nb,02,c\n")
    loaded = read_table(str(tmp_path))
    assert {split: rows[:] for split, rows in loaded.items()} == {
        "train": {"prompt": ["a"], "answer": ["01"]}, "test": {"prompt": ["b"], "answer": ["02"], "note": ["c"]},
    }  # fmt: skip
    (tmp_path / "test.csv").write_text("prompt,answer\nb,02,c\n")
    with pytest.raises(ValueError, match=r"cannot read .*: test\.csv: row 0 has 3 cells, but the first line names 2"):
        read_table(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\x80\x04\x95\0\0", "it is neither parquet, arrow, JSON nor CSV"),
        (b"PAR1 and no more", "cannot read"),
        (b'{"prompt": "a"\n{', "cannot read"),
        (b"prompt,answer\na,b\na,b,c,d\n", "row 1 has 4 cells, but the first line names 2 columns"),
        (b"prompt,answer\na,b,c,d\n", "row 0 has 4 cells, but the first line names 2 columns"),
        (b"prompt,answer,prompt\na,b,c\n", "its first line names a column twice: prompt, answer, prompt"),
        (b'prompt,answer\n"a,b\n', "unexpected end of data"),
        (b"prompt,answer\n\xff,b\n", "cannot read"),
        (b'{"prompt": "caf\xe9", "answer": "a"}\n', "its text is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset: cannot read .*rows\.csv: .") as refused:
        read_table(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("prompt", "answer"), None),
        (("prompt", "completion"), None),
        (("question", "answer"), None),
        (("question", "completion"), None),
        (
            ("text", "label"),
            "has no column 'prompt' (or 'question', 'instruction', or 'messages') in train, only text, label",
        ),
        (
            ("prompt", "label"),
            "has no column 'answer' (or 'completion', 'response', 'output') in train, only prompt, label",
        ),
    ],
)
def test_columns_have_the_usual_names(columns: tuple[str, str], expected: str | None) -> None:
    rows = datasets.Dataset.from_dict({columns[0]: ["a ="], columns[1]: ["b"], "more": [3]})
    tokenizer = build_tokenizer(["a", "b", "=", "<unk>"])
    if expected is None:
        found = text_columns(rows, tokenizer, "TABLE", "train")[0]
        assert (found["prompt"], found["answer"], found["more"]) == ("a =", "b", 3)
        return
    with pytest.raises(ValueError, match="dataset: TABLE") as refused:
        text_columns(rows, tokenizer, "TABLE", "train")
    assert expected in str(refused.value)


PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Chats in ChatML, of which nothing stands between the beginning of a turn and its words."""

IN_THOUGHT = PLAIN.replace(
    "{{ message.content }}",
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}",
)
"""In the manner of Qwen3: of turns but the last, what was thought is left out."""

WITH_A_SWITCH = IN_THOUGHT.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
BEGUN = IN_THOUGHT.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
"""In the manner of Qwen3's models that always think: the prompt ends within the thought."""

CHANNELS = PLAIN.replace(
    "{{ message.content }}",
    "{% if message.role == 'assistant' %}<|channel|>final<|message|>{% endif %}{{ message.content }}",
)
"""In the manner of gpt-oss."""

SPACED = PLAIN.replace("{{ message.content }}", " {{ message.content }}")
FORGETFUL = IN_THOUGHT.replace("assistant\n{% endif %}", "assistant\n<reason>\n{% endif %}")
"""A whole chat has another thought than its prompt ends in."""

LEFT_OUT = PLAIN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
"""In the manner of DeepSeek-R1: a whole chat has nothing of what its prompt ends in."""

USER = "<|im_start|>user\nthe capital of France?<|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (PLAIN, USER, "Paris"),
        (IN_THOUGHT, USER + EMPTY, "Paris"),
        (WITH_A_SWITCH, USER + EMPTY, "Paris"),
        (BEGUN, USER + EMPTY, "Paris"),
        (CHANNELS, USER + "<|channel|>final<|message|>", "Paris"),
        (SPACED, USER.replace("user\n", "user\n "), " Paris"),
        (FORGETFUL, USER + EMPTY, "Paris"),
        (LEFT_OUT, USER, "Paris"),
    ],
    ids=[
        "nothing",
        "a thought",
        "with a switch",
        "a thought that is begun",
        "a channel",
        "a space",
        "another thought",
        "a thought that is left out",
    ],
)
def test_a_chat_is_asked_where_the_assistant_speaks(template: str, prompt: str, answer: str) -> None:
    tokenizer = byte_level(template=template)
    said = {"role": "assistant", "content": "Paris"}
    asked = {"role": "user", "content": "the capital of France?"}
    rows = datasets.Dataset.from_list([{"messages": [asked, said]}])
    found = text_columns(rows, tokenizer, "TABLE", "train")[0]
    assert (found["prompt"], found["answer"]) == (prompt, answer)
    choices = datasets.Dataset.from_list([{"prompt": [asked], "answer": "Rome", "choices": ["Rome", "Paris"]}])
    found = text_columns(choices, tokenizer, "TABLE", "train")[0]
    assert (found["prompt"], found["choices"][1]) == (prompt, answer)


@pytest.mark.parametrize("template", [PLAIN, IN_THOUGHT, WITH_A_SWITCH, BEGUN, CHANNELS, SPACED, FORGETFUL, LEFT_OUT])
def test_a_model_is_asked_where_it_is_taught(template: str) -> None:
    """The marks of a whole chat begin where its prompt ends; earlier turns are taught too, whatever stands in them."""
    tokenizer = byte_level(template=template)
    turns = [("user", "what is"), ("assistant", "bear"), ("user", "the capital of France?"), ("assistant", "Paris")]
    messages = [{"role": role, "content": content} for role, content in turns]
    if template == BEGUN:  # what is begun in every prompt and left out of earlier turns is no place to be taught
        messages = messages[2:]
    rows = datasets.Dataset.from_list([{"messages": messages}])
    (taught,) = chat_rows(text_columns(rows, tokenizer, "TABLE", "train"), tokenizer, "TABLE")
    said = [place for place, mark in enumerate(taught.marks) if mark == ANSWER]
    runs = [place for place in said if place - 1 not in said]
    assert len(runs) == len(messages) / 2
    before = tokenizer.decode(taught.token_ids[: runs[-1]])
    assert before.rstrip(" ") == render_chat(messages[:-1], tokenizer, begin=True)


@pytest.mark.parametrize(
    ("template", "answer"),
    [(IN_THOUGHT, "hi"), (IN_THOUGHT, "k"), (CHANNELS, "a"), (CHANNELS, "final"), (LEFT_OUT, "t"), (PLAIN, "a")],
)
def test_a_short_answer_is_not_found_in_what_the_template_writes(template: str, answer: str) -> None:
    """As the choice "a" in the name of a channel; the answer itself would never be learned."""
    tokenizer = byte_level(template=template)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]
    rows = datasets.Dataset.from_list([{"messages": messages}])
    (taught,) = chat_rows(text_columns(rows, tokenizer, "TABLE", "train"), tokenizer, "TABLE")
    said = [place for place, mark in enumerate(taught.marks) if mark == ANSWER]
    assert tokenizer.decode([taught.token_ids[place] for place in said]).strip() == answer
    before = tokenizer.decode(taught.token_ids[: said[0]])
    assert before.rstrip(" ") == render_chat(messages[:1], tokenizer, begin=True)


@pytest.mark.parametrize(("template", "more"), [(PLAIN, None), (BEGUN, None), (LEFT_OUT, "'<think>'")])
def test_what_a_template_leaves_out_of_turns_is_said_once(template: str, more: str | None) -> None:
    chat = [{"role": "user", "content": "the capital of France?"}]
    rows = datasets.Dataset.from_list([{"prompt": chat, "answer": "Paris"}] * 2)
    notes: list[str] = []
    for split in ("train", "test"):
        text_columns(rows, byte_level(template=template), "TABLE", split, notes=notes)
    assert len(notes) == (more is not None)
    assert all(str(more) in note for note in notes)


def test_a_cell_of_csv_may_hold_a_whole_text(tmp_path: Path) -> None:
    """Of more than the 131,072 characters that Python reads by itself."""
    csv.field_size_limit(131_072)
    long = "a cat, " * 30_000
    (tmp_path / "rows.csv").write_text(f'prompt,answer\n"{long}",b\n', encoding="utf-8")
    assert read_table(str(tmp_path / "rows.csv"))["train"]["prompt"] == [long]
