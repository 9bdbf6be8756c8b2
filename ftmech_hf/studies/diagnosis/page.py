"""The page of a diagnosis: the verdict first, why, and one picture per method with its reference drawn in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.charts import panel, to_data_uri
from ftmech_hf.report.page import render_template
from ftmech_hf.runs import describe_versions
from ftmech_hf.studies.diagnosis import figures as draw
from ftmech_hf.tasks.text.splits import OPEN_ANSWERS

MEANING = {
    "unchanged": "The fine-tuned model answers as well as its base did.",
    "behind a wrapper": "The fine-tuned model no longer shows the capability, but still has it: the change hides it.",
    "hidden or learned anew": "The fine-tuned model no longer shows the capability. It comes back as what is only "
    "hidden does; but whether it was there, or is quickly learned by any such model, only a control that never had it "
    "can say.",
    "weakened": "Part of the capability is left: not all of it shows, or not all that shows is as it was.",
    "gone": "The fine-tuned model does not show the capability, and nothing says that it still has it.",
    "undecided": "The measurements do not allow a verdict.",
}

SIGNS = {
    "comes back by pruning": "It comes back when a few rows of weights are set to zero",
    "one half of it works in the base": "Half of its blocks do their part when the base does the other",
    "can be read": "The right answer can be read in its stream",
    "comes back fast": "It comes back fast when it is trained again",
}

SHOWS = {True: "yes", False: "no", None: "not measurable"}

Picture = Callable[[Axes, pd.DataFrame, str], None]


class Method(NamedTuple):
    """One method's place on the page: its rows of the table and its pictures."""

    title: str
    analysis: str
    pictures: tuple[Picture, ...]


class Drawn(NamedTuple):
    """A picture, and what it shows in words."""

    picture: str
    alt: str


class Shown(NamedTuple):
    """A method as the page shows it."""

    title: str
    text: str
    pictures: list[Drawn]


METHODS = (
    Method("What both models answer", "behaviour", (draw.behaviour,)),
    Method("Zeroing a few rows of weights", "pruning", (draw.pruning,)),
    Method("Training it back", "revival", (draw.revival,)),
    Method("What can be read inside", "probing", (draw.probing,)),
    Method("Which layers carry the change", "patching", (draw.patching_back, draw.patching_forth)),
    Method("What each layer would answer", "logit lens", (draw.lens,)),
    Method("From the base to the fine-tuned model and back", "path", (draw.path,)),
    Method("How much the weights changed", "weights", (draw.weight_sizes, draw.weight_spectrum, draw.weight_action)),
    Method("How alike the representations are", "similarity", (draw.similarity,)),
    Method("How far apart it holds two kinds of prompts", "separation", (draw.separation,)),
    Method("How strongly the answer hangs on the input", "sensitivity", (draw.sensitivity,)),
)
"""In reading order: what the verdict rests on comes first."""


def _weights_text(found: dict[str, Any]) -> str:
    changed = found["weights"]
    sizes = [f"{name} {size:.1%}" for name, size in changed["outside_blocks"].items() if size]
    outside = f" Outside the blocks changed: {', '.join(sizes)}." if sizes else " Nothing outside the blocks changed."
    if not changed["changed"]:
        return f"No matrix of the blocks changed.{outside}"
    nothing = changed.get("taught_nothing")
    beside = "" if nothing is None else f" (a fine-tuning that teaches nothing: {nothing:.1%}, dashed)"
    return (
        f"The matrices of the blocks changed by {changed['relative_norm']:.1%} of their size on average{beside}. "
        f"A change has effective rank {changed['effective_rank']:.0f}, a random one {changed['random_rank']:.0f}; "
        f"{changed['outside']:.0%} of its main directions lie outside those the base writes into, "
        f"{changed['random_outside']:.0%} by chance. Grey: a random change of the same size.{outside}"
    )


def _bystanders_text(facts: dict[str, Any]) -> str:
    taught = f"the base after {facts['null_steps']} steps of fine-tuning on its own answers (taught nothing)"
    seed = f"{facts['twin']}, which is said to be the base trained with another seed"
    there = [*([taught] if facts["null_steps"] else []), *([seed] if facts["twin"] else [])]
    if not there:
        return ""
    return f"Where models are compared, one that differs without a meaning is drawn, too: {', and '.join(there)}."


def _percent(share: dict[str, float]) -> str:
    return f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


def _best_part_text(part: dict[str, Any]) -> str:
    """Which attention or MLP alone brings most back, beside what the model is right on without it."""
    name = f"the {'attention' if part['site'] == 'attn_out' else 'MLP'} of block {part['layer']}"
    shown = (
        f"of {part['places']} attentions and MLPs the best, chosen on other questions, is {name}: "
        f"{_percent(part['accuracy'])}; without it {_percent(part['alone'])}, with another question's "
        f"{_percent(part['other_row'])}"
    )
    if part["accuracy"]["low"] <= max(part["alone"]["high"], part["other_row"]["high"]):
        return f"No attention or MLP alone is: {shown}."
    return f"{shown[0].upper()}{shown[1:]}."


def _probing_text(found: dict[str, Any]) -> str:
    seen = found["answers_seen"]
    warning = (
        f" Careful: an answer stands in only {found['rows_per_answer']:.0f} of the rows that probes are fitted on, and "
        f"{seen:.0%} of the tested answers stand in them at all, so that a probe may know words and not the "
        "capability; a column group keeps words apart."
        if found["rows_per_answer"] < OPEN_ANSWERS or seen < 1
        else ""
    )
    return (
        "A linear probe reads the right answer from the stream after each block; layers are chosen on other questions "
        "than those shown. Random weights let much be read too, some more than others, and so do the embeddings of the "
        "input (grey line): only what lies above all of them, wherever they are best, counts." + warning
    )


def method_texts(facts: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """Analysis -> what its picture shows, in plain words and this run's numbers; of the first alone if no other ran."""
    never = f"The reference is {draw.describe_reference(facts['reference'])}."
    two_kinds = facts["other"] is not None
    behaviour = (
        "Share of right answers, with 95 % intervals. Dotted: what naming the most frequent answer would give. "
        f"{never} {_bystanders_text(facts)}"
    )
    if "best_part" not in found:
        return {"behaviour": behaviour}
    ratio = found["sensitivity_ratio"]["capability"]
    return {
        "behaviour": behaviour,
        "pruning": "Rows that the gradient says stand in the way of the right answer are set to zero. How many, "
        f"{found['best_k']}, was chosen on other questions than those shown. Dashed: as many random rows; "
        "dotted: the same search in the reference.",
        "revival": f"The same short training on the capability, {len(found['revival']['steps'])} times on different "
        "questions, for the fine-tuned model and for the reference, which is followed for as long as the rule asks.",
        "probing": _probing_text(found),
        "patching": "One model computes with the other's activations at one place. In the first picture, where a line "
        f"is high, undoing the change there is enough. {_best_part_text(found['best_part'])} In the second it is the "
        "other way round: where the line of the whole stream is high, the first blocks still do their part. Dashed: "
        "activations of another question; where that is as high, the place does not matter. Dotted: the reference in "
        "the place of the fine-tuned model.",
        "logit lens": "The stream after each block is turned into an answer at once. "
        + ("The other answer is that to the question which fine-tuning taught. " if two_kinds else "")
        + "Dotted: what naming one answer would give.",
        "path": "Accuracy of the models between: on the straight line from the weights of the base to those of the "
        "fine-tuned model, and on to those of the one trained back. Dashed: from the base to the reference, with which "
        "it has nothing in common.",
        "weights": _weights_text(found),
        "similarity": "Linear CKA of the base's stream and another model's: 1 is the same up to rotation, 0 unrelated; "
        "the band spans both halves of the questions. Dotted: the questions of one model in another order.",
        "separation": ("Prompts about the capability and about what was taught" if two_kinds else
                       "Prompts with the two most frequent answers")
        + ": how much nearer a prompt is to the centre of its own kind than to the other's, in units of that distance. "
        "Dotted: kinds assigned by chance.",
        "sensitivity": "Norm of the gradient of the winning logit with respect to the input, median and quartiles. "
        f"On the capability's questions the fine-tuned model's is {ratio['value']:.2f} times the base's "
        f"({ratio['low']:.2f} to {ratio['high']:.2f}); one half of the base's questions has "
        f"{found['halves_ratio']['capability']:.2f} times that of the other half.",
    }  # fmt: skip


def _fill(picture: Picture, rows: pd.DataFrame, reference: str) -> Callable[[Axes], None]:
    return lambda ax: picture(ax, rows, reference)


def show_methods(table: pd.DataFrame, summary: dict[str, Any]) -> list[Shown]:
    """Every method's pictures and what they show, in reading order."""
    texts = method_texts(summary["facts"], summary["evidence"])
    reference = draw.reference_name(summary["facts"]["reference"])
    shown = []
    for title, analysis, pictures in (method for method in METHODS if method.analysis in texts):
        rows = table[table["analysis"] == analysis]
        drawn = [panel(_fill(picture, rows, reference)) for picture in pictures]
        described = [Drawn(to_data_uri(figure), f"{title}. {describe_figure(figure)}") for figure in drawn]
        shown.append(Shown(title, texts[analysis], described))
    return shown


def _end_of(text: str, letters: int = 300) -> str:
    """The end of a long question, which is what is answered."""
    return text if len(text) <= letters else f"\u2026 {text[-letters:]}"


def render_diagnosis(folder: Path) -> str:
    """The page of a diagnosis as HTML, from the table and the summary in its folder."""
    table = pd.read_parquet(folder / "table.parquet")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    return render_template(
        "studies/diagnosis/page.html.j2",
        summary=summary,
        facts=summary["facts"],
        rule=summary["rule"],
        evidence=summary["evidence"],
        meaning=MEANING[summary["verdict"]],
        signs=SIGNS,
        shows=SHOWS,
        examples=[{**each, "question": _end_of(each["question"])} for each in summary["evidence"]["examples"]],
        other_tokens=_end_of(summary["facts"]["other_tokens"] or ""),
        random_reference=summary["facts"]["reference"] == RANDOM_INIT,
        reference=draw.describe_reference(summary["facts"]["reference"]),
        methods=show_methods(table, summary),
        command=env["command"],
        versions=describe_versions(env),
    )
