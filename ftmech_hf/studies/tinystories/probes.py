"""Which features of a story can be read from a model's stream? (Jain et al., arXiv 2311.12786, App. F, Figs. 35-38.)

As in the paper, a model reads the story alone, without the instruction, and linear probes read the mean of the stream
over the last ten tokens, at every layer, all six features. Controls: shuffled labels, a model of random weights, and
the same probes on stories of words that neither the model nor the probe has seen.

Deviations: the probes are fitted to convergence, standardised and with a bias, where the paper's take 2,000 steps of
AdamW; and half of the stories have the feature that is studied, so that always saying no is right half of the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.probing import ProbingResult, fit_probes
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job, load_named, one_by_one, parse_models
from ftmech_hf.jobs.saved_probes import save_probes
from ftmech_hf.models.identity import base_for, model_hash
from ftmech_hf.models.loading import RANDOM_INIT, load_tokenizer
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.tinystories.prompts import find_stories, pad_left
from ftmech_hf.tasks.stories import FEATURES, StoriesConfig, Story
from ftmech_hf.training.loop import Progress

BATCH = 256
"""Stories whose whole activations are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class StoryProbeConfig(ModelJobConfig):
    """Which models to probe, and on how many stories."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain"], metadata={"place": "input", "help": "name=folder of each model"}
    )
    random_weights: bool = field(default=True, metadata={"help": "probe the first model with random weights, too"})
    last_tokens: int = field(default=10, metadata={"help": "of the story, whose stream is averaged"})
    fit_stories: int = field(default=2000, metadata={"help": "stories a probe is fitted on"})
    test_stories: int = field(
        default=1000,
        metadata={"help": "stories it is tested on; as many choose the best layer, and as many are of other words"},
    )
    num_shuffles: int = field(default=2, metadata={"help": "fits on shuffled labels"})
    output_dir: str = field(default="runs/stories-probe", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "last_tokens", "fit_stories", "test_stories", "num_shuffles")
        parse_models(self.models)


class _Split(NamedTuple):
    stories: list[Story]
    labels: dict[str, NDArray[np.int64]]


def probe_stories(config: StoryProbeConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Probe models for all features at every layer; ``table.parquet`` has a row per model, site, feature and test."""
    models = parse_models(config.models)
    with job("stories_probe", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        splits = _read_splits(config, task)
        first = next(iter(models))
        tokenizer = load_tokenizer(models[first], **base_for(first, models))
        table: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        names = [*models, *([RANDOM_INIT] if config.random_weights else [])]
        for number, name in one_by_one(names):
            hashed = f"random weights, seed {config.seed}"
            if name != RANDOM_INIT:
                hashed = model_hash(models[name], **base_for(name, models))
            rows, result = probe_model(config, load_named(config, models, name), tokenizer, splits)
            save_probes(run.working / "probes" / name, result.probes, hashed, {"last_tokens": config.last_tokens})
            table += [{"model": name, **row} for row in rows]
            summary[name] = {feature: asdict(result.best(feature)) for feature in splits["fit"].labels}
            if progress is not None:
                progress(number, len(names), f"{name}: {result.best(task.feature).accuracy:.1%}")
        return finish_job(run, table, summary)


def _read_splits(config: StoryProbeConfig, task: StoriesConfig) -> dict[str, _Split]:
    """Stories to fit on, to choose a layer on and to report on, and, if procedural, some of words nobody has seen."""
    plan = [
        ("fit", task, "probe", config.fit_stories),
        ("choose", task, "validation", config.test_stories),
        ("test", task, "test", config.test_stories),
    ]
    if not task.files:
        plan.append(("held_out", dataclasses.replace(task, part="held_out"), "test", config.test_stories))
    splits = {}
    for name, each, split, number in plan:
        halves = [
            find_stories(each, split, config.seed, count, has=has)
            for has, count in ((True, number // 2), (False, number - number // 2))
        ]
        mixed = np.random.default_rng([config.seed, number]).permutation(number)
        both = [*halves[0], *halves[1]]
        stories = [both[place] for place in mixed]
        labels = {feature: np.array([feature in story.features for story in stories], np.int64) for feature in FEATURES}
        splits[name] = _Split(stories, labels)
    # a feature that all or none of the stories have is no question
    asked = [name for name in FEATURES if all(len(set(each.labels[name])) == 2 for each in splits.values())]
    return {key: _Split(each.stories, {name: each.labels[name] for name in asked}) for key, each in splits.items()}


def story_activations(
    traced: TracedModel, tokenizer: PreTrainedTokenizerBase, stories: Sequence[Story], last_tokens: int
) -> dict[str, Tensor]:
    """The embedding and the stream after every block, averaged over the last tokens: site -> (B, D)."""
    encoded = tokenizer([story.story for story in stories], add_special_tokens=False)["input_ids"]
    room = positions_of(traced.model) or 2**31
    # of a story that is too long for the model, the end
    rows = [[tokenizer.bos_token_id, *ids][-room:] for ids in encoded]
    if (shortest := min(map(len, rows))) < last_tokens:
        raise ValueError(f"last_tokens: {last_tokens}, but a story has only {shortest}")
    order = np.argsort([len(row) for row in rows], kind="stable")  # little padding in any batch
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), BATCH):
        token_ids, mask = pad_left([rows[number] for number in order[start : start + BATCH]])
        found = traced.collect(
            token_ids, ["resid_pre", "resid_post"], positions=range(-last_tokens, 0), attention_mask=mask,
            batch_size=BATCH,
        )  # fmt: skip
        for (site, layer), value in found.items():
            if site == "resid_post" or layer == 0:
                name = "embedding" if site == "resid_pre" else f"block {layer}"
                parts.setdefault(name, []).append(value.mean(1))
    back = torch.from_numpy(np.argsort(order))
    names = ["embedding", *(f"block {layer}" for layer in range(traced.num_layers))]
    return {name: torch.cat(parts[name])[back] for name in names}


def probe_model(
    config: StoryProbeConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, _Split],
) -> tuple[list[dict[str, Any]], ProbingResult]:
    """Probes of one model: rows of both tests, and the result on stories of the same words.

    The best layer is chosen on stories of its own (``chosen`` is the accuracy on these), and not on those reported.
    """
    traced = TracedModel(model)
    activations = {
        name: story_activations(traced, tokenizer, split.stories, config.last_tokens) for name, split in splits.items()
    }
    result = fit_probes(
        activations["fit"],
        splits["fit"].labels,
        activations["test"],
        splits["test"].labels,
        choose=(activations["choose"], splits["choose"].labels),
        seed=config.seed,
        num_shuffles=config.num_shuffles,
        code=False,
        device=model.device,
    )
    rows = [{"words": "seen", **row} for row in result.rows()]
    if "held_out" in splits:
        for (site, feature), fitted in result.probes.items():
            labels = torch.from_numpy(splits["held_out"].labels[feature])
            right = int((fitted.predict(activations["held_out"][site]) == labels).sum())
            share, having = share_interval(right, len(labels)), float(labels.double().mean())
            known = {"majority": max(having, 1 - having), "num_test": len(labels)}
            named = {"words": "held out", "site": site, "label": feature}
            rows.append({**named, "accuracy": share.value, "low": share.low, "high": share.high, **known})
    return rows, result
