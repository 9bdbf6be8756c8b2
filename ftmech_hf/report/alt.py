"""What a picture shows, in words, for those who do not see it: read off what was drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmech_hf.report.charts import FLOOR_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

MOST_CURVES = 16
"""In a picture of more, a curve is described by its ends alone."""


def describe_figure(figure: Figure) -> str:
    """Every panel of a figure: its axes, and where each curve or bar begins, ends and is highest."""
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.axison]
    brief = sum(len(_curves(ax)) for ax in panels) > MOST_CURVES
    return " ".join(_describe_panel(ax, brief=brief) for ax in panels)


def title_of(ax: Axes) -> str:
    """The title of a panel, wherever it stands; empty if it has none."""
    return next((text for where in ("left", "center") if (text := ax.get_title(loc=where))), "")


def _describe_panel(ax: Axes, *, brief: bool) -> str:
    title = title_of(ax)
    axes = " against ".join(name for name in (ax.get_ylabel(), ax.get_xlabel()) if name)
    about = ", ".join(part for part in (title, axes) if part)
    found = [*_describe_curves(ax, brief=brief), *_describe_bars(ax), *_describe_points(ax), *_describe_maps(ax)]
    return f"{about}: {'; '.join(found)}." if about and found else f"{about or '; '.join(found)}."


def _curves(ax: Axes) -> list[Any]:
    # A curve without a name is one of several seeds; the legend explains floors once, and here each is named.
    named = [line for line in ax.lines if not str(line.get_label()).startswith("_") and line.get_label()]
    return named + [line for line in ax.lines if str(line.get_label()).startswith(f"_{FLOOR_LABEL}")]


def value_of(ax: Axes, value: float) -> str:
    """A value as the axis writes it."""
    from matplotlib.ticker import PercentFormatter

    if isinstance(ax.yaxis.get_major_formatter(), PercentFormatter):
        return f"{value:.0%}"
    return f"{value:.3g}"


class Places:
    """Places along an axis, in words. The axis lays its ticks out to tell, so that it is asked once, if at all."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    @functools.cached_property
    def _names(self) -> dict[float, str]:
        labels = [text.get_text() for text in self._axis.get_ticklabels()]
        words = any(any(letter.isalpha() for letter in label) and "mathdefault" not in label for label in labels)
        return dict(zip(self._axis.get_ticklocs(), labels, strict=False)) if words else {}

    def describe(self, place: float) -> str:
        """A place by its name if it has one; of bars side by side by theirs."""
        nearest = min(self._names, key=lambda tick: abs(tick - place), default=math.inf)
        return self._names[nearest] if abs(nearest - place) < 0.5 else f"{place:g}"


def _describe_curves(ax: Axes, *, brief: bool) -> Iterator[str]:
    places = Places(ax.xaxis)
    for line in _curves(ax):
        x, y = np.asarray(line.get_xdata(orig=False), float), np.asarray(line.get_ydata(orig=False), float)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        if not len(y):
            continue
        name, first, last = str(line.get_label()).removeprefix("_"), value_of(ax, y[0]), value_of(ax, y[-1])
        if brief or len(y) == 1 or (y == y[0]).all():
            yield f"{name} {first}" if first == last else f"{name} {first} to {last}"
            continue
        text = f"{name} from {first} at {places.describe(x[0])} to {last} at {places.describe(x[-1])}"
        top = int(y.argmax())
        if y[top] > max(y[0], y[-1]):
            text += f", highest {value_of(ax, y[top])} at {places.describe(x[top])}"
        yield text


def _describe_bars(ax: Axes) -> Iterator[str]:
    from matplotlib.container import BarContainer

    for bars in ax.containers:
        if isinstance(bars, BarContainer) and not str(bars.get_label()).startswith("_"):
            if bars.orientation == "horizontal":
                yield f"{bars.get_label()} " + ", ".join(
                    f"{place} {value:.3g}" for place, value, _ in lying_bars(ax, bars)
                )
            else:
                yield f"{bars.get_label()} " + ", ".join(value_of(ax, bar.get_height()) for bar in bars.patches)


def lying_bars(ax: Axes, bars: BarContainer) -> list[tuple[str, float, float]]:
    """(name of its place, length, place) of bars that lie."""
    places = [bar.get_y() + bar.get_height() / 2 for bar in bars.patches]
    upright = Places(ax.yaxis)
    return [
        (upright.describe(round(place, 6)), bar.get_width(), place)
        for bar, place in zip(bars.patches, places, strict=True)
    ]


def _describe_points(ax: Axes) -> Iterator[str]:
    from matplotlib.container import ErrorbarContainer

    for points in ax.containers:
        if isinstance(points, ErrorbarContainer) and points.lines[0] is not None and points.get_label() is not None:
            if str(points.get_label()).startswith("_"):
                continue
            values = np.asarray(points.lines[0].get_ydata(orig=False), float)
            yield f"{points.get_label()} " + ", ".join(value_of(ax, value) for value in values)


def _describe_maps(ax: Axes) -> Iterator[str]:
    for image in ax.images:
        values = np.asarray(image.get_array(), float)
        if values.ndim != 2 or not np.isfinite(values).any():
            continue
        row, column = np.unravel_index(np.nanargmax(np.abs(values)), values.shape)
        where = f"largest {values[row, column]:.2g} in row {row + 1}, column {column + 1}"
        yield f"a map of {values.shape[0]} rows and {values.shape[1]} columns, {where}"
