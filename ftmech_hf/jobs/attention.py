"""Where do saved models look when they answer, what do their MLPs hold, and what has changed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel
from ftmech_hf.activations.calls import predicting_position
from ftmech_hf.analysis.attention import (
    AttentionResult,
    MapChangeResult,
    activation_change,
    attention_change,
    attention_to_groups,
    pattern_change,
)
from ftmech_hf.config import tell
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.asking import Asked, ask, asking_job, check_procedural, describe_dataset, find_capability
from ftmech_hf.jobs.behavior import Behavior, from_task
from ftmech_hf.jobs.job import (
    ModelJobConfig,
    check_positive,
    finish_job,
    first_of,
    load_named,
    one_by_one,
    parse_models,
)
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.models.configs import model_config
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.naming import said_of, setting_of
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgShape, for_capability
from ftmech_hf.tasks.schema import TEXT
from ftmech_hf.training.loop import Progress

CHANGES = {"attn_pattern": pattern_change, "mlp_act": activation_change}
"""Site -> how far its maps are apart in two models."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelJobConfig):
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

    def inputs(self) -> dict[str, str]:
        """Which model the others are compared with, where that is not the usual one."""
        return first_of(self.models)


def map_attention(config: AttentionConfig, asked: Asked, *, progress: Progress | None = None) -> RunDir:
    """Map what the answer position attends to and what MLPs hold there, in each model, and how far both have moved.

    The answer position is the last of the prompt: it predicts the answer, or the first token of it; of a compiled
    program the one at which it answers. ``table.parquet`` has the attention to every symbol of the text (of another
    task or a data set, to the prompt's first and last token),
    ``change.parquet`` how far each head and MLP is from the first model's, beside the null; ``summary.json`` one
    example's attention, layers x heads x tokens; ``maps.safetensors`` its whole maps, ``MODEL.attn_pattern``
    (L, H, T, T) and ``MODEL.mlp_act`` (L, T, N), the latter where a block's neurons can be read, as in
    no mixture of experts.

    Raises:
        ValueError: a model whose attention cannot be read, a data set that cannot be asked, or models that read it as
            different tokens or cannot be compared.
    """
    models = parse_models(config.models)
    asking = asking_job(lambda: _find_behavior(config, asked, models), "attention", config, asked, models)
    with asking as (run, behavior):
        if run.finished:
            return run
        rows, example = behavior().test, behavior().test[[0]].without_empty_columns()
        groups = _groups(asked, rows)
        results: dict[str, AttentionResult] = {}
        changes: dict[str, list[MapChangeResult]] = {}
        maps: dict[str, Tensor] = {}
        first: dict[str, Tensor] = {}
        for number, name in one_by_one(models):
            with said_of(setting_of(name, config)):
                found, whole = _look(load_named(config, models, name, attn_implementation="eager"), rows, example)
            maps |= {f"{name}.{site}": value[:, 0].contiguous() for site, value in whole.items()}
            results[name] = attention_to_groups(found["attn_pattern"], rows.prompts()[0], groups)
            first = first or found
            changes[name] = [
                measure(first[site], found[site], seed=config.seed)
                for site, measure in CHANGES.items() if site in first and site in found
            ]  # fmt: skip
            if progress is not None:
                progress(number, len(models), name)
        save_file(maps, str(run.working / "maps.safetensors"))
        others = {name: each for name, each in changes.items() if name != next(iter(models))}
        moved = [{"model": name, **row} for name, each in others.items() for one in each for row in one.rows()]
        columns = ["model", "kind", "layer", "head", "by_row", "jensen_shannon", "of_means", "null", "null_high"]
        pd.DataFrame(moved, columns=columns).to_parquet(run.working / "change.parquet", index=False)
        start, tokens = next(iter(results.values())), example.prompts()[0][0].tolist()
        summary = {
            "tokens": [behavior().spell([token]) for token in tokens],
            "pattern": {
                name: np.round(result.pattern[..., -len(tokens) :], 4).tolist() for name, result in results.items()
            },
            "mass": {name: result.summary() for name, result in results.items()},
            "change_from_first": {name: attention_change(start, result) for name, result in results.items()},
            "change": {name: {one.kind: one.summary() for one in each} for name, each in others.items()},
            **describe_dataset(behavior(), asked),
        }
        table = [{"model": name, **row} for name, result in results.items() for row in result.rows()]
        return finish_job(run, table, summary)


def _check_shapes(models: Mapping[str, str]) -> None:
    """Refuse, before a weight is read, models whose maps are of other sizes than the first one's."""
    configs = {
        name: model_config(folder, **base_for(name, models)).get_text_config() for name, folder in models.items()
    }
    first, start = next(iter(configs.items()))
    for name, each in configs.items():
        width = next((key for key in ("intermediate_size", "n_inner") if getattr(each, key, None)), "hidden_size")
        for key in ("num_hidden_layers", "num_attention_heads", width):
            found, expected = getattr(each, key, None), getattr(start, key, None)
            if None not in (found, expected) and found != expected:
                raise ValueError(
                    f"models: {name}={models[name]} has {key} {found}, expected {expected} as {first}, the first one, "
                    "with whose maps its own are compared"
                )


def _find_behavior(config: AttentionConfig, asked: Asked, models: Mapping[str, str]) -> Behavior:
    _check_shapes(models)
    if not isinstance(asked, PcfgShape):
        check_procedural(config, "operator", "prompt_operand")
        return ask(asked, models, seed=config.seed, train_rows=config.rows, test_rows=config.rows)
    task = for_capability(asked, find_capability(asked, config.operator, config.prompt_operand))
    return from_task(task, seed=config.seed, train_rows=1, test_rows=config.rows)


def _groups(asked: Asked, rows: AnswerRows) -> dict[str, Tensor | list[int]]:
    """The tokens that attention is summed over: each symbol of the text, or of any prompt its first and last one."""
    token_ids, shown = rows.prompts()
    if isinstance(asked, PcfgShape):
        whole = torch.zeros_like(rows.token_ids, dtype=torch.bool)
        whole[:, TEXT] = True  # the prompt names its operand by the same words
        text = whole[:, : token_ids.shape[1]]
        return {name: (token_ids == asked.word_ids[name]) & text for name in asked.symbols}
    shown = torch.ones_like(token_ids, dtype=torch.bool) if shown is None else shown
    place = shown.cumsum(1)
    last = torch.zeros_like(shown)
    last[:, -1] = True
    return {"first token": shown & (place == 1) & ~last, "last token": last}


def _look(model: PreTrainedModel, rows: AnswerRows, example: AnswerRows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """:func:`_maps` of rows where the answer is predicted, and of one row at every position."""
    traced = TracedModel(model)
    if reason := traced.refused.get("attn_pattern"):
        raise ValueError(f"model: attn_pattern {reason}")
    if reason := traced.refused.get("mlp_act"):
        tell(f"models: of a {model.config.model_type} attention alone is mapped: mlp_act {reason}")
    positions = list(range(example.prompts()[0].shape[1]))
    return _maps(traced, rows, predicting_position(model)), _maps(traced, example, positions)


def _maps(traced: TracedModel, rows: AnswerRows, positions: int | list[int]) -> dict[str, Tensor]:
    """Site -> its maps of all layers, (L, B, H, T) and (L, B, N), or with an axis for positions before the last."""
    sites = [site for site in CHANGES if site in traced.sites]
    token_ids, shown = rows.prompts()
    found = traced.collect(
        token_ids, sites, positions=positions, attention_mask=None if shown is None else shown.long()
    )
    return {site: torch.stack([found[site, layer] for layer in range(traced.num_layers)]) for site in sites}


PUBLICATIONS = (Publication(kind="attention", holds="table", question="Where do models look when they answer?"),)
