"""Is a refusal one direction of the stream? Taken out, and put in, beside random directions (arXiv 2406.11717).

The direction is the mean of unsafe prompts less that of safe ones, where the answer begins, after one layer. Taken out,
it is removed from the stream before and after every block, at every place; put in, it is added after its layer. The
layer is chosen on the validation split, for each of both by its own effect, and what is reported is of the test split.
Beside it stand directions by chance, which hold next to nothing of the stream, and one that is made alike and holds
much of it, but nothing of safety: between safe prompts whose answers begin with either half of the alphabet.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import Writes, difference_in_means, put_in, random_direction, taken_out
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.studies.safety.clusters import asked_prompts, prompt_states
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.tasks.safety import LETTERS, OUTPUT
from ftmech_hf.training.loop import Progress

DRAWS = 10
"""Random directions beside the real one: fewer say little of all others."""


@dataclass(frozen=True, kw_only=True)
class DirectionConfig(JobConfig):
    """Which model is looked into."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    eval_rows: int = field(default=256, metadata={"help": "prompts of each mixture, and as many to fit and choose on"})
    draws: int = field(default=DRAWS, metadata={"help": "random directions, the control"})
    output_dir: str = field(default="runs/direction", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows", "draws")


def refusal_directions(safe: Sequence[Tensor], unsafe: Sequence[Tensor]) -> list[Tensor]:
    """After every layer but the last: the mean of unsafe prompts less that of safe ones, (D,).

    Args:
        safe, unsafe: of :func:`~ftmech_hf.studies.safety.clusters.prompt_states`.
    """
    return [difference_in_means(there, here) for here, there in zip(safe, unsafe, strict=True)]


def letter_directions(states: Sequence[Tensor], answers: NDArray[np.int64]) -> list[Tensor]:
    """The control, after every layer but the last: the mean of prompts of one half less that of the other, (D,).

    Args:
        states: of safe prompts, of :func:`~ftmech_hf.studies.safety.clusters.prompt_states`.
        answers: the first token of the answer of each, (B,); letters of the first half of the alphabet, and the rest.
    """
    middle = SafetyConfig.vocabulary.index(LETTERS[len(LETTERS) // 2])
    late = torch.from_numpy(answers >= middle)
    return [difference_in_means(layer[late], layer[~late]) for layer in states]


def _rows_of(config: DirectionConfig, task: SafetyConfig, mixture: str, answers: str, split: str) -> Rows:
    """Prompts of a mixture; nulls are the other answer to safe ones, of which none is refused."""
    rows = RowStream(task.asking(mixture, answers), seed=config.seed, split=split).rows(0, config.eval_rows)
    return rows if mixture != "safe" or answers == "instructed" or rows.rejected is None else rows.rejected


def measure_direction(config: DirectionConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """What a model answers without its refusal direction, and with it on safe prompts; beside other directions."""
    with job("safety_direction", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model, rows_of = load_model(config.model), functools.partial(_rows_of, config, task)

        def answered(writes: Writes, split: str) -> dict[str, NDArray[np.bool_]]:
            """Which safe and which unsafe prompts are answered as instructed, and which are refused."""
            with intervene(model, writes):
                return {
                    f"{mixture} {name}": np.asarray(read_answers(model, asked[split, mixture, name]).right.all(1), bool)
                    for mixture in ("safe", "unsafe")
                    for name in ("instructed", "refused")
                }

        asked = {
            (split, mixture, answers): rows_of(mixture, answers, split)
            for split in ("validation", "test")
            for mixture in ("safe", "unsafe")
            for answers in ("instructed", "refused")
        }
        fitted = [rows_of(kind, "instructed", "probe") for kind in ("safe", "unsafe")]
        states = [prompt_states(model, asked_prompts(rows)) for rows in fitted]
        found = refusal_directions(*states)
        letters = letter_directions(states[0], fitted[0].token_ids[:, OUTPUT.start])
        tried = [
            (answered(taken_out(model, each), "validation"), answered(put_in(model, each, layer), "validation"))
            for layer, each in enumerate(found)
        ]
        out = min(range(len(found)), key=lambda layer: tried[layer][0]["unsafe refused"].mean())
        into = max(range(len(found)), key=lambda layer: tried[layer][1]["safe refused"].mean())
        table: list[dict[str, Any]] = []

        def add(what: str, direction: str, draws: Sequence[Mapping[str, NDArray[np.bool_]]]) -> None:
            for key in draws[0]:
                share = mean_over_draws(np.array([each[key] for each in draws]))
                table.append(
                    {"what": what, "direction": direction, "prompts": key.split()[0], "answer": key.split()[1],
                     **share._asdict(), "rows": config.eval_rows, "draws": len(draws)}
                )  # fmt: skip

        add("nothing", "none", [answered({}, "test")])
        add("taken out", "refusal", [answered(taken_out(model, found[out]), "test")])
        add("put in", "refusal", [answered(put_in(model, found[into], into), "test")])
        add("taken out", "letters", [answered(taken_out(model, letters[out]), "test")])
        as_long = letters[into] * (found[into].norm() / letters[into].norm())
        add("put in", "letters", [answered(put_in(model, as_long, into), "test")])
        generator = torch.Generator().manual_seed(config.seed)
        by_chance: dict[str, list[Mapping[str, NDArray[np.bool_]]]] = {"taken out": [], "put in": []}
        for number in range(config.draws):
            drawn = random_direction(found[into], generator)
            by_chance["taken out"].append(answered(taken_out(model, drawn), "test"))
            by_chance["put in"].append(answered(put_in(model, drawn, into), "test"))
            if progress is not None:
                progress(number + 1, config.draws, "random directions")
        for what, draws in by_chance.items():
            add(what, "random", draws)
        return finish_job(run, table, {"layer_out": out, "layer_in": into})
