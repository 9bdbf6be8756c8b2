"""What came out of a sweep: one tidy table of all cells, its means and intervals over seeds, pictures and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.report.charts import save_figure
from ftmech_hf.report.claims import Claim, claims_json
from ftmech_hf.report.page import Section, format_number, make_section, render_page
from ftmech_hf.report.paper_tables import agreement, compare_with_paper
from ftmech_hf.report.readings import Unit, table_over_seeds
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.studies.sweep.claims import ExpectConfig, judge_claims
from ftmech_hf.studies.sweep.figures import draw_figure
from ftmech_hf.studies.sweep.numbers import after_last_step, stage_rows
from ftmech_hf.studies.sweep.plan import Sweep
from ftmech_hf.studies.sweep.sections import FigureConfig

VALUES = ("stage", "step", "metric")


class SweepResults(NamedTuple):
    """What was gathered.

    Attributes:
        stage_axes: stage -> the axes of the grid that make a difference to it.
        table: axes, ``seed``, ``stage``, and what :func:`~ftmech_hf.studies.sweep.numbers.stage_rows` says, one number
            a row.
        summary: the same over seeds, see :func:`ftmech_hf.report.readings.table_over_seeds`.
        missing: names of runs that are not there.
        agreement: with the paper's tables, if that was asked for.
        claims: that its file makes.
    """

    stage_axes: dict[str, list[str]]
    table: pd.DataFrame
    summary: pd.DataFrame
    missing: list[str]
    agreement: pd.DataFrame | None
    claims: list[Claim]


def collect(sweep: Sweep) -> pd.DataFrame:
    """The tidy table of all finished runs.

    Raises:
        ValueError: there is none.
    """
    rows: list[dict[str, Any]] = []
    read = {
        name: stage_rows(stage, made)
        for name, stage in {name: stage for point in sweep.points for stage, name in point.runs.items()}.items()
        if (made := sweep.find(name))
    }
    for point in sweep.points:
        for stage, name in point.runs.items():
            if name in read:
                rows += [{**point.labels, "seed": point.seed, "stage": stage, **row} for row in read[name]]
    if not rows:
        raise ValueError(f"output_dir: no run of {sweep.output} is finished")
    return pd.DataFrame(rows)


def _unit(metric: str) -> Unit:
    if metric.startswith("loss/"):
        return "nats"
    if metric in ("steps_to_revival", "pruned/neurons"):
        return "steps" if metric == "steps_to_revival" else "neurons"
    return "points" if metric.startswith("change/") else "share"


def summarise(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every number; of a single seed, that of its rows.

    A change of a share ends at one whole: Student's interval over few seeds does not know that.

    Beside them the means of ``floor`` and ``lead``, which are nan where there is none.
    """
    keys = [*axes, *VALUES]
    summary = table_over_seeds(table, keys, lambda row: _unit(row["metric"]))
    changes = summary["metric"].str.startswith("change/")
    summary.loc[changes, ["low", "high"]] = summary.loc[changes, ["low", "high"]].clip(-1.0, 1.0)
    known = table.assign(**{name: float("nan") for name in ("floor", "lead") if name not in table})
    known = known.astype({"floor": float, "lead": float})
    beside = known.groupby(keys, sort=False, dropna=False)[["floor", "lead"]].mean().reset_index()
    assert len(beside) == len(summary)
    return summary.assign(**{name: beside[name].to_numpy() for name in ("floor", "lead")})


def shows_claim(figure: FigureConfig, claim: ExpectConfig) -> bool:
    """Whether a picture shows the number that a claim is about."""
    apart = any(figure.only.get(axis, label) != label for axis, label in claim.only.items())
    return claim.stage == figure.stage and claim.metric in figure.metrics and not apart


def _draw(
    sweep: Sweep, summary: pd.DataFrame, missing: Sequence[str], claimed: Sequence[ExpectConfig]
) -> tuple[list[Section], list[str]]:
    """(the pictures, why some cannot be drawn as long as runs are missing)."""
    sections, left_out = [], []
    for number, config in enumerate(sweep.shown.figures):
        try:
            figure = draw_figure(summary, list(sweep.axes), config)
        except ValueError as error:
            if not missing:
                raise
            left_out.append(str(error))
            continue
        save_figure(figure, sweep.results / f"figure-{number}.png")
        about = [each.id for each in claimed if shows_claim(config, each)]
        sections.append(make_section(config.title, config.text, figure, config.title, about))
    return sections, left_out


def _compare(sweep: Sweep, summary: pd.DataFrame) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    if sweep.shown.compare is None:
        return None, None
    cells = compare_with_paper(summary, sweep.shown.compare)
    agrees = agreement(cells)
    write_table(sweep.results / "cells.csv", cells)
    write_table(sweep.results / "agreement.csv", agrees)
    return cells, agrees


def write_results(sweep: Sweep) -> SweepResults:
    """Gather what is finished and write tables, pictures and a page into the sweep's folder."""
    output, axes = sweep.results, list(sweep.axes)
    table, missing = collect(sweep), sweep.missing
    summary = summarise(table, axes)
    facts = sweep.write_origin("sweep")
    write_table(output / "table.parquet", table)
    write_table(output / "summary.csv", summary)
    cells, agrees = _compare(sweep, summary)
    expected = sweep.shown.claims
    claims = judge_claims(expected, table, sweep.config.seeds, _unit)
    write_json(output / "claims.json", claims_json(claims))
    sections, facts["left_out"] = _draw(sweep, summary, missing, expected)
    page = render_page(
        __package__, title=sweep.title, tables=last_numbers(summary, sweep.stage_axes),
        sections=sections, cells=cells, agreement=agrees, facts=facts, notes=sweep.sections.get("notes"), claims=claims,
        floors=floors_of(summary),
    )  # fmt: skip
    write_text(output / "report.html", page)
    return SweepResults(sweep.stage_axes, table, summary, missing, agrees, claims)


def last_numbers(summary: pd.DataFrame, stage_axes: Mapping[str, Sequence[str]]) -> dict[str, pd.DataFrame]:
    """Stage -> the numbers after its last step, as text: a row per point of the grid and a column per metric.

    Args:
        summary: see :func:`summarise`.
        stage_axes: the axes that make a difference to each stage.
    """
    tables = {}
    for stage, axes in stage_axes.items():
        rows = summary[summary["stage"] == stage]
        rows = rows if stage == "interpolate" else after_last_step(rows)
        keys = [*axes, *(["step"] if stage == "interpolate" else [])] or ["stage"]
        rows = rows.drop_duplicates([*keys, "metric"])
        points = rows[keys].drop_duplicates()
        table = points
        for metric in rows["metric"].unique():
            of_metric = rows[rows["metric"] == metric]
            cells = of_metric[keys].assign(**{metric: of_metric.apply(as_text, axis=1)})
            table = table.merge(cells, on=keys, how="left")
        tables[stage] = table.rename(columns={"step": "alpha"}).fillna("")
    return tables


def floors_of(summary: pd.DataFrame) -> dict[str, str]:
    """Stage -> what always giving one answer is right in, in words: the lowest and the highest of every test set."""
    said = {}
    known = summary[summary["floor"].notna()]
    for stage, rows in known.groupby("stage", sort=False):
        last = rows if stage == "interpolate" else after_last_step(rows)
        ends = last.groupby("metric", sort=False)["floor"].agg(["min", "max"])
        said[str(stage)] = ", ".join(
            f"{name} {100 * low:.0f} %" if round(100 * low) == round(100 * high)
            else f"{name} {100 * low:.0f} to {100 * high:.0f} %"
            for name, low, high in ends.itertuples()
        )  # fmt: skip
    return said


def as_text(row: pd.Series) -> str:
    """A row of the summary as it is printed, in per cent unless it is a loss or counts something.

    The mean, its interval, and its lead over the floor where that is known.
    """
    above = row.get("lead")
    return _mean_and_interval(row) + ("" if above is None or pd.isna(above) else f", lead {100 * above:.0f}")


def _mean_and_interval(row: pd.Series) -> str:
    unit = _unit(row["metric"])
    scale, digits = {"steps": (1.0, 0), "neurons": (1.0, 0), "nats": (1.0, 4)}.get(unit, (100.0, 1))
    mean = format_number(scale * row["mean"], digits, sign=unit == "points")
    if pd.isna(row["low"]):
        return mean
    low = format_number(scale * row["low"], digits)
    if math.isinf(row["high"]):
        return f"{mean} ({low} or more)"
    return f"{mean} ({low} to {format_number(scale * row['high'], digits)})"
