"""What is claimed of compiled programs: the cells of Table 3, one weight that hides an answer, and the way back.

A cell of the paper's Table 3 is a claim where the paper's value is in the upper or the lower third of the scale; ours
must then be in the same third. These thirds, and the paper's 60 points for one weight, are older than any run. That the
way back is shorter than the control's is a ratio above 1. What the instruments find of a circuit is counted, once, and
is no claim over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ftmech_hf.analysis.revival import revival_ratio
from ftmech_hf.jobs.training_card import read_revival
from ftmech_hf.report.claims import Claim, Measurement, judge
from ftmech_hf.report.paper_tables import read_tracr_table, third_bar
from ftmech_hf.report.readings import Reading, difference, of_ratio
from ftmech_hf.studies.tracr.plan import TracrPlan

ONE_WEIGHT = ">= 60"
"""Points that zeroing one weight brings back, in the paper's text."""

BySeed = dict[int, dict[str, Reading]]


def cell_id(program: str, lr: float, correlation: float, column: str) -> str:
    """The id of the claim about a cell of Table 3."""
    return f"{program}_{column}_lr{lr:g}_c{correlation:g}"


def _cells(plan: TracrPlan, found: BySeed) -> Iterator[Measurement]:
    for row in read_tracr_table().to_dict("records"):
        name = cell_id(row["program"], row["lr"], row["correlation"], row["column"])
        statement = f"{row['program']}, rate {row['lr']:g}, C_Tr {row['correlation']:g}: {row['column']}"
        yield Measurement(name, statement, "%", f"{row['paper']:g} (Table 3)", third_bar(row["paper"]))
    columns = set(read_tracr_table()["column"])
    for cell in plan.finetunings:
        if made := plan.find(cell.finetune):
            last = made.metrics[-1]
            for column in columns:
                rows, floor = last["eval_rows"], made.floor(column, last["eval_rows"])
                reading = Reading(
                    100 * last[f"accuracy/{column}"], rows=rows, floor=None if floor is None else 100 * floor
                )
                found[cell.seed][cell_id(cell.program, cell.lr, cell.correlation, column)] = reading


def _one_weight(plan: TracrPlan, found: BySeed) -> Iterator[Measurement]:
    """Gained by zeroing one weight at C_Tr 1, at the rate whose gain on validation rows is the largest."""
    for program in plan.config.programs:
        name, paper = f"{program}_one_weight", "over 60 (text)" if program == "counter" else "not reported"
        statement = f"{program}, C_Tr 1: zeroing one weight brings the first answer back by"
        yield Measurement(name, statement, "points", paper, ONE_WEIGHT if program == "counter" else "")
        cells = [cell for cell in plan.finetunings if cell.program == program and cell.correlation == 1]
        for seed in plan.config.seeds:
            made = [run for cell in cells if cell.seed == seed and (run := plan.find(cell.dissect))]
            if not made or len(made) < sum(cell.seed == seed for cell in cells):
                continue
            best = max(made, key=lambda run: _gain(run.summary, "validation")).summary
            after, before = (
                Reading(100 * best[state]["o_pt"], rows=best["rows"]) for state in ("one_weight", "before")
            )
            found[seed][name] = difference(after, before)


def _gain(summary: Mapping[str, Mapping[str, float]], test_set: str) -> float:
    return summary["one_weight"][test_set] - summary["before"][test_set]


def _way_back(plan: TracrPlan, found: BySeed) -> Iterator[Measurement]:
    """Steps of the control over those of every model that is fine-tuned back, at the same rate."""
    steps = {}
    for cell in plan.reversals:
        if made := plan.find(cell.run):
            steps[cell.program, cell.origin, cell.lr, cell.seed] = read_revival(made, "o_pt_cte0")
    for program, origin, lr in dict.fromkeys((cell.program, cell.origin, cell.lr) for cell in plan.reversals):
        if origin == "control":
            continue
        name = f"{program}_back_{origin}_lr{lr:g}"
        statement = f"{program}, {origin}, back at rate {lr:g}: steps of the control over its own"
        yield Measurement(name, statement, "x", bar=">= 1")
        for seed in plan.config.seeds:
            fast, slow = (steps.get((program, each, lr, seed)) for each in (origin, "control"))
            if fast and slow:
                found[seed][name] = of_ratio(revival_ratio(fast, slow))


def judge_claims(plan: TracrPlan) -> tuple[list[Claim], list[Claim]]:
    """Measure every claim whose runs are there: those about one weight and the way back, and the cells of Table 3."""
    found: BySeed = {seed: {} for seed in plan.config.seeds}
    others, cells = [*_one_weight(plan, found), *_way_back(plan, found)], [*_cells(plan, found)]
    return judge(others, found), judge(cells, found)
