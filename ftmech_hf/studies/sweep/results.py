"""What came out of a sweep: one tidy table of all cells, its means and intervals over seeds, pictures and a page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ftmech_hf.analysis.forgetting import measure_forgetting
from ftmech_hf.config import ConfigError, config_hash, to_dict, unknown_key
from ftmech_hf.jobs.training_card import read_revival
from ftmech_hf.report.claims import Claim, claims_json
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.report.paper_tables import CompareConfig, agreement, compare_with_paper
from ftmech_hf.report.readings import Reading, Unit, read, table_over_seeds
from ftmech_hf.runs import FinishedRun, write_json, write_text
from ftmech_hf.studies.sweep.claims import ExpectConfig, judge_claims
from ftmech_hf.studies.sweep.figures import FigureConfig, draw_figure
from ftmech_hf.studies.sweep.plan import Sweep

VALUES = ("stage", "step", "metric")


class SweepResults(NamedTuple):
    """What was gathered.

    Attributes:
        stage_axes: stage -> the axes of the grid that make a difference to it.
        table: axes, ``seed``, ``stage``, ``step``, ``metric``, ``value``, one number a row; and ``rows``, of how many
            rows it is a share, and ``bound``, whether the truth is more or less.
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


Numbers = Iterator[tuple[float | None, str, float | Reading]]
"""(step or nothing, metric, value)"""


def _finetuning_numbers(run: FinishedRun) -> Numbers:
    yield from _training_numbers(run)
    for name, change in measure_forgetting(run.metrics).change.items():
        yield None, f"change/{name}", change


def _training_numbers(run: FinishedRun) -> Numbers:
    for line in run.metrics:
        for key, value in line.items():
            if key.startswith(("accuracy/", "loss/")):
                found = Reading(value, rows=line["eval_rows"]) if key.startswith("accuracy/") else value
                yield line["step"], key.removeprefix("accuracy/"), found


def _reverse_numbers(run: FinishedRun) -> Numbers:
    yield from _training_numbers(run)
    _, capability, _ = next(_training_numbers(run))
    if capability.startswith("loss/"):
        return  # of stories: there is no share of right answers to come back
    revival = read_revival(run, capability)
    yield None, "steps_to_revival", Reading(revival.at_least, bound="at least" if revival.steps is None else "")
    yield None, "revived", Reading(float(revival.steps is not None), rows=1)
    yield None, "revival_area", revival.area


def _pruning_numbers(run: FinishedRun) -> Numbers:
    summary = run.summary
    for name, value in summary["accuracy_by_set"].items():
        yield None, f"pruned/{name}", Reading(value, rows=summary["rows"])
    yield None, "pruned/random", Reading(summary["random_accuracy"], rows=summary["random_rows"])
    yield None, "pruned/neurons", summary["best_k"]


def _probing_numbers(run: FinishedRun) -> Numbers:
    for name, found in run.summary.items():
        for kind in ("accuracy", "majority", "shuffled"):
            yield None, f"probe/{name}/{kind}", Reading(found[kind], rows=found["num_test"])
    if {"base", "finetuned"} <= set(run.summary):
        accuracy = {name: found["accuracy"] for name, found in run.summary.items()}
        yield None, "change/probe", accuracy["finetuned"] - accuracy["base"]
    table = run.table
    table = table[table["label"] == table["label"].iloc[0]]  # of several labels the first is the pretraining operand's
    for name, rows in table.groupby("model", sort=False):
        for place, (there, number) in enumerate(zip(rows["accuracy"], rows["num_test"], strict=True)):
            yield float(place), f"read/{name}", Reading(there, rows=number)


def _interpolation_numbers(run: FinishedRun) -> Numbers:
    table = run.table.set_index("alpha")
    for name, column in table.items():
        for alpha, value in column.items():
            yield float(str(alpha)), str(name), Reading(value, rows=run.config["eval_rows"])


READERS: dict[str, Callable[[FinishedRun], Numbers]] = {
    "finetune": _finetuning_numbers,
    "reverse": _reverse_numbers,
    "prune": _pruning_numbers,
    "probe": _probing_numbers,
    "interpolate": _interpolation_numbers,
}


def stage_rows(stage: str, run: FinishedRun) -> list[dict[str, Any]]:
    """The numbers of one run: ``step``, ``metric``, ``value``, and ``rows`` and ``bound`` of its reading.

    Training runs give the accuracies of every evaluation by the names of their test sets, and losses in nats per token
    with ``loss/`` before them; fine-tuning also their
    changes from its first step to its last (negative: forgotten), and reversals the steps to revival. Pruning and
    probing give the numbers of their summaries, and probing the accuracy at every site, where ``step`` is the number of
    blocks passed; along an interpolation ``step`` is alpha.
    """
    numbers = READERS.get(stage, _training_numbers)(run)
    return [
        {"step": step, "metric": metric, "value": found.value, "rows": found.rows, "bound": found.bound}
        for step, metric, value in numbers
        for found in [read(value)]
    ]


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
    """Mean and 95 % interval over seeds of every number; of a single seed, that of its rows."""
    return table_over_seeds(table, [*axes, *VALUES], lambda rows: _unit(rows["metric"].iloc[0]))


def _build(kind: type, values: Any, where: str) -> Any:
    names = [each.name for each in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r}, expected settings: {', '.join(names)}")
    for key in values:
        if key not in names:
            raise unknown_key(key, where, names)
    return kind(**values)


def _draw(sweep: Sweep, summary: pd.DataFrame, missing: Sequence[str]) -> tuple[list[Section], list[str]]:
    """(the pictures, why some cannot be drawn as long as runs are missing)."""
    sections, left_out = [], []
    for number, values in enumerate(sweep.sections.get("figures") or []):
        config = _build(FigureConfig, values, f"figures: {number}")
        try:
            figure = draw_figure(summary, list(sweep.axes), config)
        except ValueError as error:
            if not missing:
                raise
            left_out.append(str(error))
            continue
        figure.savefig(sweep.output / f"figure-{number}.png", dpi=110)
        sections.append(make_section(config.title, config.text, figure, config.title))
    return sections, left_out


def _compare(sweep: Sweep, summary: pd.DataFrame) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    if "compare" not in sweep.sections:
        return None, None
    cells = compare_with_paper(summary, _build(CompareConfig, sweep.sections["compare"] or {}, "compare"))
    agrees = agreement(cells)
    cells.to_csv(sweep.output / "cells.csv", index=False)
    agrees.to_csv(sweep.output / "agreement.csv", index=False)
    return cells, agrees


def write_results(sweep: Sweep) -> SweepResults:
    """Gather what is finished and write tables, pictures and a page into the sweep's folder."""
    output, axes = sweep.output, list(sweep.axes)
    table, missing = collect(sweep), sweep.missing
    summary = summarise(table, axes)
    settings = {**to_dict(sweep.config), "scale": sweep.scale, **sweep.sections}
    # As text: the labels of an axis may be numbers.
    identity = config_hash({"sweep": yaml.safe_dump({**sweep.sections, "seeds": sweep.config.seeds}, sort_keys=False)})
    facts = sweep.write_origin("sweep", settings, identity)
    table.to_parquet(output / "table.parquet", index=False)
    summary.to_csv(output / "summary.csv", index=False)
    cells, agrees = _compare(sweep, summary)
    expected = [
        _build(ExpectConfig, values, f"claims: {number}")
        for number, values in enumerate(sweep.sections.get("claims") or [])
    ]
    claims = judge_claims(expected, table, sweep.config.seeds, _unit)
    write_json(output / "claims.json", claims_json(claims))
    sections, facts["left_out"] = _draw(sweep, summary, missing)
    page = render_page(
        __package__, title=sweep.title, tables=last_numbers(summary, sweep.stage_axes),
        sections=sections, cells=cells, agreement=agrees, facts=facts, notes=sweep.sections.get("notes"), claims=claims,
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
        rows = rows[rows["step"].isna() | (rows["step"] == rows["step"].max()) | (stage == "interpolate")]
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


def as_text(row: pd.Series) -> str:
    """A row of the summary as it is printed: mean and interval, in per cent unless it is a loss or counts something."""
    unit = _unit(row["metric"])
    scale, digits = {"steps": (1.0, 0), "neurons": (1.0, 0), "nats": (1.0, 4)}.get(unit, (100.0, 1))
    mean = f"{scale * row['mean']:{'+' if unit == 'points' else ''}.{digits}f}"
    if pd.isna(row["low"]):
        return mean
    if math.isinf(row["high"]):
        return f"{mean} ({scale * row['low']:.{digits}f} or more)"
    return f"{mean} ({scale * row['low']:.{digits}f} to {scale * row['high']:.{digits}f})"
