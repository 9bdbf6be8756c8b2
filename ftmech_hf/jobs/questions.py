"""How a data set is asked, and when an answer to it is right."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import chooses_answer, chosen_places, gives_answer
from ftmech_hf.jobs.behavior import Score
from ftmech_hf.jobs.whole_words import WritesWords, has_whole_words
from ftmech_hf.jobs.written_answers import answers_in_words, writes_answer
from ftmech_hf.tasks.text.columns import Chat
from ftmech_hf.tasks.text.join import AnswerSpace, check_answer_space

JudgedBy = Literal["begins", "exact"]
ChoiceScore = Literal["per_token", "sum"]

SHOWN_AFTER = 5
"""Tokens that are shown of what a model writes beyond those of the longest answer."""


@dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """How a data set is asked."""

    only_one_token: bool = field(
        default=False, metadata={"help": "leave out rows of a dataset whose answer is several tokens"}
    )
    skip_unusable: bool = field(
        default=False,
        metadata={"help": "leave out rows of a dataset that are empty, no text, too long, or asked before; they are "
                  "counted"},
    )  # fmt: skip
    cut_prompts: bool = field(
        default=False, metadata={"help": "let prompts of a dataset that are longer than the model lose their beginning"}
    )
    chat: Chat = field(
        default="auto",
        metadata={"help": "whether prompts that are text are asked in the model's chat template; auto: instructions, "
                  "and what has a system prompt"},
    )  # fmt: skip

    answer_space: AnswerSpace = field(
        default="auto",
        metadata={"unsaid": True, "help": "where a dataset has no white space between prompt and answer: as_written: "
                  "nothing; space: one; auto: what its prompts suggest"},
    )  # fmt: skip

    cut_seed: int = field(
        default=0,
        metadata={"unsaid": True, "help": "of the cut, where a dataset has no test split: the one of the training, "
                  "else rows are asked that were trained on"},
    )  # fmt: skip
    judged_by: JudgedBy = field(
        default="begins",
        metadata={"help": "when an answer to a dataset is right: begins: what the model writes begins with it, and "
                  "with no longer word; exact: "
                  "the model writes it and then ends, or begins a new line"},
    )  # fmt: skip
    choice_score: ChoiceScore = field(
        default="per_token",
        metadata={"help": "which of a dataset's choices a model chooses, by its log-probability: per_token: the mean "
                  "over its tokens; sum: of all of them"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, known in (("judged_by", JudgedBy), ("choice_score", ChoiceScore)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(get_args(known))}")
        check_answer_space(self.answer_space)
        if self.cut_seed < 0:
            raise ValueError(f"cut_seed: {self.cut_seed} is negative, expected 0 or more")
        if self.chat not in get_args(Chat):
            raise ValueError(f"chat: {self.chat!r}, expected one of {', '.join(get_args(Chat))}")

    @property
    def leaves_out(self) -> bool:
        """Whether which rows are asked depends on the tokenizer."""
        return self.only_one_token or self.skip_unusable


def judging(
    train: AnswerRows, test: AnswerRows, tokenizer: PreTrainedTokenizerBase, how: QuestionConfig
) -> dict[str, Any]:
    """The fields of a :class:`~ftmech_hf.jobs.behavior.Behavior` that say when an answer is right, and spell it.

    Args:
        train: rows of which the place of the right choice is counted, where there are choices.
        test: rows that are reported.
        tokenizer: of the models.
        how: the data set is asked.
    """
    per_token = how.choice_score == "per_token"

    def spell(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(token_ids)))

    def says(model: PreTrainedModel, asked: AnswerRows) -> list[str]:
        if asked.choices is not None:
            places = chosen_places(model, asked, per_token=per_token).tolist()
            chosen = [wholes[place] for wholes, place in zip(asked.choices, places, strict=True)]
            return [spell(ids[-1 - answer : -1]) for ids, answer in chosen]
        return answers_in_words(model, asked, tokenizer, int(asked.lengths.max()) + SHOWN_AFTER)

    score: Score = gives_answer
    found: dict[str, Any] = {"spell": spell, "says": says}
    if not has_whole_words(tokenizer):
        score = WritesWords(tokenizer)
        found |= {"right_if": "what the model writes begins with it, and with no longer word"}
    if test.choices is not None and how.judged_by == "exact":
        raise ValueError("judged_by: exact, but the data set has choices, of which the most likely one is taken")
    if test.choices is None and not per_token:
        raise ValueError(f"choice_score: {how.choice_score}, but the data set has no choices")
    if test.choices is not None:
        words = f"of the choices it is the most likely one by {'mean' if per_token else 'summed'} log-probability"
        score = functools.partial(chooses_answer, per_token=per_token)
        found |= {"right_if": words, "floor": choice_floor(train, test)}
    elif how.judged_by == "exact":
        score = writes_answer(tokenizer)
        found |= {"right_if": "the model writes it and then ends, or begins a new line"}
    return {**found, "score": score}


def choice_floor(train: AnswerRows, test: AnswerRows) -> float:
    """What guessing gives, or always taking the place that is most often right in the train rows; what is more."""
    assert test.choices is not None
    assert train.right is not None
    assert test.right is not None
    guessed = sum(1 / len(each) for each in test.choices) / len(test)
    return max(guessed, float((test.right == train.right.bincount().argmax()).double().mean()))
