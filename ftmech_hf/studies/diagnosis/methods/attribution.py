"""Which neurons carry the change? The base's values of a few, in the fine-tuned model, beside as many by chance.

They are ranked by one backward pass on validation rows and patched exactly on test rows. See
:mod:`ftmech_hf.analysis.attribution`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.activations.layout import find_layout
from ftmech_hf.analysis.attribution import PlacedUnit, attribute_patches, patch_units
from ftmech_hf.report.charts import RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, groups_at, halves_of_rows, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case, backward_rows
from ftmech_hf.studies.diagnosis.figures import KINDS, line, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITE = "mlp_act"
NUMBERS = (0, 1, 3, 10, 30, 100, 300)
"""Of neurons that get the base's values; and all that there are."""
DRAWS = 3
"""Random choices of as many neurons."""
BATCH = 32
"""Rows of a backward pass; fewer of a large model."""


@dataclass(frozen=True, kw_only=True)
class AttributionMethodResult(MethodResult):
    """What a few neurons bring back.

    Attributes:
        right: number of neurons -> kind of question -> whether each test row is right with the base's values of the
            strongest.
        by_chance: number -> the same of the capability with neurons by chance, (draws, rows).
        strongest: the neurons, the strongest first.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    right: Mapping[int, Mapping[str, NDArray[np.bool_]]]
    by_chance: Mapping[int, NDArray[np.bool_]]
    strongest: Sequence[PlacedUnit]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy against the number of neurons."""
        ranked = [
            row("attribution", "strongest neurons", *share_right(right, self.groups[kind]), model=FINETUNED,
                questions=kind, x=number)
            for number, kinds in self.right.items() for kind, right in kinds.items()
        ]  # fmt: skip
        return ranked + [
            row("attribution", "neurons at random", *mean_over_draws(right, self.groups["capability"]), model=FINETUNED,
                questions="capability", x=number, reference=True)
            for number, right in self.by_chance.items()
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The fewest neurons that bring back more than chance and than none, and what they bring back."""
        first = self.fewest()
        if first is None:
            return {"neurons": None}
        _, between = self._halves
        return {
            "neurons": {
                "number": first,
                "accuracy": self._strongest_right(first, between),
                "by_chance": self._random_right(first, between),
                "alone": self._strongest_right(0, between),
                "strongest": [unit._asdict() for unit in self.strongest[: min(first, 5)]],
                "of": len(self.strongest),
            }
        }

    def fewest(self) -> int | None:
        """The fewest neurons whose accuracy is above both controls beyond the intervals; None if no number is.

        It is chosen on half of the rows, and reported on the other.
        """
        every, _ = self._halves

        def beats_both(number: int) -> bool:
            controls = self._random_right(number, every), self._strongest_right(0, every)
            return self._strongest_right(number, every).low > max(each.high for each in controls)

        return next((number for number in self.by_chance if beats_both(number)), None)

    @property
    def _halves(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        groups = self.groups["capability"]
        return halves_of_rows(len(self.right[0]["capability"]), groups)

    def _strongest_right(self, number: int, rows: NDArray[np.intp]) -> Share:
        return share_right(self.right[number]["capability"][rows], self._groups_of(rows))

    def _random_right(self, number: int, rows: NDArray[np.intp]) -> Share:
        return mean_over_draws(self.by_chance[number][:, rows], self._groups_of(rows))

    def _groups_of(self, rows: NDArray[np.intp]) -> Groups:
        return groups_at(self.groups["capability"], rows)


def measure_attribution(case: Case) -> AttributionMethodResult:
    """Rank the neurons of the layers that are looked into, and give the fine-tuned model the base's values of some."""
    base, finetuned = case.models[BASE], case.models[FINETUNED]
    layers = [layer for layer in case.layers if layer in find_layout(finetuned).layers_of(SITE)]
    if not layers:
        return AttributionMethodResult(right={}, by_chance={}, strongest=[], groups=case.few_groups)
    chosen_on = case.capability.validation[: case.config.patch_rows]
    most = backward_rows(case.in_place, chosen_on.token_ids.shape[1])
    estimated = attribute_patches(
        base, finetuned, chosen_on.token_ids, sites=[SITE], layers=layers, answer=chosen_on.answer,
        batch_size=min(most, BATCH),
    )  # fmt: skip
    everything = sum(each.shape[1] for each in estimated.effects.values())
    strongest = estimated.top_units(everything)
    rng = np.random.default_rng([case.seed, 25])
    numbers = [*(each for each in NUMBERS if each < everything), everything]
    drawn = {
        number: [estimated.random_units(number, rng) for _ in range(DRAWS)]
        for number in numbers if 0 < number < everything
    }  # fmt: skip
    ranked = [strongest[:number] for number in numbers]
    alone = {kind: _right(case, kind, ranked) for kind in case.both if kind != "capability"}
    capability = _right(case, "capability", [*ranked, *(units for several in drawn.values() for units in several)])
    alone["capability"] = capability[: len(numbers)]
    chance = iter(capability[len(numbers) :])
    return AttributionMethodResult(
        right={number: {kind: alone[kind][at] for kind in case.both} for at, number in enumerate(numbers)},
        by_chance={number: np.array([next(chance) for _ in several]) for number, several in drawn.items()},
        strongest=strongest,
        groups=case.few_groups,
    )


def _right(case: Case, kind: str, sets: Sequence[Sequence[PlacedUnit]]) -> list[NDArray[np.bool_]]:
    """Whether any accepted answer to each test row is given with the base's values of some neurons, set by set."""
    base, finetuned = case.models[BASE], case.models[FINETUNED]
    answers = []
    for rows, _ in case.few(kind).each_accepted():
        found = patch_units(
            base, finetuned, rows.token_ids, sets, answer=rows.answer, stands=case.stands(kind, rows),
            batch_size=case.rows_at_once(rows),
        )  # fmt: skip
        answers.append([right for right, _ in found])
    return [np.logical_or.reduce(each) for each in zip(*answers, strict=True)]


def draw_attribution(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the number of neurons with the base's values."""
    for kind, label, color in KINDS:
        if len(each := pick(rows, quantity="strongest neurons", questions=kind)):
            line(ax, each, "x", label, color)
    chance = pick(rows, quantity="neurons at random")
    if len(chance):
        line(ax, chance, "x", "the capability, neurons at random", RANDOM, "--")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlabel("neurons with the base's values")
    accuracy_axis(ax)
    legend_below(ax)


def explain_attribution(summary: Summary) -> str:
    """How many neurons bring how much back."""
    found = summary["evidence"]["neurons"]
    said = (
        "Neurons are ranked on other questions by one backward pass (attribution patching); then the fine-tuned model "
        "computes with the base's values of the strongest, and of as many by chance. "
    )
    if found is None:
        return f"{said}However many they are, the strongest bring back no more than neurons by chance or none do."
    places = ", ".join(f"{each['unit']} of block {each['layer']}" for each in found["strongest"])
    accuracy, chance, alone = (found[name]["value"] for name in ("accuracy", "by_chance", "alone"))
    number = found["number"]
    return (
        f"{said}{number} of {found['of']} neuron{'s' if number > 1 else ''} bring{'' if number > 1 else 's'} accuracy "
        f"from {alone:.0%} to {accuracy:.0%}, by chance to {chance:.0%}; the first: {places}."
    )


ATTRIBUTION = Method(
    measure=measure_attribution, title="Which neurons carry the change", pictures=(draw_attribution,),
    explain=explain_attribution, asked_by="edits",
)  # fmt: skip
