"""Can an answer be read from the stream of saved models?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.common import (
    StudyConfig,
    capability_rows,
    check_positive,
    finish_study,
    open_study,
    parse_models,
    with_random_twin,
)
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(StudyConfig):
    """Which models to probe, and on what."""

    models: list[str] = field(
        default_factory=lambda: ["finetuned=runs/finetune"], metadata={"help": "name=folder of each model"}
    )
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    prompt_operand: str = field(default="a", metadata={"help": "operand that the prompts name"})
    fit_rows: int = field(default=2000, metadata={"help": "rows the probes are fitted on"})
    test_rows: int = field(default=1024, metadata={"help": "rows they are tested on"})
    output_dir: str = field(default="runs/probe", metadata={"help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "fit_rows", "test_rows")
        parse_models(self.models)


def probe(config: ProbeConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Probe models, and a randomly initialised twin of the first, for the answer about the *base* operand.

    Sites: the embedding and the stream after every block, at the position that predicts the answer. The prompts name
    ``prompt_operand``; the label is always the answer for ``base_operand``, so a probe can look for what is not asked.
    """
    models = parse_models(config.models)
    run = open_study("probe", config, task, models)
    if run.finished:
        return run
    base = task.symbols.index(task.base_operand)
    prompts, labels = {}, {}
    for split, number in (("probe", config.fit_rows), ("test", config.test_rows)):
        rows = capability_rows(task, Capability(config.operator, config.prompt_operand), split, config.seed, number)
        prompts[split] = torch.from_numpy(rows.token_ids[:, :-2])
        labels[split] = task.answers(config.operator, task.texts(rows.token_ids), base)
    table: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    try:
        for number, (name, model) in enumerate(with_random_twin(models, config.seed)):
            traced = TracedModel(model)
            sites = {split: _stream_sites(traced, token_ids) for split, token_ids in prompts.items()}
            result = fit_probes(sites["probe"], labels["probe"], sites["test"], labels["test"], seed=config.seed)
            table += [{"model": name, **row} for row in result.rows()]
            summary[name] = result.summary()
            if progress is not None:
                progress(number + 1, len(models) + 1, f"{name}: {summary[name]['accuracy']:.1%}")
        return finish_study(run, table, summary)
    finally:
        run.close()


def _stream_sites(traced: TracedModel, token_ids: Tensor) -> dict[str, Tensor]:
    stream = traced.collect(token_ids, ["resid_pre", "resid_post"])
    after = {f"block {layer}": stream["resid_post", layer] for layer in range(traced.num_layers)}
    return {"embedding": stream["resid_pre", 0], **after}
