"""What a picture shows, number by number, so that a page can be touched: values to point at, curves to switch off.

A picture stays an ``<img>`` that needs no script. Where scripts run, ``touch.js`` puts its drawing into the page and
finds its parts by the names that they are given here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ftmech_hf.report.alt import Sides, finite, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_POINTS = 1500
"""A picture of more points is not touched: nobody could hit one of them."""


class _Interval(NamedTuple):
    """The bar of an interval that was drawn: where, around what (None if it was drawn alone), from where to where."""

    place: float
    middle: float | None
    low: float
    high: float
    color: tuple[float, ...]

    def is_of(self, place: float, value: float, color: Any) -> bool:
        """Whether it was drawn for a value; ``color`` is that of its curve, None for bars, whose intervals are dark."""
        if self.place != round(place, 6) or (color is not None and self.color != _rgb(color)):
            return False
        return self.low <= value <= self.high if self.middle is None else self.middle == value


def name_parts(figure: Figure) -> None:
    """Give every curve a name in the drawing; before it is drawn."""
    for panel, ax in enumerate(figure.axes):
        for number, line in enumerate(ax.lines):
            line.set_gid(f"curve-{panel}-{number}")


def read_parts(figure: Figure) -> str:
    """The curves, bars and points of a figure that was drawn, as JSON.

    Returns:
        ``curves``: of each its ``name``, ``ids`` (its parts in the drawing), ``seeds`` (those of each thin line behind
        it) and ``points``: where from the left and from the top, as shares of the picture, and what is there in words.
    """
    found = {ax: _curves(ax) for ax in figure.axes if ax.axison}
    curves = [curve for each in found.values() for curve in each]
    if len({curve["name"] for curve in curves}) < len(curves):  # who hears a value must know in which panel it is
        for ax, each in found.items():
            for point in (point for curve in each for point in curve["points"] if title_of(ax)):
                point[2] = f"{title_of(ax)}: {point[2]}"
    if sum(len(curve["points"]) for curve in curves) > MOST_POINTS:
        curves = []
    return json.dumps({"curves": curves}, ensure_ascii=False, separators=(",", ":"))


def _curves(ax: Axes) -> list[dict[str, Any]]:
    sides = Sides(ax)
    intervals = _intervals(ax, sides)
    return [*_lines(ax, sides, intervals), *_bars(ax, sides, intervals)]


def _where(sides: Sides, place: float) -> str:
    return " ".join(part for part in (sides.labels[0], sides.places.describe(place)) if part)


def _lines(ax: Axes, sides: Sides, intervals: Sequence[_Interval]) -> Iterator[dict[str, Any]]:
    """Every named line, with the unnamed ones of its color and style before it: its seeds."""
    seeds: list[Line2D] = []
    for line in ax.lines:
        name, found = str(line.get_label()), sides.points_of(line)
        if name.startswith("_child"):
            seeds.append(line)
            continue
        mine = [each for each in seeds if _look(each) == _look(line)]
        seeds = []
        if name.startswith("_") or not found or line.get_transform() != ax.transData:
            continue
        said = [
            (place, value, f"{name}, {_where(sides, place)}: {sides.say(value)}"
             f"{_beside(sides, place, value, line.get_color(), intervals, mine)}")
            for place, value in finite(found)
        ]  # fmt: skip
        # a single point is no curve that is switched off
        ids, behind = ([line.get_gid()], [each.get_gid() for each in mine]) if len(found) > 1 else ([], [])
        yield {"name": name, "ids": ids, "seeds": behind, "points": _points(ax, sides, said)}


def _look(line: Line2D) -> tuple[str, str]:
    return str(line.get_color()), str(line.get_linestyle())


def _bars(ax: Axes, sides: Sides, intervals: Sequence[_Interval]) -> Iterator[dict[str, Any]]:
    from matplotlib.container import BarContainer, ErrorbarContainer

    for container in ax.containers:
        name = str(container.get_label())
        begins = "" if name.startswith("_") else f"{name}, "
        color = None
        if isinstance(container, BarContainer):
            ends = sides.bars_of(container)
        elif isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            color = container.lines[0].get_color()
            ends = sides.points_of(container.lines[0])
        else:
            continue
        said = [
            (place, value, f"{begins}{_where(sides, place)}: {sides.say(value)}"
             f"{_beside(sides, place, value, color, intervals)}")
            for place, value in finite(ends)
        ]  # fmt: skip
        yield {"name": name.removeprefix("_"), "ids": [], "seeds": [], "points": _points(ax, sides, said)}


def _intervals(ax: Axes, sides: Sides) -> list[_Interval]:
    """The bars of intervals of a panel that stand on its places."""
    from matplotlib.container import ErrorbarContainer

    found = []
    for container in ax.containers:
        if isinstance(container, ErrorbarContainer):
            for collection in container.lines[2]:
                segments, (color, *_) = collection.get_segments(), collection.get_colors()
                drawn = container.lines[0]
                middles = [None] * len(segments) if drawn is None else [value for _, value in sides.points_of(drawn)]
                for segment, middle in zip(segments, middles, strict=True):
                    if len(segment) < 2:  # an end that is open is not drawn
                        continue
                    (place, low), (end, high) = (sides.turn(*each) for each in np.asarray(segment, float)[[0, -1]])
                    if place == end and np.isfinite([low, high]).all():
                        found.append(_Interval(round(float(place), 6), middle, float(low), float(high), _rgb(color)))
    return found


def _rgb(color: Any) -> tuple[float, ...]:
    """A color, however faint."""
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def _beside(
    sides: Sides, place: float, value: float, color: Any, intervals: Sequence[_Interval], seeds: Sequence[Line2D] = ()
) -> str:
    """What more is known of a value: the ends of its interval, or of its seeds."""
    if ends := next((each for each in intervals if each.is_of(place, value, color)), None):
        return f" (interval {sides.say(ends.low)} to {sides.say(ends.high)})"
    found = [other for seed in seeds for at, other in finite(sides.points_of(seed)) if at == place]
    return f" (seeds {', '.join(sides.say(each) for each in found)})" if found else ""


def _points(ax: Axes, sides: Sides, said: Sequence[tuple[float, float, str]]) -> list[list[float | str]]:
    """(place, value, words) -> where in the picture each is, from the left and from the top, and its words."""
    values = np.asarray([sides.turn(place, value) for place, value, _ in said], float).reshape(-1, 2)
    places = ax.figure.transFigure.inverted().transform(ax.transData.transform(values))
    return [
        [round(float(across), 4), round(1 - float(up), 4), text]
        for (across, up), (_, _, text) in zip(places, said, strict=True)
    ]
