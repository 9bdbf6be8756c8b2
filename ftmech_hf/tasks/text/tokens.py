"""Questions as tokens: an answer is what continues a prompt's own tokens when both are written one after the other.

The tokenizer decides what a question is made of, so it is asked about the whole text and never about its parts alone.
An answer may have several tokens. Nothing is lost on the way: a word that the tokenizer does not know, a character it
drops, an answer that changes its prompt's tokens and a row longer than the model are refused, and said where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ftmech_hf.tasks.text.tables import CHAT, OTHER, PLACE

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

SAMPLE = 200
"""Rows that are looked at to see how prompts and answers are joined."""


class Encoded(NamedTuple):
    """Questions as token ids.

    Attributes:
        rows: each a prompt, its answer and an end.
        answer: for each row, which of its tokens are the answer's: the last ones but the end.
        other_answers: a token for each row, the first of its other answer, or none at all.
        skipped: rows left out because an answer of theirs is not one token.
    """

    rows: list[list[int]]
    answer: list[list[bool]]
    other_answers: list[int]
    skipped: int

    def first(self, number: int) -> Encoded:
        """The first so many rows."""
        return Encoded(self.rows[:number], self.answer[:number], self.other_answers[:number], self.skipped)


class Spelled(NamedTuple):
    """A question as it is written: a prompt, the white space after it, an answer."""

    prompt: str
    space: str
    answer: str


Join = Callable[[str, str], Spelled]


def _as_written(prompt: str, answer: str) -> Spelled:
    before, after = prompt.rstrip(), answer.lstrip()
    return Spelled(before, prompt[len(before) :] + answer[: len(answer) - len(after)], after)


def _with_space(prompt: str, answer: str) -> Spelled:
    """One space between them if there is none."""
    written = _as_written(prompt, answer)
    return written if written.space else written._replace(space=" ")


def choose_join(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> Join:
    """How prompts and answers of a table are joined: as they are written, or with one space between them.

    White space that is there is kept. Where there is none, the prompts tell: by what follows the same mark elsewhere in
    them, else a space parts two words, follows a mark that has a space before it (``7 + 2 =``) and one that ends a
    sentence, and nothing follows any other (``7+2=``). If the tokenizer knows most questions only when they are written
    the other way, such as one that parts words by spaces alone, they are written so.
    """
    rows = rows.select(range(min(len(rows), SAMPLE)))
    pairs = list(zip(rows["prompt"], rows["answer"], strict=True))
    bare = [pair for pair in pairs if not pair[0][-1:].isspace() and not pair[1][:1].isspace()]
    spaced = sum(_parted(prompt, answer) for prompt, answer in bare)
    preferred, other = (_with_space, _as_written) if bare and 2 * spaced > len(bare) else (_as_written, _with_space)
    unknown, others = (
        sum(part.unknown is not None for part in _continuations(pairs, join, tokenizer)) for join in (preferred, other)
    )
    return other if 2 * unknown > len(pairs) and others < unknown else preferred


def _parted(prompt: str, answer: str) -> bool:
    """Whether a text as this prompt is written has a space before its answer."""
    before = re.search(r"\w$|[^\w\s]+$", prompt)
    if before is None or not answer[0].isalnum():
        return False
    mark = before[0]
    if mark[-1].isalnum():
        return _writes_spaces(mark[-1]) and _writes_spaces(answer[0])
    followed = [bool(each[1]) for each in re.finditer(re.escape(mark[-1]) + r"(\s)?(?!$)", prompt[:-1])]
    if followed:
        return 2 * sum(followed) > len(followed)
    return prompt[: before.start()][-1:].isspace() or mark[-1] in ".,;:!?"


def _writes_spaces(letter: str) -> bool:
    """Whether a letter or digit is of a script that parts words by spaces: not Thai, Chinese, Japanese and others."""
    return not any(first <= letter <= last for first, last in _NO_SPACES)


_NO_SPACES = (
    ("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u2e80", "\ua4cf"), ("\uf900", "\ufaff"),
    ("\U00020000", "\U0003ffff"),
)  # fmt: skip


class _Continuation(NamedTuple):
    """Tokens of a prompt, those of an answer that follow them, and a word that is unknown, if one is.

    The answer is empty where the prompt's last token becomes another once the answer follows.
    """

    prompt: list[int]
    answer: list[int]
    unknown: str | None


def _continuations(
    pairs: Sequence[tuple[str, str]], join: Join, tokenizer: PreTrainedTokenizerBase
) -> list[_Continuation]:
    """Each question in tokens: the white space between is the answer's, or the prompt's if that leaves fewer tokens."""
    spelled = [join(prompt, answer) for prompt, answer in pairs]
    wholes, unknown = _tokens(["".join(each) for each in spelled], tokenizer)
    bare, _ = _tokens([each.prompt for each in spelled], tokenizer)
    spaced, _ = _tokens([each.prompt + each.space for each in spelled], tokenizer)
    found = []
    for each, whole, word, *prompts in zip(spelled, wholes, unknown, bare, spaced, strict=True):
        parts = [(prompt, whole[len(prompt) :] if whole[: len(prompt)] == prompt else []) for prompt in prompts]
        prompt, rest = min((part for part in parts if part[1]), key=lambda part: len(part[1]), default=parts[0])
        if tokenizer.unk_token_id in rest and each.answer.strip() == tokenizer.unk_token:
            word = each.answer
        found.append(_Continuation(prompt, rest, word))
    return found


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[str | None]]:
    """Token ids without those that a tokenizer adds, and for each text the first word that gets lost in them."""
    if not texts:
        return [], []
    try:
        # verbose: it would warn of texts longer than its own limit; ours is the model's
        encoded = tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False
        )
    except Exception:  # the tokenizers library has one exception for everything, and slow ones raise any
        if len(texts) == 1:
            return [[]], [_refused_word(texts[0], tokenizer)]
        found = [_tokens([text], tokenizer) for text in texts]
        return [ids for (ids,), _ in found], [word for _, (word,) in found]
    ids: list[list[int]] = [list(each) for each in encoded["input_ids"]]
    if not tokenizer.is_fast:
        return ids, [_lost_word(text, each, tokenizer) for text, each in zip(texts, ids, strict=True)]
    offsets = encoded["offset_mapping"]
    return ids, [_lost_piece(*each, tokenizer) for each in zip(texts, ids, offsets, strict=True)]


def _refused_word(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first word of a text that a tokenizer raises an error at; the text itself if it is none of them."""
    for word in text.split():
        try:
            tokenizer(word, add_special_tokens=False)
        except Exception:
            return word
    return text


def _lost_piece(
    text: str, ids: list[int], offsets: list[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """The first piece of a text that became the unknown token, or no token at all."""
    place = 0
    for token, (start, end) in zip([*ids, None], [*offsets, (len(text), len(text))], strict=True):
        gap = text[place:start]
        if any(letter.isprintable() and not letter.isspace() for letter in gap):
            return gap.strip()
        if token is not None and token == tokenizer.unk_token_id and text[start:end] != tokenizer.unk_token:
            return text[start:end]
        place = max(place, end)
    return None


def _lost_word(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in ids:
        return None
    words = [word for word in text.split() if word != tokenizer.unk_token]
    return next((word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]), None)


def _tokens_before(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that a tokenizer puts before a text; those after it would part a prompt from its answer."""
    whole: list[int] = list(tokenizer(text, verbose=False)["input_ids"])
    plain: list[int] = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise ValueError("dataset: the model's tokenizer writes a text in other tokens when it adds special ones")


def encode_rows(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    join: Join,
    *,
    positions: int | None = None,
    skip: bool = False,
) -> Encoded:
    """Whole rows with answer and end.

    Args:
        rows: of :func:`~ftmech_hf.tasks.text.tables.text_columns`.
        tokenizer: of the model that is asked.
        name: what errors call the table.
        join: of :func:`choose_join`.
        positions: tokens that a model can be shown: a prompt and all but the last token of its answer.
        skip: leave out rows whose answers are not one token.

    Raises:
        ValueError: a word is unknown to the tokenizer, a row too long, or an answer does not follow its prompt's own
            tokens; says in which row, and in how many.
    """
    if not len(rows):
        return Encoded([], [], [], 0)
    columns = ["answer", OTHER] if OTHER in rows.column_names else ["answer"]
    prompts = list(rows["prompt"])
    parts = {
        column: _continuations(list(zip(prompts, rows[column], strict=True)), join, tokenizer) for column in columns
    }
    fault = Fault(rows[PLACE], name)
    for column, found in parts.items():
        fault.refuse([f"the tokenizer does not know {each.unknown!r} in {prompt[-40:]!r} and {column} {answer!r}"
                      if each.unknown else None
                      for each, answer, prompt in zip(found, rows[column], prompts, strict=True)])  # fmt: skip
    if skip:
        kept = [
            number for number in range(len(rows)) if all(len(found[number].answer) == 1 for found in parts.values())
        ]
    else:
        kept = [*range(len(rows))]
        for column, found in parts.items():
            fault.refuse([None if each.answer else _changes_prompt(column, answer, prompt) for each, answer, prompt
                          in zip(found, rows[column], prompts, strict=True)], "; leave such rows out")  # fmt: skip
    first, last = _tokens_before(prompts[0], tokenizer), tokenizer.eos_token_id
    encoded, masks = [], []
    for number, chat in enumerate(rows[CHAT]):
        prompt, answer, _ = parts["answer"][number]
        begin = [] if chat or prompt[: len(first)] == first else first  # a template writes its own
        before = [*begin, *prompt]
        encoded.append([*before, *answer, 0 if last is None else last])
        masks.append([*[False] * len(before), *[True] * len(answer), False])
    asked = set(kept)
    fault.refuse([_too_long(len(row) - 2, sum(mask), positions) if number in asked else None
                  for number, (row, mask) in enumerate(zip(encoded, masks, strict=True))])  # fmt: skip
    others = [parts[OTHER][number].answer[0] for number in kept] if OTHER in parts else []
    skipped = len(rows) - len(kept)
    return Encoded([encoded[number] for number in kept], [masks[number] for number in kept], others, skipped)


def _too_long(shown: int, answer: int, positions: int | None) -> str | None:
    if not positions or shown <= positions:
        return None
    what = "the prompt has" if answer == 1 else "the prompt and its answer without its last token have"
    return f"{what} {shown} tokens, but the model has {positions} positions"


def _changes_prompt(column: str, answer: str, prompt: str) -> str:
    what = "the answer" if column == "answer" else column
    return f"{what} {answer!r} changes the last token of the prompt {prompt[-40:]!r}, expected tokens after it"


class Fault:
    """Says what is wrong with the first row of those where something is, and how many they are."""

    def __init__(self, places: Sequence[str], name: str) -> None:
        self.places, self.name = places, name

    def refuse(self, tells: Sequence[str | None], advice: str = "") -> None:
        """Raise an error if any of what is to be told of each row is there."""
        wrong = [number for number, tell in enumerate(tells) if tell]
        if wrong:
            raise ValueError(
                f"dataset: {self.name}: {self.places[wrong[0]]}: {tells[wrong[0]]} "
                f"({len(wrong)} of {len(tells)} rows are like that){advice}"
            )
