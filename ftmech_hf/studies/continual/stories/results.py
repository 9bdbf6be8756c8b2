"""What came out of the second sequence: claims, the matrix, numbers of chains, pictures, the page."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.report.readings import Missing
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.studies.continual.figures import draw_matrices, draw_probes
from ftmech_hf.studies.continual.methods import CHOSEN_SHARE, choose_strength
from ftmech_hf.studies.continual.stories.claims import ANY, MEASUREMENTS, SEQUENCE, StoryMatrix, measure
from ftmech_hf.studies.continual.stories.features import ASKED
from ftmech_hf.studies.continual.stories.figures import draw_deletions
from ftmech_hf.studies.continual.stories.plan import (
    CHAINS,
    CONTROLS,
    DELETED,
    FIRST,
    KEPT,
    TRIED,
    TRIED_TASKS,
    StorySequencePlan,
)

SHOWN = (*KEPT, *DELETED)
"""Features in the order of tables: first what no task is about."""


def read_matrix(plan: StorySequencePlan) -> pd.DataFrame:
    """What every model of every seed writes, and what probes read: ``matrix.parquet``.

    Raises:
        ValueError: no model was asked yet.
    """
    parts = []
    for seed in plan.config.seeds:
        places = [(name, ANY, 0, run) for name, run in plan.others[seed].items()]
        for name, runs in plan.models[seed].items():
            places += [(name, SEQUENCE, number, run) for number, run in enumerate(runs, start=1)]
        for name, sequence, after, run in places:
            place: dict[str, Any] = {"seed": seed, "sequence": sequence, "method": name, "after_task": after}
            if run in plan.asked and (found := plan.find(plan.asked[run])):
                parts.append(found.table.assign(**place))
            if run in plan.probed and (found := plan.find(plan.probed[run])):
                parts.append(best_probes(found.table, run).assign(**place))
                if name == "base":
                    parts.append(best_probes(found.table, RANDOM_INIT).assign(**{**place, "method": "random"}))
    if not parts:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return pd.concat(parts, ignore_index=True)


def best_probes(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Rows of the matrix: of each feature the probe at the site that is best on the stories that choose.

    Args:
        table: of the run that probed.
        model: which of its models.
    """
    rows = table[(table["model"] == model) & (table["words"] == "seen")]
    best = rows.loc[rows.groupby("label", sort=False)["chosen"].idxmax()]
    return pd.DataFrame({
        "capability": best["label"], "by": "probe", "site": "best", "value": best["accuracy"], "low": best["low"],
        "high": best["high"], "floor": best["majority"], "rows": best["num_test"], "shuffled": best["shuffled"],
        "layer": best["site"],
    })  # fmt: skip


def read_numbers(plan: StorySequencePlan, matrix: pd.DataFrame) -> pd.DataFrame:
    """The numbers of every chain that deletes, of those that are whole: ``table.parquet``."""
    found: list[dict[str, Any]] = []
    tasks = DELETED[:TRIED_TASKS] if plan.config.develop else DELETED
    for seed in plan.config.seeds:
        of_seed = StoryMatrix(matrix[matrix["seed"] == seed], tasks)
        for name in plan.models[seed]:
            if CHAINS[name.split("@")[0]].tasks == DELETED:
                with contextlib.suppress(Missing):
                    found.append({"seed": seed, "method": name, **of_seed.result(name).summary()})
    return pd.DataFrame(found)


def matrix_rows(matrix: pd.DataFrame) -> list[list[str]]:
    """The cells of a table: a line is a model after a task, a column a feature; per cent where asked, mean over seeds.

    In brackets what the same model writes where it is not asked; the first line names the columns.
    """
    answers = matrix[matrix["by"] == "behaviour"]
    lines = [["chain", "after", *SHOWN]]
    for (name, after), each in answers.groupby(["method", "after_task"], sort=False):
        means = 100 * each.groupby(["capability", "site"])["value"].mean().unstack("site")
        tasks = CHAINS[str(name).split("@")[0]].tasks if after else ()
        what = (tasks[int(str(after)) - 1] or "nothing") if tasks else "—"
        cells = (f"{asked:.0f} ({unasked:.0f})" for asked, unasked in means.loc[list(SHOWN)].itertuples(index=False))
        lines.append([str(name), what, *cells])
    return lines


def strengths_table(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """What was tried of every strength and which is taken, of those that were tried whole.

    Args:
        numbers: of a study with ``develop``.

    Returns:
        one a strength: ``setting``, ``tried`` (value -> deleted right after, %), ``plain`` (that of fine-tuning),
        ``chosen``, and ``too_strong``: whether it learns less than that, as all that were tried do.
    """
    means = numbers.groupby("method")["learned"].mean()
    rows = []
    for setting, (name, values) in TRIED.items():
        tried = {value: float(means[each]) for value in values if (each := f"{name}@{value:g}") in means}
        if FIRST in means and len(tried) == len(values):
            chosen = choose_strength(tried, float(means[FIRST]))
            rows.append({
                "setting": setting, "tried": {value: 100 * found for value, found in tried.items()},
                "plain": 100 * float(means[FIRST]), "chosen": chosen,
                "too_strong": tried[chosen] < CHOSEN_SHARE * float(means[FIRST]),
            })  # fmt: skip
    return rows


def build_sections(plan: StorySequencePlan, matrix: pd.DataFrame) -> list[Section]:
    """The pictures with their explanations, of what is there."""
    answers = matrix[(matrix["by"] == "behaviour") & (matrix["site"] == ASKED)]
    chains = [name for name in dict.fromkeys(matrix["method"]) if name.split("@")[0] in CHAINS]
    drawn = [name for name in chains if name in CHAINS]
    sections = []
    if drawn:
        controls = ", ".join(name for name in drawn if name in CONTROLS)
        text = (
            "A panel is a feature that is deleted; a point how often a story has it when the instruction asks for it. "
            "Twist is deleted first: what rises after that comes back while others are deleted. "
            f"{f'Controls: {controls}; thin' if controls else 'Thin'} lines are seeds."
        )
        figure = draw_deletions(answers, drawn)
        title = "What is deleted, and what of it comes back"
        claims = ["gate_*", "left", "back*", "ldifs_back", "ldifs_random", "ldifs*left", "replay_back", "replay_faint",
                  "replay*left"]  # fmt: skip
        sections.append(make_section(title, text, figure, "Share of stories by task", claims))
        text = (
            "Per cent of stories that have a feature when asked for it: a line is the model after a task, a column a "
            "feature. Left of the line is what no task is about."
        )
        figure = draw_matrices(answers, drawn, SHOWN, len(KEPT))
        title = "All features after every task"
        claims = ["gate_*", "loss*", "habit", "ldifs_kept*", "replay_kept*"]
        sections.append(make_section(title, text, figure, "Shares by task and feature", claims))
    probes = matrix[(matrix["by"] == "probe") & matrix["capability"].isin(DELETED)]
    if len(probes):
        last = probes["after_task"].isin((0, len(DELETED)))
        models = [name for name in ("base", *drawn, "random") if name in set(probes.loc[last, "method"])]
        rows = pd.concat([probes[last], answers[answers["capability"].isin(DELETED)
                          & answers["after_task"].isin((0, len(DELETED)))]])  # fmt: skip
        text = (
            "The three deleted features after the last task, mean of three: how often a story has them when asked, and "
            "how well a linear probe reads from the stream whether a story that is given has them, at the layer that "
            "other stories choose. Where probes stay and behaviour goes, a model can still tell what it no longer "
            "writes; random weights show what probes read without any learning."
        )
        title = "What is written and what probes read"
        figure = draw_probes(rows, models)
        sections.append(make_section(title, text, figure, "Behaviour and probes by chain", ["probes*"]))
    return sections


def write_results(plan: StorySequencePlan) -> list[Claim]:
    """Read the finished runs and write claims, matrix, numbers, pictures and page into the folder of the results.

    Raises:
        ValueError: no model was asked yet.
    """
    matrix = read_matrix(plan)
    numbers = read_numbers(plan, matrix)
    claims = judge(MEASUREMENTS, {seed: measure(StoryMatrix(matrix[matrix["seed"] == seed]))
                                  for seed in plan.config.seeds})  # fmt: skip
    facts = plan.write_origin("continual_stories")
    write_table(plan.results / "matrix.parquet", matrix)
    write_table(plan.results / "table.parquet", numbers)
    write_json(plan.results / "claims.json", claims_json(claims))
    if plan.config.develop:
        chosen = {row["setting"]: row["chosen"] for row in strengths_table(numbers)} if len(numbers) else {}
        write_json(plan.results / "strengths.json", chosen)
    columns, *rows = matrix_rows(matrix)
    chains = {name: CHAINS[name].says for name in plan.config.chains}
    page = render_page(
        __package__, claims=claims, sections=build_sections(plan, matrix), facts=facts, columns=columns, rows=rows,
        chains=chains,
    )  # fmt: skip
    write_text(plan.results / "report.html", page)
    return claims
