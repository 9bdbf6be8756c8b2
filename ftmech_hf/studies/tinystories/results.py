"""What came out of the study of stories: Table 1 with intervals, losses, probes, pruning, claims and examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.report.claims import Claim
from ftmech_hf.report.paper_tables import STORIES_STEPS, read_stories_table
from ftmech_hf.report.readings import table_over_seeds
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.tinystories.claims import Verdicts, judge_claims
from ftmech_hf.studies.tinystories.examples import ExampleRow, choose_examples
from ftmech_hf.studies.tinystories.plan import Model, StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED


class StoriesResults(NamedTuple):
    """The study's tables; shares are between 0 and 1.

    Attributes:
        points: every share of stories and of choices, a row per seed, model, step and kind of instruction.
        cells: the paper's Table 1 beside ours in per cent, long; ``low`` and ``high`` are the 95 % interval over seeds
            and stories, of stories alone with a single seed.
        shown: the same for a screen.
        losses: loss on the test sets along deletion and fine-tuning back.
        probes: accuracy of every probe.
        pruning: every pruning curve.
        pruned: what pruning did to whole stories.
        judge: what the judge gets right.
        claims: what is claimed, and whether it holds.
        examples: stories of several models to the same instructions.
        missing: names of runs that are not there.
    """

    points: pd.DataFrame
    cells: pd.DataFrame
    shown: pd.DataFrame
    losses: pd.DataFrame
    probes: pd.DataFrame
    pruning: pd.DataFrame
    pruned: pd.DataFrame
    judge: list[dict[str, Any]]
    claims: list[Claim]
    examples: list[ExampleRow]
    missing: list[str]


def model_points(plan: StoriesPlan, model: Model) -> Iterator[tuple[int, FinishedRun, Mapping[str, Any]]]:
    """(step of fine-tuning back, the score, its point), of a model and of those it is fine-tuned back to."""
    if score := plan.find(model.score):
        yield 0, score, score.summary["points"][-1]
    if model.reverse_score and (score := plan.find(model.reverse_score)):
        for point in score.summary["points"]:
            step = plan.config.reverse_steps if point["step"] is None else int(point["step"])
            yield step, score, point


def _point_rows(plan: StoriesPlan) -> list[dict[str, Any]]:
    rows = []
    for model in plan.models:
        for step, _, point in model_points(plan, model):
            at = {"seed": model.seed, "model": model.label, "step": step}
            for kind in (ASKED, NOT_ASKED):
                rows.append({**at, "kind": kind, "measure": "stories", **point[kind]})
                if "choice" in point:
                    rows.append({**at, "kind": kind, "measure": "choice", **point["choice"][kind]})
    return rows


def read_verdicts(plan: StoriesPlan) -> Verdicts:
    """(seed, model, step, kind) -> whether each story has the feature, bool (N,), in the order of the instructions."""
    found: Verdicts = {}
    for model in plan.models:
        for step, score, point in model_points(plan, model):
            table = score.table
            chosen = table[table["step"].isna() if point["step"] is None else table["step"] == point["step"]]
            for kind, group in chosen.groupby("kind"):
                has = group.sort_values("number")[plan.task.feature]
                found[model.seed, model.label, step, str(kind)] = has.eq(True).to_numpy(bool)
    return found


def _loss_rows(plan: StoriesPlan) -> list[dict[str, Any]]:
    tuned = [(model, *each) for model in plan.models
             for each in (("delete", model.run if model.rate else ""), ("reverse", model.reverse))]  # fmt: skip
    pretrained = [(model, "pretrain", "" if model.rate else model.run) for model in plan.models]
    return [
        {"seed": model.seed, "model": model.label, "stage": stage, "step": line["step"],
         "set": name.removeprefix("loss/"), "loss": value}
        for model, stage, run in (*tuned, *pretrained)
        if run and (made := plan.find(run))
        for line in made.metrics
        for name, value in line.items()
        if name.startswith("loss/")
    ]  # fmt: skip


def _probe_rows(plan: StoriesPlan) -> pd.DataFrame:
    parts = []
    for (seed, label, reverse), name in plan.probes.items():
        if made := plan.find(name):
            table = made.table
            state = "fine-tuned back" if reverse else ""
            parts.append(table.assign(seed=seed, state=state))
            assert set(table["model"]) <= {label, "random init"}
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _pruning_rows(plan: StoriesPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    curves, stories = [], []
    for model in plan.models:
        if not model.prune or (made := plan.find(model.prune)) is None:
            continue
        at: dict[str, Any] = {"seed": model.seed, "model": model.label}
        curves.append(made.table.assign(**at))
        found = made.summary
        for state in ("before", "best", "random"):
            for kind in (ASKED, NOT_ASKED):
                row = {**at, "state": state, "kind": kind, "neurons": found["best_k"] if state != "before" else 0}
                stories.append(
                    {
                        **row,
                        "choice": found[state][kind],
                        "rows": found["rows"],
                        **{k: found["stories"][state][kind][k] for k in Share._fields},
                    }
                )
    return (pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()), pd.DataFrame(stories)


def over_seeds(points: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds of shares of stories or choices, with their interval."""
    shares = points.rename(columns={"number": "rows"}).drop(columns=["low", "high"], errors="ignore")  # of these rows
    means = table_over_seeds(shares, keys, "share").rename(columns={"mean": "value", "n": "seeds"})
    return means[[*keys, "value", "low", "high", "seeds"]]


def table_cells(plan: StoriesPlan, points: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1 beside ours, long: model, paper_step, paper, step, and ours, low, high, unasked (per cent).

    ``unasked`` is the share of stories with the feature where the same instructions do not name it: a floor.
    """
    stories = points[points["measure"] == "stories"]
    asked, unasked = (
        over_seeds(stories[stories["kind"] == kind], ["model", "step"]) for kind in (ASKED, NOT_ASKED)
    )  # fmt: skip
    ours = asked.rename(columns={"value": "ours"}).merge(
        unasked.rename(columns={"value": "unasked"})[["model", "step", "unasked"]], on=["model", "step"]
    )
    ours[["ours", "low", "high", "unasked"]] *= 100
    parts = []
    for paper_step, step in zip(STORIES_STEPS, plan.config.table_steps, strict=True):
        parts.append(ours[ours["step"] == step].assign(paper_step=paper_step))
    cells = pd.concat(parts, ignore_index=True).merge(read_stories_table(), on=["model", "paper_step"], how="left")
    order = {label: number for number, label in enumerate(dict.fromkeys(model.label for model in plan.models))}
    return cells.sort_values(["model", "paper_step"], key=lambda c: c.map(order) if c.name == "model" else c)


def _as_text(cell: pd.Series) -> str:
    paper = "—" if pd.isna(cell["paper"]) else f"{cell['paper']:.0f}"
    return f"{paper} → {cell['ours']:.0f} ({cell['low']:.0f} to {cell['high']:.0f}), unasked {cell['unasked']:.0f}"


def gather(plan: StoriesPlan) -> StoriesResults:
    """Read the finished runs.

    Raises:
        ValueError: no story has been written yet.
    """
    points = pd.DataFrame(_point_rows(plan))
    if points.empty:
        raise ValueError(f"output_dir: no run of {plan.output} in which stories are written is finished")
    cells = table_cells(plan, points)
    shown = cells.assign(text=cells.apply(_as_text, axis=1)).pivot_table(
        index="model", columns="step", values="text", aggfunc="first", sort=False
    )
    losses, probes = pd.DataFrame(_loss_rows(plan)), _probe_rows(plan)
    pruning, pruned = _pruning_rows(plan)
    names = [name for model in plan.models for name in (model.score, model.reverse_score) if name]
    first = next(found for name in names if (found := plan.find(name)))
    return StoriesResults(
        points=points,
        cells=cells,
        shown=shown.fillna("").reset_index(),
        losses=losses,
        probes=probes,
        pruning=pruning,
        pruned=pruned,
        judge=first.summary["judge"],
        claims=judge_claims(plan, read_verdicts(plan), losses, probes, pruned, first.summary["judge"]),
        examples=choose_examples(plan),
        missing=plan.missing,
    )
