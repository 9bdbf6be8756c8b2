"""Rows of text as token ids, with a mark at every token that is an answer or the end of one.

A row is a prompt and its completion, a whole chat in which the assistant may speak several times, or plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.text.chats import STAND_IN, chat_of, render_chat, turn_start
from ftmech_hf.tasks.text.columns import MESSAGES
from ftmech_hf.tasks.text.continuations import Join
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.tables import AFTER, CHAT, PLACE, checked_texts
from ftmech_hf.tasks.text.tokens import encode_rows

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

PLAIN, ANSWER, END = 0, 1, 2
"""Marks of tokens: END is the token by which a model stops after an answer, and white space before it."""


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of tokens that are no words: those that a tokenizer names, and others that it was given as special.

    Chats end a turn with one of the latter, such as ``<|end|>``, where the end of a text is another token.
    """
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(map(int, (*tokenizer.all_special_ids, *added)))


class Row(NamedTuple):
    """Token ids and their marks, equally many."""

    token_ids: list[int]
    marks: list[int]


@dataclass(frozen=True)
class TextRows:
    """Rows of any length, one behind another.

    Attributes:
        token_ids, marks: of all rows, (N,).
        starts: where each row begins, and the end of the last, (rows + 1,).
    """

    token_ids: NDArray[np.int32]
    marks: NDArray[np.int8]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> TextRows:
        """Rows put one behind another."""
        ids, marks = (np.concatenate([np.array(row[part]) for row in rows] or [np.array([])]) for part in (0, 1))
        starts = np.cumsum([0, *(len(row.token_ids) for row in rows)])
        return cls(ids.astype(np.int32), marks.astype(np.int8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.starts)

    def select(self, rows: NDArray[np.int64], width: int, pad: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """(token ids, marks) of some rows, each (B, width), filled up on their right."""
        ids = np.full((len(rows), width), pad, np.int64)
        marks = np.full((len(rows), width), PLAIN, np.int8)
        for place, row in enumerate(rows):
            part = slice(self.starts[row], self.starts[row + 1])
            ids[place, : part.stop - part.start] = self.token_ids[part]
            marks[place, : part.stop - part.start] = self.marks[part]
        return ids, marks


def prompt_rows(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, join: Join) -> list[Row]:
    """Prompts and their answers, each with an end after it: of a chat that of its turn, else the tokenizer's.

    Args:
        rows: of :func:`~ftmech_hf.tasks.text.tables.text_columns`.
        tokenizer: of the model.
        name: what errors call the table.
        join: of :func:`~ftmech_hf.tasks.text.join.choose_join`.
    """
    found = encode_rows(rows, tokenizer, name, join)
    ends = {text: _turn_end(text, tokenizer) for text in set(rows[AFTER][:])}
    return [
        Row([*ids[:-1], *ends[after]], [*(ANSWER if each else PLAIN for each in mask[:-1]), *[END] * len(ends[after])])
        for ids, mask, after in zip(found.rows, found.answer, rows[AFTER][:], strict=True)
    ]


def _turn_end(after: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens by which a model stops, of what stands after an answer: a special token, and white space before it."""
    return _special_end(after, tokenizer) or [int(tokenizer.eos_token_id)]


def _special_end(after: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The same; nothing where no special token stands there."""
    special, found = special_ids(tokenizer), []
    for token in tokenizer(after, add_special_tokens=False)["input_ids"] if after else []:
        found.append(int(token))
        if token in special:
            return found
        if str(tokenizer.decode([token])).strip():
            break
    return []


def chat_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token by which a chat template ends what the assistant says; None where it has none."""
    if not tokenizer.chat_template:
        return None
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": STAND_IN}]
    try:
        _, said, after = render_chat(chat, tokenizer, begin=False).rpartition(STAND_IN)
    except ValueError:  # it refuses so short a chat, and says so where one is asked
        return None
    end = _special_end(after, tokenizer) if said else []
    return end[-1] if end else None


def plain_rows(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, split: str) -> list[Row]:
    """Texts as the tokenizer writes them, with its end after each."""
    texts = checked_texts(rows["text"][:], "text", name, split)
    end, found = tokenizer.eos_token_id, []
    for ids in tokenizer(texts, verbose=False)["input_ids"] if texts else []:
        ids = [*ids, *([] if ids[-1:] == [end] else [end])]
        found.append(Row(ids, [*[ANSWER] * (len(ids) - 1), END]))
    return found


def chat_rows(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str) -> list[Row]:
    """Whole chats by the tokenizer's template, with marks at all that the assistant says.

    Args:
        rows: with ``messages``, of :func:`~ftmech_hf.tasks.text.tables.text_columns`.
        tokenizer: of the model.
        name: what errors call the table.

    Raises:
        ValueError: the template does not write what the assistant says where it would begin to speak.
    """
    if not tokenizer.is_fast:
        raise ValueError("tokenizer: does not say which letters a token stands for, expected a fast tokenizer")
    found: list[Row] = []
    faults: list[str | None] = []
    for value, place in zip(rows[MESSAGES][:], rows[PLACE][:], strict=True):
        try:
            found.append(_chat_row(chat_of(value), tokenizer))
            faults.append(None)
        except ValueError as error:
            faults.append(f"{place}: {error}")
    Faults(name).kept(faults)
    return found


def _chat_row(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Row:
    whole = render_chat(messages, tokenizer, begin=False)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    marks, special = [PLAIN] * len(ids), special_ids(tokenizer)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        first, last = _said(whole, messages[:number], message["content"], tokenizer)
        said = [place for place, (start, stop) in enumerate(offsets) if start < last and stop > first]
        for place in said:
            marks[place] = ANSWER
        if not said:
            continue
        end = said[-1] + 1
        while end < len(ids) and ids[end] not in special and not whole[slice(*offsets[end])].strip():
            end += 1  # some templates write a space before they end a turn
        if end < len(ids) and ids[end] in special:
            marks[said[-1] + 1 : end + 1] = [END] * (end - said[-1])
    if marks[-1] == ANSWER:  # a template that ends no turn
        ids, marks = [*ids, int(tokenizer.eos_token_id)], [*marks, END]
    return Row(ids, marks)


def _said(
    whole: str, before: list[dict[str, str]], content: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Where in a rendered chat the assistant's words stand that come after some messages."""
    said = content.strip()
    if not said:
        raise ValueError("an assistant's message is empty, expected text")
    # behind what a template writes of its own, in which short words would be found; before earlier turns than the last
    # it may leave that out
    prompt = render_chat(before, tokenizer, begin=True)
    begin = len(prompt) if whole.startswith(prompt) else turn_start(before, whole, tokenizer)
    start = -1 if begin is None else whole.find(said, begin)
    if start < 0:
        raise ValueError(
            f"the tokenizer's chat template writes {said[:40]!r} elsewhere than where the assistant speaks"
        )
    return start, start + len(said)


def rows_that_teach(rows: Sequence[Row], *, ends: bool) -> set[int]:
    """Numbers of the rows of which some token counts, and follows another; with ``ends`` that which ends an answer."""
    counted = {ANSWER, END} if ends else {ANSWER}
    return {number for number, row in enumerate(rows) if not counted.isdisjoint(row.marks[1:])}


def is_chat_table(rows: datasets.Dataset) -> bool:
    """Whether rows are whole chats, and not prompts with an answer in a column of its own."""
    return MESSAGES in rows.column_names and all(rows[CHAT][:])
