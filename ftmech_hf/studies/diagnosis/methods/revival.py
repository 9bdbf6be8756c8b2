"""Does it come back fast when it is trained again? Reverse fine-tuning, beside the same of the reference.

The reference need not be followed beyond the step at which the question is settled. Where the fine-tuned model did not
come back, both go on side by side until one of them does: else nothing would have been compared. If that is the
fine-tuned one, the reference is followed for as many times as long as the sign asks, in as many repetitions, and the
other repetitions that did not come back for as long as that allows.

Where most answers are words of their own, such as capitals, training on some questions does not tell the answers to the
others. Only those others are asked then, if the base knows some of them, and to be back is to have half of the base's
lead: no training on some facts brings back 95 % of the others. What both models answer right after the same number of
steps is measured beside. So it is where neither came back in all the steps that they may take.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.report.charts import accuracy_axis, legend_below, step_axis
from ftmech_hf.statistics.clusters import paired_lead, share_right
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.answer_training import kept_as
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.evidence import RevivalEvidence, Revivals
from ftmech_hf.studies.diagnosis.figures import COLORS, DOTTED, line, name_model, pick, spread
from ftmech_hf.studies.diagnosis.finetuning import Curve, RevivalSettings, race, revive, taught
from ftmech_hf.studies.diagnosis.method import Apart, Method, MethodResult, Summary, TableRow, row
from ftmech_hf.training.low_rank import LowRankChange

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVAL_ROWS, FEW_ROWS = 64, 16
"""Rows of an evaluation of a model that is fine-tuned back, where it is far from the threshold; of a large model."""


@dataclass(frozen=True, kw_only=True)
class RevivalMethodResult(MethodResult):
    """Steps and accuracies of every repetition.

    Attributes:
        finetuned, null: steps to the threshold, of the fine-tuned model and of the reference.
        points: model -> for every repetition: step -> accuracy.
        threshold: the accuracy that counts as being back.
        untaught, untaught_null: what the fine-tuned model and the reference answer right, after as many steps as both
            were trained for, of the test questions whose answers were not trained on, which steps and accuracies are
            then about; None where most answers were.
        untaught_base: what the base answers right of these.
        ahead, gained: where neither was back at the last step, accuracy on the test questions then: of the fine-tuned
            model less that of the reference, and of the reference less what it had before.
        trained_back: what the first repetition of the fine-tuned model ended with, or how it differs from it.
    """

    finetuned: Revivals
    null: Revivals
    points: Mapping[str, Sequence[Mapping[int, float]]]
    threshold: float
    trained_back: PreTrainedModel | LowRankChange = field(repr=False)
    untaught: Share | None = None
    untaught_null: Share | None = None
    untaught_base: float | None = None
    ahead: Share | None = None
    gained: Share | None = None

    def rows(self) -> list[TableRow]:
        """Accuracy at every evaluated step."""
        return [
            *(
                row("revival", f"repetition {number}", value, model=name, questions="capability", x=step,
                    reference=name == NULL)
                for name, runs in self.points.items()
                for number, points in enumerate(runs) for step, value in points.items()
            ),
            row("revival", "threshold", self.threshold, reference=True),
            *(
                row("revival", "not taught", *share, model=name, questions="capability", reference=name == NULL)
                for name, share in ((FINETUNED, self.untaught), (NULL, self.untaught_null)) if share is not None
            ),
        ]  # fmt: skip

    def reversed_model(self, finetuned: PreTrainedModel) -> PreTrainedModel:
        """What the first repetition of the fine-tuned model ended with; a copy of that is made where an adapter was."""
        found = self.trained_back
        return found.added_to(finetuned) if isinstance(found, LowRankChange) else found

    def evidence(self) -> RevivalEvidence:
        """Steps of both, and what is right that was not taught."""
        return RevivalEvidence(
            revival=self.finetuned, revival_null=self.null, untaught=self.untaught, untaught_null=self.untaught_null,
            untaught_base=self.untaught_base, ahead=self.ahead, gained=self.gained,
        )  # fmt: skip


def measure_revival(case: Case) -> RevivalMethodResult:
    """Fine-tune the fine-tuned model back, and the reference for as long as the rule asks."""
    config, rule = case.config, case.rule
    asked, threshold = _what_comes_back(case)
    untaught = asked is not case.capability
    settings: RevivalSettings = {
        "lr": config.reverse_lr, "batch_size": config.reverse_batch_size, "threshold": threshold,
        "eval_rows": FEW_ROWS if case.in_place else EVAL_ROWS, "in_place": case.in_place, "to_the_end": untaught,
    }  # fmt: skip

    curves = _repeat(case, FINETUNED, asked, range(config.repeats), config.reverse_steps, settings)
    ends_far: tuple[Share | None, Share | None] = (None, None)
    found = _revivals(curves, config.reverse_steps)
    if found.slowest is not None:
        enough = math.ceil(rule.speed * max(found.slowest, 1))
        if untaught:  # what is right after as many steps as the fine-tuned model was given is compared
            enough = max(enough, config.reverse_steps)
        null = _repeat(case, NULL, asked, range(config.repeats), enough, settings)
        found_null = _revivals(null, enough)
    else:
        found, null, ends_far = _go_on(case, asked, curves, settings)
        found_null = Revivals(tuple(curve.steps for curve in null), tuple(curve.last for curve in null))
    steps = min(curves[0].last, null[0].last)
    ends = ((FINETUNED, curves[0]), (NULL, null[0])) if untaught else ()
    after = {name: _right_after(case, name, asked, curve, steps) for name, curve in ends}
    right = {name: share_right(each, asked.test.groups) for name, each in after.items()}
    _let_go(null[0])
    points = {name: [curve.points for curve in runs] for name, runs in ((FINETUNED, curves), (NULL, null))}
    end = curves[0].end
    back = end if isinstance(end, LowRankChange) else kept_as(end, case.models[FINETUNED].dtype)
    return RevivalMethodResult(
        finetuned=found, null=found_null, points=points, threshold=threshold, trained_back=back,
        untaught=right.get(FINETUNED), untaught_null=right.get(NULL),
        untaught_base=_base_on_untaught(case) if untaught else None, ahead=ends_far[0], gained=ends_far[1],
    )  # fmt: skip


def _repeat(
    case: Case, name: str, asked: Behavior, numbers: Iterable[int], steps: int, settings: RevivalSettings
) -> list[Curve]:
    curves = []
    for number in numbers:
        curves.append(revive(case.models[name], asked, seed=case.seed + number, steps=steps, **settings))
        if number:  # only the first is looked at again
            _let_go(curves[-1])
    return curves


def _go_on(
    case: Case, asked: Behavior, curves: list[Curve], settings: RevivalSettings
) -> tuple[Revivals, list[Curve], tuple[Share | None, Share | None]]:
    """Follow a late repetition beside the reference, then the other late ones; puts them in the place of those.

    Returns:
        steps of the fine-tuned model, the reference's curves, and how far both came where neither was back.
    """
    config, rule = case.config, case.rule
    late, *others = (number for number, curve in enumerate(curves) if curve.steps is None)
    last = [config.reverse_steps] * len(curves)
    curves[late], control = race(
        (case.models[FINETUNED], case.models[NULL]), asked, steps=config.most_reverse_steps,
        beyond=rule.speed, seed=case.seed + late, **settings,
    )  # fmt: skip
    last[late] = curves[late].last
    far = _how_far(case, asked, curves[late], control)
    null = {late: control}
    if curves[late].steps is not None:  # the fastest of as many is what the slowest of these is held against
        again = max(config.reverse_steps, math.floor(control.last / rule.speed))
        for number, curve in zip(others, _repeat(case, FINETUNED, asked, others, again, settings), strict=True):
            curves[number], last[number] = curve, again
        more = [number for number in range(config.repeats) if number != late]
        null |= zip(more, _repeat(case, NULL, asked, more, control.last, settings), strict=True)
    controls = [curve for _, curve in sorted(null.items())]
    for curve in (*curves[1:], *controls[1:]):
        _let_go(curve)
    return Revivals(tuple(curve.steps for curve in curves), tuple(last)), controls, far


def _how_far(case: Case, asked: Behavior, own: Curve, control: Curve) -> tuple[Share | None, Share | None]:
    """(what the fine-tuned model has more than the reference, what that gained); None where one of them was back."""
    if own.steps is not None or control.steps is not None or own.last != control.last:
        return None, None
    before = asked.score(case.models[NULL], asked.test).numpy()
    ends = ((FINETUNED, own), (NULL, control))
    after = {name: _right_after(case, name, asked, curve, own.last) for name, curve in ends}
    groups = asked.test.groups
    return paired_lead(after[FINETUNED], after[NULL], groups), paired_lead(after[NULL], before, groups)


def _what_comes_back(case: Case) -> tuple[Behavior, float]:
    """(what models that are trained back are asked, the accuracy at which they are back)."""
    questions, rule, floor = case.capability, case.rule, case.floor
    places = untaught_places(questions, questions.test)
    few = len(places) <= rule.share * len(questions.test)
    known = None if few else share_right(case.base_right[places], questions.test[places].groups)
    if known is None or known.low - floor < rule.least_lead:  # of next to nothing half is noise
        return questions, rule.revived * float(case.base_right.mean())
    others = questions.validation[untaught_places(questions, questions.validation)]
    asked = dataclasses.replace(questions, tests={"not taught": questions.test[places]}, validation=others)
    return asked, rule.half_of(floor, known.value)


def _base_on_untaught(case: Case) -> float:
    """What the base answers right of the test questions whose answers training back does not teach."""
    return float(case.base_right[untaught_places(case.capability, case.capability.test)].mean())


def untaught_places(questions: Behavior, rows: AnswerRows) -> list[int]:
    """Which of some rows have no right answer that stands in the rows that are trained on."""
    taught = set((questions.train if questions.again is None else questions.again).answer_ids())
    return [place for place, right in enumerate(rows.right_ids()) if not right & taught]


def _right_after(case: Case, name: str, asked: Behavior, curve: Curve, steps: int) -> NDArray[np.bool_]:
    """Whether a model answers each test question right after so many steps; trained anew if its curve has more."""
    model, config = case.models[name], case.config
    if curve.last == steps:
        trained = curve.end.added_to(model) if isinstance(curve.end, LowRankChange) else curve.end
        right: NDArray[np.bool_] = asked.score(trained, asked.test).numpy()
        return right
    with taught(
        model, asked, seed=case.seed, steps=steps, lr=config.reverse_lr, batch_size=config.reverse_batch_size,
        in_place=case.in_place,
    ) as short:  # fmt: skip
        right = asked.score(short, asked.test).numpy()
    return right


def _let_go(curve: Curve) -> None:
    """Free a model's weights; its curve stays."""
    if not isinstance(curve.end, LowRankChange):
        torch.nn.Module.to(curve.end, "meta")


def _revivals(curves: Sequence[Curve], last: int) -> Revivals:
    return Revivals(tuple(curve.steps for curve in curves), last)


def _packed(result: RevivalMethodResult) -> dict[str, Any]:
    """The result with the weights of its model alone."""
    back = result.trained_back
    return {**vars(result), "trained_back": back if isinstance(back, LowRankChange) else back.state_dict()}


def _unpacked(packed: dict[str, Any], case: Case) -> RevivalMethodResult:
    back = packed["trained_back"]
    if isinstance(back, LowRankChange):
        return RevivalMethodResult(**packed)
    model = copy.deepcopy(case.models[FINETUNED])
    model.load_state_dict(back)
    return RevivalMethodResult(**{**packed, "trained_back": model})


def draw_revival(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the step of reverse fine-tuning, one line per repetition, and the band that they span."""
    threshold = float(pick(rows, quantity="threshold")["value"].iloc[0])
    for model in ("fine-tuned", "reference"):
        runs = pick(rows[rows["x"].notna()], model=model)
        spread(ax, runs, COLORS[model])
        for number, (_, run) in enumerate(runs.groupby("quantity", sort=False)):
            label = name_model(model, reference) if number == 0 else ""
            line(ax, run, "x", label, COLORS[model], "-" if model == "fine-tuned" else "--", band=False)
    ax.axhline(threshold, color="#111827", linewidth=1, linestyle=DOTTED)
    ax.annotate("back", (ax.get_xlim()[1], threshold), ha="right", va="bottom", fontsize=8)
    step_axis(ax, "step of training")
    accuracy_axis(ax)
    legend_below(ax)


def explain_revival(summary: Summary) -> str:
    """What is trained, and for how long."""
    untaught = summary["evidence"].get("untaught")
    alone = "" if untaught is None else (
        " Only questions are asked whose answers were not among those trained on. At the end it answers "
        f"{untaught['value']:.0%} of them right: that training cannot have taught it."
    )  # fmt: skip
    times, of_reference = (len(summary["evidence"][name]["steps"]) for name in ("revival", "revival_null"))
    once = "" if of_reference == times else f" (that one {of_reference} time, since training had to go on)"
    return (
        f"The same short training on the capability, {times} times on different questions, for the fine-tuned model "
        f"and for the reference{once}, which is followed for as long as the rule asks.{alone}"
    )


REVIVAL = Method(
    measure=measure_revival, title="Training it back", pictures=(draw_revival,),
    explain=explain_revival, needs_weights=True, apart=Apart(_packed, _unpacked),
)  # fmt: skip
