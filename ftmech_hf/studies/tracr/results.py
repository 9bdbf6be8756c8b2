"""What came out of the Tracr study: Table 3, single weights, attention, reversal, and the instruments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.jobs.training_card import read_revival
from ftmech_hf.report.claims import Claim, claims_json
from ftmech_hf.report.console import print_claims, print_table
from ftmech_hf.report.page import Section, format_verdict, make_section, render_page
from ftmech_hf.report.paper_tables import TRACR_COLUMNS, agreement, compare_with_tracr_table
from ftmech_hf.report.readings import Unit, table_over_seeds
from ftmech_hf.runs import FinishedRun, write_json, write_table, write_text
from ftmech_hf.studies.tracr import figures as tracr_figures
from ftmech_hf.studies.tracr.claims import cell_id, judge_claims
from ftmech_hf.studies.tracr.plan import TracrPlan


class TracrResults(NamedTuple):
    """The study's tables, in per cent where they hold accuracies.

    Attributes:
        cells: Table 3, the paper's value beside the mean over seeds with its 95 % interval, and ``verdict``: whether
            ours is in the same third of the scale, in words, or empty where the paper's is in the middle.
        agrees: how far the pattern over cells is the paper's.
        weights: what zeroing single weights does to ``o_pt``, by program, lr and C_Tr.
        reversals: steps until the first answer is back, by program, origin and rate.
        instruments: what each instrument found of the compiled circuits.
        table: every number, one a row.
        claims: of one weight, and of the way back.
        of_cells: claims of Table 3.
        missing: names of runs that are not there.
    """

    cells: pd.DataFrame
    agrees: pd.DataFrame
    weights: pd.DataFrame
    reversals: pd.DataFrame
    instruments: pd.DataFrame
    table: pd.DataFrame
    claims: list[Claim]
    of_cells: list[Claim]
    missing: list[str]


def _finetuning_rows(plan: TracrPlan) -> list[dict[str, Any]]:
    rows = []
    for cell in plan.finetunings:
        if (made := plan.find(cell.finetune)) is None:
            continue
        labels = {"program": cell.program, "lr": cell.lr, "correlation": cell.correlation, "seed": cell.seed}
        for line in made.metrics:
            at = {"stage": "finetune", "step": line["step"]}
            rows += [
                {**labels, **at, "metric": column, "value": 100 * line[f"accuracy/{column}"], "rows": line["eval_rows"]}
                for column in TRACR_COLUMNS
            ]
        if apart := plan.find(cell.dissect):
            found = apart.summary
            numbers = {
                "before": found["before"]["o_pt"],
                "one_weight": found["one_weight"]["o_pt"],
                "best": found["best"]["o_pt"],
                "random": found["random"],
            }
            rows += [
                {**labels, "stage": "dissect", "metric": name, "value": 100 * value, "rows": found["rows"]}
                for name, value in numbers.items()
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
        if (made := plan.find(cell.run)) is None:
            continue
        lines = made.metrics
        labels = {"program": cell.program, "origin": cell.origin, "lr": cell.lr, "seed": cell.seed, "stage": "reverse"}
        rows += [
            {**labels, "step": line["step"], "metric": "o_pt_cte0", "value": 100 * line["accuracy/o_pt_cte0"]}
            for line in lines
        ]
        revival = read_revival(made, "o_pt_cte0")
        bound = "at least" if revival.steps is None else ""
        rows.append({**labels, "metric": "steps_to_revival", "value": revival.at_least, "bound": bound})
        rows.append({**labels, "metric": "revived", "value": float(revival.steps is not None), "rows": 1})
        rows.append({**labels, "metric": "revival_area", "value": revival.area})
    return rows


def floors_of(plan: TracrPlan) -> dict[str, dict[str, float]]:
    """Program -> column of Table 3 -> how often one answer is right there, in per cent, a mean over seeds.

    All fine-tuned models of a program and seed are evaluated on the same rows. Empty where no run knows its floors.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cell in plan.finetunings:
        if made := plan.find(cell.finetune):
            for column in TRACR_COLUMNS:
                if (floor := made.floor(column)) is not None:
                    found.setdefault(cell.program, {}).setdefault(column, []).append(100 * floor)
    return {
        program: {column: sum(each) / len(each) for column, each in columns.items()}
        for program, columns in found.items()
    }


def gather(plan: TracrPlan) -> TracrResults:
    """Read the finished runs.

    Raises:
        ValueError: none is.
    """
    table = pd.DataFrame([*_finetuning_rows(plan), *_reversal_rows(plan)])
    if table.empty or "correlation" not in table:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    keys = ["program", "lr", "correlation"]
    last = table[(table["stage"] == "finetune") & (table["step"] == plan.config.steps)].rename(
        columns={"metric": "column"}
    )
    ours = table_over_seeds(last, [*keys, "column"], "%").rename(columns={"mean": "ours"})
    claims, of_cells = judge_claims(plan)
    cells, verdicts = compare_with_tracr_table(ours), {claim.id: format_verdict(claim) for claim in of_cells}
    cells["verdict"] = [verdicts[cell_id(*key)] for key in cells[[*keys, "column"]].itertuples(index=False)]
    agrees = agreement(cells, tables=("program", "column"))
    apart = table[table["stage"] == "dissect"]
    weights = table_over_seeds(apart, [*keys, "metric"], _unit) if len(apart) else apart
    steps = table[(table["stage"] == "reverse") & table["metric"].isin(["steps_to_revival", "revived"])]
    reversals = table_over_seeds(steps, ["program", "origin", "lr", "metric"], _unit) if len(steps) else steps
    tried = [
        {"program": program, **row}
        for program, name in plan.known.items()
        if (made := plan.find(name))
        for row in made.summary["recovery"]
    ]
    return TracrResults(cells, agrees, weights, reversals, pd.DataFrame(tried), table, claims, of_cells, plan.missing)


def _unit(row: Mapping[Any, Any]) -> Unit:
    units: dict[str, Unit] = {"weights": "neurons", "steps_to_revival": "steps", "revived": "share"}
    return units.get(row["metric"], "%")


def _sections(plan: TracrPlan, results: TracrResults) -> list[Section]:
    sections = list[Section]()
    if len(results.cells):
        sections.append(
            make_section(
                "What fine-tuning did to both answers",
                "Accuracy after fine-tuning on the answer that the program was compiled for (o_pt) and on the one it "
                "is tuned to give (o_ft), on texts without (cte0) and with (cte1) the planted correlation. Dashed: the "
                "paper's.",
                tracr_figures.table_figure(results.cells),
                "Accuracy by learning rate and correlation, beside the paper's",
            )
        )
    if len(results.weights):
        sections.append(
            make_section(
                "Does one weight hide the first answer?",
                "Accuracy on the first answer before anything is zeroed, without the one weight of largest gradient x "
                "weight, without the best number up to 15 (chosen on validation rows), and without as many at random.",
                tracr_figures.weights_figure(results.weights),
                "Accuracy on the first answer after zeroing single weights",
                ["*_one_weight"],
            )
        )
        apart = {
            program: [
                (f"lr {cell.lr:g}, C_Tr {cell.correlation:g}", made.summary)
                for cell in plan.finetunings
                if cell.program == program and cell.seed == plan.config.seeds[0] and (made := plan.find(cell.dissect))
            ]
            for program in plan.config.programs
        }
        for program, models in apart.items():
            if not models:  # as where all that would show it failed
                continue
            sections.append(
                make_section(
                    f"{program}: where it looks",
                    "Attention in the block that selects, all positions (from the left the attended, from above the "
                    "attending), as it was compiled and after fine-tuning; first seed, one text. The row of the "
                    "position that answers is framed. Black: 0.5 or more.",
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
                ["*_back_*"],
            )
        )
    return sections


def write_results(plan: TracrPlan) -> TracrResults:
    """Gather what is finished and write tables, pictures and a page into the study's folder."""
    results = gather(plan)
    facts: Mapping[str, Any] = {**plan.settings(), **plan.write_origin("tracr")}
    write_table(plan.results / "table.parquet", results.table)
    for name in ("cells", "agrees", "weights", "reversals", "instruments"):
        write_table(plan.results / f"{name}.csv", getattr(results, name))
    write_json(plan.results / "claims.json", claims_json([*results.claims, *results.of_cells]))
    page = render_page(
        __package__, results=results,
        sections=_sections(plan, results),
        facts=facts, columns=TRACR_COLUMNS, floors=floors_of(plan),
    )  # fmt: skip
    write_text(plan.results / "report.html", page)
    return results


def agreement_numbers(results: FinishedRun) -> dict[str, str]:
    """How far the pattern is the paper's, in a folder of results: program and column -> rank correlation."""
    rows = pd.read_csv(results.path / "agrees.csv").to_dict("records")
    return {
        f"{row['program']}, {row['column']}: rank correlation with the paper's Table 3": (
            f"{row['rank_correlation']:.2f} over {row['cells']} cells"
        )
        for row in rows
    }


def print_results(results: TracrResults) -> None:
    """What is claimed, how far the pattern is the paper's, and what the instruments found."""
    print_claims([*results.claims, *results.of_cells])
    print_table("Rank correlation with the paper's Table 3", results.agrees.round(2))
    print_table("The instruments on the compiled circuits", results.instruments.round(2))
