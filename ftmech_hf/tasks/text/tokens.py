"""Rows of questions as token ids: what a model is shown, and what it is to answer.

An answer may have several tokens, and there may be several that are right, or choices among which one is. A word that
the tokenizer does not know, an answer that changes its prompt's tokens and a row longer than the model are refused, and
said where they are, unless such rows are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ftmech_hf.tasks.text.columns import CHOICES, OTHER
from ftmech_hf.tasks.text.continuations import Continuation, Join, continuations, tokens_before
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.splits import groups_of
from ftmech_hf.tasks.text.tables import ACCEPTED, CHAT, PLACE

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


class Whole(NamedTuple):
    """A question with an answer: token ids of prompt, answer and end, and how many of them are the answer's."""

    token_ids: tuple[int, ...]
    answer: int


class Encoded(NamedTuple):
    """Questions as token ids.

    Attributes:
        rows: each a prompt, its answer and an end.
        answer: for each row, which of its tokens are the answer's: the last ones but the end.
        other_answers: a token for each row, the first of its other answer, or none at all.
        accepted: for each row, the question with every further answer that is right; or none at all.
        choices: for each row, the question with each of its choices; or none at all.
        right: for each row with choices, which of them is right.
        groups: for each row, what it is about, where a column says so; or none at all.
        skipped: rows left out because an answer of theirs is not one token.
        cut: prompts that lost their beginning.
    """

    rows: list[list[int]]
    answer: list[list[bool]]
    other_answers: list[int]
    accepted: list[list[Whole]]
    choices: list[list[Whole]]
    right: list[int]
    groups: list[str]
    skipped: int
    cut: int = 0

    def first(self, number: int) -> Encoded:
        """The first so many rows."""
        parts = {name: value[:number] for name, value in self._asdict().items() if isinstance(value, list)}
        return Encoded(**{**self._asdict(), **parts})

    @property
    def wholes(self) -> Iterator[Whole]:
        """Every question with every answer that a model may be shown."""
        for ids, mask in zip(self.rows, self.answer, strict=True):
            yield Whole(tuple(ids), sum(mask))
        for row in (*self.accepted, *self.choices):
            yield from row


class _Question(NamedTuple):
    """One row: its continuations by the names of their columns, one or several each."""

    parts: dict[str, list[Continuation]]
    texts: dict[str, list[str]]
    prompt: str
    place: str
    chat: bool
    group: str | None


def encode_rows(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    join: Join,
    *,
    positions: int | None = None,
    skip: bool = False,
    cut: bool = False,
    faults: Faults | None = None,
) -> Encoded:
    """Whole rows with answer and end.

    Args:
        rows: of :func:`~ftmech_hf.tasks.text.tables.text_columns`.
        tokenizer: of the model that is asked.
        name: what errors call the table.
        join: of :func:`~ftmech_hf.tasks.text.join.choose_join`.
        positions: tokens that a model can be shown: a prompt and all but the last token of its answer.
        skip: leave out rows whose answers are not one token.
        cut: let prompts that are too long lose their beginning; a chat cannot.
        faults: whether rows that cannot be asked are left out; an error if not given.

    Raises:
        ValueError: a word is unknown to the tokenizer, a row too long, or an answer does not follow its prompt's own
            tokens; says in which row, and in how many.
    """
    faults = faults or Faults(name)
    questions = _questions(rows, tokenizer, join)
    kept = faults.kept([_unknown(each) for each in questions])
    questions, skipped = [questions[number] for number in kept], 0
    if skip:
        asked = [each for each in questions if all(len(each.parts[key][0].answer) == 1 for key in _single(each.parts))]
        skipped, questions = len(questions) - len(asked), asked
    kept = faults.kept([_changes_prompt(each) for each in questions], "; leave such rows out")
    questions = [questions[number] for number in kept]
    begin = tokens_before(questions[0].prompt, tokenizer) if questions else []
    end = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    found = [_wholes(each, begin, end, positions if cut else None) for each in questions]
    kept = faults.kept([_too_long(*pair, positions) for pair in zip(questions, found, strict=True)])
    chosen = [(questions[number], *found[number]) for number in kept]
    first = [parts["answer"][0] for _, parts, _ in chosen]
    columns = set(questions[0].parts) if questions else set()
    return Encoded(
        rows=[list(each.token_ids) for each in first],
        answer=[_mask(each) for each in first],
        other_answers=[each.parts[OTHER][0].answer[0] for each, *_ in chosen] if OTHER in columns else [],
        accepted=[parts[ACCEPTED] for _, parts, _ in chosen] if ACCEPTED in columns else [],
        choices=[parts[CHOICES] for _, parts, _ in chosen] if CHOICES in columns else [],
        right=[each.texts[CHOICES].index(each.texts["answer"][0]) for each, *_ in chosen] if CHOICES in columns else [],
        groups=[each.group for each, *_ in chosen if each.group is not None],
        skipped=skipped,
        cut=sum(was_cut for *_, was_cut in chosen),
    )


def _questions(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, join: Join) -> list[_Question]:
    there = [column for column in ("answer", OTHER, ACCEPTED, CHOICES) if column in rows.column_names]
    column_of = {name: rows[name][:] for name in ("prompt", PLACE, CHAT, *there)}  # row by row takes longer than tokens
    prompts = column_of["prompt"]
    texts = [
        {key: [value] if isinstance(value, str) else list(value) for key, value in zip(there, values, strict=True)}
        for values in zip(*(column_of[column] for column in there), strict=True)
    ]
    pairs = [
        (prompt, text) for prompt, row in zip(prompts, texts, strict=True) for said in row.values() for text in said
    ]
    found = iter(continuations(pairs, join, tokenizer))
    groups: Sequence[str | None] = groups_of(rows) or [None] * len(prompts)
    return [
        _Question({key: _beside(key, [next(found) for _ in said]) for key, said in row.items()}, row, *others)
        for row, *others in zip(texts, prompts, column_of[PLACE], column_of[CHAT], groups, strict=True)
    ]


def _beside(column: str, parts: list[Continuation]) -> list[Continuation]:
    """Choices after one and the same prompt, so that how likely they are can be compared: a space is theirs, then."""
    shortest = min((part.prompt for part in parts), key=len, default=[])
    wholes = [[*part.prompt, *part.answer] for part in parts]
    if column != CHOICES or any(whole[: len(shortest)] != shortest for whole in wholes):
        return parts
    return [
        Continuation(shortest, whole[len(shortest) :] if part.answer else [], part.unknown)
        for part, whole in zip(parts, wholes, strict=True)
    ]


_CALLED = {ACCEPTED: "answer", CHOICES: "choice"}


def _single(parts: dict[str, list[Continuation]]) -> list[str]:
    return [key for key in ("answer", OTHER) if key in parts]


def _each(question: _Question) -> Iterator[tuple[str, str, Continuation]]:
    """(what its column is called, text, tokens) of every answer."""
    for key, parts in question.parts.items():
        for text, part in zip(question.texts[key], parts, strict=True):
            yield _CALLED.get(key, key), text, part


def _unknown(question: _Question) -> str | None:
    return next(
        (
            f"{question.place}: the tokenizer does not know {part.unknown!r} in {question.prompt[-40:]!r} and {column} "
            f"{text!r}"
            for column, text, part in _each(question) if part.unknown
        ),
        None,
    )  # fmt: skip


def _changes_prompt(question: _Question) -> str | None:
    for column, text, part in _each(question):
        if not part.answer:
            what = "the answer" if column == "answer" else column
            return (
                f"{question.place}: {what} {text!r} changes the last token of the prompt {question.prompt[-40:]!r}, "
                "expected tokens after it"
            )
    return None


def _wholes(
    question: _Question, begin: Sequence[int], end: int, positions: int | None
) -> tuple[dict[str, list[Whole]], bool]:
    """The question with each of its answers, by their columns, and whether its prompt was cut to fit positions."""
    longest = max(len(part.answer) for _, _, part in _each(question))
    found: dict[str, list[Whole]] = {key: [] for key in question.parts}  # none of what only other rows have
    was_cut = False
    for key, parts in question.parts.items():
        for part in parts:
            # a template writes its own
            before = [] if question.chat or part.prompt[: len(begin)] == list(begin) else list(begin)
            prompt = part.prompt
            if positions is not None and not question.chat:
                head = len(begin) if not before else 0  # what begins a text stays
                room = positions - len(before) - longest + 1
                if head < room < len(prompt):
                    prompt, was_cut = [*prompt[:head], *prompt[len(prompt) - room + head :]], True
            found[key].append(Whole((*before, *prompt, *part.answer, end), len(part.answer)))
    return found, was_cut


def _mask(whole: Whole) -> list[bool]:
    return [*[False] * (len(whole.token_ids) - 1 - whole.answer), *[True] * whole.answer, False]


def _too_long(question: _Question, found: tuple[dict[str, list[Whole]], bool], positions: int | None) -> str | None:
    longest = max((whole for wholes in found[0].values() for whole in wholes), key=lambda each: len(each.token_ids))
    shown = len(longest.token_ids) - 2
    if not positions or shown <= positions:
        return None
    what = "the prompt has" if longest.answer == 1 else "the prompt and its answer without its last token have"
    return f"{question.place}: {what} {shown} tokens, but the model has {positions} positions"
