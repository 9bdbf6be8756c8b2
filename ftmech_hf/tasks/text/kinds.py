"""The kinds of tables that text comes in, and their rows as token ids.

A table has ``chosen`` and ``rejected`` (pairs), ``messages`` (chats), ``prompt`` and an answer (prompts), or ``text``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ftmech_hf.tasks.text.columns import ANSWERS, MESSAGES, OTHER, PROMPTS, unread_columns
from ftmech_hf.tasks.text.continuations import Join
from ftmech_hf.tasks.text.encoding import Row, chat_rows, is_chat_table, plain_rows, prompt_rows
from ftmech_hf.tasks.text.splits import GROUP, read_splits
from ftmech_hf.tasks.text.tables import CHAT, PLACE, checked_texts, text_columns

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

Kind = Literal["pairs", "chats", "prompts", "text"]

CHOSEN, REJECTED = "chosen", "rejected"


def read_tables(
    name: str, seed: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """(the splits of a data set, each :func:`converted`, what is to be said of columns that are not read).

    Args:
        name: of the data set.
        seed: of the cut, where splits are missing.
        tokenizer: of the model.

    Raises:
        ValueError: see :func:`converted` and :func:`~ftmech_hf.tasks.text.splits.read_splits`.
    """
    unread: list[str] = []

    def convert(rows: datasets.Dataset, split: str) -> datasets.Dataset:
        unread.extend(unread_columns(rows.column_names))
        return converted(rows, tokenizer, name, split)

    return read_splits(name, seed, convert), tuple(dict.fromkeys(unread))


def converted(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, split: str) -> datasets.Dataset:
    """Rows of any kind with the columns ``prompt`` and ``answer`` as text; of pairs, ``other_answer`` is the rejected.

    Raises:
        ValueError: the table is of no kind, or a value is no text; names the column or the row.
    """
    import datasets

    there = set(rows.column_names)
    if {CHOSEN, REJECTED} <= there:
        rows = rows.remove_columns([each for each in (*ANSWERS, OTHER, MESSAGES) if each in there])
        asked = any(each in there for each in PROMPTS)
        rows = rows.rename_columns({CHOSEN: "answer" if asked else MESSAGES, REJECTED: OTHER})
        return text_columns(rows, tokenizer, name, split)
    if there & {*PROMPTS, MESSAGES}:
        return text_columns(rows.remove_columns([OTHER] if OTHER in there else []), tokenizer, name, split)
    if "text" in there:
        texts = checked_texts(rows["text"][:], "text", name, split)
        places = [f"row {number} of {split}" for number in range(len(texts))]
        more = {GROUP: rows[GROUP][:]} if GROUP in there else {}
        return datasets.Dataset.from_dict({"text": texts, "prompt": texts, "answer": texts, PLACE: places, **more})
    raise ValueError(
        f"dataset: {name} has no columns prompt and completion, messages, text, or chosen and rejected in {split}, "
        f"only {', '.join(rows.column_names)}"
    )


def kind_of(rows: datasets.Dataset) -> Kind:
    """The kind of rows of :func:`converted`."""
    if CHAT not in rows.column_names:
        return "text"
    if OTHER in rows.column_names:
        return "pairs"
    return "chats" if is_chat_table(rows) else "prompts"


def encoded(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, name: str, split: str, join: Join | None
) -> tuple[list[Row], list[Row] | None]:
    """(rows, those that are rejected) of rows of :func:`converted`; ``join`` is not needed for plain text."""
    kind = kind_of(rows)
    if kind == "text":
        return plain_rows(rows, tokenizer, name, split), None
    if kind == "chats":
        return chat_rows(rows, tokenizer, name), None
    assert join is not None
    if kind == "prompts":
        return prompt_rows(rows, tokenizer, name, join), None
    chosen, rejected = rows.remove_columns(OTHER), rows.remove_columns("answer").rename_column(OTHER, "answer")
    return prompt_rows(chosen, tokenizer, name, join), prompt_rows(rejected, tokenizer, name, join)
