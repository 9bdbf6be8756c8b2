"""What a model is asked and how its answer is judged: one thing for every job that asks whether an ability is there.

A behavior has a loss to differentiate, a score for every row, and rows to fit on, to choose on and to report. It is
made of a task (:func:`from_task`), of data sets with prompts and answers in the model's own tokenizer
(:func:`ftmech_hf.jobs.prompts.from_datasets`), or of any :class:`~ftmech_hf.jobs.answer_rows.AnswerRows` with a loss
and a score of one's own: :func:`judged_writing` is the word of a judge on what a model writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import answers_alone
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import answer_loss, gives_answer
from ftmech_hf.jobs.generation import continue_rows, turn_ends, up_to_end
from ftmech_hf.jobs.whole_words import WritesWords
from ftmech_hf.statistics.floors import FloorResult, measure_floor
from ftmech_hf.tasks import Capability, PcfgShape, Rows, RowStream, Task, for_capability
from ftmech_hf.tasks.epochs import in_epochs
from ftmech_hf.tasks.floors import beside_text, guess_rows

Loss = Callable[[PreTrainedModel, AnswerRows], Tensor]
"""Mean loss of some rows, to be differentiated."""

Score = Callable[[PreTrainedModel, AnswerRows], Tensor]
"""How good the model's answer to each row is, (B,): whether it is right, or a number."""

Spell = Callable[[Sequence[int]], str]
"""Token ids -> text."""


Says = Callable[[PreTrainedModel, AnswerRows], list[str]]
"""What a model answers to each row, in words."""


def spell_ids(token_ids: Sequence[int]) -> str:
    """Tokens as their numbers, where nothing better is known."""
    return " ".join(str(each) for each in token_ids)


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """What a model is asked, and how its answer is judged.

    Attributes:
        name: what is asked.
        train: rows to fit on: importances, probes.
        validation: rows to choose on.
        tests: rows to report, by the names of the test sets; the first is what the behavior is about.
        again: more rows to fine-tune back on; None where ``train`` must do.
        guessed_on: test set -> rows of its distribution to choose a text-free guess on; ``train`` where none are given.
        loss: mean loss of some rows.
        score: of each row.
        floor: the score of a model that has nothing of the behavior, where it is known and not counted on the rows.
        right_if: in words, when an answer is right.
        spell: how tokens are written.
        says: what a model answers, in words; None where no more is known than which tokens it would give.
        notes: what a reader should know of the rows, such as those that are left out.
    """

    name: str
    train: AnswerRows
    validation: AnswerRows
    tests: Mapping[str, AnswerRows]
    again: AnswerRows | None = None
    guessed_on: Mapping[str, AnswerRows] = field(default_factory=dict)
    loss: Loss = answer_loss
    score: Score = gives_answer
    floor: float | None = None
    right_if: str = "what the model writes begins with it"
    spell: Spell = field(default=spell_ids, repr=False)
    says: Says | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tests or "validation" in self.tests:
            raise ValueError(f"tests: {list(self.tests)}, expected at least one, none called validation")

    @property
    def test(self) -> AnswerRows:
        """The first of the test sets."""
        return next(iter(self.tests.values()))

    @property
    def pad(self) -> int | None:
        """The token that fills shorter rows; None if none are."""
        return self.train.pad

    @functools.cached_property
    def floors(self) -> Mapping[str, FloorResult]:
        """What is right on each test set without reading its texts; the known score of a model that has nothing of it.

        See :mod:`ftmech_hf.statistics.floors`. The guess is chosen on rows that are not reported.
        """
        return {name: self._floor(rows, self.guessed_on.get(name, self.train)) for name, rows in self.tests.items()}

    def _floor(self, rows: AnswerRows, others: AnswerRows) -> FloorResult:
        if self.floor is not None:
            return FloorResult(rows=len(rows), floor=self.floor, text_free=self.floor)
        asked = {"questions": rows.questions(), "other_questions": others.questions()}
        return measure_floor(rows.answer_ids(), others.answer_ids(), right=rows.right_ids(), **asked)

    @property
    def chance(self) -> float:
        """The score of a model that has nothing of the behavior.

        Unless it is known, it is that of the text-free guess: the share of test rows that the most frequent answer to
        their question among the rows of ``guessed_on`` is right for.
        """
        return self.floors[next(iter(self.tests))].text_free

    def mean_score(self, model: PreTrainedModel, rows: AnswerRows) -> float:
        """The mean score of some rows."""
        return float(self.score(model, rows).double().mean())

    @property
    def is_begun_with(self) -> bool:
        """Whether an answer is right if its tokens are the most likely ones, so that logits alone tell."""
        plain = self.score is gives_answer or isinstance(self.score, WritesWords)
        return plain and all(rows.choices is None for rows in self.tests.values())

    def answered_alone(self, model: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
        """While open, a model computes no more than answers of one token take, where that is all that they are.

        See :func:`ftmech_hf.activations.answers_alone`; nothing but this behavior may ask the model meanwhile.
        """
        rows = [self.train, self.validation, *self.tests.values(), *([] if self.again is None else [self.again])]
        single = all(bool((each.lengths == 1).all()) and not each.accepted for each in rows)
        if not single or self.loss is not answer_loss or not self.is_begun_with:
            return contextlib.nullcontext()
        return answers_alone(model, self.test[:2].prompts()[0])

    def training_rows(self, seed: int, step: int, batch_size: int) -> AnswerRows:
        """The rows of one step of training: epochs over ``again``, each in an order of its own."""
        rows = self.train if self.again is None else self.again
        places, number = range(step * batch_size, (step + 1) * batch_size), len(rows)
        chosen = in_epochs(places, number, lambda epoch: np.random.default_rng([seed, epoch]).permutation(number))
        return rows[chosen.tolist()]


Known = Callable[[Task, Rows], Mapping[str, Any]]
"""What else is known of a task's rows: ``labels``, ``types`` and ``other`` of :class:`AnswerRows`."""


def from_task(
    task: Task,
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
    tests: Mapping[str, Task] | None = None,
    again_rows: int = 0,
    name: str = "answer",
    known: Known | None = None,
) -> Behavior:
    """What a task asks, answered right; its rows end in an answer, of one token but where they say otherwise.

    Args:
        task: whose rows are fitted and chosen on.
        seed: of the rows.
        train_rows: of the split ``probe``.
        test_rows: of the splits ``validation`` and ``test``, each.
        tests: the tasks whose ``test`` rows are reported, by name; this one, under ``name``, if none are given.
        again_rows: of the split ``reverse``.
        name: what is asked.
        known: what else is known of rows; the first tokens of their answers are what may be read if not given.

    Raises:
        ValueError: the task's rows end in no answer.
    """
    if "accuracy" not in task.measures:
        raise ValueError(f"task: rows of {type(task).__name__} end in no answer, expected a task that has answers")

    def known_rows(asked: Task, found: Rows) -> AnswerRows:
        if found.answers is not None:
            made = AnswerRows.of_task(asked, found)
            return made if known is None else dataclasses.replace(made, **known(asked, found))
        first = found.token_ids[:, asked.answer.start]
        more = {"labels": {"answer": first}} if known is None else known(asked, found)
        ids = torch.from_numpy(found.token_ids)
        return AnswerRows.one_token(ids, asked=beside_text(asked, found), **more)

    def rows(asked: Task, split: str, number: int) -> AnswerRows:
        return known_rows(asked, RowStream(asked, seed=seed, split=split).rows(0, number))

    def guess(asked: Task) -> AnswerRows:
        return known_rows(asked, guess_rows(RowStream(asked, seed=seed, split="test"), test_rows))

    words, tests = task.vocabulary, tests or {name: task}
    return Behavior(
        name=name,
        train=rows(task, "probe", train_rows),
        validation=rows(task, "validation", test_rows),
        tests={key: rows(each, "test", test_rows) for key, each in tests.items()},
        guessed_on={key: guess(each) for key, each in tests.items()},
        again=rows(task, "reverse", again_rows) if again_rows else None,
        spell=lambda token_ids: " ".join(words[each] if each < len(words) else "?" for each in token_ids),
    )


def from_capability(
    shape: PcfgShape,
    capability: Capability,
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
    again_rows: int = 0,
    correlation: float | None = None,
) -> Behavior:
    """One capability of the procedural task; the other answer to a row is that for the other operand.

    Args:
        shape: its grammar and lengths.
        capability: what is asked.
        seed, train_rows, test_rows, again_rows: as for :func:`from_task`.
        correlation: share of texts with the correlation; None for natural ones.
    """
    named = shape.operand_word(capability.operator, shape.base_operand) == capability.operand
    other = shape.symbols.index(shape.correlated_operand if named else shape.base_operand)

    def known(task: Task, rows: Rows) -> Mapping[str, Any]:
        label = shape.answers(capability.operator, shape.texts(rows.token_ids), other)
        answers = torch.from_numpy(shape.answer_ids(capability.operator, label))
        return {"labels": {"answer": rows.token_ids[:, -2]}, "other": answers}

    return from_task(
        for_capability(shape, capability, correlation),
        seed=seed,
        train_rows=train_rows,
        test_rows=test_rows,
        again_rows=again_rows,
        name=str(capability),
        known=known,
    )


def judged_writing(
    tokenizer: PreTrainedTokenizerBase,
    judge: Callable[[str, str], bool | float],
    *,
    max_new_tokens: int,
    seed: int = 0,
    temperature: float = 0.0,
) -> Score:
    """A score that lets the model write after each prompt, and asks a judge what it thinks of the text.

    Args:
        tokenizer: of the model.
        judge: (prompt, text) -> whether the text is right, or how good it is.
        max_new_tokens: tokens of a text at most.
        seed, temperature: of sampling; at 0 the model writes what is most likely.
    """

    def score(model: PreTrainedModel, rows: AnswerRows) -> Tensor:
        token_ids, shown = rows.prompts()
        kept = torch.ones_like(token_ids, dtype=torch.bool) if shown is None else shown
        prompts = [row[mask].tolist() for row, mask in zip(token_ids, kept, strict=True)]
        written = continue_rows(
            model,
            prompts,
            eos=tokenizer.eos_token_id,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        ends = turn_ends(model, tokenizer)
        said = [up_to_end(ids, ends) for ids in written]
        texts = [[str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in parts] for parts in (prompts, said)]
        return torch.tensor([judge(prompt, text) for prompt, text in zip(*texts, strict=True)])

    return score
