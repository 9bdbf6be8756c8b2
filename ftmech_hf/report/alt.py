"""What a picture shows, in words, for those who do not see it: read off what was drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmech_hf.report.charts import FLOOR_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

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


class Places:
    """Places along an axis, in words."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    @functools.cached_property
    def _names(self) -> dict[float, str]:
        """Of ticks whose labels were set by hand; asked of the axis itself, as inner panels hide theirs."""
        from matplotlib.category import StrCategoryFormatter
        from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

        formatter = self._axis.get_major_formatter()
        fixed = isinstance(formatter, FuncFormatter) and isinstance(self._axis.get_major_locator(), FixedLocator)
        if not fixed and not isinstance(formatter, FixedFormatter | StrCategoryFormatter):
            return {}
        ticks = self._axis.get_majorticklocs()
        labels = (" ".join(label.split()) for label in formatter.format_ticks(list(ticks)))
        return {float(tick): label for tick, label in zip(ticks, labels, strict=False) if label}

    def __bool__(self) -> bool:
        """Whether any has a name."""
        return bool(self._names)

    @property
    def are_words(self) -> bool:
        """Whether places have names that are more than numbers."""
        return any(letter.isalpha() for name in self._names.values() for letter in name)

    @property
    def are_inverted(self) -> bool:
        """Whether the axis runs the other way."""
        return bool(self._axis.get_inverted())

    def name(self, place: float) -> str | None:
        """The name of a place, of bars side by side theirs; None if it has none."""
        nearest = min(self._names, key=lambda tick: abs(tick - place), default=math.inf)
        return self._names[nearest] if abs(nearest - place) < 0.5 else None

    def describe(self, place: float) -> str:
        """A place by its name if it has one."""
        if (name := self.name(place)) is not None:
            return name
        return _percent(self._axis, place) or (f"{place:.3g}" if abs(place) < 100 else f"{place:g}")


class Sides:
    """Which axis of a panel places stand along, and which values; a panel lies where the upright one names places.

    Attributes:
        lies: whether places stand along the upright axis, so that values are read from left to right.
        places: by name, where they have one.
    """

    def __init__(self, ax: Axes) -> None:
        bars = any(getattr(each, "orientation", None) == "horizontal" for each in ax.containers)
        upright, level = Places(ax.yaxis), Places(ax.xaxis)
        self.lies = bars or (upright.are_words and not level.are_words)
        self.places = upright if self.lies else level
        self._axes = (ax.yaxis, ax.xaxis) if self.lies else (ax.xaxis, ax.yaxis)

    @property
    def labels(self) -> tuple[str, str]:
        """Of places, and of values."""
        places, values = (axis.get_label_text() for axis in self._axes)
        return places, values

    def say(self, value: float) -> str:
        """A value as the axis writes it."""
        return _percent(self._axes[1], value) or f"{value:.3g}"

    def turn(self, first: Any, second: Any) -> tuple[Any, Any]:
        """(across, up) -> (place, value), and back."""
        return (second, first) if self.lies else (first, second)

    def points_of(self, line: Line2D) -> list[tuple[float, float]]:
        """(place, value) of all points of a line, also of those where nothing is known."""
        places, values = self.turn(*(np.asarray(each, float) for each in line.get_data(orig=False)))
        return [(float(place), float(value)) for place, value in zip(places, values, strict=True)]

    def bars_of(self, bars: BarContainer) -> list[tuple[float, float]]:
        """(place, value) of all bars of a container: the middle of each, and where it ends."""
        if self.lies:
            return [(bar.get_y() + bar.get_height() / 2, bar.get_x() + bar.get_width()) for bar in bars.patches]
        return [(bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in bars.patches]


def _percent(axis: Axis, value: float) -> str | None:
    """A share in per cent where an axis writes it so; nothing is not less than nothing, and little is not nothing."""
    from matplotlib.ticker import PercentFormatter

    if not isinstance(axis.get_major_formatter(), PercentFormatter):
        return None
    whole = round(value, 2) + 0.0
    return f"{value:.1%}" if whole in (0, 1) and 5e-4 <= value <= 1 - 5e-4 else f"{whole:.0%}"


def finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points where something is known."""
    return [point for point in points if np.isfinite(point).all()]


def _describe_panel(ax: Axes, *, brief: bool) -> str:
    sides = Sides(ax)
    axes = " against ".join(name for name in reversed(sides.labels) if name)
    about = ", ".join(part for part in (title_of(ax), axes) if part)
    found = [*_describe_curves(ax, sides, brief=brief), *_describe_containers(ax, sides), *_describe_maps(ax)]
    return f"{about}: {'; '.join(found)}." if about and found else f"{about or '; '.join(found)}."


def _curves(ax: Axes) -> list[Any]:
    # A curve without a name is one of several seeds; the legend explains floors once, and here each is named.
    named = [line for line in ax.lines if not str(line.get_label()).startswith("_") and line.get_label()]
    return named + [line for line in ax.lines if str(line.get_label()).startswith(f"_{FLOOR_LABEL}")]


def _describe_curves(ax: Axes, sides: Sides, *, brief: bool) -> Iterator[str]:
    lines = [(str(line.get_label()).removeprefix("_"), line, finite(sides.points_of(line))) for line in _curves(ax)]
    if sides.lies:  # who reads it goes from place to place
        yield from _by_place([(name, points) for name, _, points in lines], sides)
        return
    for name, line, points in lines:
        if not points:
            continue
        scattered = line.get_linestyle() == "None"  # nothing leads from one place to the next
        if line.get_transform() == ax.get_xaxis_transform():  # it stands across all values
            yield f"{name}, {' '.join(part for part in (sides.labels[0], sides.places.describe(points[0][0])) if part)}"
        elif scattered and (sides.places or len(points) == 1):
            yield f"{name} {_list_points(points, sides)}"
        else:
            yield f"{name} {_describe_curve(points, sides, brief=brief)}"


def _describe_curve(points: Sequence[tuple[float, float]], sides: Sides, *, brief: bool) -> str:
    (begin, start), (end, stop) = points[0], points[-1]
    top = max(points, key=lambda point: point[1])
    first, last = sides.say(start), sides.say(stop)
    if brief or all(value == start for _, value in points):
        return first if first == last else f"{first} to {last}"
    text = f"from {first} at {sides.places.describe(begin)} to {last} at {sides.places.describe(end)}"
    if top[1] > max(start, stop):
        text += f", highest {sides.say(top[1])} at {sides.places.describe(top[0])}"
    return text


def _list_points(points: Sequence[tuple[float, float]], sides: Sides) -> str:
    """The value at every place, by its name if places have some; of many at one place, how far they reach."""
    if not sides.places:
        said = ", ".join(sides.say(value) for _, value in points)
        return f"{said} at {sides.places.describe(points[0][0])}" if len(points) == 1 else said
    found: dict[str, list[float]] = {}
    for place, value in points:
        found.setdefault(sides.places.describe(place), []).append(value)
    ends = {place: (sides.say(min(values)), sides.say(max(values))) for place, values in found.items()}
    return ", ".join(f"{place} {low}" if low == high else f"{place} {low} to {high}"
                     for place, (low, high) in ends.items())  # fmt: skip


def _by_place(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], sides: Sides) -> Iterator[str]:
    """Of every place, from the top, what each curve says there."""
    points = [(place, f"{name} {sides.say(value)}") for name, found in curves for place, value in found]
    at: dict[str, list[str]] = {}
    for place, said in sorted(points, key=lambda each: each[0], reverse=not sides.places.are_inverted):
        at.setdefault(sides.places.describe(place), []).append(said)
    yield from (f"{place}: {', '.join(said)}" for place, said in at.items())


def _describe_containers(ax: Axes, sides: Sides) -> Iterator[str]:
    """Bars, and points with intervals."""
    from matplotlib.container import BarContainer, ErrorbarContainer

    for container in ax.containers:
        label = container.get_label()
        if label is None or str(label).startswith("_"):
            continue
        if isinstance(container, BarContainer):
            yield f"{label} {_list_points(finite(sides.bars_of(container)), sides)}"
        elif isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            yield f"{label} {_list_points(finite(sides.points_of(container.lines[0])), sides)}"


def _describe_maps(ax: Axes) -> Iterator[str]:
    for image in ax.images:
        values = np.asarray(image.get_array(), float)
        if values.ndim == 2 and np.isfinite(values).any():
            yield f"a map of {values.shape[0]} rows and {values.shape[1]} columns, {_in_map(ax, values)}"


def _in_map(ax: Axes, values: NDArray[np.float64]) -> str:
    """The last row as it is written into the cells; of a map without numbers the largest of them."""
    rows, columns = Places(ax.yaxis), Places(ax.xaxis)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    if written:
        last = max(row for _, row in written)
        cells = sorted((column, text) for (column, row), text in written.items() if row == last)
        return f"{rows.describe(last)}: " + ", ".join(f"{columns.describe(column)} {text}" for column, text in cells)
    row, column = map(int, np.unravel_index(np.nanargmax(np.abs(values)), values.shape))
    where = (rows.name(row) or f"row {row + 1}", columns.name(column) or f"column {column + 1}")
    return f"largest {values[row, column]:.2g} in {', '.join(where)}"
