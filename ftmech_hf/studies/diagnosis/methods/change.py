"""Which part of the weight change hides it? Parts kept alone and taken back, beside the same edits turned at random.

See :mod:`ftmech_hf.analysis.restoring`. Parts are chosen on validation rows and reported on test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.analysis.restoring import (
    ALL,
    BLOCKS,
    Part,
    RestoringResult,
    WeightChange,
    find_places,
    find_restoring,
    numbers_of_directions,
    replaced,
)
from ftmech_hf.models.interpolation import mix_weights
from ftmech_hf.models.precision import widened
from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.report.charts import RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, OTHER_SEED, Case
from ftmech_hf.studies.diagnosis.figures import KINDS, line, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESTORED = 0.9
"""Share of the lead of the base over the fine-tuned model that an edit must bring back."""

SCALES = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Of the whole change: 0 is the base, 1 the fine-tuned model."""

DRAWS = 5
"""Random edits beside the smallest one."""

Scores = Mapping[tuple[str, float], Mapping[str, NDArray[np.bool_]]]


@dataclass(frozen=True, kw_only=True)
class ChangeMethodResult(MethodResult):
    """What parts of the change do.

    Attributes:
        scores: (edit, how much of it) -> kind of question -> whether each row is right.
        search: for the smallest part that brings the capability back; None where there is nothing to bring back.
        restored: test rows right without that part, by kind; None if there is none.
        by_chance: the same of random edits of its norm, the capability alone.
        ends: test rows that base and fine-tuned model answer right.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    scores: Scores
    search: RestoringResult | None
    restored: Mapping[str, NDArray[np.bool_]] | None
    by_chance: Sequence[NDArray[np.bool_]]
    ends: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy under every edit."""
        table = [
            row("change", edit, *share_right(right, self.groups[kind]), model=FINETUNED, questions=kind, x=number,
                reference=edit.endswith("at random"))
            for (edit, number), by_kind in self.scores.items() for kind, right in by_kind.items()
        ]  # fmt: skip
        for each in [] if self.search is None else self.search.tried:
            place: dict[str, Any] = {"model": FINETUNED, "site": each.part.place, "x": float(each.part.directions)}
            table.append(row("change", "tried on validation rows", each.score, **place))
            table.append(row("change", "share of the change", each.size, **place))
        for kind, right in (self.restored or {}).items():
            share = share_right(right, self.groups[kind])
            table.append(row("change", "smallest part taken back", *share, model=FINETUNED, questions=kind))
        for number, right in enumerate(self.by_chance):
            share = share_right(right, self.groups["capability"])
            table.append(row("change", "smallest part taken back, at random", *share, model=FINETUNED,
                             questions="capability", x=number, reference=True))  # fmt: skip
        return table

    def share_of_lead(self, right: NDArray[np.bool_]) -> float:
        """How much of the base's lead over the fine-tuned model some answers have."""
        base, tuned = (float(each.mean()) for each in self.ends)
        return (float(right.mean()) - tuned) / (base - tuned) if base != tuned else 0.0

    def summary(self) -> dict[str, Any]:
        """The smallest part, what it brings back, and what random edits of its norm do."""
        if self.search is None or self.restored is None:
            return {"smallest_edit": None}
        by_chance = mean_over_draws(self.by_chance, self.groups["capability"])
        return {
            "smallest_edit": {
                **self.search.summary(),
                "restored": self.share_of_lead(self.restored["capability"]),
                "restored_by_chance": float(np.mean([self.share_of_lead(each) for each in self.by_chance])),
                "accuracy": {kind: share_right(right, self.groups[kind]) for kind, right in self.restored.items()},
                "accuracy_by_chance": by_chance,
            }
        }


def measure_change(case: Case) -> ChangeMethodResult:
    """Keep and take back parts of the change, look for the smallest that brings the capability back."""
    base, model = case.base_like(FINETUNED), case.models[FINETUNED]
    change = WeightChange(base, model, find_places(model))
    ends = tuple(case.few_right(case.models[name], "capability") for name in (BASE, FINETUNED))
    scores = _curves(case, base, model, change)
    search = _search(case, base, model, change)
    smallest = None if search is None else search.smallest
    restored, by_chance = None, list[NDArray[np.bool_]]()
    if smallest is not None:
        with replaced(model, change.without(smallest.part)):
            restored = {kind: case.few_right(model, kind) for kind in case.both}
        for draw in range(DRAWS):
            with replaced(model, change.without(smallest.part, seed=case.seed * DRAWS + draw)):
                by_chance.append(case.few_right(model, "capability"))
    return ChangeMethodResult(
        scores=scores,
        search=search,
        restored=restored,
        by_chance=by_chance,
        ends=(ends[0], ends[1]),
        groups=case.few_groups,
    )


def _search(case: Case, base: PreTrainedModel, model: PreTrainedModel, change: WeightChange) -> RestoringResult | None:
    """None where the base does not lead."""
    rows = case.capability.validation[: case.config.patch_rows]

    def score(each: PreTrainedModel) -> float:
        return case.capability.mean_score(each, rows)

    before, after = score(base), score(model)
    if before - after < case.rule.least_lead:
        return None
    return find_restoring(model, change, score, enough=after + RESTORED * (before - after))


def _curves(case: Case, base: PreTrainedModel, model: PreTrainedModel, change: WeightChange) -> Scores:
    """Accuracy against the directions that are kept or taken back, and against the scale of the change."""
    found: dict[tuple[str, float], dict[str, NDArray[np.bool_]]] = {}

    def asked(edit: str, number: float, edited: PreTrainedModel, kinds: Sequence[str]) -> None:
        found[edit, number] = {kind: case.few_right(edited, kind) for kind in kinds}

    both = list(case.both)
    if BLOCKS in change.places:
        for number in [*numbers_of_directions(change.rank(BLOCKS)), ALL]:
            part = Part(BLOCKS, number)
            with replaced(base, change.only(part)):
                asked("kept alone", number, base, both)
            for edit, seed, kinds in (("taken back", None, both), ("taken back, at random", case.seed, ["capability"])):
                with replaced(model, change.without(part, seed=seed)):
                    asked(edit, number, model, kinds)
    ends = stored_tensors(base), stored_tensors(model)
    for scale in SCALES:
        mixed = {
            name: mix_weights(ends[0][name].detach().to(each.device), each.detach(), scale)
            for name, each in ends[1].items()
        }
        with replaced(model, mixed):
            asked("scaled", scale, model, both)
    other = case.null_models.get(OTHER_SEED)
    # of three models with the same tokens
    if other is not None and base is case.models[BASE] and case.base_like(OTHER_SEED) is base:
        theirs = stored_tensors(other)
        moved = {}
        for name, each in theirs.items():
            before, after = (widened(end[name].detach().to(each.device)) for end in ends)
            moved[name] = (widened(each.detach()) + (after - before)).to(each.dtype)
        asked("another seed", 0, other, both)
        with replaced(other, moved):
            asked("another seed with the change", 1, other, both)
    return found


def draw_directions(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the number of directions that are taken back, and that the base has alone."""
    styles = {"taken back": "-", "kept alone": "--"}
    for edit, style in styles.items():
        for kind, label, color in KINDS:
            if len(each := _by_number(pick(rows, quantity=edit, questions=kind))):
                line(ax, each, "place", f"{label}, {edit}", color, style, band=style == "-")
    each = _by_number(pick(rows, quantity="taken back, at random"))
    if len(each):
        line(ax, each, "place", "the capability, taken back at random", RANDOM, "--", band=False)
        ax.set_xticks(each["place"], ["all" if number == ALL else f"{number:.0f}" for number in each["x"]])
    ax.set_xlabel("directions of every matrix' change")
    accuracy_axis(ax)
    legend_below(ax)


def _by_number(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by their number of directions, ``ALL`` last."""
    rows = rows.assign(key=rows["x"].where(rows["x"] != ALL, np.inf)).sort_values("key")
    return rows.assign(place=range(len(rows)))


def draw_scales(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the scale of the whole change."""
    for kind, label, color in KINDS:
        if len(each := pick(rows, quantity="scaled", questions=kind)):
            line(ax, each, "x", label, color)
    ax.set_xlabel("scale of the change: 0 is the base, 1 the fine-tuned model")
    accuracy_axis(ax)
    legend_below(ax)


def explain_change(summary: Summary) -> str:
    """The smallest part, and what is drawn."""
    found = summary["evidence"]["smallest_edit"]
    said = (
        "Parts of the weight change are taken back from the fine-tuned model, or given to the base alone. Grey: edits "
        "of the same norm and singular values, turned at random. "
    )
    if found is None:
        return f"{said}No part was looked for that brings the capability back, or none does."
    folder = summary["facts"].get("repaired")
    saved = f" The fine-tuned model without this part is saved beside this page, in {folder}/." if folder else ""
    number = found["directions"]
    what = "all that changed" if number == ALL else f"{number} direction{'s' if number > 1 else ''} of every matrix"
    return (
        f"{said}The smallest part whose absence brings back {RESTORED:.0%} of the lead, chosen on other questions: "
        f"{what} in {found['place']}, {found['size']:.1%} of the change's squared norm. On these questions it brings "
        f"back {found['restored']:.0%} of the lead, a random edit of its norm {found['restored_by_chance']:.0%}."
        f"{saved}"
    )


CHANGE = Method(
    measure=measure_change, title="The weight change as an intervention", pictures=(draw_directions, draw_scales),
    explain=explain_change, needs_weights=True, mixes_weights=True, asked_by="edits",
)  # fmt: skip
