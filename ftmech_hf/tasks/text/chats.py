"""Chats as a tokenizer's template writes them, and where in them the assistant speaks."""

from __future__ import annotations

import functools
import re
from datetime import date
from typing import TYPE_CHECKING, Any

from ftmech_hf.tasks.text.columns import role_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAND_IN = "STAND-IN-FOR-AN-ANSWER"
"""What an assistant says in a chat of which only what stands before it counts."""

DATE = date(2024, 7, 26)
"""Of every chat, whatever the day is; the one that Llama 3.2's template has where it is told none."""

_ASKS_DATE = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")

_OPENED = re.compile(r"\s*(<[^<>\s]+>)\s*\Z")


def shown(value: Any) -> str:
    """A value as errors show it, in one short line."""
    return " ".join(repr(value).split())[:60]


def chat_of(value: list[Any]) -> list[dict[str, Any]]:
    """A chat without the empty keys that a table's columns bring.

    Raises:
        ValueError: it holds something else than messages with ``role`` and ``content``.
    """
    messages = []
    for each in value:
        if role_of(each) is None or each.get("content") is None:
            raise ValueError(f"{shown(value)} (list), expected text, or messages with role and content")
        messages.append({key: item for key, item in each.items() if item is not None})
    if not messages:
        raise ValueError("[], expected text, or messages with role and content")
    return messages


def render_chat(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, begin: bool) -> str:
    """A chat as the tokenizer's template writes it, up to where the assistant would speak if ``begin``.

    Some templates write more between the beginning of the assistant's turn and its words: Qwen3's an empty ``<think>``
    block, gpt-oss's the name of a channel. It stands before the words in every whole chat that such a model is trained
    on, so that it belongs to the prompt; white space alone does not. It is read off a chat that was answered, since
    the switches by which templates leave thinking out have other names in each, and some templates have none.

    Raises:
        ValueError: there is no template, or it refuses the chat.
    """
    if not begin:
        return _written(messages, tokenizer, begin=False)
    begun = begin_turn(messages, tokenizer)
    try:
        whole = _written([*messages, {"role": "assistant", "content": STAND_IN}], tokenizer, begin=False)
    except ValueError:  # a turn that cannot follow these messages has nothing before its words
        return begun
    start, words = turn_start(messages, whole, tokenizer), whole.find(STAND_IN)
    if start is None or words < start:
        return begun
    return whole[:words] if whole[start:words].strip() else whole[:start]


def turn_start(messages: list[dict[str, Any]], whole: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Where in a whole chat the turn is begun in which the assistant answers some messages; None if nowhere.

    It is behind all that the template begins such a turn with; but a block that is opened there and left out of a turn
    that is answered, such as DeepSeek-R1's ``<think>``, stands in no chat that a model is trained on.
    """
    begun = begin_turn(messages, tokenizer)
    if whole.startswith(begun):
        return len(begun)
    opened = _OPENED.search(begun)
    places = (opened.start(1), opened.start()) if opened else ()  # with the white space before it, or without
    return next((place for place in places if whole.startswith(begun[:place])), None)


def left_out_of_turns(messages: list[dict[str, Any]], asked: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What is to be said of a block that a template opens where a turn begins, and leaves out of one that is answered.

    Args:
        messages: of a chat.
        asked: the same as a prompt, of :func:`render_chat`.
        tokenizer: whose template it is.
    """
    begun = begin_turn(messages, tokenizer)
    opened = _OPENED.search(begun)
    if opened is None or asked.startswith(begun):
        return None
    return (
        f"the chat template opens {opened[1]!r} where the assistant begins, and leaves it out of chats that are "
        "answered: chats are asked as those stand there, without it"
    )


def begin_turn(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    """A chat up to where its template begins the assistant's turn, which may not yet be where it speaks.

    Raises:
        ValueError: there is no template, or it refuses the chat.
    """
    return _written(messages, tokenizer, begin=True)


@functools.cache
def _on_one_day(template: str) -> str:
    """A template that asks for today's date, as Llama 3.2's, with :data:`DATE`: else rows would be others every day."""
    dated = _ASKS_DATE.sub(lambda asked: repr(DATE.strftime(asked[2])), template)
    if "strftime_now(" in dated:
        raise ValueError("it asks for today's date in a form that is not written in it, so that rows change every day")
    return dated


def _written(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, begin: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError("a chat, but the tokenizer has no chat template, expected text")
    try:
        template = _on_one_day(tokenizer.get_chat_template())
        settings: dict[str, Any] = {"add_generation_prompt": begin, "chat_template": template}
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings))
    except Exception as error:  # a template is a program of its author
        raise ValueError(f"the tokenizer's chat template refuses the chat: {' '.join(str(error).split())}") from error
