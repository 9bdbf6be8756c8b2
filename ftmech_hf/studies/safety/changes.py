"""What did tuning change: where in the weights, on which prompts, and how strongly outputs depend on inputs (Sect. 4)?

Of every matrix that reads the stream in an MLP: how much of its change lies outside what the base writes into, beside
directions by chance; and how strongly the change acts on what enters the matrix where an answer begins, beside a random
matrix of its norm. Benign tuning is measured alike: what is as large there is no effect of safety tuning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import find_layout, find_units
from ftmech_hf.activations.interventions import on_input
from ftmech_hf.analysis.input_gradients import input_gradient_norms
from ftmech_hf.analysis.weights import action_on, weight_change
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.studies.safety.clusters import asked_prompts, prompt_batches
from ftmech_hf.tasks import RowStream, SafetyConfig
from ftmech_hf.tasks.safety import OUTPUT
from ftmech_hf.training.loop import Progress

LOOKED_AT = ("safe", "unsafe", "co_text_2", "misgen")
SMALLEST = 1e-12
"""What is no effect at all, as a logarithm is taken of it."""


@dataclass(frozen=True, kw_only=True)
class ChangesConfig(JobConfig):
    """Which pair of models is compared."""

    base: str = field(default="runs/pretrain", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    finetuned: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "what it was tuned into: a folder, or on the Hub"}
    )
    eval_rows: int = field(default=256, metadata={"help": "prompts of each mixture"})
    output_dir: str = field(default="runs/changes", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows")


def reading_matrices(model: PreTrainedModel) -> dict[str, Tensor]:
    """The matrices of MLPs that read the stream, (outputs, inputs): GPT-2's ``c_fc``, a gated MLP's two."""
    layout = find_layout(model)
    layout.require("mlp_act")
    last = [f"{layout.blocks}.{layer}.{block.mlp_down}" for layer, block in enumerate(layout.layers)]
    inside = tuple(name.rpartition(".")[0] + "." for name in last)
    return {
        name: group.weight.detach().movedim(group.axis, 0)
        for name, group in find_units(model, "row").items()
        if name.startswith(inside) and name not in last
    }


@contextlib.contextmanager
def reading_inputs(model: PreTrainedModel, names: Mapping[str, Tensor]) -> Iterator[dict[str, list[Tensor]]]:
    """While open, keeps what enters some modules at the last place of every row: name -> parts (B, inputs)."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        for name in names:

            def read(value: Tensor, name: str = name) -> Tensor:
                kept[name].append(value[:, -1].detach().float().cpu())
                return value

            stack.callback(on_input(model.get_submodule(name), read).remove)
        yield kept


def mlp_inputs(
    model: PreTrainedModel, prompts: Tensor, shown: Tensor | None = None, *, batch_size: int = 256
) -> dict[str, Tensor]:
    """What enters every matrix of :func:`reading_matrices` where prompts (B, T) end: name -> (B, inputs).

    Args:
        model, prompts, shown, batch_size: of :func:`~ftmech_hf.studies.safety.clusters.prompt_states`.
    """
    with reading_inputs(model, reading_matrices(model)) as kept, torch.no_grad():
        for inputs in prompt_batches(model, prompts, shown, batch_size):
            model(**inputs, use_cache=False, logits_to_keep=1)
    return {name: torch.cat(parts) for name, parts in kept.items()}


def log_action(
    deltas: Mapping[str, Tensor], weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> NDArray[np.float64]:
    """The logarithm of how strongly changes act on what enters their matrices, the mean over matrices, (B,)."""
    actions = (action_on(delta, weights[name], inputs[name].to(delta.device)) for name, delta in deltas.items())
    each = [action.clamp(min=SMALLEST).log() for action in actions]
    found: NDArray[np.float64] = torch.stack(each).mean(0).cpu().double().numpy()
    return found


def random_like(deltas: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random matrices of the same norms."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(delta.shape, generator=generator).to(delta.device) for name, delta in deltas.items()}
    return {name: each * (deltas[name].norm() / each.norm()) for name, each in drawn.items()}


def divergence_by_token(base: PreTrainedModel, tuned: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """KL divergence (nats) of the base from the tuned model at every token of the answers of rows (B, T), (answer,)."""
    logs = []
    for model in (tuned, base):
        with torch.no_grad():
            found = model(token_ids.to(model.device)[:, : OUTPUT.stop - 1], use_cache=False).logits
        logs.append(found[:, OUTPUT.start - 1 :].float().log_softmax(-1).cpu())
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean(0)


def describe_logs(logs: NDArray[np.floating[Any]], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean and deviation of some rows' logarithms, and how many rows there are."""
    some = logs[chosen]
    if not len(some):
        return {"rows": 0, "value": float("nan"), "deviation": float("nan")}
    return {"rows": len(some), "value": float(some.mean()), "deviation": float(some.std(ddof=min(1, len(some) - 1)))}


def weight_rows(base: PreTrainedModel, tuned: PreTrainedModel, *, seed: int) -> list[dict[str, Any]]:
    """How much every matrix of :func:`reading_matrices` changed, of what rank, and how much of it lies outside."""
    before, after = reading_matrices(base), reading_matrices(tuned)
    return [
        {"quantity": "weights", **row}
        for row in weight_change(before, after, dict.fromkeys(before, False), seed=seed).rows()
    ]


def measure_changes(config: ChangesConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """Where a model's change lies, on which prompts it acts, and what it makes of the sensitivity to inputs."""
    models = {"base": config.base, "finetuned": config.finetuned}
    with job("safety_changes", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        below: dict[str, Any] = {name: base_for(name, models) for name in models}
        base, tuned = (load_model(folder, **below[name]) for name, folder in models.items())
        before, after = reading_matrices(base), reading_matrices(tuned)
        deltas = {name: (after[name] - weight).float() for name, weight in before.items()}
        chance = random_like(deltas, config.seed)
        table = weight_rows(base, tuned, seed=config.seed)
        for done, mixture in enumerate(LOOKED_AT, start=1):
            rows = RowStream(task.asking(mixture, "instructed"), seed=config.seed, split="test")
            asked = rows.rows(0, config.eval_rows)
            ids = torch.from_numpy(asked.token_ids)
            entered = mlp_inputs(tuned, asked_prompts(asked))
            # Answers are one token there, and begin two tokens before the end of what is given.
            norms = [input_gradient_norms(model, ids[:, : OUTPUT.start + 2]) for model in (base, tuned)]
            logs = {
                "action": log_action(deltas, before, entered),
                "action of a random change": log_action(chance, before, entered),
                "input gradient": np.log(np.maximum(norms[1], SMALLEST) / np.maximum(norms[0], SMALLEST)),
            }
            wrote: NDArray[np.bool_] = np.asarray(read_answers(tuned, asked).right.all(1))
            groups = {"all": np.ones(len(asked), bool), "succeeded": wrote, "failed": np.logical_not(wrote)}
            table += [
                {"quantity": quantity, "mixture": mixture, "answers": name, **describe_logs(values, chosen)}
                for quantity, values in logs.items()
                for name, chosen in groups.items()
            ]
            table += [
                {"quantity": "divergence", "mixture": mixture, "token": token, "value": float(value)}
                for token, value in enumerate(divergence_by_token(base, tuned, ids))
            ]
            if progress is not None:
                progress(done, len(LOOKED_AT), mixture)
        return finish_job(run, table, {"matrices": len(before)})
