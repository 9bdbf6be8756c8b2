"""Stories that several models wrote to the same instructions, with the words that decide marked."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL, StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED
from ftmech_hf.tasks.stories import find_evidence

NUMBER = 4


class Segment(NamedTuple):
    """A piece of a story: ``mark`` is empty, ``sentence``, or ``slot`` for the words that decide."""

    text: str
    mark: str


class Example(NamedTuple):
    """One model's story.

    Attributes:
        model: which, in words.
        has: whether the story has the feature; None if that cannot be told.
        segments: the story in pieces.
    """

    model: str
    has: bool | None
    segments: list[Segment]


class ExampleRow(NamedTuple):
    """Stories to one instruction."""

    prompt: str
    examples: list[Example]


def mark_story(text: str, feature: str) -> list[Segment]:
    """Cut a story where its deciding sentences and words begin and end."""
    marks = [""] * len(text)
    found = find_evidence(text, feature)
    for each in found:
        marks[slice(*each.sentence)] = ["sentence"] * (each.sentence[1] - each.sentence[0])
    for each in found:
        marks[slice(*each.slot)] = ["slot"] * (each.slot[1] - each.slot[0])
    segments: list[Segment] = []
    for character, mark in zip(text, marks, strict=True):
        if segments and segments[-1].mark == mark:
            segments[-1] = Segment(segments[-1].text + character, mark)
        else:
            segments.append(Segment(character, mark))
    return segments


def choose_examples(plan: StoriesPlan, number: int = NUMBER) -> list[ExampleRow]:
    """The first instructions of the first seed, and what base, deleted, reversed and control models wrote to them.

    The first, so that nobody chose them; of instructions that differ.
    """
    seed, end = plan.config.seeds[0], plan.config.reverse_steps
    models = {model.label: model for model in plan.models if model.seed == seed}
    early = plan.config.table_steps[2]
    wanted: list[tuple[str, str, int | None]] = [("base", models[BASE].score, None)]
    for label in ("F (large)", "F+R (large)", CONTROL):
        if label not in models:
            continue
        model = models[label]
        name = "control" if label == CONTROL else label
        wanted += [
            (name, model.score, None),
            (f"{name}, {early} steps back", model.reverse_score, early if early < end else None),
        ]
    tables = {name: _stories(made, step) for name, run, step in wanted if run and (made := plan.find(run))}
    if not tables:
        return []
    first = next(iter(tables.values()))
    chosen = first.drop_duplicates("prompt").head(number)
    feature, rows = plan.task.feature, []
    for place, prompt in zip(chosen.index.tolist(), chosen["prompt"].tolist(), strict=True):
        lines = {name: table.loc[[place]].to_dict("records")[0] for name, table in tables.items()}
        examples = [
            Example(name, _verdict(line[feature]), mark_story(line["text"], feature)) for name, line in lines.items()
        ]
        rows.append(ExampleRow(prompt, examples))
    return rows


def _verdict(value: Any) -> bool | None:
    return None if pd.isna(value) else bool(value)


def _stories(score: FinishedRun, step: int | None) -> pd.DataFrame:
    table = score.table
    chosen = table[(table["kind"] == ASKED) & (table["step"].isna() if step is None else table["step"] == step)]
    return chosen.set_index("number").sort_index()
