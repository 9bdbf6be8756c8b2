"""The kit that pictures are drawn with: colours, axes, lines over seeds, and where a picture goes."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pandas as pd

from ftmech_hf.config import tell
from ftmech_hf.runs import FinishedRun, RunDir, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

Runs = Mapping[int, Mapping[str, FinishedRun]]
"""seed -> name of a run -> the run, of those that are there."""

BASE, FINETUNED, CONTROL, RANDOM = "#4b5563", "#c2410c", "#1971c2", "#808896"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#6b7280",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "ftmech_hf",  # the same picture gives the same bytes
}


def with_runs(runs: Runs, *names: str) -> Runs:
    """The seeds of which all runs of these names are there."""
    return {seed: made for seed, made in runs.items() if all(name in made for name in names)}


def seed_lines(ax: Axes, curves: Sequence[pd.Series], label: str, color: str, style: str = "-") -> None:
    """One thin line per seed and their mean; every curve is indexed by x."""
    for curve in curves:
        ax.plot(curve.index, curve.to_numpy(), style, color=color, alpha=0.3, linewidth=0.8)
    mean = pd.concat(list(curves), axis=1).sort_index().mean(axis=1)  # seeds may have been evaluated at other steps
    ax.plot(mean.index, mean.to_numpy(), style, color=color, label=label, linewidth=2)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw in :data:`STYLE`. Matplotlib is imported by what draws first, and by nothing that only might."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **settings: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **settings)

    return drawn


@functools.cache
def _figure_of_words() -> type[Figure]:
    """Figures in which a dollar is a dollar: tokens, names and paths are no formulas, of which only axes write some."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    class FigureOfWords(Figure):
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):
                if isinstance(text, Text) and "$" in text.get_text() and "\\mathdefault" not in text.get_text():
                    text.set_parse_math(False)
            super().draw(renderer)

    return FigureOfWords


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for what is drawn in it."""
    return _figure_of_words()(figsize=(width, height), layout="constrained")


def percent(axis: Axis) -> None:
    """Write shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def whole_numbers(axis: Axis) -> None:
    """Mark whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def accuracy_axis(ax: Axes, name: str = "accuracy") -> None:
    """An axis from 0 to 100 %."""
    ax.set_ylim(-0.03, 1.03)
    percent(ax.yaxis)
    ax.set_ylabel(name)


def training_curve(run: FinishedRun, test_set: str) -> pd.Series:
    """Step -> accuracy on a test set, of a run that trained."""
    return pd.Series({line["step"]: line[f"accuracy/{test_set}"] for line in run.metrics})


FLOOR_STYLE: dict[str, Any] = {"linestyle": (0, (5, 4)), "linewidth": 0.9, "alpha": 0.75}
FLOOR_LABEL = "always one answer"


def floor_line(ax: Axes, floors: Sequence[float | None], of: str, color: Any = "#374151") -> None:
    """A thin dashed line at the floor of a curve: how often one answer is right (mean over seeds).

    The legend of a panel explains the dashes once; colors say which curve has which floor, and the alt text names each.

    Args:
        ax: of accuracies.
        floors: of a test set, one per seed; nothing is drawn where a run does not know its floor.
        of: what the curve is called.
        color: that of the curve.
    """
    if known := [floor for floor in floors if floor is not None]:
        _explain_floors(ax)
        ax.axhline(sum(known) / len(known), color=color, label=f"_{FLOOR_LABEL}, {of}", **FLOOR_STYLE)


def floor_curve(ax: Axes, x: Sequence[float] | pd.Series, floors: pd.Series, of: str, color: Any) -> None:
    """The same where every point of a curve has a floor of its own; nothing where none is known."""
    if floors.notna().any():
        _explain_floors(ax)
        ax.plot(x, floors, color=color, label=f"_{FLOOR_LABEL}, {of}", **FLOOR_STYLE)


def _explain_floors(ax: Axes) -> None:
    if FLOOR_LABEL not in [line.get_label() for line in ax.lines]:
        ax.plot([], [], color="#374151", label=FLOOR_LABEL, **FLOOR_STYLE)


def legend_below(ax: Axes) -> None:
    """A legend under the axes, in two columns."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, columnspacing=1.2, handlelength=2.6)


def legend_of_all(figure: Figure, ncols: int = 4) -> None:
    """One legend under a figure for all of its panels: every name once, also of what only some of them show."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=ncols, handlelength=2.6)


def step_axis(ax: Axes, name: str) -> None:
    """A logarithmic axis of training steps that begins at 0."""
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(left=0)
    ax.set_xlabel(name)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


@styled
def panel(draw: Callable[[Axes], None]) -> Figure:
    """A figure with one panel, sized for a phone as well."""
    figure = new_figure(5.6, 4.1)
    draw(figure.add_subplot())
    return figure


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Save a picture as PNG; a reader finds the old one or the new, whole."""
    with replacing(path) as working:
        figure.savefig(working, format="png", dpi=110)


def save_beside(figure: Figure, run: RunDir, suffix: str = "") -> Path | None:
    """Save a picture beside a finished run, whose folder stays as its manifest says.

    Returns:
        where it is; None where nothing can be written, which is said and is no reason not to show a run that is there.
    """
    path = run.path.with_name(f"{run.path.name}{suffix}.png")
    try:
        save_figure(figure, path)
    except OSError as error:
        tell(f"{path} cannot be written: {error.strerror or error}")
        return None
    return path


@styled
def to_data_uri(figure: Figure) -> str:
    """A figure as an ``<img src>``, so that a page needs no other file."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    # savefig would draw it twice: before, to arrange its parts, which drawing does as well
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
