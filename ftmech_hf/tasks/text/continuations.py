"""Questions as tokens: an answer is what continues a prompt's own tokens when both are written one after the other.

The tokenizer decides what a question is made of, so it is asked about the whole text and never about its parts alone.
Nothing is lost on the way: a word that the tokenizer does not know and a character that it drops are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Spelled(NamedTuple):
    """A question as it is written: a prompt, the white space after it, an answer."""

    prompt: str
    space: str
    answer: str


AT_A_TIME = 1000
"""Texts that a tokenizer reads at a time, because where tokens stand in their text takes more memory than they do."""

Join = Callable[[str, str], Spelled]


class Continuation(NamedTuple):
    """Tokens of a prompt, those of an answer that follow them, and a word that is unknown, if one is.

    The answer is empty where the prompt's last token becomes another once the answer follows.
    """

    prompt: list[int]
    answer: list[int]
    unknown: str | None


def continuations(
    pairs: Sequence[tuple[str, str]], join: Join, tokenizer: PreTrainedTokenizerBase
) -> list[Continuation]:
    """Each question in tokens: the white space between is the answer's, or the prompt's if that leaves fewer tokens."""
    spelled = [join(prompt, answer) for prompt, answer in pairs]
    wholes = ["".join(each) for each in spelled]
    ids, lost = _tokens(wholes, tokenizer)
    # several answers stand behind one prompt, and mostly no white space: each text is read once, and at the same time
    parts = list(dict.fromkeys(text for each in spelled for text in (each.prompt, each.prompt + each.space)))
    of = dict(zip(parts, _tokens(parts, tokenizer, tell=False)[0], strict=True))
    unknown, unknown_token = tokenizer.unk_token_id, tokenizer.unk_token  # looked up anew each time they are asked for
    found = []
    for each, whole, word in zip(spelled, ids, lost, strict=True):
        prompts = (of[each.prompt], of[each.prompt + each.space])
        split = [(prompt, whole[len(prompt) :] if whole[: len(prompt)] == prompt else []) for prompt in prompts]
        prompt, rest = min((part for part in split if part[1]), key=lambda part: len(part[1]), default=split[0])
        if unknown in rest and each.answer.strip() == unknown_token:
            word = each.answer
        found.append(Continuation(prompt, rest, word))
    return found


def _tokens(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, tell: bool = True
) -> tuple[list[list[int]], list[str | None]]:
    """Token ids without those that a tokenizer adds, and for each text the first word that gets lost in them.

    ``tell`` is whether lost words are looked for; else there are none.
    """
    if not texts:
        return [], []
    if len(texts) > AT_A_TIME:
        starts = range(0, len(texts), AT_A_TIME)
        pieces = [_tokens(texts[start : start + AT_A_TIME], tokenizer, tell=tell) for start in starts]
        return [each for ids, _ in pieces for each in ids], [each for _, words in pieces for each in words]
    offsets = tell and tokenizer.is_fast
    try:
        # verbose: it would warn of texts longer than its own limit; ours is the model's
        encoded = tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=offsets, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )  # fmt: skip
    except Exception:  # the tokenizers library has one exception for everything, and slow ones raise any
        if len(texts) == 1:
            return [[]], [_refused_word(texts[0], tokenizer) if tell else None]
        found = [_tokens([text], tokenizer, tell=tell) for text in texts]
        return [ids for (ids,), _ in found], [word for _, (word,) in found]
    ids: list[list[int]] = [list(each) for each in encoded["input_ids"]]
    if not tell:
        return ids, [None] * len(ids)
    if not tokenizer.is_fast:
        return ids, [_lost_word(text, each, tokenizer) for text, each in zip(texts, ids, strict=True)]
    unknown = (tokenizer.unk_token_id, tokenizer.unk_token)
    return ids, [_lost_piece(*each, *unknown) for each in zip(texts, ids, encoded["offset_mapping"], strict=True)]


def _refused_word(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first word of a text that a tokenizer raises an error at; the text itself if it is none of them."""
    for word in text.split():
        try:
            tokenizer(word, add_special_tokens=False)
        except Exception:
            return word
    return text


def _lost_piece(
    text: str, ids: list[int], offsets: list[tuple[int, int]], unknown: int | None, unknown_token: str | None
) -> str | None:
    """The first piece of a text that became the unknown token, or no token at all."""
    some = unknown is not None and unknown in ids
    place = 0
    for number, (start, end) in enumerate([*offsets, (len(text), len(text))]):
        if start > place:
            gap = text[place:start]
            if any(letter.isprintable() and not letter.isspace() for letter in gap):
                return gap.strip()
        if some and number < len(ids) and ids[number] == unknown and text[start:end] != unknown_token:
            return text[start:end]
        if end > place:
            place = end
    return None


def _lost_word(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in ids:
        return None
    words = [word for word in text.split() if word != tokenizer.unk_token]
    return next((word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]), None)


def begun(token_ids: Sequence[int], begin: Sequence[int]) -> list[int]:
    """A text's tokens with those that begin every text, once: a chat or decoded tokens may spell them out."""
    return [*([] if list(token_ids[: len(begin)]) == list(begin) else begin), *token_ids]


def tokens_before(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that a tokenizer puts before a text; those after it would part a prompt from its answer."""
    whole: list[int] = list(tokenizer(text, verbose=False)["input_ids"])
    plain: list[int] = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise ValueError("dataset: the model's tokenizer writes a text in other tokens when it adds special ones")
