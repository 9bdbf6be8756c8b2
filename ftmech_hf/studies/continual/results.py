"""What came out of the continual study: claims, the matrix of accuracies, numbers of methods, pictures, the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ftmech_hf.analysis.continual import leads
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.report.paper_tables import read_ldifs_table
from ftmech_hf.report.readings import Missing
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.studies.continual.claims import BEST, MEASUREMENTS, SeedMatrix, measure
from ftmech_hf.studies.continual.figures import draw_frontier, draw_matrices, draw_probes
from ftmech_hf.studies.continual.methods import CHOSEN_SHARE, CONTROLS, GRIDS, METHODS, choose_strength
from ftmech_hf.studies.continual.plan import ContinualPlan
from ftmech_hf.studies.continual.sequences import NEVER_TUNED, SEQUENCES, TUNED

OURS = {"naive_ft": "plain", "lp_ft": "lp-ft", "l2sp": "l2sp", "ldifs": BEST}
"""What the paper calls a method -> what it is called here."""

IN_TABLE = ("learned", "concept_loss", "forgetting", "probe_change")
"""The numbers of a method that a table shows."""

OF_TASKS = ("accuracy", "floor", "lead", "backward_transfer", "forward_transfer", "plasticity_gap")
"""What a table says of the tasks of a sequence: in the end, of a constant answer, above it, and of each other."""

ANY = "any"
"""The sequence of a model that is part of none."""


def read_matrix(plan: ContinualPlan) -> pd.DataFrame:
    """What every model of every seed can do: ``matrix.parquet``.

    Raises:
        ValueError: no model was asked yet.
    """
    parts = []
    for seed in plan.config.seeds:
        places = [
            (name, ANY, 0 if name in ("base", "never", "random") else 1, run) for name, run in plan.others[seed].items()
        ]
        for (sequence, method), runs in plan.models[seed].items():
            places += [(method, sequence, number, run) for number, run in enumerate(runs, start=1)]
        for method, sequence, after, run in places:
            if found := plan.find(plan.asked[run]):
                parts.append(found.table.assign(seed=seed, sequence=sequence, method=method, after_task=after))
    if not parts:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return pd.concat(parts, ignore_index=True)


def read_numbers(plan: ContinualPlan, matrix: pd.DataFrame) -> pd.DataFrame:
    """The numbers of every method on every sequence and seed, of those that are whole: ``table.parquet``.

    ``untouched`` is what ``learned`` would be on texts as they come: the same, where the texts of tasks do.
    """
    found: list[dict[str, Any]] = []
    for seed in plan.config.seeds:
        for sequence, method in plan.models[seed]:
            of_seed = SeedMatrix(matrix[matrix["seed"] == seed], sequence)
            with contextlib.suppress(Missing):
                numbers = of_seed.result(method).summary()
                numbers["untouched"] = of_seed.learned_untouched(method).value / 100
                last = of_seed.values(method, len(of_seed.tasks), of_seed.tasks)
                values, floor = ({str(name): float(each) for name, each in last[column].items()}
                                 for column in ("value", "floor"))  # fmt: skip
                above = leads(values, floor)
                floors = {"floor": float(last["floor"].mean()), "lead": sum(above.values()) / len(above)}
                found.append({"seed": seed, "sequence": sequence, "method": method, **numbers, **floors})
    return pd.DataFrame(found)


def numbers_table(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """What a sequence leaves of its tasks, one line a sequence and method: means over seeds, in per cent and points.

    Args:
        numbers: as :func:`read_numbers` makes them.

    Returns:
        ``sequence``, ``method`` and :data:`OF_TASKS`; None where it was not measured.
    """
    rows: list[dict[str, Any]] = []
    for (sequence, method), each in numbers.groupby(["sequence", "method"], sort=False) if len(numbers) else ():
        means = each[list(OF_TASKS)].astype(float).mean() * 100
        shown = {name: None if pd.isna(means[name]) else float(means[name]) for name in OF_TASKS}
        rows.append({"sequence": sequence, "method": method, **shown})
    return rows


def paper_table(numbers: pd.DataFrame, sequence: str) -> list[dict[str, Any]]:
    """The paper's means beside ours, in per cent and points; of the methods that both have."""
    rows = []
    paper = read_ldifs_table().set_index("method").loc[list(OURS)].rename(OURS)
    for method, (accuracy, change) in paper.iterrows():
        ours = numbers[(numbers["method"] == method) & (numbers["sequence"] == sequence)] if len(numbers) else numbers
        means = ours[["learned", "probe_change", "concept_loss"]].astype(float).mean() * 100 if len(ours) else None
        rows.append({
            "method": method, "paper_accuracy": accuracy, "paper_change": change,
            **{name: None if means is None or pd.isna(means[name]) else float(means[name])
               for name in ("learned", "probe_change", "concept_loss")},
        })  # fmt: skip
    return rows


def methods_table(numbers: pd.DataFrame, sequence: str) -> list[dict[str, Any]]:
    """What every method learns and loses: means over seeds, in per cent and points; None where it was not measured.

    Args:
        numbers: as :func:`read_numbers` makes them.
        sequence: of these tasks.
    """
    rows = []
    ours = numbers[numbers["sequence"] == sequence] if len(numbers) else numbers
    for method in ours["method"].unique() if len(ours) else ():
        means = ours.loc[ours["method"] == method, list(IN_TABLE)].astype(float).mean() * 100
        says = METHODS[method.split("@")[0]].says  # "ewc@100": one of the strengths that are tried
        rows.append({"method": method, "says": says, "seeds": int((ours["method"] == method).sum()),
                     **{name: None if pd.isna(means[name]) else float(means[name]) for name in IN_TABLE}})  # fmt: skip
    return rows


def chosen_strengths(numbers: pd.DataFrame) -> dict[str, float]:
    """Setting -> the strength that :func:`choose_strength` takes of those that were tried, to be frozen in a file."""
    means = numbers.groupby("method")["learned"].mean() if len(numbers) else pd.Series(dtype=float)
    found = {}
    for setting, (method, values) in GRIDS.items():
        tried = {value: float(means[name]) for value in values if (name := f"{method}@{value:g}") in means}
        if "plain" in means and len(tried) == len(values):
            found[setting] = choose_strength(tried, float(means["plain"]))
    return found


def strengths_table(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """What was tried of every strength and which was taken, of those that were tried whole.

    Args:
        numbers: of a study with ``develop``.

    Returns:
        one a strength: ``setting``, ``tried`` (value -> accuracy on a task right after it, %), ``plain`` (that of
        fine-tuning), ``chosen``, and ``too_strong``: whether it learns less than that, as all that were tried do.
    """
    means = 100 * numbers.groupby("method")["learned"].mean() if len(numbers) else pd.Series(dtype=float)
    rows = []
    for setting, chosen in chosen_strengths(numbers).items():
        method, values = GRIDS[setting]
        tried = {value: float(means[f"{method}@{value:g}"]) for value in values}
        enough = tried[chosen] >= CHOSEN_SHARE * float(means["plain"])
        rows.append({"setting": setting, "tried": tried, "plain": float(means["plain"]), "chosen": chosen,
                     "too_strong": not enough})  # fmt: skip
    return rows


def read_diagnoses(plan: ContinualPlan) -> list[dict[str, Any]]:
    """The verdicts of the diagnoses that are there, one a model."""
    return [
        {"seed": seed, "method": method, "after_task": number, "verdict": found.summary["verdict"]}
        for seed, methods in plan.diagnoses.items()
        for method, runs in methods.items()
        for number, run in enumerate(runs, start=1)
        if (found := plan.find(run))
    ]


def _name_controls(methods: Iterable[str]) -> str:
    named = [each for each in dict.fromkeys(methods) if each in CONTROLS]
    return f"Controls: {', '.join(named)}." if named else ""


def build_sections(plan: ContinualPlan, matrix: pd.DataFrame, numbers: pd.DataFrame) -> list[Section]:
    """The pictures with their explanations, of what is there."""
    sections = []
    answers = matrix[matrix["by"] == "behaviour"]
    for sequence in plan.config.sequences:
        rows = answers[answers["sequence"].isin((sequence, ANY))]
        methods = list(dict.fromkeys(rows.loc[rows["sequence"] == sequence, "method"]))
        if methods:
            text = (
                "Accuracy of a model's own answers, in per cent: a line is the model after a task, a column what it is "
                "asked, on texts as they come but where it ends in cte1. Left of the line is what no task is about: "
                "the darker the last line is there, the more is kept."
            )
            asked = list(dict.fromkeys([*map(str, NEVER_TUNED), *SEQUENCES[sequence].names, *map(str, TUNED)]))
            figure = draw_matrices(rows, methods, asked)
            claims = ["gate_*", "a1", "a1_null", "a9_ewc_tasks", "a9_replay_tasks"] if sequence == plan.main else []
            title = f"What is known after every task: sequence {sequence}"
            sections.append(make_section(title, text, figure, "Accuracies by task", claims))
    main = numbers[numbers["sequence"] == plan.main] if len(numbers) else numbers
    if len(main):
        text = (
            "Right is better learned, lower is better kept. Methods that lie above each other learn alike and can be "
            f"compared; one that lies further left kept more by learning less. {_name_controls(main['method'])}"
        )
        figure = draw_frontier(main)
        claims = ["a1", "a1_null", "a2", "a2_random", "a3", "a4*", "a5", "a9_ewc", "a9_replay"]
        title = "What is lost for what is learned"
        sections.append(make_section(title, text, figure, "Loss against what is learned", claims))
        methods = list(main["method"].unique())
        tasks = matrix.loc[matrix["sequence"] == plan.main, "after_task"].max()
        kept = matrix["capability"].isin([str(each) for each in NEVER_TUNED])
        last = (matrix["sequence"] == plan.main) & (matrix["after_task"] == tasks)
        first = matrix["method"].isin(("base", "random"))
        text = (
            "What no task is about, after the last one, mean of three capabilities: as the model answers, and as "
            "linear probes read it where the answer is predicted, at the layer that other rows choose and at the final "
            "norm, where the paper's probes are. Where probes are right and answers are wrong, the change of probes "
            "does not see what is lost. Random weights show what probes read without any learning."
        )
        figure = draw_probes(matrix[kept & (last | first)], ["base", *methods, "random"])
        title = "What answers say and probes read"
        sections.append(make_section(title, text, figure, "Answers and probes by method", ["a6", "a6_twin"]))
    return sections


def write_results(plan: ContinualPlan) -> list[Claim]:
    """Read the finished runs and write claims, matrix, numbers, pictures and page into the folder of the results.

    Raises:
        ValueError: no model was asked yet.
    """
    matrix = read_matrix(plan)
    numbers = read_numbers(plan, matrix)
    by_seed = {}
    for seed in plan.config.seeds:
        back = {name: found for name, run in plan.reversals[seed].items() if (found := plan.find(run))}
        by_seed[seed] = measure(SeedMatrix(matrix[matrix["seed"] == seed], plan.main), back)
    claims = judge(MEASUREMENTS, by_seed)
    facts = plan.write_origin("continual")
    write_table(plan.results / "matrix.parquet", matrix)
    write_table(plan.results / "table.parquet", numbers)
    write_json(plan.results / "claims.json", claims_json(claims))
    diagnoses = read_diagnoses(plan)
    write_json(plan.results / "diagnoses.json", diagnoses)
    if plan.config.develop:
        write_json(plan.results / "strengths.json", chosen_strengths(numbers))
    page = render_page(
        __package__, claims=claims, sections=build_sections(plan, matrix, numbers), facts=facts,
        methods=methods_table(numbers, plan.main),
        paper=paper_table(numbers, plan.main), of_tasks=numbers_table(numbers), diagnoses=diagnoses,
    )  # fmt: skip
    write_text(plan.results / "report.html", page)
    return claims
