"""What is right without reading a text: the floor of a test set, the guess from its question alone, and leads over it.

An accuracy says what a model can do only beside what can be had for nothing. Where most answers are 5, always saying 5
is right as often. Two numbers say how often:

- the **floor**: always the one answer that is most frequent among the very rows that are reported. No constant answer
  is right more often, so it is the strictest one; nothing that was learned elsewhere comes into it.
- the **text-free guess**: the answer that is most frequent to the same question (operator, operand, parameter), counted
  on other rows of the same distribution. It is what a model can do that has learned how answers are spread and reads no
  text; where a test set asks several questions it may be right more often than the floor.

The **lead** is the share of what is above the floor that a model gets: 0 at the floor, 1 where all is right (or as much
as in the model that it is compared with), and below 0 where a model does worse than a constant. Test sets of different
floors compare by it, where accuracies do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FloorResult:
    """What can be got right on a test set without reading its texts.

    Attributes:
        rows: how many are reported.
        floor: accuracy of the one answer that is right for most of them.
        text_free: accuracy of the best answer to each question, chosen on other rows.
    """

    rows: int
    floor: float
    text_free: float

    def row(self, test_set: str) -> dict[str, Any]:
        """What a run keeps of it, with the name of the test set."""
        return {"name": test_set, **asdict(self)}


Answer = tuple[int, ...]
"""A whole answer: all of its tokens."""


def most_frequent(answers: Sequence[Answer]) -> Answer:
    """The answer that occurs most often; of several the same one every time."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def measure_floor(
    answers: Sequence[Answer],
    others: Sequence[Answer],
    *,
    questions: Sequence[Hashable] | None = None,
    other_questions: Sequence[Hashable] | None = None,
    right: Sequence[Collection[Answer]] | None = None,
) -> FloorResult:
    """The floor of rows, and the text-free guess that other rows give.

    Args:
        answers: the right answer of each reported row, whole.
        others: those of other rows of the same distribution, on which the guess is chosen.
        questions, other_questions: what each row asks, its text left out; None if all ask the same. A question that the
            others do not ask is answered with their most frequent answer.
        right: all that is right for each reported row, where that is more than its one answer.

    Raises:
        ValueError: there are no rows, or as many answers as questions there are not.
    """
    asked = [None] * len(answers) if questions is None else questions
    asked_elsewhere = [None] * len(others) if other_questions is None else other_questions
    if not answers or not others:
        raise ValueError(
            f"rows: {len(answers)} to report and {len(others)} to choose on, expected at least one of each"
        )
    grouped: dict[Hashable, list[Answer]] = {}
    for question, answer in zip(asked_elsewhere, others, strict=True):
        grouped.setdefault(question, []).append(answer)
    guess = {question: most_frequent(found) for question, found in grouped.items()}
    fallback = most_frequent(others)
    accepted = [{answer} for answer in answers] if right is None else [set(each) for each in right]
    guessed = sum(guess.get(question, fallback) in each for question, each in zip(asked, accepted, strict=True))
    most = max(Counter(answer for each in accepted for answer in each).values())
    return FloorResult(rows=len(answers), floor=most / len(answers), text_free=guessed / len(answers))


def lead(accuracy: float, floor: float, top: float = 1.0) -> float:
    """The share of what is above a floor that an accuracy reaches: ``(accuracy - floor) / (top - floor)``.

    Not a number where the floor is no lower than the top, as where every row has the same answer: nothing can be
    learned from such rows.

    Args:
        accuracy: a share, 0 to 1, on the rows of the floor.
        floor: a share.
        top: what counts as all of it: 1, or the accuracy of the model that another is compared with.
    """
    return float("nan") if floor >= top else (accuracy - floor) / (top - floor)
