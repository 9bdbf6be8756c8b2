"""What came out of the study of safety fine-tuning: claims, a tidy table, pictures and the page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ftmech_hf.config import to_dict
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.runs import FinishedRun, write_json, write_text
from ftmech_hf.studies.safety.claims import MEASUREMENTS, measure
from ftmech_hf.studies.safety.figures import draw_answers, draw_attacks, draw_clusters
from ftmech_hf.studies.safety.plan import SafetyPlan
from ftmech_hf.tasks.safety_baseline import linear_baselines


def answers_table(plan: SafetyPlan) -> pd.DataFrame:
    """What every model of every seed answered to every mixture of prompts.

    Raises:
        ValueError: no run is finished.
    """
    parts = [
        made.table.assign(seed=seed, model=name)
        for seed, runs in plan.finished(plan.answers).items()
        for name, made in runs.items()
    ]
    if not parts:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return pd.concat(parts, ignore_index=True)


def build_sections(table: pd.DataFrame, inside: Mapping[int, Mapping[str, FinishedRun]]) -> list[Section]:
    """The pictures with their explanations; that of the stream if anything was looked into."""
    models = list(dict.fromkeys(table["model"]))
    parts = [run.table.assign(seed=seed, model=name) for seed, runs in inside.items() for name, run in runs.items()]
    sections = [
        make_section(
            "What the models answer",
            "An answer counts if all of its twelve tokens are right as the model itself writes them. Protocols that "
            "forget (graddiff, npo, simnpo, rmu) teach no refusal: there, unsafe prompts that are not answered as "
            "instructed are answered with something else. Benign tuning and shuffled refusals are controls; never is "
            "a model that never learned what is unsafe. Names with -slow are of the small rate.",
            draw_answers(table, models),
            "Shares of answers by model",
        ),
        make_section(
            "What attacks do",
            "Left: texts of five phrases, some of them backwards, asked about with operators that are unsafe about "
            "such texts; at the ends all phrases are of one kind. Right: a safe operator beside an unsafe one "
            "(co_task), other names of unsafe operators (misgen), and phrases that tuning never showed (ood_text).",
            draw_attacks(table),
            "Success of attacks",
        ),
    ]
    if parts:
        sections.append(
            make_section(
                "Where they lie in the stream",
                "The share of prompts that lie nearer to the mean of safe prompts than to that of unsafe ones, after "
                "every layer but the last, where the first token of the answer is predicted. The means are of other "
                "prompts. Attacks that succeeded and attacks that failed (co_text_2) are told apart; the base and "
                "benign tuning are the references: what they show is no effect of safety tuning.",
                draw_clusters(pd.concat(parts, ignore_index=True)),
                "Share of prompts on the safe side, by layer",
            )
        )
    return sections


def write_results(plan: SafetyPlan) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the folder of the results.

    Raises:
        ValueError: no run is finished that a claim rests on.
    """
    table = answers_table(plan)
    inside = plan.finished(plan.clusters)
    claims = judge(
        MEASUREMENTS, {seed: measure(made, inside[seed]) for seed, made in plan.finished(plan.answers).items()}
    )
    facts = plan.write_origin("safety", to_dict(plan.config))
    table.to_parquet(plan.output / "table.parquet", index=False)
    write_json(plan.output / "claims.json", claims_json(claims))
    easy = linear_baselines(seed=plan.config.seeds[0])
    write_json(plan.output / "linear_baselines.json", easy._asdict())
    page = render_page(__package__, claims=claims, sections=build_sections(table, inside), facts=facts, easy=easy)
    write_text(plan.output / "report.html", page)
    return claims
