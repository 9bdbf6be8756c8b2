"""What came out of the Tracr study: Table 3, single weights, attention, reversal, and the instruments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.analysis.revival import steps_to_revival
from ftmech_hf.config import to_dict
from ftmech_hf.report.claims import seed_interval
from ftmech_hf.report.page import Section, make_section, render_template, write_origin
from ftmech_hf.report.paper_tables import TRACR_COLUMNS, agreement, compare_with_tracr_table
from ftmech_hf.runs import is_finished, read_metrics, write_text
from ftmech_hf.studies.tracr import figures as tracr_figures
from ftmech_hf.studies.tracr.plan import TracrPlan


class TracrResults(NamedTuple):
    """The study's tables, in per cent where they hold accuracies.

    Attributes:
        cells: Table 3, the paper's value beside the mean over seeds with its 95 % Student t interval.
        agrees: how far the pattern over cells is the paper's.
        weights: what zeroing single weights does to ``o_pt``, by program, lr and C_Tr.
        reversals: steps until the first answer is back, by program, origin and rate.
        instruments: what each instrument found of the compiled circuits.
        table: every number, one a row.
        missing: names of runs that are not there.
    """

    cells: pd.DataFrame
    agrees: pd.DataFrame
    weights: pd.DataFrame
    reversals: pd.DataFrame
    instruments: pd.DataFrame
    table: pd.DataFrame
    missing: list[str]


def _summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return content


def mean_and_interval(table: pd.DataFrame, keys: Sequence[str], value: str, unit: str) -> pd.DataFrame:
    """``mean``, ``low``, ``high`` and ``n`` of a column over seeds; no interval from a single seed."""
    rows = []
    for key, group in table.groupby(list(keys), sort=False):
        values = group[value].astype(float).tolist()
        low, high = seed_interval(values, unit=unit) or (float("nan"), float("nan"))
        found = {"mean": sum(values) / len(values), "low": low, "high": high, "n": len(values)}
        rows.append({**dict(zip(keys, key, strict=True)), **found})
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n"])


def _finetuning_rows(plan: TracrPlan) -> list[dict[str, Any]]:
    rows = []
    for cell in plan.cells:
        folder = plan.plan.folders[cell.finetune]
        if not is_finished(folder):
            continue
        labels = {"program": cell.program, "lr": cell.lr, "correlation": cell.correlation, "seed": cell.seed}
        for line in read_metrics(folder):
            at = {"stage": "finetune", "step": line["step"]}
            rows += [
                {**labels, **at, "metric": column, "value": 100 * line[f"accuracy/{column}"]}
                for column in TRACR_COLUMNS
            ]
        if is_finished(apart := plan.plan.folders[cell.dissect]):
            found = _summary(apart)
            numbers = {
                "before": found["before"]["o_pt"],
                "one_weight": found["one_weight"]["o_pt"],
                "best": found["best"]["o_pt"],
                "random": found["random"],
            }
            rows += [
                {**labels, "stage": "dissect", "metric": name, "value": 100 * value} for name, value in numbers.items()
            ]
            rows.append({**labels, "stage": "dissect", "metric": "weights", "value": found["best_k"]})
            for layer, mass in enumerate(found["attention"]):
                rows += [
                    {**labels, "stage": "attention", "step": layer, "metric": name, "value": 100 * value}
                    for name, value in mass.items()
                ]
    return rows


def _reversal_rows(plan: TracrPlan) -> list[dict[str, Any]]:
    rows = []
    for cell in plan.reversals:
        folder = plan.plan.folders[cell.run]
        if not is_finished(folder):
            continue
        lines = read_metrics(folder)
        labels = {"program": cell.program, "origin": cell.origin, "lr": cell.lr, "seed": cell.seed, "stage": "reverse"}
        rows += [
            {**labels, "step": line["step"], "metric": "o_pt_cte0", "value": 100 * line["accuracy/o_pt_cte0"]}
            for line in lines
        ]
        revival = steps_to_revival(lines, "o_pt_cte0")
        rows.append({**labels, "metric": "steps_to_revival", "value": revival.at_least})
        rows.append({**labels, "metric": "revived", "value": float(revival.steps is not None)})
    return rows


def gather(plan: TracrPlan) -> TracrResults:
    """Read the finished runs.

    Raises:
        ValueError: none is.
    """
    missing = [name for name, folder in plan.plan.folders.items() if not is_finished(folder)]
    table = pd.DataFrame([*_finetuning_rows(plan), *_reversal_rows(plan)])
    if table.empty or "correlation" not in table:
        raise ValueError(f"output_dir: no run of {plan.config.output_dir} is finished")
    keys = ["program", "lr", "correlation"]
    last = table[(table["stage"] == "finetune") & (table["step"] == plan.config.steps)].rename(
        columns={"metric": "column"}
    )
    ours = mean_and_interval(last, [*keys, "column"], "value", "%").rename(columns={"mean": "ours"})
    cells = compare_with_tracr_table(ours)
    agrees = agreement(cells, tables=("program", "column"))
    apart = table[table["stage"] == "dissect"]
    weights = mean_and_interval(apart, [*keys, "metric"], "value", "%") if len(apart) else apart
    steps = table[(table["stage"] == "reverse") & table["metric"].isin(["steps_to_revival", "revived"])]
    reversals = (
        mean_and_interval(steps, ["program", "origin", "lr", "metric"], "value", "steps") if len(steps) else steps
    )
    tried = [
        {"program": program, **row}
        for program, name in plan.known.items()
        if is_finished(plan.plan.folders[name])
        for row in _summary(plan.plan.folders[name])["recovery"]
    ]
    return TracrResults(cells, agrees, weights, reversals, pd.DataFrame(tried), table, missing)


def largest_gain(weights: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Program -> the cell in which zeroing one weight brings most of the first answer back, and by how much."""
    if weights.empty:
        return {}
    wide = weights.pivot_table(index=["program", "lr", "correlation"], columns="metric", values="mean").reset_index()
    wide["gain"] = wide["one_weight"] - wide["before"]
    best = wide.loc[wide.groupby("program")["gain"].idxmax()]
    return {str(row["program"]): {str(name): value for name, value in row.items()} for _, row in best.iterrows()}


def _sections(plan: TracrPlan, results: TracrResults) -> list[Section]:
    folders = plan.plan.folders
    sections = [
        make_section(
            "What fine-tuning did to both answers",
            "Accuracy after fine-tuning on the answer that the program was compiled for (o_pt) and on the one it is "
            "tuned to give (o_ft), on texts without (cte0) and with (cte1) the planted correlation. Dashed: the "
            "paper's.",
            tracr_figures.table_figure(results.cells),
            "Accuracy by learning rate and correlation, beside the paper's",
        ),
    ]
    if len(results.weights):
        sections.append(
            make_section(
                "Does one weight hide the first answer?",
                "Accuracy on the first answer before anything is zeroed, without the one weight of largest gradient x "
                "weight, without the best number up to 15 (chosen on validation rows), and without as many at random.",
                tracr_figures.weights_figure(results.weights),
                "Accuracy on the first answer after zeroing single weights",
            )
        )
        apart = {
            program: [
                (f"lr {cell.lr:g}, C_Tr {cell.correlation:g}", _summary(folders[cell.dissect]))
                for cell in plan.cells
                if cell.program == program and cell.seed == plan.config.seeds[0] and is_finished(folders[cell.dissect])
            ]
            for program in plan.config.programs
        }
        for program, models in apart.items():
            sections.append(
                make_section(
                    f"{program}: where it looks",
                    "Attention in the block that selects, all positions (from the left the attended, from above the "
                    "attending), as it was compiled and after fine-tuning; first seed, one text. The row of the "
                    "position that answers is framed.",
                    tracr_figures.attention_figure(program, plan.config.task(program), models),
                    "Attention maps",
                )
            )
    reverse = results.table[results.table["stage"] == "reverse"]
    if len(reverse):
        sections.append(
            make_section(
                "Fine-tuning back",
                "Accuracy on the first answer while the model is fine-tuned back on it at a constant rate, beside a "
                "control that was compiled to give the second answer and never knew the first.",
                tracr_figures.reversal_figure(reverse),
                "Accuracy against step of reverse fine-tuning",
            )
        )
    return sections


def write_results(plan: TracrPlan) -> TracrResults:
    """Gather what is finished and write tables, pictures and a page into the study's folder."""
    output = Path(plan.config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    results = gather(plan)
    results.table.to_parquet(output / "table.parquet", index=False)
    for name in ("cells", "agrees", "weights", "reversals", "instruments"):
        getattr(results, name).to_csv(output / f"{name}.csv", index=False)
    facts: Mapping[str, Any] = {
        **write_origin(
            output, "tracr", to_dict(plan.config), seconds=plan.plan.seconds(), runs=plan.plan.folders.values()
        ),
        "seeds": plan.config.seeds,
        "runs": len(plan.plan.folders) - len(results.missing),
        "missing": results.missing,
        "steps": plan.config.steps,
        "batch_size": plan.config.batch_size,
        "counter_length": plan.config.counter_length,
        "noise": plan.config.noise,
        "max_grad_norm": plan.config.max_grad_norm,
    }
    page = render_template(
        "studies/tracr/page.html.j2", results=results, gains=largest_gain(results.weights),
        sections=_sections(plan, results),
        facts=facts, columns=TRACR_COLUMNS,
    )  # fmt: skip
    write_text(output / "report.html", page)
    return results
