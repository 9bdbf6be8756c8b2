"""What is inside where an answer is predicted: can the document's value be read there, and is it attended to?

Questions are for one fact beside the documents that tell it. A linear probe reads the value in the stream after every
layer, where the prompt ends; beside it stands a probe of another row's value, which must read nothing. Attention of the
same position is summed over the needed value in the documents, and over one value that another fact has there. Layers
without attention, of which a hybrid has some, have none to show.

What is fitted, what chooses layers and heads and what is reported share no fact, see
:mod:`ftmech_hf.studies.retrieval.one_fact`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.attention import attention_to_groups
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.retrieval.one_fact import Part, ask_one_fact
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.tasks.library.world import PLACE, RELATIONS, VALUE_AT, VALUES
from ftmech_hf.tasks.schema import PAD
from ftmech_hf.training.loop import Progress

VALUE, OTHER_ROW = "value", "another row's value"
NEEDED, ANOTHER = "needed value", "another value"


@dataclass(frozen=True, kw_only=True)
class InsideConfig(ModelJobConfig):
    """Which model is looked into, and how many questions."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    fit_rows: int = field(default=1600, metadata={"help": "questions that probes are fitted on"})
    eval_rows: int = field(default=512, metadata={"help": "questions that are reported; half as many choose"})
    output_dir: str = field(default="runs/library-inside", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "fit_rows")
        if self.eval_rows < 4:
            raise ValueError(f"eval_rows: {self.eval_rows}, expected at least 4")


class Prompts(NamedTuple):
    """Questions for one fact beside the documents that tell it.

    Attributes:
        token_ids: (B, T), shorter ones filled on their left.
        shown: what of them is no padding, (B, T).
        values: the tokens of the right answers, (B,).
        needed: where in the documents the right answer stands, (B, T).
        another: where one other value stands there, (B, T).
    """

    token_ids: Tensor
    shown: Tensor
    values: NDArray[np.int64]
    needed: Tensor
    another: Tensor


def value_places(prompt: list[int], person: list[int], value: int) -> tuple[int, int]:
    """Where the documents of a prompt tell a person's value, and where the next value after it stands, in a circle.

    Args:
        prompt: token ids, documents first.
        person: the two words of a name.
        value: a token that is told of this person.
    """
    first, last = VALUE_AT, VALUE_AT + VALUES * len(RELATIONS)
    places = [at for at, word in enumerate(prompt) if first <= word < last]
    number = next(
        number for number, at in enumerate(places) if prompt[at] == value and prompt[at - 3 : at - 1] == person
    )
    return places[number], places[(number + 1) % len(places)]


def read_prompts(part: Part, number: int, seed: int) -> Prompts:
    """The first questions of a part as tensors; see :class:`Prompts`."""
    asked = list(ask_one_fact(part, number, seed))
    width = max(len(each.prompt) for each in asked)
    ids = torch.full((number, width), PLACE[PAD])
    needed, another = torch.zeros(2, number, width, dtype=torch.bool)
    for row, each in enumerate(asked):
        start = width - len(each.prompt)
        ids[row, start:] = torch.tensor(each.prompt)
        there, beside = value_places(*each)
        needed[row, start + there] = another[row, start + beside] = True
    return Prompts(ids, ids != PLACE[PAD], np.array([each.value for each in asked]), needed, another)


def read_values(traced: TracedModel, parts: Mapping[Part, Prompts], seed: int) -> list[dict[str, Any]]:
    """Probes of the value after every layer: a row a layer and kind of label, with ``chosen`` on the rows that choose.

    The other label is the value of the row before, so that it is as often each of the values.
    """
    features, labels = {}, {}
    for part, rows in parts.items():
        found = traced.collect(rows.token_ids, ["resid_post"], attention_mask=rows.shown.long())
        features[part] = {str(layer): found["resid_post", layer] for layer in range(traced.num_layers)}
        labels[part] = {VALUE: rows.values, OTHER_ROW: np.roll(rows.values, 1)}
    result = fit_probes(
        features["fit"], labels["fit"], features["report"], labels["report"],
        choose=(features["choose"], labels["choose"]), seed=seed, num_shuffles=0, code=False,
    )  # fmt: skip
    return [
        {"what": "probe", "layer": int(score.site), "head": -1, "of": score.label, "chosen": score.chosen,
         "value": score.accuracy, "floor": score.majority, "rows": score.num_test}
        for score in result.scores
    ]  # fmt: skip


def read_attention(traced: TracedModel, parts: Mapping[Part, Prompts]) -> list[dict[str, Any]]:
    """Mean attention of the position that predicts the answer: a row a layer that has any, head and group of tokens."""
    layers = traced.layers_of("attn_pattern")
    if not layers:
        return []
    mass = {}
    for part in ("choose", "report"):
        rows = parts[part]
        found = traced.collect(rows.token_ids, ["attn_pattern"], layers=layers, attention_mask=rows.shown.long())
        patterns = torch.stack([found["attn_pattern", layer] for layer in layers])
        mass[part] = attention_to_groups(patterns, rows.token_ids, {NEEDED: rows.needed, ANOTHER: rows.another}).mass
    return [
        {"what": "attention", "layer": layer, "head": head, "of": group,
         "chosen": float(mass["choose"][place, head, number]), "value": float(mass["report"][place, head, number]),
         "floor": float("nan"), "rows": len(parts["report"].values)}
        for place, layer in enumerate(layers)
        for head in range(mass["report"].shape[1])
        for number, group in enumerate((NEEDED, ANOTHER))
    ]  # fmt: skip


def look_inside(config: InsideConfig, library: LibraryConfig, *, progress: Progress | None = None) -> RunDir:
    """What can be read where an answer is predicted, and what is attended to there."""
    with job("library_inside", config, library, models={"model": config.model}, vocabulary=library.vocabulary) as run:
        if run.finished:
            return run
        traced = TracedModel(config.load(config.model, attn_implementation="eager"))
        sizes: dict[Part, int] = {"fit": config.fit_rows, "choose": config.eval_rows // 2, "report": config.eval_rows}
        parts = {part: read_prompts(part, number, config.seed) for part, number in sizes.items()}
        table = read_values(traced, parts, config.seed)
        if progress is not None:
            progress(1, 2, "attention")
        table += read_attention(traced, parts)
        best = max((row for row in table if row["of"] == VALUE), key=lambda row: row["chosen"])
        return finish_job(run, table, {"layer": best["layer"], "read": best["value"]})
