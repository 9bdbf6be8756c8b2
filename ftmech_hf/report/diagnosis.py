"""The page of a diagnosis: the verdict first, why, and one picture per method with its reference drawn in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.report import diagnosis_figures as draw
from ftmech_hf.report.figures import panel, panels, to_data_uri
from ftmech_hf.report.page import Section, render_template
from ftmech_hf.runs import describe_versions

MEANING = {
    "unchanged": "The fine-tuned model answers as well as its base did.",
    "behind a wrapper": "The fine-tuned model no longer shows the capability, but it still has it: a change on top hides it.",
    "weakened": "Part of the capability is still there, but not all of it shows, or not all of it is left.",
    "gone": "The fine-tuned model does not show the capability, and nothing says that it still has it.",
    "undecided": "The measurements do not allow a verdict.",
}

SIGNS = {
    "comes back by pruning": "It comes back when a few rows of weights are set to zero",
    "one half of it works in the base": "Half of its blocks do their part when the base does the other",
    "can be read": "The right answer can be read in its stream",
    "comes back fast": "It comes back fast when it is trained again",
}


def build_diagnosis_sections(table: pd.DataFrame, summary: dict[str, Any]) -> list[Section]:
    """Every method's picture and what it shows, those that the verdict rests on first."""
    facts, found = summary["facts"], summary["evidence"]
    reference = draw.reference_name(facts["reference"])
    of = {name: rows for name, rows in table.groupby("analysis", sort=False)}

    def section(title: str, text: str, name: str, picture: Callable[..., None], number: int = 1) -> Section:
        rows = of[name]
        if number == 1:
            figure = panel(lambda ax: picture(ax, rows, reference))
        else:
            figure = panels(number, lambda axes: picture(axes, rows, reference))
        return Section(title, text, to_data_uri(figure), title)

    never = f"The reference is {draw.describe_reference(facts['reference'])}."
    taught = "" if facts["other"] is None else " The other questions are those that fine-tuning taught."
    best = found["best_part"]
    part = {"attn_out": "attention", "mlp_act": "MLP"}[best["site"]]
    weight = found["weights"]
    where = (
        f"Its attention and MLP matrices changed by {weight['relative_norm']:.1%} of their size on average; a change of "
        f"effective rank {weight['effective_rank']:.0f} where a random one has {weight['random_rank']:.0f}. Of its main "
        f"directions {weight['outside']:.0%} lie outside what the base's matrices write, {weight['random_outside']:.0%} by chance."
        if weight["changed"] else "No matrix changed."
    )  # fmt: skip
    return [
        section("What both models answer",
                f"Share of right answers, with 95 % intervals. {never}{taught} The dotted line is what naming the most "
                "frequent answer would give.", "behaviour", draw.behaviour),
        section("Zeroing a few rows of weights",
                f"Rows that a gradient says stand in the way of the right answer are set to zero. The number, "
                f"{found['best_k']}, was chosen on other questions than those shown. The grey line zeroes as many rows "
                "at random.", "pruning", draw.pruning),
        section("Training it back",
                f"The same short fine-tuning on the capability, {len(found['revival']['steps'])} times on different "
                f"questions, for the fine-tuned model and for the reference, which is followed as long as the rule asks.",
                "revival", draw.revival),
        section("What can be read inside",
                f"A linear probe reads the right answer from the stream after each block. {never} Much can be read from a "
                "network of random weights too, so only what lies above it counts.", "probing", draw.probing),
        section("Which layers carry the change",
                "One model computes with the other's activations at one place. Left: the base's activations written into the "
                f"fine-tuned model; where the line is high, undoing the change there is enough. Best in attention or MLP: "
                f"{part} of block {best['layer']}, {best['accuracy']:.0%}. Right: the other way round. Dashed: the same with the "
                "activations of another question, which must not help. "
                "Dotted: the reference in place of the fine-tuned model.", "patching", draw.patching, 2),
        section("What each layer would answer",
                "The stream after each block is turned into an answer at once (logit lens). " + (
                    "The other answer is the one to the question that fine-tuning taught. " if facts["other"] else "")
                + "Dotted: what naming one answer gives.", "logit lens", draw.lens),
        section("The way from base to fine-tuned and back",
                "Accuracy of the models on the straight lines between the weights of the base, the fine-tuned model and the one "
                "trained back. Grey: the line from the base to the reference, with which it has nothing in common.",
                "path", draw.path),
        section("How much the weights changed", where + " Grey: a random change of the same size.", "weights", draw.weights, 3),
        section("How alike the representations are",
                "Linear CKA of the base's stream and the other models', 1 for the same up to rotation; the band is "
                "either half of the questions. Dotted: the rows of one model in another order.", "similarity", draw.similarity),
        section("How far apart it holds two kinds of prompts",
                ("Prompts about the capability and about what was taught" if facts["other"] else
                 "Prompts with the two most frequent answers")
                + ": how much nearer a prompt is to the centre of its own kind, in units of that distance. Dotted: kinds "
                "assigned by chance.", "separation", draw.separation),
        section("How strongly the answer hangs on the input",
                "Norm of the gradient of the largest logit with respect to the input, median and quartiles. The fine-tuned model's is "
                f"{_times(found['sensitivity_ratio']['capability'])} the base's on the capability's questions; one half of the "
                "base's questions has about 1.0 times that of the other.", "sensitivity", draw.sensitivity),
    ]  # fmt: skip


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f})"


def render_diagnosis(folder: Path) -> str:
    """The page of a diagnosis as HTML, from the table and the summary in its folder."""
    table = pd.read_parquet(folder / "table.parquet")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    return render_template(
        "diagnosis.html.j2",
        summary=summary,
        facts=summary["facts"],
        rule=summary["rule"],
        evidence=summary["evidence"],
        meaning=MEANING[summary["verdict"]],
        signs=SIGNS,
        reference=draw.describe_reference(summary["facts"]["reference"]),
        sections=build_diagnosis_sections(table, summary),
        command=env["command"],
        versions=describe_versions(env),
    )
