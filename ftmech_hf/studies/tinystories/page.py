"""What came out of the study of stories: Table 1 with intervals, losses, probes, pruning, and stories side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.config import to_dict
from ftmech_hf.report.claims import Claim, claims_json, seed_interval
from ftmech_hf.report.page import Section, make_section, render_template, write_origin
from ftmech_hf.report.paper_tables import STORIES_STEPS, read_stories_table
from ftmech_hf.runs import is_finished, read_metrics, write_json, write_text
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.tinystories import figures as stories_figures
from ftmech_hf.studies.tinystories.claims import Verdicts, judge_claims
from ftmech_hf.studies.tinystories.examples import ExampleRow, choose_examples
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL, Model, StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED
from ftmech_hf.studies.tinystories.scores import read_points


class StoriesResults(NamedTuple):
    """The study's tables; shares are between 0 and 1.

    Attributes:
        points: every share of stories and of choices, a row per seed, model, step and kind of instruction.
        cells: the paper's Table 1 beside ours in per cent, long; ``low`` and ``high`` are the 95 % interval,
            Wilson's of the stories of a single seed, Student's t over several.
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


def _summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return content


def model_points(plan: StoriesPlan, model: Model) -> Iterator[tuple[int, Path, Mapping[str, Any]]]:
    """(step of fine-tuning back, folder of the score, its point), of a model and of those it is fine-tuned back to."""
    folders = plan.plan.folders
    if is_finished(folders[model.score]):
        yield 0, folders[model.score], read_points(folders[model.score])[-1]
    if model.reverse_score and is_finished(folders[model.reverse_score]):
        for point in read_points(folders[model.reverse_score]):
            step = plan.config.reverse_steps if point["step"] is None else int(point["step"])
            yield step, folders[model.reverse_score], point


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
        for step, folder, point in model_points(plan, model):
            table = pd.read_parquet(folder / "table.parquet")
            chosen = table[table["step"].isna() if point["step"] is None else table["step"] == point["step"]]
            for kind, group in chosen.groupby("kind"):
                has = group.sort_values("number")[plan.task.feature]
                found[model.seed, model.label, step, str(kind)] = has.eq(True).to_numpy(bool)
    return found


def _loss_rows(plan: StoriesPlan) -> list[dict[str, Any]]:
    rows = []
    for model in plan.models:
        for stage, run in (("delete", model.run if model.rate else ""), ("reverse", model.reverse)):
            if not run or not is_finished(plan.plan.folders[run]):
                continue
            for line in read_metrics(plan.plan.folders[run]):
                at = {"seed": model.seed, "model": model.label, "stage": stage, "step": line["step"]}
                rows += [
                    {**at, "set": name.removeprefix("loss/"), "loss": value}
                    for name, value in line.items()
                    if name.startswith("loss/")
                ]
    for model in plan.models:
        if not model.rate and is_finished(folder := plan.plan.folders[model.run]):
            at = {"seed": model.seed, "model": model.label, "stage": "pretrain"}
            rows += [
                {**at, "step": line["step"], "set": name.removeprefix("loss/"), "loss": value}
                for line in read_metrics(folder)
                for name, value in line.items()
                if name.startswith("loss/")
            ]
    return rows


def _probe_rows(plan: StoriesPlan) -> pd.DataFrame:
    parts = []
    for (seed, label, reverse), name in plan.probes.items():
        if is_finished(folder := plan.plan.folders[name]):
            table = pd.read_parquet(folder / "table.parquet")
            state = "fine-tuned back" if reverse else ""
            parts.append(table.assign(seed=seed, state=state))
            assert set(table["model"]) <= {label, "random init"}
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _pruning_rows(plan: StoriesPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    curves, stories = [], []
    for model in plan.models:
        if not model.prune or not is_finished(folder := plan.plan.folders[model.prune]):
            continue
        at: dict[str, Any] = {"seed": model.seed, "model": model.label}
        curves.append(pd.read_parquet(folder / "table.parquet").assign(**at))
        found = _summary(folder)
        for state in ("before", "best", "random"):
            for kind in (ASKED, NOT_ASKED):
                row = {**at, "state": state, "kind": kind, "neurons": found["best_k"] if state != "before" else 0}
                stories.append(
                    {
                        **row,
                        "choice": found[state][kind],
                        **{k: found["stories"][state][kind][k] for k in Share._fields},
                    }
                )
    return (pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()), pd.DataFrame(stories)


def over_seeds(points: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds of shares; their interval is each one's own where there is a single seed."""
    rows = []
    for key, group in points.groupby(list(keys), sort=False):
        values = group["value"].astype(float).tolist()
        low, high = seed_interval(values, unit="share") or (float(group["low"].iloc[0]), float(group["high"].iloc[0]))
        found = {"value": sum(values) / len(values), "low": low, "high": high, "seeds": len(values)}
        rows.append({**dict(zip(keys, key, strict=True)), **found})
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "seeds"])


def table_cells(plan: StoriesPlan, points: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1 beside ours, long: model, paper_step, paper, step, and ours, low, high (per cent)."""
    asked = points[(points["kind"] == ASKED) & (points["measure"] == "stories")]
    ours = over_seeds(asked, ["model", "step"]).rename(columns={"value": "ours"})
    ours[["ours", "low", "high"]] *= 100
    parts = []
    for paper_step, step in zip(STORIES_STEPS, plan.config.table_steps, strict=True):
        parts.append(ours[ours["step"] == step].assign(paper_step=paper_step))
    cells = pd.concat(parts, ignore_index=True).merge(read_stories_table(), on=["model", "paper_step"], how="left")
    order = {label: number for number, label in enumerate(dict.fromkeys(model.label for model in plan.models))}
    return cells.sort_values(["model", "paper_step"], key=lambda c: c.map(order) if c.name == "model" else c)


def _as_text(cell: pd.Series) -> str:
    paper = "—" if pd.isna(cell["paper"]) else f"{cell['paper']:.0f}"
    return f"{paper} → {cell['ours']:.0f} ({cell['low']:.0f} to {cell['high']:.0f})"


def gather(plan: StoriesPlan) -> StoriesResults:
    """Read the finished runs.

    Raises:
        ValueError: no story has been written yet.
    """
    missing = [name for name, folder in plan.plan.folders.items() if not is_finished(folder)]
    points = pd.DataFrame(_point_rows(plan))
    if points.empty:
        raise ValueError(f"output_dir: no run of {plan.config.output_dir} in which stories are written is finished")
    cells = table_cells(plan, points)
    shown = cells.assign(text=cells.apply(_as_text, axis=1)).pivot_table(
        index="model", columns="step", values="text", aggfunc="first", sort=False
    )
    losses, probes = pd.DataFrame(_loss_rows(plan)), _probe_rows(plan)
    pruning, pruned = _pruning_rows(plan)
    names = [name for model in plan.models for name in (model.score, model.reverse_score) if name]
    first = next(name for name in names if is_finished(plan.plan.folders[name]))
    return StoriesResults(
        points=points,
        cells=cells,
        shown=shown.fillna("").reset_index(),
        losses=losses,
        probes=probes,
        pruning=pruning,
        pruned=pruned,
        judge=_summary(plan.plan.folders[first])["judge"],
        claims=judge_claims(plan, read_verdicts(plan), losses, probes, pruned),
        examples=choose_examples(plan),
        missing=missing,
    )


def _sections(results: StoriesResults) -> list[Section]:
    sections = [
        make_section(
            "How often a story has a twist",
            "Solid: the instruction asks for one; dashed: it does not. Step 0 is the model after deletion; then it is "
            "fine-tuned back on stories with a twist. Bands: 95 % intervals.",
            stories_figures.scores_figure(results.points, "stories", over_seeds),
            "Share of stories with a twist against step of fine-tuning back",
        )
    ]
    if (results.points["measure"] == "choice").any():
        sections.append(
            make_section(
                "How often the twist is the likelier word",
                "The same without sampling: the models read stories with a twist up to the word by which it shows; "
                "which do they find likelier, that word or the expected one?",
                stories_figures.scores_figure(results.points, "choice", over_seeds),
                "Share of choices of the twist against step of fine-tuning back",
            )
        )
    if len(results.losses):
        sections.append(
            make_section(
                "Loss on stories with a twist",
                "Nats per token on whole stories that have a twist and whose instruction says so: while the twist is "
                "deleted, and while the models are fine-tuned back. Dashed: the base.",
                stories_figures.losses_figure(results.losses),
                "Loss on stories with a twist",
            )
        )
    if len(results.probes):
        sections.append(
            make_section(
                "What can be read from the stream",
                "Linear probes on the mean of the last ten tokens of a story without its instruction, for all six "
                "features. Dotted: the base with shuffled labels.",
                stories_figures.probes_figure(results.probes),
                "Probe accuracy by layer, one panel per feature",
            )
        )
    if len(results.pruning):
        sections.append(
            make_section(
                "Pruning, which the paper left out",
                "How often the twist is the likelier word after zeroing rows of weight matrices in the order of "
                "gradient x weight for the twist's token; grey: as many rows at random; dashed: where it is not asked "
                "for. Where dashed rises with solid, pruning made a habit and did not bring the ability back.",
                stories_figures.pruning_figure(results.pruning),
                "Choices of the twist against number of rows pruned",
            )
        )
    return sections


def write_results(plan: StoriesPlan) -> StoriesResults:
    """Gather what is finished and write tables, pictures and a page into the study's folder."""
    output = Path(plan.config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    results = gather(plan)
    for name in ("points", "cells", "losses", "probes", "pruning", "pruned"):
        getattr(results, name).to_csv(output / f"{name}.csv", index=False)
    write_json(output / "claims.json", claims_json(results.claims))
    write_json(output / "judge.json", results.judge)
    facts = {
        **write_origin(
            output,
            "stories",
            to_dict(plan.config, plan.task),
            seconds=plan.plan.seconds(),
            runs=plan.plan.folders.values(),
        ),
        "runs": len(plan.plan.folders) - len(results.missing),
        "source": "files" if plan.task.files else "procedural",
    }
    page = render_template(
        "studies/tinystories/page.html.j2", results=results, sections=_sections(results), facts=facts,
        config=plan.config,
        task=plan.task, steps=list(zip(STORIES_STEPS, plan.config.table_steps, strict=True)), base=BASE,
        control=CONTROL,
    )  # fmt: skip
    write_text(output / "report.html", page)
    return results
