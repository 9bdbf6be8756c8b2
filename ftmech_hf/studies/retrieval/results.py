"""What came out of the study of retrieval: claims, the table of all answers, pictures, advice, the page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ftmech_hf.config import to_dict
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.runs import write_json, write_text
from ftmech_hf.studies.retrieval.claims import MEASUREMENTS, SeedAnswers, measure
from ftmech_hf.studies.retrieval.figures import draw_contexts, draw_places, draw_sizes
from ftmech_hf.studies.retrieval.plan import RetrievalPlan


def read_table(plan: RetrievalPlan) -> pd.DataFrame:
    """What every model of every seed answers: ``table.parquet``.

    Raises:
        ValueError: no model was asked yet.
    """
    parts = [
        found.table.assign(seed=seed, model=name)
        for seed in plan.config.seeds
        for name, run in plan.asked[seed].items()
        if (found := plan.find(run))
    ]
    if not parts:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return pd.concat(parts, ignore_index=True)


def plain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Of all questions with four documents in no order of ours and no worked example, or with none."""
    return table[(table["gold_at"] < 0) & ~table["worked"] & (table["top_k"] == 4) & (table["part"] == "all")]


def summarise_models(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a model, means over seeds in per cent: what a page and a README show of it; None where nothing is there."""
    plain = plain_rows(table)
    columns = {
        "found": ("held_out", "bm25", "any", "right"), "needed": ("held_out", "oracle", "any", "right"),
        "complete": ("held_out", "bm25", "several", "completeness"),
        "precise": ("held_out", "bm25", "several", "precision"),
        "taught": ("taught", "none", "any", "right"), "known": ("known", "none", "one", "right"),
        "missing": ("held_out", "missing", "one", "right"), "f1": ("held_out", "bm25", "any", "f1"),
    }  # fmt: skip
    rows = []
    for model in dict.fromkeys(table["model"]):
        of_model = plain[plain["model"] == model]
        numbers: dict[str, Any] = {"model": model}
        for name, (people, context, asked, column) in columns.items():
            chosen = of_model[
                (of_model["people"] == people) & (of_model["context"] == context) & (of_model["asked"] == asked)
            ]
            mean = chosen[column].mean()
            numbers[name] = None if pd.isna(mean) else 100 * float(mean)
        rows.append(numbers)
    return rows


BY_SIZE = {
    **{("closed", "epochs", place): f"closed-full-{place}" for place in range(3)},
    **{("closed", "steps", place): f"closed-full-{place}-steps" for place in range(2)},
    ("closed", "steps", 2): "closed-full-2",
    **{("retrieved", "epochs", place): f"retrieved-full-{place}" for place in range(3)},
}
"""What with, by which clock, and place of the size -> the model that was tuned so on full answers."""


def by_size(plan: RetrievalPlan, table: pd.DataFrame) -> pd.DataFrame:
    """Of models that were tuned on full answers: how many questions, by which clock, and what they answer."""
    plain = plain_rows(table)
    found = plain[plain["asked"] == "any"].set_index(["seed", "model", "people", "context"])["right"]
    return pd.DataFrame(
        {"tuned": tuned, "clock": clock, "questions": plan.config.sizes[place], "seed": seed,
         "found": found[seed, model, "held_out", "bm25"], "taught": found[seed, model, "taught", "none"]}
        for (tuned, clock, place), model in BY_SIZE.items() for seed in plan.config.seeds
        if (seed, model, "held_out", "bm25") in found.index
    )  # fmt: skip


def build_sections(plan: RetrievalPlan, table: pd.DataFrame) -> list[Section]:
    """The pictures with their explanations, of what is there."""
    plain = plain_rows(table)
    sections = [
        make_section(
            "What stands beside a question",
            "Share of right answers, mean over seeds and each seed, pale. A right answer is all that is asked and "
            "nothing wrong, by the documents where there are any. The grey model learned by heart and never read.",
            draw_contexts(plain[plain["asked"] == "any"]), "Right answers by what stands beside a question",
            ["gate_one", "gate_several", "b1*", "b4*", "b6", "b8_replay"],
        )
    ]  # fmt: skip
    sizes = by_size(plan, table)
    if len(sizes):
        sections.append(
            make_section(
                "More data",
                "Solid lines: as many epochs of each size; dashed: as many steps. On the right what is kept by heart.",
                draw_sizes(sizes), "Right answers by how many questions were taught", ["b1*", "b3*", "b4"],
            )
        )  # fmt: skip
    one = table[(table["asked"] == "one") & (table["part"] == "all") & ~table["worked"]]
    one = one[one["people"] == "held_out"]
    sections.append(
        make_section(
            "Where the needed document stands, and how many are shown",
            "Questions for one fact. With few documents a search misses the needed one, whatever the model can do.",
            draw_places(one), "Right answers by the place of the needed document and by how many are found",
            ["b6_control"],
        )
    )  # fmt: skip
    return sections


def write_results(plan: RetrievalPlan) -> list[Claim]:
    """Read the finished runs and write claims, table, pictures and page into the folder of the results.

    Raises:
        ValueError: no model was asked yet.
    """
    table = read_table(plan)
    by_seed = {}
    for seed in plan.config.seeds:
        of_seed = table[table["seed"] == seed]
        answers = SeedAnswers({str(name): rows for name, rows in of_seed.groupby("model")})
        back = {name: found for name, run in plan.reversals[seed].items() if (found := plan.find(run))}
        by_seed[seed] = measure(answers, back)
    claims = judge(MEASUREMENTS, by_seed)
    facts = plan.write_origin("retrieval", to_dict(plan.config))
    table.to_parquet(plan.output / "table.parquet", index=False)
    write_json(plan.output / "claims.json", claims_json(claims))
    page = render_page(
        __package__, claims=claims, sections=build_sections(plan, table), facts=facts, models=summarise_models(table)
    )
    write_text(plan.output / "report.html", page)
    return claims
