"""Where do saved models look when they answer?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.attention import attention_change, attention_to_groups
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.common import (
    StudyConfig,
    capability_rows,
    check_positive,
    finish_study,
    open_study,
    parse_models,
)
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(StudyConfig):
    """Whose attention to map."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain", "finetuned=runs/finetune"],
        metadata={"help": "name=folder of each model; the first is what the others are compared with"},
    )
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    prompt_operand: str = field(default="b", metadata={"help": "operand that the prompts name"})
    rows: int = field(default=256, metadata={"help": "rows the attention is averaged over"})
    output_dir: str = field(default="runs/attention", metadata={"help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rows")
        parse_models(self.models)


def map_attention(config: AttentionConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Map what the answer position attends to, in each model: one example in full, and the mean over many rows.

    The example's map is stored in ``summary.json``, layers x heads x tokens.
    """
    models = parse_models(config.models)
    run = open_study("attention", config, task, models)
    if run.finished:
        return run
    rows = capability_rows(task, Capability(config.operator, config.prompt_operand), "test", config.seed, config.rows)
    token_ids = torch.from_numpy(rows.token_ids[:, :-2])
    results = {}
    groups = {name: [task.vocabulary.index(name)] for name in task.symbols}
    try:
        for number, (name, folder) in enumerate(models.items()):
            traced = TracedModel(load_model(folder, attn_implementation="eager"))
            patterns = traced.collect(token_ids, ["attn_pattern"])
            stacked = torch.stack([patterns["attn_pattern", layer] for layer in range(traced.num_layers)])
            results[name] = attention_to_groups(stacked, token_ids, groups)
            if progress is not None:
                progress(number + 1, len(models), name)
        first = next(iter(results.values()))
        summary = {
            "tokens": [task.vocabulary[token] for token in token_ids[0].tolist()],
            "pattern": {name: np.round(result.pattern, 4).tolist() for name, result in results.items()},
            "mass": {name: result.summary() for name, result in results.items()},
            "change_from_first": {name: attention_change(first, result) for name, result in results.items()},
        }
        table = [{"model": name, **row} for name, result in results.items() for row in result.rows()]
        return finish_study(run, table, summary)
    finally:
        run.close()
