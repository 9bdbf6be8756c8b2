"""Which columns of a table ask and which answer, by the names that people give them.

What is asked is ``prompt`` or ``question``, or ``instruction`` with the text it is about in ``input``; or a whole chat
in ``messages``, whose last message is the answer unless a column has it. The answer is ``answer``, ``completion``,
``response`` or ``output``, or ``answers``, of which each is right. ``system`` is what a chat begins with, ``choices``
among what a model is to choose. Whether text is asked in a chat is :data:`Chat`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datasets

PROMPTS, ANSWERS = ("prompt", "question", "instruction"), ("answer", "completion", "response", "output", "answers")
"""What a column of prompts or answers may be called, the first that is there."""

OTHER, MESSAGES, SYSTEM, INPUT, CHOICES = "other_answer", "messages", "system", "input", "choices"

ABOUT = ("context", "passage", INPUT)
"""Columns of texts that questions may be about; ``input`` is read beside an instruction."""

Chat = Literal["auto", "always", "never"]
"""When text is asked as what a user says in the model's chat template. ``auto``: an instruction, if there is a
template, and what comes with a system prompt. A chat is a chat always."""


@dataclass(frozen=True)
class AskedColumns:
    """The columns that count, as values as they stand, one a row.

    Attributes:
        prompts: text, or a chat.
        answers: text, or a list of which each is right.
        others: see :data:`OTHER`.
        choices: lists.
        notes: what a reader should know of how they were read.
    """

    prompts: list[Any]
    answers: list[Any]
    others: list[Any] | None
    choices: list[Any] | None
    notes: tuple[str, ...]


def asked_columns(rows: datasets.Dataset, name: str, split: str, *, chat: Chat, has_template: bool) -> AskedColumns:
    """Find what is asked and answered.

    Args:
        rows: a split as it was read.
        name, split: what errors call the rows.
        chat: when text is asked in a chat.
        has_template: whether the tokenizer has a chat template.

    Raises:
        ValueError: there is no column of prompts or none of answers; says which there are.
    """
    there = rows.column_names
    prompt, answer = (next((each for each in names if each in there), None) for names in (PROMPTS, ANSWERS))
    if MESSAGES in there and (prompt is None or answer is None):  # some tables give the first question by itself, too
        prompt = MESSAGES
    if prompt is None:
        raise ValueError(
            f"dataset: {name} has no column 'prompt' (or 'question', 'instruction', or 'messages') in {split}, "
            f"only {', '.join(there)}"
        )
    prompts = column_values(rows, prompt)
    if prompt == "instruction" and INPUT in there:
        prompts = [_with_input(*pair) for pair in zip(prompts, column_values(rows, INPUT), strict=True)]
    if answer is not None:
        answers = column_values(rows, answer)
    elif all(isinstance(value, list) and value and role_of(value[-1]) == "assistant" for value in prompts):
        answers, prompts = [value[-1:] for value in prompts], [value[:-1] for value in prompts]
    else:
        raise ValueError(
            f"dataset: {name} has no column 'answer' (or 'completion', 'response', 'output') in {split}, "
            f"only {', '.join(there)}"
        )
    if has_template and chat != "never":
        prompts = [_before(*pair) for pair in zip(prompts, answers, strict=True)]
    if chat == "always" or (chat == "auto" and prompt == "instruction" and has_template):
        prompts = [_said_by_user(value) for value in prompts]
    systems = column_values(rows, SYSTEM) if SYSTEM in there else []
    if systems and (has_template or any(map(_is_said, systems))):
        prompts = [_with_system(*pair) for pair in zip(prompts, systems, strict=True)]
    answers, listed = _json_lists(answers, always=answer == "answers")
    lists = (f"column {answer} holds lists: each of their texts counts as right",) if listed else ()
    notes = (*lists, *unread_columns(there))
    choices = _json_lists(column_values(rows, CHOICES), always=True)[0] if CHOICES in there else None
    return AskedColumns(prompts, answers, column_values(rows, OTHER) if OTHER in there else None, choices, notes)


def unread_columns(there: Sequence[str]) -> tuple[str, ...]:
    """What is to be said of columns that hold what a question is about and are not read, of the names of all."""
    prompt = next((each for each in (*PROMPTS, MESSAGES) if each in there), None)
    read = (INPUT,) if prompt == "instruction" else ()
    return tuple(
        f"column {each} is not read; write what stands there into {prompt} if it is needed"
        for each in ABOUT if each in there and each not in read and prompt is not None
    )  # fmt: skip


def column_values(rows: datasets.Dataset, column: str) -> list[Any]:
    """What is in a column; of numbers that stand for names the names."""
    import datasets

    feature = rows.features[column]
    values = rows[column][:]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None else feature.int2str(value) for value in values]
    return values


def role_of(message: Any) -> Any:
    """Who says a message of a chat; None if it is none."""
    return message.get("role") if isinstance(message, Mapping) else None


def _with_input(instruction: Any, about: Any) -> Any:
    if not isinstance(instruction, str) or not isinstance(about, str) or not about.strip():
        return instruction
    return f"{instruction}\n\n{about}"


def _said_by_user(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt.strip() else prompt


def _before(prompt: Any, answer: Any) -> Any:
    """What an answer that is said in a chat answers: the messages that stand before it, or a prompt that is text."""
    if not (isinstance(prompt, str) and isinstance(answer, list) and is_chat(answer)):
        return prompt
    return answer[:-1] or _said_by_user(prompt)


def _with_system(prompt: Any, system: Any) -> Any:
    """A prompt as a chat that begins with a system prompt, if there is one; a chat's own stays where it is."""
    chat = _said_by_user(prompt)
    if not isinstance(chat, list) or not _is_said(system):
        return chat
    return [{"role": "system", "content": system}, *chat]


def _is_said(system: Any) -> bool:
    return not (system is None or (isinstance(system, str) and not system.strip()))


def _json_lists(values: list[Any], *, always: bool) -> tuple[list[Any], bool]:
    """(values in which JSON lists of texts are lists, whether any value is a list that is no chat).

    CSV knows text alone. A column in which only some texts are such lists has text that looks like one, unless its name
    says that it holds lists (``always``).
    """
    read = [_json_list(value) for value in values]
    if always or all(each is not None for each in read):
        values = [value if each is None else each for value, each in zip(values, read, strict=True)]
    return values, any(isinstance(value, list) and not is_chat(value) for value in values)


def _json_list(value: Any) -> list[Any] | None:
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(each, str | int) for each in found) else None


def is_chat(value: Sequence[Any]) -> bool:
    """Whether a list holds messages, and no texts."""
    return bool(value) and role_of(value[0]) is not None
