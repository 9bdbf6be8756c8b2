"""How alike are the representations? CKA of the base's stream and every other model's, on both kinds of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ftmech_hf.analysis.similarity import SimilarityResult, compare_representations
from ftmech_hf.report.charts import RANDOM, legend_below
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case, is_reference
from ftmech_hf.studies.diagnosis.figures import COLORS, DOTTED, layer_axis, line, name_model, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class SimilarityMethodResult(MethodResult):
    """CKA of the base with other models.

    Attributes:
        found: (kind of question, model) -> CKA after every chosen block.
        layers: those blocks.
    """

    found: Mapping[tuple[str, str], SimilarityResult]
    layers: Sequence[int]

    def rows(self) -> list[TableRow]:
        """CKA by layer; of the fine-tuned model also with its questions in another order."""
        table = []
        for (kind, name), result in self.found.items():
            for layer, each in zip(self.layers, result.rows(), strict=True):
                halves = sorted((each["first_half"], each["second_half"]))
                table.append(row("similarity", "CKA", each["cka"], *halves, model=name, questions=kind,
                                 site=each["site"], layer=layer, reference=is_reference(name)))  # fmt: skip
                if name == FINETUNED:
                    table.append(row("similarity", "rows shuffled", each["shuffled"], model=name, questions=kind,
                                     site=each["site"], layer=layer, reference=True))  # fmt: skip
        return table


def measure_similarity(case: Case) -> SimilarityMethodResult:
    """Compare the base's stream with every other model's."""
    return SimilarityMethodResult(
        found={
            (kind, name): compare_representations(
                case.sites(BASE, kind, "test"), case.sites(name, kind, "test"), seed=case.seed
            )
            for kind in case.both for name in case.everyone if name != BASE
        },
        layers=case.layers,
    )  # fmt: skip


def draw_similarity(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """CKA by layer, on the capability's questions and the others."""
    for kind, style in (("capability", "-"), ("other", "--")):
        for model in ("fine-tuned", "reference"):
            each = pick(rows, quantity="CKA", model=model, questions=kind)
            if len(each):
                label = name_model(model, reference) + (", other prompts" if kind == "other" else "")
                line(ax, each, "layer", label, COLORS[model], style)
    null_model_lines(ax, rows, "layer", quantity="CKA", questions="capability")
    line(ax, pick(rows, quantity="rows shuffled", questions="capability"), "layer", "rows shuffled", RANDOM, DOTTED)
    ax.set_ylim(-0.1, 1.05)
    ax.set_ylabel("CKA")
    layer_axis(ax, "stream after block")
    legend_below(ax)


def explain_similarity(summary: Summary) -> str:
    """What the numbers mean."""
    return (
        "Linear CKA of the base's stream and another model's: 1 is the same up to rotation, 0 unrelated; the band "
        "spans both halves of the questions. Dotted: the questions of one model in another order."
    )


SIMILARITY = Method(
    measure=measure_similarity, title="How alike the representations are", pictures=(draw_similarity,),
    explain=explain_similarity,
)  # fmt: skip
