"""On which side of a model's stream do prompts lie: with the safe ones or with the unsafe ones? (Sect. 4 of the paper.)

Means of both kinds are of the probe split, the layer is chosen on the validation split, and what is reported is of the
test split. An attack that succeeded and one that failed are told apart by what the model writes. The last layer is left
out: there, success is another token by the next step. Beside it, the probe split's prompts are dealt into two kinds by
chance, many times: what their means say of the real kinds is no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis.separation import side_of
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.tasks.safety import ATTACKS, OUTPUT
from ftmech_hf.training.loop import Progress

DRAWS = 100
"""Deals of prompts into kinds by chance."""


@dataclass(frozen=True, kw_only=True)
class ClustersConfig(JobConfig):
    """Which model is looked into."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    eval_rows: int = field(
        default=512, metadata={"help": "prompts of each mixture, and as many to fit and to choose on"}
    )
    draws: int = field(default=DRAWS, metadata={"help": "deals of prompts into kinds by chance, the control"})
    output_dir: str = field(default="runs/clusters", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows", "draws")


def asked_prompts(rows: Rows) -> Tensor:
    """The prompts of rows of the task, without their answers, (B, T)."""
    return torch.from_numpy(rows.token_ids[:, : OUTPUT.start])


@torch.no_grad()
def prompt_states(
    model: PreTrainedModel, prompts: Tensor, shown: Tensor | None = None, *, batch_size: int = 256
) -> list[Tensor]:
    """The stream after every layer but the last, where a prompt ends: layer -> (B, D).

    Args:
        model: any that has a stream.
        prompts: token ids (B, T), shorter ones filled on their left.
        shown: what of them is no padding, (B, T); None if all is.
        batch_size: prompts that are read at once.
    """
    parts = []
    for inputs in prompt_batches(model, prompts, shown, batch_size):
        found = model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states
        parts.append([states[:, -1].float().cpu() for states in found[1:-1]])
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def prompt_batches(
    model: PreTrainedModel, prompts: Tensor, shown: Tensor | None, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """What a model is called with to read prompts, which all end at the last place; see :func:`prompt_states`."""
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        more = {} if shown is None else padded_inputs(model, shown[part].to(model.device))
        yield {"input_ids": prompts[part].to(model.device), **more}


def own_sides(
    states: Sequence[Sequence[Tensor]], fitted: Sequence[Sequence[Tensor]]
) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """For every layer: whether each prompt is on its own kind's side; and mean tau, in units of distance from a mean.

    Args:
        states, fitted: of the safe and of the unsafe prompts, by layer.
    """
    right, taus = [], []
    for layer in range(len(fitted[0])):
        means = [each[layer] for each in fitted]
        found = [side_of(each[layer], *means) for each in states]
        own = torch.cat([found[0][0], -found[1][0]])
        right.append((own > 0).numpy())
        taus.append(float(own.mean()) / found[0][1])
    return right, taus


def equally_many(states: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The first prompts of each kind, of both the same number: of one kind alone, one side has them all."""
    number = min(len(each[0]) for each in states)
    return [[layer[:number] for layer in each] for each in states]


def mixed_kinds(states: Sequence[Sequence[Tensor]], seed: int) -> list[list[Tensor]]:
    """The same prompts in two kinds by chance."""
    number = len(states[0][0])
    both = [torch.cat(each) for each in zip(*states, strict=True)]
    order = torch.randperm(len(both[0]), generator=torch.Generator().manual_seed(seed))
    return [[each[order[:number]] for each in both], [each[order[number:]] for each in both]]


def sides_by_chance(
    states: Sequence[Sequence[Tensor]], fitted: Sequence[Sequence[Tensor]], *, seed: int, draws: int = DRAWS
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """:func:`own_sides` by means of kinds by chance: of every prompt, (draws, L, B), and mean tau, (draws, L).

    Where kinds are far apart, one draw has all prompts on their own side or all on the other. So the sample is of
    draws, and not of prompts.

    Args:
        states, fitted: of :func:`own_sides`; the prompts of ``fitted`` are those that are dealt.
        seed: of the first draw; each has the next one.
        draws: how many.
    """
    drawn = [own_sides(states, mixed_kinds(fitted, seed + draw)) for draw in range(draws)]
    return np.array([right for right, _ in drawn]), np.array([tau for _, tau in drawn])


def describe_sides(sides: Tensor, chosen: NDArray[np.bool_], scale: float) -> dict[str, Any]:
    """Of some rows: how many there are, the share on the safe side, and their mean tau in units of ``scale``."""
    some = sides[torch.from_numpy(chosen)]
    if not len(some):
        return {"rows": 0, "safe_side": float("nan"), "tau": float("nan")}
    return {"rows": len(some), "safe_side": float((some > 0).double().mean()), "tau": float(some.mean()) / scale}


def chance_rows(right: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """The share of safe and of unsafe prompts on the safe side in every layer, where kinds are by chance.

    Args:
        right: of :func:`sides_by_chance`, as many safe prompts as unsafe ones after them. ``rows`` counts the draws.
    """
    draws, layers, number = right.shape
    for layer in range(layers):
        safe, unsafe = right[:, layer, : number // 2], right[:, layer, number // 2 :]
        for mixture, side in (("safe", float(safe.mean())), ("unsafe", 1 - float(unsafe.mean()))):
            yield {"mixture": mixture, "layer": layer, "kinds": "by chance", "answers": "all", "rows": draws,
                   "safe_side": side}  # fmt: skip


def measure_clusters(config: ClustersConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """Where safe prompts, unsafe ones and attacks lie in a model's stream, layer by layer."""
    with job("safety_clusters", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model = load_model(config.model)

        def rows_of(mixture: str, split: str) -> Rows:
            asked = task.asking(mixture, "instructed")
            return RowStream(asked, seed=config.seed, split=split).rows(0, config.eval_rows)

        fitted, tried = (
            [prompt_states(model, asked_prompts(rows_of(kind, split))) for kind in ("safe", "unsafe")]
            for split in ("probe", "validation")
        )
        table: list[dict[str, Any]] = []
        shown: dict[str, list[Tensor]] = {}
        for done, mixture in enumerate(("safe", "unsafe", *ATTACKS), start=1):
            rows = rows_of(mixture, "test")
            wrote: NDArray[np.bool_] = np.asarray(read_answers(model, rows).right.all(1))
            groups = {"all": np.ones(len(rows), bool), "succeeded": wrote, "failed": np.logical_not(wrote)}
            shown[mixture] = prompt_states(model, asked_prompts(rows))
            for layer, states in enumerate(shown[mixture]):
                sides, scale = side_of(states, fitted[0][layer], fitted[1][layer])
                table += [
                    {"mixture": mixture, "layer": layer, "kinds": "own", "answers": name,
                     **describe_sides(sides, chosen, scale)}
                    for name, chosen in groups.items()
                ]  # fmt: skip
            if progress is not None:
                progress(done, 2 + len(ATTACKS), mixture)
        by_chance, _ = sides_by_chance((shown["safe"], shown["unsafe"]), fitted, seed=config.seed, draws=config.draws)
        table += chance_rows(by_chance)
        own = [float(right.mean()) for right in own_sides(tried, fitted)[0]]
        return finish_job(run, table, {"layer": int(np.argmax(own)), "own_side_on_validation": own})
