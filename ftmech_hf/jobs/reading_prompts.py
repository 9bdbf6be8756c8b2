"""What a model is shown of a question and its documents, as a chat where the model has a template, else as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ftmech_hf.statistics.text_answers import normalize_answer
from ftmech_hf.tasks.text.chats import render_chat
from ftmech_hf.tasks.text.continuations import tokens_before

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Answer in as few words as you can, and say unknown if you do not know."
BY_DOCUMENTS = "Answer by the documents in as few words as you can, and say unknown if they do not tell."


class Prompt(NamedTuple):
    """A prompt in tokens.

    Attributes:
        token_ids: of all of it.
        shown: how many of the documents fitted in.
    """

    token_ids: list[int]
    shown: int


def in_text(question: str, documents: Sequence[str]) -> str:
    """A question beneath its documents, and what to do."""
    told = "".join(f"Document {number}: {text}\n\n" for number, text in enumerate(documents, start=1))
    return f"{told}{BY_DOCUMENTS if documents else INSTRUCTION}\nQuestion: {question}"


def write_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, documents: Sequence[str], room: int | None
) -> Prompt:
    """The prompt of a question, with as many of its first documents as there is room for.

    Args:
        tokenizer: of the model.
        question: text.
        documents: texts, the most important first.
        room: tokens of a prompt at most; None for any number.

    Raises:
        ValueError: the question alone takes more room than there is.
    """
    for shown in range(len(documents), -1, -1):
        ids = _spell(tokenizer, in_text(question, documents[:shown]))
        if room is None or len(ids) <= room:
            return Prompt(ids, shown)
    raise ValueError(f"max_new_tokens: leaves {room} tokens for a prompt, but {question[:60]!r} alone takes {len(ids)}")


def _spell(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A prompt's tokens, up to where the model is to answer: without an end, which some tokenizers put after a text."""
    if tokenizer.chat_template:
        chat = render_chat([{"role": "user", "content": text}], tokenizer, begin=True)
        return list(tokenizer(chat, add_special_tokens=False)["input_ids"])  # a template writes its own beginning
    prompt = f"{text}\nAnswer:"
    return [*tokens_before(prompt, tokenizer), *tokenizer(prompt, add_special_tokens=False)["input_ids"]]


def read_answer(written: str, *, is_chat: bool) -> str:
    """The answer in what a model wrote: all that it says in a chat, else the first line."""
    return written.strip() if is_chat else written.strip().partition("\n")[0].strip()


def abstains(answer: str) -> bool:
    """Whether an answer is that the answer is unknown, or nothing at all."""
    words = normalize_answer(answer).split()
    return not words or words[0] == "unknown"
