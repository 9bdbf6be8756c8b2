"""What came out of the study of retrieval: claims, the table of all answers, pictures, advice, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.runs import FinishedRun, write_json, write_table, write_text
from ftmech_hf.studies.diagnosis.verdicts import verdicts_table
from ftmech_hf.studies.retrieval.advice import give_advice
from ftmech_hf.studies.retrieval.claims import MEASUREMENTS, SeedAnswers, measure
from ftmech_hf.studies.retrieval.figures import draw_contexts, draw_places, draw_rates, draw_sizes
from ftmech_hf.studies.retrieval.inside_figures import draw_inside, draw_patching
from ftmech_hf.studies.retrieval.plan import DIAGNOSED, LORA_RATE, TUNINGS, RetrievalPlan

REFERENCES = {"base": "reads documents, knows the known world", "heart": "learned by heart, never read",
              "random": "random weights"}  # fmt: skip
BESIDE = {"closed": "no documents", "retrieved": "documents that a search finds", "oracle": "the needed documents",
          "shuffled": "documents of other questions"}  # fmt: skip
"""What a model is fine-tuned with, in words."""


def read_table(plan: RetrievalPlan) -> pd.DataFrame:
    """What every model of every seed answers: ``table.parquet``.

    Raises:
        ValueError: no model was asked yet.
    """
    asked = _of_runs(plan.finished(plan.asked))
    if asked is None:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    taught = _of_runs(plan.finished(plan.taught))
    return asked if taught is None else pd.concat([asked, taught], ignore_index=True)


def _of_runs(runs: Mapping[int, Mapping[str, FinishedRun]], column: str = "model") -> pd.DataFrame | None:
    """The tables of some runs, with columns for seed and name of the model; None if there is none."""
    parts = [run.table.assign(seed=seed, **{column: name}) for seed, each in runs.items() for name, run in each.items()]
    return pd.concat(parts, ignore_index=True) if parts else None


def rates_table(plan: RetrievalPlan) -> pd.DataFrame:
    """Of the first seed's models at other rates: ``rate`` at its peak, ``lora``, ``found`` and ``taught``, shares."""
    rows = []
    for (rate, lora), run in plan.rates.items():
        if found := plan.find(run):
            plain = plain_rows(found.table)
            right = plain[plain["asked"] == "any"].set_index(["people", "context"])["right"]
            rows.append({"rate": rate * (LORA_RATE if lora else 1), "lora": lora, "found": right["held_out", "bm25"],
                         "taught": right["taught", "none"]})  # fmt: skip
    return pd.DataFrame(rows)


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


def describe_model(name: str, sizes: Sequence[int]) -> str:
    """What a model of the study is, in a few words; ``sizes`` are the numbers of questions that are taught."""
    if name in REFERENCES:
        return REFERENCES[name]
    tuning = TUNINGS[name]
    answers = "full answers" if tuning.style == "full" else "one fact of each answer"
    said = [f"{sizes[tuning.size]:,} questions", answers, BESIDE[tuning.context]]
    said += ["as many steps as of the most questions"] if tuning.clock == "steps" else []
    said += [f"{tuning.rate:g} times the rate"] if tuning.rate != 1 else []
    said += [f"{tuning.replay:.0%} of rows from pretraining"] if tuning.replay else []
    said += ["an adapter (LoRA)"] if tuning.lora else []
    return ", ".join(said)


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
            "nothing wrong, by the documents where there are any. The model heart learned by heart and never read.",
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
    return [*sections, *_rates_section(plan), *_inside_sections(plan)]


def _rates_section(plan: RetrievalPlan) -> list[Section]:
    rates = rates_table(plan)
    if rates.empty:
        return []
    text = (
        f"The largest data at other rates, of seed {plan.config.seeds[0]} alone. Where what was taught rises and "
        "what was held out does not fall, answers are learned by heart and reading is kept."
    )
    return [make_section("How fast", text, draw_rates(rates), "Right answers by the rate of fine-tuning", ["b8_slow"])]


def _inside_sections(plan: RetrievalPlan) -> list[Section]:
    found, sections = _of_runs(plan.finished(plan.inside)), []
    if found is not None:
        text = (
            "Where a prompt ends and the answer begins. Left: a linear probe of the value that the documents tell, "
            "fitted on other people and facts; dashed, a probe of another row's value, which must read nothing. Right: "
            "what each head of the layers that have attention pays to the needed value, and, crossed, to another one. "
            "Layers without attention are short convolutions and have none to show."
        )
        figure = draw_inside(found)
        claims = ["read_*", "look_*"]
        sections.append(make_section("Read, and looked at", text, figure, "Values read and attended to", claims))
    diagnosed = _of_runs(plan.finished(plan.diagnoses), "tuned")
    if diagnosed is not None:
        patched = diagnosed[diagnosed["analysis"] == "patching"]
        if models := [name for name in DIAGNOSED if name in set(patched["tuned"])]:
            text = (
                "A fine-tuned model computes with the base's activations at one place, on questions for one fact "
                "beside the needed documents: where a line is high, undoing the change there is enough. Dotted: "
                "activations of another question. Models whose answers alone decide the verdict are not patched."
            )
            figure = draw_patching(patched, models)
            sections.append(make_section("What brings reading back", text, figure, "Right answers by what is patched"))
    return sections


def write_results(plan: RetrievalPlan) -> list[Claim]:
    """Read the finished runs and write claims, table, verdicts, pictures and page into the folder of the results.

    Raises:
        ValueError: no model was asked yet.
    """
    table = read_table(plan)
    back, inside = plan.finished(plan.reversals), plan.finished(plan.inside)
    by_seed = {}
    for seed in plan.config.seeds:
        of_seed = table[table["seed"] == seed]
        tables = {str(name): rows for name, rows in of_seed.groupby("model")}
        by_seed[seed] = measure(
            SeedAnswers(tables, {name: run.table for name, run in inside[seed].items()}), back[seed]
        )
    claims = judge(MEASUREMENTS, by_seed)
    facts = plan.write_origin("retrieval")
    write_table(plan.results / "table.parquet", table)
    write_json(plan.results / "claims.json", claims_json(claims))
    verdicts = verdicts_table(plan.finished(plan.diagnoses))
    write_json(plan.results / "verdicts.json", verdicts)
    page = render_page(
        __package__, claims=claims, sections=build_sections(plan, table), facts=facts, models=summarise_models(table),
        verdicts=verdicts, advice=give_advice(claims),
        about={str(name): describe_model(str(name), plan.config.sizes) for name in table["model"].unique()},
    )  # fmt: skip
    write_text(plan.results / "report.html", page)
    return claims
