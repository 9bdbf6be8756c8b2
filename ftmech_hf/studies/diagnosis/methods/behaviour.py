"""What do the models answer? Accuracy on both kinds of questions, and answers to read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_scores import given_answers, written_answers
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.report.charts import accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, groups_at, paired_lead, share_right
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, answers_right, is_reference
from ftmech_hf.studies.diagnosis.evidence import BehaviourEvidence
from ftmech_hf.studies.diagnosis.figures import COLORS, describe_reference, kinds_axis, name_model, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_TOKENS = 8
"""Tokens of an answer that are reported one by one."""


class Example(NamedTuple):
    """A question in words, the right answer, what the models answer, and whether that is right.

    ``reversed`` is the model that was trained back, if there is one; ``place`` is the row's among the test rows.
    """

    question: str
    right: str
    base: str
    finetuned: str
    base_right: bool
    finetuned_right: bool
    place: int
    reversed: str | None = None
    reversed_right: bool | None = None


class TokenShare(NamedTuple):
    """How a model gives one token of answers, after the right tokens before it.

    Attributes:
        model: that is asked.
        number: of the token in its answer, from 1.
        right: share of the answers with so many tokens in which it is the most likely one.
        log_probability: its mean, in nats.
        rows: how many answers have so many tokens.
    """

    model: str
    number: int
    right: Share
    log_probability: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class BehaviourMethodResult(MethodResult):
    """Which answers of the models are right.

    Attributes:
        right: (model, kind of question) -> whether each test row is answered right, (B,).
        chance: kind of question -> accuracy of naming the most frequent answer.
        control: whether the reference is one that has learned other things.
        same_tokens: whether both models read the questions as the same tokens.
        few: how many of the first test rows the dearer methods ask.
        examples: some questions with what is right and what both models answer.
        groups: kind of question -> what each test row is about; None where each is by itself.
        tokens: where answers have several tokens, how each of them is given.
    """

    right: Mapping[tuple[str, str], NDArray[np.bool_]]
    chance: Mapping[str, float]
    control: bool
    same_tokens: bool
    few: int
    examples: list[Example]
    groups: Mapping[str, Groups]
    tokens: list[TokenShare] = dataclasses.field(default_factory=list)

    def rows(self) -> list[TableRow]:
        """Accuracy of every model on every kind of question, and chance."""
        return [
            *(accuracy_row(name, kind, right, self.groups[kind]) for (name, kind), right in self.right.items()),
            *(row("behaviour", "chance", value, questions=kind, reference=True) for kind, value in self.chance.items()),
            *(
                row("behaviour", "accuracy by token", *each.right, model=each.model, questions="capability",
                    x=each.number, reference=is_reference(each.model))
                for each in self.tokens
            ),
            *(
                row("behaviour", "log-probability by token", each.log_probability, model=each.model,
                    questions="capability", x=each.number, reference=is_reference(each.model))
                for each in self.tokens
            ),
        ]  # fmt: skip

    def evidence(self) -> BehaviourEvidence:
        """Accuracy on the capability's questions."""
        right = {name: self.right[name, "capability"] for name in (BASE, FINETUNED, NULL)}
        groups = self.groups["capability"]
        base, finetuned, null = (share_right(each, groups) for each in right.values())
        return BehaviourEvidence(
            chance=self.chance["capability"], base=base, finetuned=finetuned, null=null,
            drop=paired_lead(right[BASE], right[FINETUNED], groups), control=self.control,
            same_tokens=self.same_tokens, few_base=float(right[BASE][: self.few].mean()),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The examples, and answers by token."""
        return {
            "examples": [each._asdict() for each in self.examples],
            "tokens": [each._asdict() for each in self.tokens],
        }

    def with_reversed(self, case: Case, model: PreTrainedModel) -> BehaviourMethodResult:
        """The same with what a model that was trained back answers to the examples."""
        places, asked = [each.place for each in self.examples], case.asked(FINETUNED, "capability")
        said = say_answers(model, asked, places)
        right = asked.score(model, asked.test[places]).tolist()
        shown = [
            each._replace(reversed=answer, reversed_right=bool(is_right))
            for each, answer, is_right in zip(self.examples, said, right, strict=True)
        ]
        return dataclasses.replace(self, examples=shown)


def accuracy_row(name: str, kind: str, right: NDArray[np.bool_], groups: Groups) -> TableRow:
    """A model's accuracy on one kind of question."""
    share = share_right(right, groups)
    return row("behaviour", "accuracy", *share, model=name, questions=kind, reference=is_reference(name))


def measure_behaviour(case: Case) -> BehaviourMethodResult:
    """Ask the models both kinds of questions."""
    right = {
        (name, kind): case.right(name) if kind == "capability" else answers_right(model, case.asked(name, kind))
        for name, model in case.models.items() for kind in case.both
    }  # fmt: skip
    return BehaviourMethodResult(
        right=right,
        chance={kind: questions.chance for kind, questions in case.both.items()},
        control=case.control,
        same_tokens=case.own is None,
        few=case.config.patch_rows,
        examples=show_examples(case, right[BASE, "capability"], right[FINETUNED, "capability"]),
        groups={kind: questions.test.groups for kind, questions in case.both.items()},
        tokens=[
            each for name in case.models for each in by_token(case.models[name], case.asked(name, "capability"), name)
        ],
    )


def by_token(model: PreTrainedModel, questions: Behavior, name: str) -> list[TokenShare]:
    """How a model gives each token of the answers to the test rows, up to the eighth; nothing where all have one.

    Args:
        model: that is asked.
        questions: with their right answers.
        name: of the model.
    """
    rows = questions.test
    longest = min(int(rows.lengths.max()), MOST_TOKENS)
    if longest == 1:
        return []
    given, likely = written_answers(model, rows)
    answers, width = rows.answer_ids(), given.shape[1]
    found = []
    for number in range(longest):
        there = [place for place, answer in enumerate(answers) if len(answer) > number]
        at = [width - len(answers[place]) + number for place in there]
        right = [int(given[place, column]) == answers[place][number] for place, column in zip(there, at, strict=True)]
        mean = float(likely[there, at].double().mean())
        share = share_right(np.array(right), groups_at(rows.groups, there))
        found.append(TokenShare(name, number + 1, share, mean, len(there)))
    return found


def show_examples(case: Case, was: NDArray[np.bool_], still: NDArray[np.bool_], number: int = 5) -> list[Example]:
    """Questions with the right answer and both models': first what was lost, then what was kept, then what else.

    Args:
        case: the models and questions.
        was, still: whether the base and the fine-tuned model answer each test row right.
        number: of questions.
    """
    lost, kept, other = (found.nonzero()[0].tolist() for found in (was & ~still, was & still, ~was))
    chosen = [*lost[: number - 2], *kept[:2]]
    spare = (each for each in [*lost[number - 2 :], *kept[2:], *other])
    chosen += [each for _, each in zip(range(number - len(chosen)), spare, strict=False)]
    asked, rows = case.asked(BASE, "capability"), case.capability.test[chosen]
    given = [say_answers(case.models[name], case.asked(name, "capability"), chosen) for name in (BASE, FINETUNED)]
    prompts, shown = rows.prompts()
    kept_tokens = torch.ones_like(prompts, dtype=torch.bool) if shown is None else shown
    return [
        Example(asked.spell(prompt[is_shown].tolist()), asked.spell(answer), base, finetuned, bool(was[place]),
                bool(still[place]), place)
        for place, prompt, is_shown, answer, base, finetuned
        in zip(chosen, prompts, kept_tokens, rows.answer_ids(), *given, strict=True)
    ]  # fmt: skip


def say_answers(model: PreTrainedModel, questions: Behavior, places: list[int]) -> list[str]:
    """What a model answers to some test rows, in words.

    Where a behavior does not know, as many tokens as the right answer has, up to the first wrong one.
    """
    rows = questions.test[places]
    if questions.says is not None:
        return questions.says(model, rows)
    said = []
    for given, right in zip(given_answers(model, rows).tolist(), rows.answer_ids(), strict=True):
        tokens = given[len(given) - len(right) :]
        wrong = next((number for number, each in enumerate(tokens) if each != right[number]), len(tokens))
        said.append(questions.spell(tokens[: wrong + 1]) + (" \u2026" if wrong + 1 < len(tokens) else ""))
    return said


def draw_behaviour(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Bars of accuracy: models by kind of question, with chance."""
    kinds = list(rows["questions"].unique())
    ax.set_axisbelow(True)
    accuracy = rows[rows["quantity"] == "accuracy"]
    models = list(accuracy["model"].unique())
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        each = pick(accuracy, model=model)
        places = np.arange(len(kinds)) + (number - (len(models) - 1) / 2) * width
        low, high = each["value"] - each["low"], each["high"] - each["value"]
        ax.bar(places, each["value"], width * 0.9, color=COLORS[model], label=name_model(model, reference))
        ax.errorbar(places, each["value"], yerr=[low.clip(lower=0), high.clip(lower=0)], fmt="none", ecolor="#111827",
                    elinewidth=1)  # fmt: skip
    for place, kind in enumerate(kinds):
        chance = float(pick(rows, quantity="chance", questions=kind)["value"].iloc[0])
        ax.hlines(chance, place - 0.45, place + 0.45, color="#111827", linestyles="dotted", linewidth=1.2)
    kinds_axis(ax, kinds)
    accuracy_axis(ax)
    legend_below(ax)


def explain_behaviour(summary: Summary) -> str:
    """Beside what the answers stand."""
    facts = summary["facts"]
    return (
        "Share of right answers, with 95 % intervals. Dotted: what naming the most frequent answer would give. The "
        f"reference is {describe_reference(facts['reference'])}. {_null_models_text(facts)}"
    )


def _null_models_text(facts: Mapping[str, Any]) -> str:
    taught = f"the base after {facts['null_steps']} steps of fine-tuning on its own answers (taught nothing)"
    seed = f"{facts['twin']}, which is said to be the base trained with another seed"
    there = [*([taught] if facts["null_steps"] else []), *([seed] if facts["twin"] else [])]
    if not there:
        return ""
    return f"Where models are compared, one that differs without a meaning is drawn, too: {', and '.join(there)}."


BEHAVIOUR = Method(
    measure=measure_behaviour, title="What both models answer", pictures=(draw_behaviour,), explain=explain_behaviour
)
