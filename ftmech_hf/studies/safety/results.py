"""What came out of the study of safety fine-tuning: claims, a tidy table, pictures and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.config import to_dict
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.runs import FinishedRun, write_json, write_text
from ftmech_hf.studies.safety.claims import MEASUREMENTS, measure
from ftmech_hf.studies.safety.figures import draw_answers, draw_attacks, draw_clusters
from ftmech_hf.studies.safety.inside_figures import (
    draw_changes,
    draw_direction,
    draw_lines,
    draw_relearning,
    draw_soft_tokens,
)
from ftmech_hf.studies.safety.plan import THE_PAPERS, SafetyPlan
from ftmech_hf.tasks.safety_baseline import linear_baselines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BY_MODEL = (
    *(f"{name}_{what}" for name in THE_PAPERS for what in ("safe", "null")), "base_*", "null_rates", "*_kept",
    "*_forgot", "benign_unsafe", "shuffled_null", "never_unsafe",
)  # fmt: skip
"""Claims that rest on what models answer to prompts that are no attacks."""

ABOUT: dict[str, tuple[str, ...]] = {
    "clusters": ("tau*",), "changes": ("outside*", "action*", "lip_*"), "lines": ("extra*",),
    "direction": ("ablate*", "add*"), "relearning": ("relearn_*", "spread"),
    "soft_tokens": ("soft", "soft_never"),
}  # fmt: skip
"""Analysis -> the claims that rest on what its picture shows."""

INSIDE: dict[str, tuple[str, str, Callable[[pd.DataFrame], Figure], str]] = {
    "clusters": (
        "Where they lie in the stream",
        "The share of prompts that lie nearer to the mean of safe prompts than to that of unsafe ones, after every "
        "layer but the last, where the first token of the answer is predicted. The means are of other prompts. Attacks "
        "that succeeded and attacks that failed (co_text_2) are told apart; the base and benign tuning are the "
        "references: what they show is no effect of safety tuning.",
        draw_clusters, "Share of prompts on the safe side, by layer",
    ),
    "changes": (
        "What tuning changed",
        "Left: how much of the change's main directions lies outside those that the base's matrix writes into, above "
        "what directions by chance have (0). Middle: how strongly the change acts on what enters these matrices, as a "
        "multiple of a random change of its size. Right: how strongly the first token depends on the input, as a "
        "multiple of the base. Benign tuning is the reference.",
        draw_changes, "The change of weights, its action, and the dependence on the input",
    ),
    "lines": (
        "Between the models, and beyond",
        "The weights of the base and a share of the change of SSFT at both rates, of which the mean is drawn. Beyond 1 "
        "also in other directions of the same length: the change turned at random, that of benign tuning, and that of "
        "shuffled refusals.",
        draw_lines, "Refusals and answers between and beyond the models",
    ),
    "direction": (
        "One direction that refuses",
        "The mean of unsafe prompts less that of safe ones, taken out of the stream everywhere, or added to it after "
        "one layer. Random directions are of the same length.",
        draw_direction, "Refusals without and with the refusal direction",
    ),
    "relearning": (
        "Tuned again",
        "Unsafe prompts that are answered as instructed while a model is tuned further. The dashed model (never-ssft) "
        "never learned what is unsafe: what it learns was not hidden.",
        draw_relearning, "Unsafe prompts answered during further tuning",
    ),
    "soft_tokens": (
        "Soft tokens",
        "Vectors before the end of a prompt, each as long as an embedding is on average. They are sought for every "
        "prompt with the answer at hand; never-ssft shows what they can carry of the answer itself.",
        draw_soft_tokens, "Success of soft tokens by their number",
    ),
}  # fmt: skip
"""Analysis -> heading, explanation, picture, what the picture shows."""


def runs_table(runs: Mapping[int, Mapping[str, FinishedRun]]) -> pd.DataFrame | None:
    """The tables of some runs, with columns for seed and model; None if there is none."""
    parts = [made.table.assign(seed=seed, model=name) for seed, each in runs.items() for name, made in each.items()]
    return pd.concat(parts, ignore_index=True) if parts else None


def answers_table(plan: SafetyPlan) -> pd.DataFrame:
    """What every model of every seed answered to every mixture of prompts.

    Raises:
        ValueError: no run is finished.
    """
    table = runs_table(plan.finished(plan.answers))
    if table is None:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return table


def verdicts_table(runs: Mapping[int, Mapping[str, FinishedRun]]) -> list[dict[str, Any]]:
    """What the diagnosis said of every protocol: ``model``, ``verdicts`` (one a seed) and ``reason`` of the first."""
    models = dict.fromkeys(model for each in runs.values() for model in each)
    found = []
    for model in models:
        made = {seed: each[model].summary for seed, each in runs.items() if model in each}
        verdicts = {seed: summary["verdict"] for seed, summary in made.items()}
        found.append({"model": model, "verdicts": verdicts, "reason": next(iter(made.values()))["reason"]})
    return found


def build_sections(table: pd.DataFrame, inside: Mapping[str, pd.DataFrame | None]) -> list[Section]:
    """The pictures with their explanations; of an analysis if anything of it is finished."""
    models = list(dict.fromkeys(table["model"]))
    return [
        make_section(
            "What the models answer",
            "An answer counts if all of its twelve tokens are right as the model itself writes them. Protocols that "
            "forget (graddiff, npo, simnpo, rmu) teach no refusal: there, unsafe prompts that are not answered as "
            "instructed are answered with something else. Benign tuning and shuffled refusals are controls; never is "
            "a model that never learned what is unsafe. Names with -slow are of the small rate.",
            draw_answers(table, models),
            "Shares of answers by model",
            BY_MODEL,
        ),
        make_section(
            "What attacks do",
            "Left: texts of five phrases, some of them backwards, asked about with operators that are unsafe about "
            "such texts; at the ends all phrases are of one kind. Right: a safe operator beside an unsafe one "
            "(co_task), other names of unsafe operators (misgen), and phrases that tuning never showed (ood_text).",
            draw_attacks(table),
            "Success of attacks",
            ["jb_*", "dpo_is_unlearn"],
        ),
        *(
            make_section(title, explained, draw(found), short, ABOUT[name])
            for name, (title, explained, draw, short) in INSIDE.items()
            if (found := inside[name]) is not None
        ),
    ]


def write_results(plan: SafetyPlan) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the folder of the results.

    Raises:
        ValueError: no run is finished that a claim rests on.
    """
    table = answers_table(plan)
    inside = {name: plan.finished(runs) for name, runs in plan.analyses.items()}
    by_seed = {
        seed: measure(made, {name: each[seed] for name, each in inside.items()})
        for seed, made in plan.finished(plan.answers).items()
    }
    claims = judge(MEASUREMENTS, by_seed)
    facts = plan.write_origin("safety", to_dict(plan.config))
    table.to_parquet(plan.output / "table.parquet", index=False)
    write_json(plan.output / "claims.json", claims_json(claims))
    easy = linear_baselines(seed=plan.config.seeds[0])
    write_json(plan.output / "linear_baselines.json", easy._asdict())
    sections = build_sections(table, {name: runs_table(runs) for name, runs in inside.items()})
    verdicts = verdicts_table(plan.finished(plan.diagnoses))
    write_json(plan.output / "verdicts.json", verdicts)
    page = render_page(__package__, claims=claims, sections=sections, facts=facts, easy=easy, verdicts=verdicts)
    write_text(plan.output / "report.html", page)
    return claims
