"""The page of a comparison: the answer first, then what differs, kind by kind, beside what null models show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.report.charts import FINETUNED, panel
from ftmech_hf.report.page import make_section, render_page
from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.compare.finding import MARGIN, SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "outputs": "How much do the predictions differ?",
    "places": "Where do they differ most?",
    "tokens": "Which tokens became likelier, or less likely?",
    "texts": "On which texts do they differ most?",
    "completions": "What does it write that the base would not?",
    "amplified": "What does it write when what it learned is made stronger?",
    "shift": "How is its stream shifted, whatever the text?",
    "components": "Along which directions does its stream vary, and after what?",
}


SHOWN = 12
"""Matrices, and places of the change, that are shown: those that changed most, and those that do most."""


def render_comparison(folder: Path) -> str:
    """The page as HTML, from the table and the summary in its folder."""
    run = FinishedRun(folder)
    table, summary = run.table, run.summary
    return render_page(
        __package__,
        summary=summary,
        facts=summary["facts"],
        kinds=_kinds(table),
        margin=MARGIN,
        sections=[_change(table), *_places(table)],
        matrices=table[table["kind"] == "weights"].nlargest(SHOWN, "score").to_dict("records"),
        weights=summary["weights"],
        command=run.env["command"],
        versions=describe_versions(run.env),
    )


def _kinds(table: pd.DataFrame) -> list[Mapping[str, Any]]:
    """The findings of the fine-tuned model by kind, in the order of the page."""
    found = table[table["model"] == "fine-tuned"]
    return [
        {"title": title, "score": SCORES[kind], "rows": rows.to_dict("records")}  # type: ignore[index]
        for kind, title in TITLES.items() if len(rows := found[found["kind"] == kind])
    ]  # fmt: skip


def _change(table: pd.DataFrame) -> Any:
    matrices = table[table["kind"] == "weights"]

    def draw(ax: Axes) -> None:
        most = matrices.nlargest(SHOWN, "score")[::-1]
        ax.barh(most["what"].str.removesuffix(".weight"), most["score"], color=FINETUNED, label="the change")
        ax.set_xlabel("norm of the change over that of the matrix")
        ax.legend()

    text = (
        "The matrices that changed most, each beside its own size. Null models made here change as much in each "
        "parameter, of which a block's experts are one."
    )
    return make_section("Where the change lies", text, panel(draw), "Relative norm of the change by matrix")


def _places(table: pd.DataFrame) -> list[Any]:
    """A picture of what the changes of places do alone; none where nothing changed."""
    places = table[table["kind"] == "place of the change"]
    if not len(places):
        return []

    def draw(ax: Axes) -> None:
        most = places.nlargest(SHOWN, "score")[::-1]
        ax.barh(most["what"], most["score"], color=FINETUNED, label="its change alone")
        ax.plot(most["null_score"], most["what"], "|", color="#111827", markersize=12, markeredgewidth=2,
                label="turned at random, or in null models: the highest")  # fmt: skip
        ax.set_xlabel("KL from the base, nats per token")
        ax.legend(loc="lower right")  # long names of places leave no room below for one that is centred there

    text = (
        "The base with the change of one place and of no other. Lines: the highest of edits of the same norm and "
        "singular values in the same matrices, turned at random, and of what null models changed there, which have "
        "learned nothing. A place whose change does no more than that may have changed by chance."
    )
    return [make_section("What the change of each place does alone", text, panel(draw), "KL by place")]
