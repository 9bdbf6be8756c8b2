"""Where do saved models look when they answer, what do their MLPs hold, and what has changed?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.attention import (
    AttentionResult,
    MapChangeResult,
    activation_change,
    attention_change,
    attention_to_groups,
    pattern_change,
)
from ftmech_hf.jobs.job import JobConfig, capability_rows, check_positive, finish_job, job, parse_models
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(JobConfig):
    """Whose attention to map."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain", "finetuned=runs/finetune"],
        metadata={
            "place": "input",
            "help": "name=folder of each model; the first is what the others are compared with",
        },
    )
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    prompt_operand: str = field(default="b", metadata={"help": "operand that the prompts name"})
    rows: int = field(default=256, metadata={"help": "rows the attention is averaged over"})
    output_dir: str = field(default="runs/attention", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rows")
        if self.rows < 2:
            raise ValueError(f"rows: {self.rows}, expected at least 2: halves of them say what is no change")
        parse_models(self.models)


def map_attention(config: AttentionConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Map what the answer position attends to and what MLPs hold there, in each model, and how far both have moved.

    ``table.parquet`` has the attention to every symbol, ``change.parquet`` how far each head and MLP is from the first
    model's, beside the null; ``summary.json`` one example's attention, layers x heads x tokens; ``maps.safetensors``
    its whole maps, ``MODEL.attn_pattern`` (L, H, T, T) and ``MODEL.mlp_act`` (L, T, N).
    """
    models = parse_models(config.models)
    with job("attention", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        rows = capability_rows(
            task, Capability(config.operator, config.prompt_operand), "test", config.seed, config.rows
        )
        token_ids = torch.from_numpy(rows.token_ids[:, :-2])
        groups = {name: [task.vocabulary.index(name)] for name in task.symbols}
        results: dict[str, AttentionResult] = {}
        changes: dict[str, list[MapChangeResult]] = {}
        maps: dict[str, Tensor] = {}
        first: dict[str, Tensor] = {}
        for number, (name, folder) in enumerate(models.items()):
            traced = TracedModel(load_model(folder, attn_implementation="eager"))
            found = _maps(traced, token_ids)
            whole = _maps(traced, token_ids[:1], positions=list(range(token_ids.shape[1])))
            maps |= {f"{name}.{site}": value[:, 0].contiguous() for site, value in whole.items()}
            results[name] = attention_to_groups(found["attn_pattern"], token_ids, groups)
            first = first or found
            changes[name] = [
                pattern_change(first["attn_pattern"], found["attn_pattern"], seed=config.seed),
                activation_change(first["mlp_act"], found["mlp_act"], seed=config.seed),
            ]
            if progress is not None:
                progress(number + 1, len(models), name)
        save_file(maps, str(run.working / "maps.safetensors"))
        others = {name: each for name, each in changes.items() if name != next(iter(models))}
        moved = [{"model": name, **row} for name, each in others.items() for one in each for row in one.rows()]
        columns = ["model", "kind", "layer", "head", "by_row", "jensen_shannon", "of_means", "null", "null_high"]
        pd.DataFrame(moved, columns=columns).to_parquet(run.working / "change.parquet", index=False)
        start = next(iter(results.values()))
        summary = {
            "tokens": [task.vocabulary[token] for token in token_ids[0].tolist()],
            "pattern": {name: np.round(result.pattern, 4).tolist() for name, result in results.items()},
            "mass": {name: result.summary() for name, result in results.items()},
            "change_from_first": {name: attention_change(start, result) for name, result in results.items()},
            "change": {name: {one.kind: one.summary() for one in each} for name, each in others.items()},
        }
        table = [{"model": name, **row} for name, result in results.items() for row in result.rows()]
        return finish_job(run, table, summary)


def _maps(traced: TracedModel, token_ids: Tensor, positions: int | list[int] = -1) -> dict[str, Tensor]:
    """Site -> its maps of all layers, (L, B, H, T) and (L, B, N), or with an axis for positions before the last."""
    sites = ["mlp_act", "attn_pattern"]
    found = traced.collect(token_ids, sites, positions=positions)
    return {site: torch.stack([found[site, layer] for layer in range(traced.num_layers)]) for site in sites}
