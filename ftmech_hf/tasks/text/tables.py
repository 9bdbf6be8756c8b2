"""Making sure that what a table of prompts and answers holds is text, and that chats become it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmech_hf.tasks.text.chats import chat_of, left_out_of_turns, render_chat, shown
from ftmech_hf.tasks.text.choices import read_choice
from ftmech_hf.tasks.text.columns import CHOICES, OTHER, AskedColumns, Chat, asked_columns, is_chat
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.splits import GROUP

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

CHAT, PLACE, ACCEPTED, AFTER = "asked_in_a_chat", "row_of_the_table", "accepted_answers", "after_the_answer"
"""Columns that :func:`text_columns` adds: whether a prompt is a rendered chat, where the row stood, further answers
that are right as well, if any row has them, and what the template writes after the answer in a chat."""

_ADDED = (CHAT, PLACE, ACCEPTED, AFTER)
_ANSWERING = ("answer", OTHER, ACCEPTED, CHOICES)


def text_columns(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    split: str,
    *,
    faults: Faults | None = None,
    chat: Chat = "auto",
    notes: list[str] | None = None,
) -> datasets.Dataset:
    """The same rows with ``prompt``, ``answer`` and, if they are there, other answers and choices as text.

    Text stays as it is, and a whole number becomes its decimal spelling. A chat (a list of messages with ``role`` and
    ``content``) is rendered by the tokenizer's template up to where the assistant speaks; its answer is a column, or
    else the last message. A list of texts as an answer means that each is right: the first becomes ``answer``, the
    others :data:`ACCEPTED`. Nothing else is text: not a missing value, a fraction, a truth value or a mapping.

    Args:
        rows: a split as it was read.
        tokenizer: whose template renders chats.
        name, split: what errors call the rows.
        faults: whether rows that are no text are left out; an error if not given.
        chat: when text is asked in a chat.
        notes: what a reader should know is added here.

    Raises:
        ValueError: a column is missing, or a value is no text; says which row, and in how many rows.
    """
    import datasets

    found = asked_columns(rows, name, split, chat=chat, has_template=bool(tokenizer.chat_template))
    texts: list[dict[str, Any]] = []
    tells: list[str | None] = []
    for number in range(len(rows)):
        try:
            texts.append(_row_of_texts(found, number, tokenizer))
            tells.append(None)
        except _NoText as error:
            texts.append({})
            tells.append(f"{error.column} of row {number} of {split}: {error}")
    kept = (faults or Faults(name)).kept(tells, "; leave such rows out")
    if notes is not None:
        chats = [(found.prompts[number], texts[number]["prompt"]) for number in kept[:1]]
        said = [left_out_of_turns(chat_of(chat), asked, tokenizer) for chat, asked in chats if isinstance(chat, list)]
        notes += [note for note in (*found.notes, *said) if note and note not in notes]
    columns = {key: [texts[number][key] for number in kept] for key in _columns_of(found, [texts[n] for n in kept])}
    replaced = (*columns, CHAT, PLACE, ACCEPTED)
    rows = rows.remove_columns([each for each in replaced if each in rows.column_names])
    added = datasets.Dataset.from_dict({
        **columns,
        CHAT: [isinstance(found.prompts[number], list) for number in kept],
        PLACE: [f"row {number} of {split}" for number in kept],
    })  # fmt: skip
    if not rows.column_names:
        return added
    rows = rows if len(kept) == len(rows) else rows.select(kept).flatten_indices(keep_in_memory=True)
    return datasets.concatenate_datasets([rows, added], axis=1)


def _columns_of(found: AskedColumns, texts: Sequence[Mapping[str, Any]]) -> list[str]:
    there = {OTHER: found.others is not None, CHOICES: found.choices is not None}
    there[ACCEPTED] = any(row[ACCEPTED] for row in texts)
    return ["prompt", "answer", AFTER, *(column for column, is_there in there.items() if is_there)]


class _NoText(ValueError):
    """A value is no text."""

    def __init__(self, column: str, reason: ValueError) -> None:
        super().__init__(str(reason))
        self.column = column


def _row_of_texts(found: AskedColumns, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A row by its columns as text.

    Raises:
        _NoText: a value is none.
    """
    prompt, answer, column = found.prompts[number], found.answers[number], "prompt"
    try:
        texts: dict[str, Any] = {"prompt": _prompt(prompt, tokenizer)}
        if found.choices is not None:
            column = CHOICES
            choices, right = read_choice(found.choices[number], answer)
            texts[CHOICES] = [_answer(each, prompt, texts["prompt"], tokenizer)[0] for each in choices]
            answer = choices[right]
        column = "answer"
        accepted = list(answer) if isinstance(answer, list) and not is_chat(answer) else [answer]
        if not accepted:
            raise ValueError("[], expected at least one text")
        said, after = zip(*(_answer(each, prompt, texts["prompt"], tokenizer) for each in accepted), strict=True)
        texts |= {"answer": said[0], ACCEPTED: [each for each in dict.fromkeys(said) if each != said[0]]}
        texts[AFTER] = after[0]
        if found.others is not None:
            column = OTHER
            texts[OTHER], _ = _answer(found.others[number], prompt, texts["prompt"], tokenizer)
    except ValueError as error:
        raise _NoText(column, error) from error
    return texts


def _as_word(value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!r} holds half a character (a lone surrogate), expected text") from error
        if not value.strip():
            raise ValueError(f"{value!r}, expected text")
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_):
        return str(int(value))
    if value is None:
        raise ValueError("None, expected text")
    kind = type(value).__name__
    hint = "; write a number as the text that is meant" if isinstance(value, float) else ""
    raise ValueError(f"{shown(value)} ({kind}), expected text or a whole number{hint}")


def checked_texts(values: Sequence[Any], column: str, name: str, split: str) -> list[str]:
    """The values of a column as text; see :func:`text_columns`, of whose errors it has those about values."""
    texts: list[str] = []
    tells: list[str | None] = []
    for number, value in enumerate(values):
        try:
            texts.append(_as_word(value))
            tells.append(None)
        except ValueError as error:
            tells.append(f"{column} of row {number} of {split}: {error}")
    Faults(name).kept(tells, "; leave such rows out")
    return texts


def _prompt(value: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    if not isinstance(value, list):
        return _as_word(value)
    messages = chat_of(value)
    if messages[-1]["role"] == "assistant":
        raise ValueError("a chat that ends with the assistant, expected the user, and an answer in its own column")
    return render_chat(messages, tokenizer, begin=True)


def _answer(value: Any, prompt: Any, before: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """An answer as it would follow its prompt, and what follows it: in a chat as the template writes both.

    Args:
        value: text, or a chat that ends with it.
        prompt: text, or a chat.
        before: the prompt as it is asked.
        tokenizer: whose template renders chats.
    """
    if isinstance(value, list):
        messages = chat_of(value)
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"a chat that ends with {messages[-1]['role']!r}, expected the assistant")
        value = messages[-1]["content"]
    word = _as_word(value)
    if not isinstance(prompt, list):
        return word, ""
    whole = render_chat([*chat_of(prompt), {"role": "assistant", "content": word}], tokenizer, begin=False)
    if whole.startswith(before):
        said = whole[len(before) :]
        start = said.find(word.strip())
        if start >= 0 and not said[:start].strip():
            return said[: (end := start + len(word.strip()))], said[end:]
    return word, ""


def contradictions(prompts: Sequence[str], answers: Sequence[str]) -> str | None:
    """What is to be said of prompts that stand in a table with several answers; nothing if none do."""
    known: dict[str, set[str]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        known.setdefault(prompt, set()).add(answer)
    several = {prompt for prompt, given in known.items() if len(given) > 1}
    if not several:
        return None
    number = Counter(prompt in several for prompt in prompts)[True]
    shown = next(prompt for prompt in prompts if prompt in several)
    return (
        f"{number} of {len(prompts)} rows contradict each other: {len(several)} prompts have several answers, such as "
        f"{json.dumps(shown[-40:], ensure_ascii=False)} {sorted(known[shown])[:3]}"
    )


def asked_twice(rows: datasets.Dataset) -> tuple[int, list[int]]:
    """(how many rows of :func:`text_columns` have the prompt and answer of one before, the numbers of the others)."""
    seen: set[tuple[str, str]] = set()
    once = []
    for number, pair in enumerate(zip(rows["prompt"][:], rows["answer"][:], strict=True)):
        if pair not in seen:
            seen.add(pair)
            once.append(number)
    return len(rows) - len(once), once


def without_space_after(rows: datasets.Dataset) -> tuple[datasets.Dataset, int]:
    """(rows of :func:`text_columns` whose answers end with their last letter, how many of them did not).

    White space after an answer comes with a table: nobody who is asked a question ends with it.
    """
    import datasets

    read = [each for each in ("prompt", "answer", *_ADDED, OTHER, CHOICES, GROUP) if each in rows.column_names]
    texts = {column: rows[column][:] for column in read}
    ended = {**texts, **{column: [_ended(each) for each in texts[column]] for column in read if column in _ANSWERING}}
    spaced = [any(ended[column][row] != texts[column][row] for column in read) for row in range(len(rows))]
    if not any(spaced):
        return rows, 0
    if ACCEPTED in ended:
        ended[ACCEPTED] = [
            [each for each in dict.fromkeys(others) if each != answer]
            for answer, others in zip(ended["answer"], ended[ACCEPTED], strict=True)
        ]
    return datasets.Dataset.from_dict(ended), sum(spaced)


def _ended(answer: str | list[str]) -> str | list[str]:
    return answer.rstrip() if isinstance(answer, str) else [each.rstrip() for each in answer]
