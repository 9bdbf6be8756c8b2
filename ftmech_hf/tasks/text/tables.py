"""Making sure that what a table of prompts and answers holds is text, and that chats become it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

PROMPTS, ANSWERS, OTHER, MESSAGES = ("prompt", "question"), ("answer", "completion"), "other_answer", "messages"
"""What a column of prompts or answers may be called, the first that is there; and a whole chat, its answer last."""

CHAT, PLACE = "asked_in_a_chat", "row_of_the_table"
"""Columns that :func:`text_columns` adds: whether a prompt is a rendered chat, and where the row stood."""


def text_columns(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, split: str) -> datasets.Dataset:
    """The same rows with ``prompt``, ``answer`` and, if it is there, ``other_answer`` as text.

    Text stays as it is, and a whole number becomes its decimal spelling. A chat (a list of messages with ``role`` and
    ``content``) is rendered by the tokenizer's template up to where the assistant speaks; its answer is a column, or
    else the last message. Nothing else is text: not a missing value, a fraction, a truth value, a list or a mapping.

    Args:
        rows: a split as it was read.
        tokenizer: whose template renders chats.
        name, split: what errors call the rows.

    Raises:
        ValueError: a column is missing, or a value is no text; says which row, and in how many rows.
    """
    import datasets

    prompts, answers, others = _chosen_columns(rows, name, split)
    where = _Where(name, split)
    chat = [isinstance(value, list) for value in prompts]
    found = {"prompt": where.checked("prompt", prompts, lambda value: _prompt(value, tokenizer))}
    for column, values in (("answer", answers), (OTHER, others)):
        if values is not None:
            pairs = list(zip(values, prompts, strict=True))
            found[column] = where.checked(column, pairs, lambda pair: _answer(pair[0], pair[1], tokenizer))
    rows = rows.remove_columns([each for each in (*found, CHAT, PLACE) if each in rows.column_names])
    kept: Mapping[str, Any] = {
        **found,
        CHAT: chat,
        PLACE: [f"row {number} of {split}" for number in range(len(prompts))],
    }
    added = datasets.Dataset.from_dict(dict(kept))
    return datasets.concatenate_datasets([rows, added], axis=1) if rows.column_names else added


def _chosen_columns(rows: datasets.Dataset, name: str, split: str) -> tuple[list[Any], list[Any], list[Any] | None]:
    there = rows.column_names
    prompt, answer = (next((each for each in names if each in there), None) for names in (PROMPTS, ANSWERS))
    if prompt is None and MESSAGES in there:
        prompt = MESSAGES
    if prompt is None:
        raise ValueError(
            f"dataset: {name} has no column 'prompt' (or 'question', or 'messages') in {split}, only {', '.join(there)}"
        )
    prompts = _values(rows, prompt)
    if answer is not None:
        answers = _values(rows, answer)
    elif all(isinstance(value, list) and value and _role(value[-1]) == "assistant" for value in prompts):
        answers, prompts = [value[-1:] for value in prompts], [value[:-1] for value in prompts]
    else:
        raise ValueError(
            f"dataset: {name} has no column 'answer' (or 'completion') in {split}, only {', '.join(there)}"
        )
    return prompts, answers, _values(rows, OTHER) if OTHER in there else None


def _values(rows: datasets.Dataset, column: str) -> list[Any]:
    import datasets

    feature = rows.features[column]
    values = list(rows[column])
    if isinstance(feature, datasets.ClassLabel):  # numbers that stand for names
        return [None if value is None else feature.int2str(value) for value in values]
    return values


class _Where:
    """Where values stand, for errors."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split

    def checked(self, column: str, values: Sequence[Any], convert: Callable[[Any], str]) -> list[str]:
        """All values as text, or one error for the first that is none, with the number of its kind."""
        texts, reasons = [], {}
        for number, value in enumerate(values):
            try:
                texts.append(convert(value))
            except ValueError as error:
                reasons[number] = str(error)
        if reasons:
            first = next(iter(reasons))
            raise ValueError(
                f"dataset: {self.name}: {column} of row {first} of {self.split}: {reasons[first]} "
                f"({len(reasons)} of {len(values)} rows are like that)"
            )
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
        raise ValueError("None, expected text; leave such rows out")
    kind = type(value).__name__
    hint = "; write a number as the text that is meant" if isinstance(value, float) else ""
    raise ValueError(f"{_shown(value)} ({kind}), expected text or a whole number{hint}")


def checked_texts(values: Sequence[Any], column: str, name: str, split: str) -> list[str]:
    """The values of a column as text; see :func:`text_columns`, of whose errors it has those about values."""
    return _Where(name, split).checked(column, values, _as_word)


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def chat_of(value: list[Any]) -> list[dict[str, Any]]:
    """A chat without the empty keys that a table's columns bring.

    Raises:
        ValueError: it holds something else than messages with ``role`` and ``content``.
    """
    messages = []
    for each in value:
        if _role(each) is None or each.get("content") is None:
            raise ValueError(f"{_shown(value)} (list), expected text, or messages with role and content")
        messages.append({key: item for key, item in each.items() if item is not None})
    if not messages:
        raise ValueError("[], expected text, or messages with role and content")
    return messages


def render_chat(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, begin: bool) -> str:
    """A chat as the tokenizer's template writes it, up to where the assistant would speak if ``begin``.

    Raises:
        ValueError: there is no template, or it refuses the chat.
    """
    if not tokenizer.chat_template:
        raise ValueError("a chat, but the tokenizer has no chat template, expected text")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin))
    except Exception as error:  # a template is a program of its author
        raise ValueError(f"the tokenizer's chat template refuses the chat: {' '.join(str(error).split())}") from error


def _prompt(value: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    if not isinstance(value, list):
        return _as_word(value)
    messages = chat_of(value)
    if messages[-1]["role"] == "assistant":
        raise ValueError("a chat that ends with the assistant, expected the user, and an answer in its own column")
    return render_chat(messages, tokenizer, begin=True)


def _answer(value: Any, prompt: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer as it would follow its prompt: in a chat as the template writes what the assistant says."""
    if isinstance(value, list):
        messages = chat_of(value)
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"a chat that ends with {messages[-1]['role']!r}, expected the assistant")
        value = messages[-1]["content"]
    word = _as_word(value)
    if not isinstance(prompt, list):
        return word
    messages = chat_of(prompt)
    before = render_chat(messages, tokenizer, begin=True)
    whole = render_chat([*messages, {"role": "assistant", "content": word}], tokenizer, begin=False)
    if whole.startswith(before):
        said = whole[len(before) :]
        start = said.find(word.strip())
        if start >= 0 and not said[:start].strip():
            return said[: start + len(word.strip())]
    return word


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
