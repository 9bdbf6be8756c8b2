"""What would each layer answer? See :mod:`ftmech_hf.analysis.logit_lens`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ftmech_hf.analysis.logit_lens import LensResult, logit_lens
from ftmech_hf.report.charts import accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.studies.diagnosis.case import Case, is_reference
from ftmech_hf.studies.diagnosis.figures import COLORS, DOTTED, layer_axis, line, name_model, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, read_of_answers, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class LensMethodResult(MethodResult):
    """How often an answer leads after each block.

    Attributes:
        found: model -> what its layers would answer.
        majority: answer -> how often naming one token gives it.
        groups: what each row is about; None where each is by itself.
    """

    found: Mapping[str, LensResult]
    majority: Mapping[str, float]
    groups: Groups

    def rows(self) -> list[TableRow]:
        """Share of questions in which an answer leads, by model and layer."""
        return [
            *(
                row("logit lens", each["answer"], each["value"], each["low"], each["high"], model=name,
                    questions="capability", layer=each["layer"], reference=is_reference(name))
                for name, result in self.found.items() for each in result.rows(self.groups)
            ),
            *(row("logit lens", "majority", value, site=name, questions="capability", reference=True)
              for name, value in self.majority.items()),
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Whether another answer than the right one is looked for."""
        return {"other_answer": "other answer" in self.majority}


def measure_lens(case: Case) -> LensMethodResult:
    """Read every model's stream with its own last norm and unembedding."""
    rows = case.few("capability").first_tokens()
    answers = {"right answer": rows.first_answers}
    if rows.other is not None:
        answers["other answer"] = rows.other
    size = case.rows_at_once(rows)
    return LensMethodResult(
        found={
            name: logit_lens(model, rows.token_ids, answers, batch_size=size) for name, model in case.everyone.items()
        },
        majority={name: float(torch.bincount(token).max() / len(token)) for name, token in answers.items()},
        groups=rows.groups,
    )


def draw_lens(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Share of rows in which an answer leads, by layer."""
    for model in ("base", "fine-tuned", "reference"):
        for answer, style in (("right answer", "-"), ("other answer", "--")):
            each = pick(rows, model=model, quantity=answer)
            if len(each) and not (model == "reference" and answer == "other answer"):
                label = f"{name_model(model, reference)}: {answer}"
                line(ax, each, "layer", label, COLORS[model], style, band=model != "reference")
    null_model_lines(ax, rows, "layer", quantity="right answer")
    majority = pick(rows, quantity="majority")
    if len(majority):
        ax.axhline(float(majority["value"].iloc[0]), color="#111827", linewidth=1, linestyle=DOTTED)
    layer_axis(ax, "stream after block")
    accuracy_axis(ax, "share of questions")
    legend_below(ax)


def explain_lens(summary: Summary) -> str:
    """What is read, and beside what."""
    other = "The other answer is that which fine-tuning may have taught instead. "
    return (
        "The stream after each block is turned into an answer at once. "
        + (other if summary["evidence"].get("other_answer") else "")
        + "Dotted: what naming one answer would give."
        + read_of_answers(summary)
    )


LOGIT_LENS = Method(
    measure=measure_lens, title="What each layer would answer", pictures=(draw_lens,), explain=explain_lens
)
