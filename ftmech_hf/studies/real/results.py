"""What came out: of every pair what was expected, the verdict, its signs, minutes and memory; and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ftmech_hf.report.charts import save_figure
from ftmech_hf.report.console import print_table
from ftmech_hf.report.page import make_section, render_page
from ftmech_hf.runs import FinishedRun, write_json, write_table, write_text
from ftmech_hf.studies.real.figures import example_figure, verdicts_figure
from ftmech_hf.studies.real.pair import NEVER, PAIRS, is_right
from ftmech_hf.studies.real.plan import RealPlan

KEPT = ("pair", "expected", "verdict", "right", "minutes", "peak_gb")
"""What ``summary.json`` says of a pair."""


def gather(plan: RealPlan) -> list[dict[str, Any]]:
    """Of every pair that was diagnosed: :data:`KEPT`, accuracies, what was taught, the reason, signs, its page.

    Raises:
        ValueError: none was.
    """
    found = {name: run for name, each in plan.diagnoses.items() if (run := plan.find(each))}
    if not found:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return [_describe(plan, name, run) for name, run in found.items()]


def _describe(plan: RealPlan, name: str, run: FinishedRun) -> dict[str, Any]:
    summary, tuned = run.summary, plan.find(plan.organisms[name])
    evidence = summary["evidence"]
    return {
        "pair": name,
        "expected": PAIRS[name].expected,
        "verdict": summary["verdict"],
        "right": is_right(PAIRS[name].expected, summary["verdict"]),
        "minutes": round(summary["facts"]["seconds"] / 60, 2),
        "peak_gb": run.env.get("peak_gb"),
        "cpu_minutes": _minutes(run.env.get("cpu_seconds")),
        "taught": None if tuned is None else _taught(tuned),
        "tuning_minutes": _minutes(None if tuned is None else tuned.env.get("cpu_seconds")),
        "reason": summary["reason"],
        "signs": summary["signs"],
        "accuracy": {model: evidence[model] for model in ("base", "finetuned")},
        "chance": evidence["chance"],
        "examples": evidence["examples"],
        "page": plan.page_of(run),
    }


def _taught(tuned: FinishedRun) -> str:
    """How many test rows of what it was tuned on are right before and after: an organism may have learned nothing."""
    first, last = tuned.metrics[0], tuned.metrics[-1]
    return f"{first['accuracy/all']:.0%} to {last['accuracy/all']:.0%}"


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 2)


def write_results(plan: RealPlan) -> list[dict[str, Any]]:
    """Gather what is finished and write the summary, the table, the picture and the page."""
    pairs = gather(plan)
    facts: Mapping[str, Any] = {**plan.settings(), **plan.write_origin("real")}
    write_json(plan.results / "summary.json", [{key: pair[key] for key in KEPT} for pair in pairs])
    table = pd.DataFrame([{key: value for key, value in pair.items() if not isinstance(value, dict | list)}
                          for pair in pairs])  # fmt: skip
    write_table(plan.results / "table.parquet", table)
    section = make_section(
        "What the models answer",
        "Accuracy of the base and of what it was tuned into, with 95 % intervals; rows about one thing (a verb, a "
        "country) are counted as if they were independent. Dotted: what naming the most frequent answer gives.",
        verdicts_figure(pairs),
        "Accuracy of base and tuned model by pair",
    )
    _write_example(plan, find_example(pairs))
    page = render_page(__package__, pairs=pairs, sections=[section], facts=facts, right=say_right(pairs))
    write_text(plan.results / "report.html", page)
    return pairs


def _write_example(plan: RealPlan, example: dict[str, Any] | None) -> None:
    if example is not None:
        run = plan.find(plan.diagnoses[example["pair"]])
        assert run is not None
        save_figure(example_figure(run), plan.results / "example.png")
        write_json(plan.results / "example.json", example)


def find_example(pairs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A pair whose ability is hidden and whose diagnosis says so, for users to see first: capitals, if they are one."""
    hidden = {pair["pair"]: pair for pair in pairs if pair["expected"] == "hidden" and pair["right"]}
    return hidden.get("capitals_hidden") or next(iter(hidden.values()), None)


def say_right(pairs: Sequence[Mapping[Any, Any]]) -> str:
    """How many verdicts are right, of pairs in which tuning decides it and of those in which the base alone does.

    A base that never had an ability has nothing to lose, whatever it is tuned on: the diagnosis reads that off the
    base's answers.
    """
    tuned = [bool(pair["right"]) for pair in pairs if pair["expected"] != NEVER]
    never = [bool(pair["right"]) for pair in pairs if pair["expected"] == NEVER]
    return (
        f"Of {len(tuned)} pairs whose base has the ability {sum(tuned)} verdicts are right, and of {len(never)} whose "
        f"base never had it, which its own answers decide, {sum(never)}"
    )


def right_numbers(results: FinishedRun) -> dict[str, str]:
    """How many verdicts are right, in a folder of results."""
    pairs = pd.read_parquet(results.path / "table.parquet")
    return {"Verdicts that are the truth by construction": say_right(pairs.to_dict("records"))}


def print_results(pairs: list[dict[str, Any]]) -> None:
    """A line of every pair."""
    shown = pd.DataFrame([{key: pair[key] for key in (*KEPT, "cpu_minutes")} for pair in pairs])
    print_table(say_right(pairs), shown)
