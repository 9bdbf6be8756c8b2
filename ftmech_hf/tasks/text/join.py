"""How prompts and answers are joined where a table does not say: as they are written, or with one space between."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

from ftmech_hf.tasks.text.continuations import Join, Spelled, continuations
from ftmech_hf.tasks.text.tables import CHAT

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

AnswerSpace = Literal["auto", "as_written", "space"]
"""What stands between prompts and answers where a table has no white space there."""

SAMPLE = 200
"""Rows that are looked at to see how prompts and answers are joined."""


def check_answer_space(wanted: str) -> None:
    """Refuse a name that is none of :data:`AnswerSpace`.

    Raises:
        ValueError: it is none.
    """
    if wanted not in get_args(AnswerSpace):
        raise ValueError(f"answer_space: {wanted!r}, expected one of {', '.join(get_args(AnswerSpace))}")


def _as_written(prompt: str, answer: str) -> Spelled:
    before, after = prompt.rstrip(), answer.lstrip()
    return Spelled(before, prompt[len(before) :] + answer[: len(answer) - len(after)], after)


def _with_space(prompt: str, answer: str) -> Spelled:
    """One space between them if there is none."""
    written = _as_written(prompt, answer)
    return written if written.space else written._replace(space=" ")


def choose_join(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, wanted: AnswerSpace = "auto") -> Join:
    """How prompts and answers of a table are joined: as they are written, or with one space between them.

    Args:
        rows: of the table.
        tokenizer: of the model.
        wanted: as they are written, a space, or what this finds out.

    White space that is there is kept. Where there is none, the prompts tell: by what follows the same mark elsewhere in
    them, else a space parts two words, follows a mark that has a space before it (``7 + 2 =``) and one that ends a
    sentence, and nothing follows any other (``7+2=``). If the tokenizer knows most questions only when they are written
    the other way, such as one that parts words by spaces alone, they are written so.
    """
    if wanted != "auto":
        return {"as_written": _as_written, "space": _with_space}[wanted]
    rows = rows.select(range(min(len(rows), SAMPLE)))
    pairs, bare = list(zip(rows["prompt"][:], rows["answer"][:], strict=True)), _bare(rows)
    spaced = sum(_parted(prompt, answer) for prompt, answer in bare)
    preferred, other = (_with_space, _as_written) if bare and 2 * spaced > len(bare) else (_as_written, _with_space)
    unknown, others = (
        sum(part.unknown is not None for part in continuations(pairs, join, tokenizer)) for join in (preferred, other)
    )
    return other if 2 * unknown > len(pairs) and others < unknown else preferred


def _bare(rows: datasets.Dataset) -> list[tuple[str, str]]:
    """Prompts and answers without white space between; not of chats, whose template says what stands there."""
    return [
        (prompt, answer)
        for prompt, answer, chat in zip(rows["prompt"][:], rows["answer"][:], rows[CHAT][:], strict=True)
        if not chat and not prompt[-1:].isspace() and not answer[:1].isspace()
    ]


def describe_join(rows: datasets.Dataset, join: Join, wanted: AnswerSpace = "auto") -> str | None:
    """What was put between prompts and answers that a table has without white space; None if nothing was.

    Args:
        rows: of the table.
        join: of :func:`choose_join`.
        wanted: what was asked for; what was is not said again.
    """
    bare = _bare(rows) if join is _with_space and wanted == "auto" else []
    if not bare:
        return None
    prompt, answer = bare[0]
    return (
        f"a space is put before {len(bare)} of {len(rows)} answers, as in {prompt[-20:] + ' ' + answer[:20]!r}; "
        "--answer_space as_written takes them as they are"
    )


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
