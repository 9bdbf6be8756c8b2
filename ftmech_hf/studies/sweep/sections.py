"""What a sweep's file says beside its stages and its grid: pictures, claims, and the paper's tables to compare with.

All of it is read, and refused where it cannot be, before anything is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ftmech_hf.config import ConfigError, check_literals, unknown_key
from ftmech_hf.report.paper_tables import CompareConfig
from ftmech_hf.studies.sweep.claims import ExpectConfig


@dataclass(frozen=True, kw_only=True)
class FigureConfig:
    """One picture; ``metric`` and ``step`` stand for axes, beside those of the grid.

    Attributes:
        title, text: what it is, and what to see in it.
        kind: ``lines``: the metrics against ``x``. ``frontier``: the second metric against the first, one point per
            point of the grid, joined along an interpolation.
        stage: whose numbers.
        metrics: which numbers.
        x: of lines: ``step`` (of a probe: the number of blocks passed) or an axis.
        color, style, rows, columns: the axes they show; lines of one metric each by default.
        only: axis -> the one label to show.
    """

    title: str
    text: str = ""
    kind: Literal["lines", "frontier"] = "lines"
    stage: str = "finetune"
    metrics: list[str] = field(default_factory=list)
    x: str = "step"
    color: str = "metric"
    style: str = ""
    rows: str = ""
    columns: str = ""
    only: dict[str, str] = field(default_factory=dict)


class Shown(NamedTuple):
    """What is made of the runs of a sweep."""

    figures: list[FigureConfig]
    claims: list[ExpectConfig]
    compare: CompareConfig | None


def read_shown(sections: Mapping[str, Any], stages: Collection[str], axes: Mapping[str, Collection[str]]) -> Shown:
    """Read these sections of a sweep's file.

    Args:
        sections: of the file.
        stages: that it has.
        axes: of its grid, with their labels.

    Raises:
        ValueError: an unknown key, a stage that is not run, an axis or a label that the grid has not.
    """
    shown = Shown(
        [_build(FigureConfig, each, f"figures: {number}") for number, each in _entries(sections, "figures")],
        [_build(ExpectConfig, each, f"claims: {number}") for number, each in _entries(sections, "claims")],
        _build(CompareConfig, sections["compare"] or {}, "compare") if "compare" in sections else None,
    )
    named = [(f"figures: {each.title}", each.stage, each.only) for each in shown.figures]
    for where, stage, only in [*named, *((f"claims: {each.id}", each.stage, each.only) for each in shown.claims)]:
        if stage not in stages:
            raise ConfigError(f"{where}: stage: {stage!r}, expected one of {', '.join(stages)}")
        for axis, label in only.items():
            if axis not in axes:
                raise ConfigError(f"{where}: only: unknown axis {axis!r}, expected one of {', '.join(axes)}")
            if label not in axes[axis]:
                raise ConfigError(f"{where}: only: {axis}: {label!r}, expected one of {', '.join(axes[axis])}")
    for figure in shown.figures:
        _check_figure(figure)
        check_axes(figure, axes)
    return shown


def check_axes(figure: FigureConfig, axes: Collection[str]) -> None:
    """Make sure that a picture is drawn along axes that there are."""
    known = [*axes, "metric", "step", ""]
    for name in ("x", "color", "style", "rows", "columns"):
        if (given := getattr(figure, name)) not in known:
            raise ConfigError(f"figures: {figure.title}: {name}: {given!r}, expected one of {known}")


def _check_figure(figure: FigureConfig) -> None:
    """Make sure, before anything is run, that a picture can be drawn of what it names."""
    where = f"figures: {figure.title}"
    try:
        check_literals(figure)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(figure.metrics, list) or not all(isinstance(each, str) for each in figure.metrics):
        raise ConfigError(f"{where}: metrics: {figure.metrics!r}, expected a list of names")
    if figure.kind == "frontier" and len(figure.metrics) != 2:
        raise ConfigError(f"{where}: metrics: {figure.metrics}, expected two of a frontier")


def check_claims(claims: Sequence[ExpectConfig], points: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]) -> None:
    """Make sure that a claim is about one run of every seed.

    Args:
        claims: of :func:`read_shown`.
        points: of the grid, of one seed: axis -> label, and stage -> its run.

    Raises:
        ConfigError: it is about several, or about none.
    """
    for each in claims:
        there = [runs for labels, runs in points if all(labels[axis] == label for axis, label in each.only.items())]
        runs = {found[each.stage] for found in there if each.stage in found}
        if len(runs) != 1:
            raise ConfigError(
                f"claims: {each.id}: only: {each.only}, but {len(runs)} points of the grid are so, expected one"
            )


def _entries(sections: Mapping[str, Any], name: str) -> list[tuple[int, Any]]:
    found = sections.get(name) or []
    if not isinstance(found, list):
        raise ConfigError(f"{name}: {found!r}, expected a list")
    return list(enumerate(found))


def _build(kind: type, values: Any, where: str) -> Any:
    names = [each.name for each in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r}, expected settings: {', '.join(names)}")
    for key in values:
        if key not in names:
            raise unknown_key(key, where, names)
    needed = [each.name for each in dataclasses.fields(kind) if _is_needed(each) and each.name not in values]
    if needed:
        raise ConfigError(f"{where}: {needed[0]}: not given")
    if isinstance(only := values.get("only"), Mapping):  # labels are text, whatever YAML makes of them
        values = {**values, "only": {str(axis): str(label) for axis, label in only.items()}}
    return kind(**values)


def _is_needed(each: dataclasses.Field[Any]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
