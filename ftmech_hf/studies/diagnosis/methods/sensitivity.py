"""How strongly does the answer hang on the input? The norm of the gradient of the largest logit, by model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ftmech_hf.analysis.input_gradients import InputGradientsResult, compare_input_gradients
from ftmech_hf.report.charts import legend_below
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case, backward_rows, is_reference
from ftmech_hf.studies.diagnosis.figures import COLORS, kinds_axis, name_model, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class SensitivityMethodResult(MethodResult):
    """Gradient norms of all models.

    Attributes:
        found: kind of question -> norms on the same rows.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    found: Mapping[str, InputGradientsResult]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Median norm of every model, and the fine-tuned model's over the base's."""
        table: list[TableRow] = []
        for kind, result in self.found.items():
            table += [
                row("sensitivity", "gradient norm", each["median"], each["low"], each["high"], model=each["model"],
                    questions=kind, reference=is_reference(each["model"]))
                for each in result.rows()
            ]  # fmt: skip
            ratio, halves = self._ratio(kind), result.halves_ratio(BASE)
            table.append(row("sensitivity", "ratio to base", *ratio, model=FINETUNED, questions=kind))
            table.append(row("sensitivity", "ratio of halves", halves, model=BASE, questions=kind, reference=True))
        return table

    def summary(self) -> dict[str, Any]:
        """The ratio of both models, and of halves of the questions in one."""
        return {
            "sensitivity_ratio": {kind: self._ratio(kind) for kind in self.found},
            "halves_ratio": {kind: result.halves_ratio(BASE) for kind, result in self.found.items()},
        }

    def _ratio(self, kind: str) -> Share:
        return self.found[kind].ratio(FINETUNED, BASE, self.groups[kind])


def measure_sensitivity(case: Case) -> SensitivityMethodResult:
    """Compare all models on the same rows."""
    asked = {kind: case.few(kind).first_tokens().token_ids for kind in case.both}
    return SensitivityMethodResult(
        found={
            kind: compare_input_gradients(case.everyone, ids, batch_size=backward_rows(case.in_place, ids.shape[1]))
            for kind, ids in asked.items()
        },
        groups=case.few_groups,
    )


def draw_sensitivity(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Median and quartiles of the gradient norm by model and kind of question."""
    norms = pick(rows, quantity="gradient norm")
    kinds, models = list(norms["questions"].unique()), [model for model in COLORS if model in set(norms["model"])]
    for number, model in enumerate(models):
        each = pick(norms, model=model)
        places = np.arange(len(kinds)) + (number - (len(models) - 1) / 2) * 0.16
        errors = [each["value"] - each["low"], each["high"] - each["value"]]
        ax.errorbar(places, each["value"], yerr=errors, fmt="o", color=COLORS[model], capsize=3,
                    label=name_model(model, reference))  # fmt: skip
    kinds_axis(ax, kinds)
    ax.set_xlim(-0.6, len(kinds) - 0.4)
    ax.set_yscale("log")
    ax.set_ylabel("gradient norm")
    legend_below(ax)


def explain_sensitivity(summary: Summary) -> str:
    """What the norm is, and both ratios."""
    ratio = summary["evidence"]["sensitivity_ratio"]["capability"]
    halves = summary["evidence"]["halves_ratio"]["capability"]
    return (
        "Norm of the gradient of the winning logit with respect to the input, median and quartiles. On the "
        f"capability's questions the fine-tuned model's is {ratio['value']:.2f} times the base's ({ratio['low']:.2f} "
        f"to {ratio['high']:.2f}); one half of the base's questions has {halves:.2f} times that of the other half."
    )


SENSITIVITY = Method(
    measure=measure_sensitivity, title="How strongly the answer hangs on the input", pictures=(draw_sensitivity,),
    explain=explain_sensitivity,
)  # fmt: skip
