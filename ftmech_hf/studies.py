"""Analyses of saved models: load, look inside, leave a run folder. Recipes and the reproduction call these.

Every study writes ``table.parquet`` (tidy) and ``summary.json`` beside its config, and can be found again by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, model_blocks
from ftmech_hf.analysis.attention import attention_change, attention_to_groups
from ftmech_hf.analysis.divergence import divergence_from_truth
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.analysis.pruning import Importance, Mask, neuron_matrices, prune_sweep, pruned_rows, row_importance
from ftmech_hf.config import to_dict
from ftmech_hf.models.loading import check_vocabulary, load_model, model_hash, random_twin
from ftmech_hf.runs import RunDir, write_json
from ftmech_hf.tasks import Capability, PcfgConfig, PcfgShape, Rows, RowStream, for_capability
from ftmech_hf.tasks.schema import TEXT
from ftmech_hf.tasks.truth import check_untouched, row_truth
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import answer_accuracy, answer_only_loss

RANDOM_INIT = "random init"


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which model to prune, and how."""

    model: str = field(default="runs/finetune", metadata={"help": "folder of a run, or a model on the Hub"})
    operator: Literal["count", "index"] = field(default="count", metadata={"help": "task family"})
    unit: Literal["row", "activation"] = field(
        default="row", metadata={"help": "a neuron is a row of a weight matrix (paper), or one MLP activation"}
    )
    sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50],
        metadata={"help": "numbers of neurons to prune"},
    )
    max_best_k: int = field(default=15, metadata={"help": "the best number is chosen up to here"})
    num_random: int = field(default=1, metadata={"help": "random masks per number of neurons"})
    num_random_at_best: int = field(default=10, metadata={"help": "random masks at the best number"})
    score_rows: int = field(default=512, metadata={"help": "rows the importance is computed on"})
    eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    seed: int = field(default=0, metadata={"help": "of the rows and the random masks"})
    output_dir: str = field(default="runs/prune", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        _check_positive(self, "max_best_k", "num_random_at_best", "score_rows", "eval_rows")
        if not self.sizes or min(self.sizes) < 0:
            raise ValueError(f"sizes: {self.sizes}, expected numbers of 0 or more")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Which models to probe, and on what."""

    models: list[str] = field(
        default_factory=lambda: ["finetuned=runs/finetune"], metadata={"help": "name=folder of each model"}
    )
    operator: Literal["count", "index"] = field(default="count", metadata={"help": "task family"})
    prompt_operand: str = field(default="a", metadata={"help": "operand that the prompts name"})
    fit_rows: int = field(default=2000, metadata={"help": "rows the probes are fitted on"})
    test_rows: int = field(default=1024, metadata={"help": "rows they are tested on"})
    seed: int = field(default=0, metadata={"help": "of the rows, the shuffled labels and the random model"})
    output_dir: str = field(default="runs/probe", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        _check_positive(self, "fit_rows", "test_rows")
        parse_models(self.models)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Whose attention to map."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain", "finetuned=runs/finetune"],
        metadata={"help": "name=folder of each model; the first is what the others are compared with"},
    )
    operator: Literal["count", "index"] = field(default="count", metadata={"help": "task family"})
    prompt_operand: str = field(default="b", metadata={"help": "operand that the prompts name"})
    rows: int = field(default=256, metadata={"help": "rows the attention is averaged over"})
    seed: int = field(default=0, metadata={"help": "of the rows"})
    output_dir: str = field(default="runs/attention", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        _check_positive(self, "rows")
        parse_models(self.models)


@dataclass(frozen=True, kw_only=True)
class TruthConfig:
    """Which models to compare with the exact distribution of their data."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain"], metadata={"help": "name=folder of each model"}
    )
    rows: int = field(default=512, metadata={"help": "test rows"})
    seed: int = field(default=0, metadata={"help": "of the rows and the random model"})
    output_dir: str = field(default="runs/truth", metadata={"help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        _check_positive(self, "rows")
        parse_models(self.models)


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)}, expected at least 1")


def parse_models(entries: Sequence[str]) -> dict[str, str]:
    """Read ``name=folder`` entries."""
    models = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    if len(models) != len(entries) or not entries:
        raise ValueError(f"models: {' '.join(entries)!r}, expected entries like finetuned=runs/finetune, no name twice")
    return models


def _open(kind: str, config: Any, task: PcfgShape, models: Mapping[str, str]) -> RunDir:
    inputs = {name: model_hash(folder) for name, folder in models.items()}
    for folder in models.values():
        check_vocabulary(folder, task.vocabulary)
    return RunDir.open(config.output_dir, kind, to_dict(config, task), inputs=inputs, fresh=config.fresh)


def _finish(run: RunDir, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> RunDir:
    pd.DataFrame(rows).to_parquet(run.working / "table.parquet", index=False)
    write_json(run.working / "summary.json", summary)
    run.finish()
    return run


def _with_random_twin(models: Mapping[str, str], seed: int) -> Iterator[tuple[str, PreTrainedModel]]:
    """Each model, loaded when its turn comes, and at the end the first one's architecture with random weights."""
    for name, folder in models.items():
        yield name, load_model(folder)
    yield RANDOM_INIT, random_twin(load_model(next(iter(models.values()))), seed)


def _rows(
    task: PcfgShape, capability: Capability, split: str, seed: int, number: int, correlation: float | None = None
) -> Rows:
    return RowStream(for_capability(task, capability, correlation), seed=seed, split=split).rows(0, number)


def prune(config: PruneConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Prune a fine-tuned model for the *pretraining* capability; see :mod:`ftmech_hf.analysis.pruning`.

    Test sets: the base operand on natural text (twice: ``validation`` chooses K, ``count_a`` is reported), the
    correlated operand without and with the correlation.
    """
    run = _open("prune", config, task, {"model": config.model})
    if run.finished:
        return run
    base, other = (Capability(config.operator, name) for name in (task.base_operand, task.correlated_operand))

    def token_ids(capability: Capability, split: str, correlation: float | None = None) -> Tensor:
        number = config.score_rows if split == "probe" else config.eval_rows
        return torch.from_numpy(_rows(task, capability, split, config.seed, number, correlation).token_ids)

    test_sets = {
        "validation": token_ids(base, "validation"),
        str(base): token_ids(base, "test"),
        f"{other}_cte0": token_ids(other, "test", 0.0),
        f"{other}_cte1": token_ids(other, "test", 1.0),
    }
    scored = token_ids(base, "probe")
    done = 0
    total = len(config.sizes) + config.num_random * sum(k > 0 for k in config.sizes)
    total += max(0, config.num_random_at_best - config.num_random)

    def counted(accuracy_of: Callable[[Mask, Tensor], float]) -> Callable[[Mask, Sequence[str]], dict[str, float]]:
        def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total, "")
            return {name: accuracy_of(mask, test_sets[name]) for name in names}

        return evaluate

    model = load_model(config.model)
    measure = _rows_unit if config.unit == "row" else _activations_unit
    try:
        importance, accuracy_of = measure(model, scored)
        result = prune_sweep(
            importance,
            counted(accuracy_of),
            unit=config.unit,
            test_sets=list(test_sets),
            control_sets=[str(base)],
            sizes=config.sizes,
            max_best_k=config.max_best_k,
            chosen_on="validation",
            num_random=config.num_random,
            num_random_at_best=config.num_random_at_best,
            seed=config.seed,
        )
        by_set = {name: result.at_best("importance", name) for name in test_sets}
        at_best = {
            "accuracy": by_set[str(base)],
            "accuracy_by_set": by_set,
            "random_accuracy": result.at_best("random", str(base)),
        }
        return _finish(run, result.rows(), {**result.summary(), **at_best})
    finally:
        run.close()


def _rows_unit(model: PreTrainedModel, scored: Tensor) -> tuple[Importance, Callable[[Mask, Tensor], float]]:
    matrices = neuron_matrices(model_blocks(model))
    importance: Importance = {}
    for rows in scored.split(64):
        part = row_importance(matrices, lambda rows=rows: answer_only_loss(model, rows))  # type: ignore[misc]
        for name, values in part.items():
            importance[name] = importance.get(name, torch.zeros(())) + values * (len(rows) / len(scored))

    def accuracy_of(mask: Mask, token_ids: Tensor) -> float:
        with pruned_rows(matrices, mask):
            return answer_accuracy(model, token_ids)

    return importance, accuracy_of


def _activations_unit(model: PreTrainedModel, scored: Tensor) -> tuple[Importance, Callable[[Mask, Tensor], float]]:
    traced = TracedModel(model)
    by_layer = traced.activation_importance(scored)
    importance = {f"mlp_act.{layer}": values for layer, values in enumerate(by_layer)}

    def accuracy_of(mask: Mask, token_ids: Tensor) -> float:
        return traced.masked_accuracy(token_ids, torch.stack(list(mask.values())))

    return importance, accuracy_of


def probe(config: ProbeConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Probe models, and a randomly initialised twin of the first, for the answer about the *base* operand.

    Sites: the embedding and the stream after every block, at the position that predicts the answer. The prompts name
    ``prompt_operand``; the label is always the answer for ``base_operand``, so a probe can look for what is not asked.
    """
    models = parse_models(config.models)
    run = _open("probe", config, task, models)
    if run.finished:
        return run
    base = task.symbols.index(task.base_operand)
    prompts, labels = {}, {}
    for split, number in (("probe", config.fit_rows), ("test", config.test_rows)):
        rows = _rows(task, Capability(config.operator, config.prompt_operand), split, config.seed, number)
        prompts[split] = torch.from_numpy(rows.token_ids[:, :-2])
        labels[split] = task.answers(config.operator, task.texts(rows.token_ids), base)
    table: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    try:
        for number, (name, model) in enumerate(_with_random_twin(models, config.seed)):
            traced = TracedModel(model)
            sites = {split: _stream_sites(traced, token_ids) for split, token_ids in prompts.items()}
            result = fit_probes(sites["probe"], labels["probe"], sites["test"], labels["test"], seed=config.seed)
            table += [{"model": name, **row} for row in result.rows()]
            summary[name] = result.summary()
            if progress is not None:
                progress(number + 1, len(models) + 1, f"{name}: {summary[name]['accuracy']:.1%}")
        return _finish(run, table, summary)
    finally:
        run.close()


def _stream_sites(traced: TracedModel, token_ids: Tensor) -> dict[str, Tensor]:
    stream = traced.collect(token_ids, ["resid_pre", "resid_post"])
    after = {f"block {layer}": stream["resid_post", layer] for layer in range(traced.num_layers)}
    return {"embedding": stream["resid_pre", 0], **after}


def map_attention(config: AttentionConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Map what the answer position attends to, in each model: one example in full, and the mean over many rows.

    The example's map is stored in ``summary.json``, layers x heads x tokens.
    """
    models = parse_models(config.models)
    run = _open("attention", config, task, models)
    if run.finished:
        return run
    rows = _rows(task, Capability(config.operator, config.prompt_operand), "test", config.seed, config.rows)
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
        return _finish(run, table, summary)
    finally:
        run.close()


ROW_PARTS = {
    "operator": slice(1, 2),
    "operand": slice(2, 3),
    "text": TEXT,
    "answer": slice(-2, -1),
    "whole row": slice(1, None),
}


def compare_with_truth(config: TruthConfig, task: PcfgConfig, *, progress: Progress | None = None) -> RunDir:
    """KL from the exact next-token distribution, loss and lowest possible loss of each model, and of random weights.

    The rows are those of ``task``: a model should be compared on the distribution it was trained on.
    """
    check_untouched(task)
    models = parse_models(config.models)
    run = _open("truth", config, task, models)
    if run.finished:
        return run
    rows = RowStream(task, seed=config.seed, split="test").rows(0, config.rows)
    truth = row_truth(task, rows.token_ids)
    token_ids = torch.from_numpy(rows.token_ids)
    table, summary = [], {}
    try:
        for number, (name, model) in enumerate(_with_random_twin(models, config.seed)):
            with torch.no_grad():
                logits = torch.cat([model(part[:, :-1]).logits for part in token_ids.split(128)])
            result = divergence_from_truth(logits, torch.from_numpy(truth.probabilities), token_ids, ROW_PARTS)
            table += [{"model": name, **row} for row in result.rows()]
            summary[name] = result.summary()
            if progress is not None:
                progress(number + 1, len(models) + 1, f"{name}: KL {result.kl['whole row']:.3f} nats per token")
        return _finish(run, table, {**summary, "largest_error_of_the_truth": float(truth.error.max())})
    finally:
        run.close()
