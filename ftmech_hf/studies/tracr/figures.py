"""Pictures of the Tracr study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ftmech_hf.models.conversion import load_program
from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, new_figure, step_axis, styled
from ftmech_hf.report.paper_tables import TRACR_COLUMNS
from ftmech_hf.tasks.letters import LettersConfig
from ftmech_hf.tasks.programs import ANSWER_POSITION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = dict(zip(TRACR_COLUMNS, (BASE, FINETUNED, "#9c6b30", CONTROL), strict=True))
SELECTS = {"counter": 1, "max_identifier": 2}
"""The block whose attention reads what is flagged."""


def _percent(ax: Axes) -> None:
    ax.set_ylim(-4, 104)
    ax.set_ylabel("accuracy (%)")


def _rates(ax: Axes, lrs: Sequence[float]) -> None:
    ax.set_xticks(range(len(lrs)), [f"{lr:g}" for lr in lrs])
    ax.set_xlabel("learning rate")


def _grid(rows: int, columns: int, *, width: float = 4.2, height: float = 3.3) -> tuple[Figure, Any]:
    figure = new_figure(width * columns, height * rows)
    return figure, figure.subplots(rows, columns, squeeze=False)


@styled
def table_figure(cells: pd.DataFrame) -> Figure:
    """Table 3: a panel per program and C_Tr, a line per column, the paper's behind it in grey dashes."""
    programs, correlations = cells["program"].unique(), sorted(cells["correlation"].unique())
    figure, axes = _grid(len(programs), len(correlations))
    for line, program in enumerate(programs):
        for column, correlation in enumerate(correlations):
            ax = axes[line][column]
            chosen = cells[(cells["program"] == program) & (cells["correlation"] == correlation)]
            lrs = sorted(chosen["lr"].unique())
            for name in TRACR_COLUMNS:
                values = chosen[chosen["column"] == name].set_index("lr").loc[lrs]
                place = np.arange(len(lrs))
                ax.plot(place, values["paper"], linestyle=(0, (3, 2)), color=COLORS[name], alpha=0.45, linewidth=1)
                ax.plot(place, values["ours"], marker=".", color=COLORS[name], label=name)
                if values["low"].notna().all():
                    ax.fill_between(place, values["low"], values["high"], color=COLORS[name], alpha=0.12, linewidth=0)
            _percent(ax)
            _rates(ax, lrs)
            ax.set_title(f"{program}, C_Tr {correlation:g}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, [*labels], loc="outside lower center", ncols=4)
    return figure


@styled
def weights_figure(weights: pd.DataFrame) -> Figure:
    """Accuracy on the first answer before, without one weight, without the best number, without random ones."""
    programs, correlations = weights["program"].unique(), sorted(weights["correlation"].unique())
    figure, axes = _grid(len(programs), len(correlations))
    kinds = {"before": BASE, "one_weight": FINETUNED, "best": CONTROL, "random": RANDOM}
    labels = {"before": "before", "one_weight": "without one weight", "best": "without the best number up to 15"}
    for line, program in enumerate(programs):
        for column, correlation in enumerate(correlations):
            ax = axes[line][column]
            chosen = weights[(weights["program"] == program) & (weights["correlation"] == correlation)]
            lrs = sorted(chosen["lr"].unique())
            for number, (kind, color) in enumerate(kinds.items()):
                values = chosen[chosen["metric"] == kind].set_index("lr").loc[lrs]
                place = np.arange(len(lrs)) + 0.2 * (number - 1.5)
                label = labels.get(kind, "without as many at random")
                ax.bar(place, values["mean"], width=0.18, color=color, label=label)
            _percent(ax)
            _rates(ax, lrs)
            ax.set_title(f"{program}, C_Tr {correlation:g}")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


@styled
def attention_figure(program: str, task: LettersConfig, models: Sequence[tuple[str, Mapping[str, Any]]]) -> Figure:
    """The map of the block that selects: as compiled, then of each model, from their studies' summaries.

    Args:
        program: counter or max_identifier.
        task: its data.
        models: (title, summary of :func:`ftmech_hf.studies.tracr.weight_pruning.dissect`); all on the same text.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    layer = SELECTS[program]
    tokens: list[str] = models[0][1]["tokens"]
    panels = [("compiled", _compiled_pattern(task, tokens, layer))]
    panels += [(title, np.array(summary["pattern"][layer])) for title, summary in models]
    columns = min(3, len(panels))
    figure, axes = _grid(-(-len(panels) // columns), columns, width=3.6, height=3.4)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    scale = ScalarMappable(Normalize(0, 0.5), "Greys")
    for ax, (title, pattern) in zip(axes.flat, panels, strict=False):
        ax.imshow(pattern, cmap="Greys", vmin=0, vmax=0.5)
        shown = [token if len(token) == 1 else "$" for token in tokens]
        ax.set_xticks(range(len(tokens)), shown, fontsize=6, fontfamily="DejaVu Sans Mono")
        ax.set_yticks(range(len(tokens)), shown, fontsize=6, fontfamily="DejaVu Sans Mono")
        for label, token in zip(ax.get_xticklabels(), tokens, strict=True):
            label.set_color({task.base_operand: FINETUNED, task.correlated_operand: CONTROL}.get(token, BASE))
        frame = Rectangle((-0.5, ANSWER_POSITION - 0.5), len(tokens), 1, fill=False, edgecolor=FINETUNED, linewidth=0.8)
        ax.add_patch(frame)
        ax.set_title(title, fontsize=9)
        ax.grid(visible=False)
    figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.01, extend="max")
    return figure


def _compiled_pattern(task: LettersConfig, tokens: Sequence[str], layer: int) -> Any:
    model, vocabulary = load_program(task.program())
    row = torch.tensor([[vocabulary.index(token) for token in tokens]])
    with torch.no_grad():
        return model(row, output_attentions=True).attentions[layer][0, 0].numpy()


@styled
def reversal_figure(table: pd.DataFrame) -> Figure:
    """Accuracy on the first answer against step, a panel per program and rate, a line per origin."""
    curves = table[table["metric"] == "o_pt_cte0"]
    programs, lrs = curves["program"].unique(), sorted(curves["lr"].unique(), reverse=True)
    origins = list(curves["origin"].unique())
    figure, axes = _grid(len(programs), len(lrs))
    palette = [FINETUNED, "#9c6b30", "#2b8a3e", "#862e9c", "#5f3dc4", "#0b7285", "#d6336c"]
    colors = {"control": CONTROL} | dict(zip((name for name in origins if name != "control"), palette, strict=False))
    for line, program in enumerate(programs):
        for column, lr in enumerate(lrs):
            ax = axes[line][column]
            for origin in origins:
                chosen = curves[(curves["program"] == program) & (curves["lr"] == lr) & (curves["origin"] == origin)]
                mean = chosen.groupby("step")["value"].mean()
                ax.plot(mean.index, mean.to_numpy(), color=colors.get(origin, RANDOM), label=origin)
            step_axis(ax, "step")
            _percent(ax)
            ax.set_title(f"{program}, rate {lr:g}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
