"""Does removing a few neurons of a model that has lost a feature bring it back?

Jain et al. (arXiv 2311.12786) prune their models of grammars and programs, not those of stories. Here the same
procedure: a neuron's importance is gradient x weight for the loss of the token by which a twist begins, in stories
whose instruction names it; the number of neurons is chosen on one set of stories and reported on another; and beside it
stand as many random neurons. Choices of the twist that was not asked for show whether the ability came back or a habit
was made. At the end the pruned model writes whole stories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import Units, find_units
from ftmech_hf.analysis.pruning import (
    Importance,
    Mask,
    PruningResult,
    gradient_importance,
    prune_sweep,
    pruned,
    random_mask,
    top_mask,
)
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.tinystories.prompts import (
    ASKED,
    NOT_ASKED,
    Choices,
    find_stories,
    make_choices,
    make_documents,
    twist_loss,
    twists_chosen,
)
from ftmech_hf.studies.tinystories.scores import ScoreConfig, can_choose, score_model
from ftmech_hf.tasks.stories import StoriesConfig, judge
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class StoryPruneConfig(JobConfig):
    """Which model to prune, and how."""

    model: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    unit: Literal["weight", "row", "activation", "head"] = field(
        default="row",
        metadata={"help": "a neuron is a row of a weight matrix (paper), a weight, an MLP activation or a head"},
    )
    sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 5, 10, 15, 30], metadata={"help": "numbers of neurons to prune"}
    )
    max_best_k: int = field(default=15, metadata={"help": "the best number is chosen up to here"})
    num_random: int = field(default=1, metadata={"help": "random masks per number of neurons"})
    num_random_at_best: int = field(default=5, metadata={"help": "random masks at the best number"})
    prune_stories: int = field(
        default=128, metadata={"help": "stories to score on, to choose on and to report on, each"}
    )
    generations: int = field(default=256, metadata={"help": "stories that the pruned model writes"})
    max_new_tokens: int = field(default=220, metadata={"help": "tokens of a story at most"})
    output_dir: str = field(default="runs/stories-prune", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_best_k", "num_random_at_best", "prune_stories", "generations", "max_new_tokens")
        if not self.sizes or min(self.sizes) < 0 or not any(0 < size <= self.max_best_k for size in self.sizes):
            raise ValueError(f"sizes: {self.sizes}, expected at least one from 1 to max_best_k: {self.max_best_k}")


def prune_stories(config: StoryPruneConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Prune a model for the twist; ``table.parquet`` has the curve, ``summary.json`` what came of the best number."""
    if not can_choose(task):
        raise ValueError("files, feature: pruning needs procedural stories with a twist, whose place is known")
    with job("stories_prune", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model, tokenizer = load_model(config.model), load_tokenizer(config.model)
        units = find_units(model, config.unit)
        sets = _choices(config, task)
        importance = _importance(model, units, sets.pop("scored"))
        result = _sweep(config, model, units, importance, sets, progress)
        table = result.rows()
        summary = {
            **result.summary(),
            "before": {name: _at(result, 0, "importance", name) for name in sets},
            "best": {name: result.at_best("importance", name) for name in sets},
            "random": {name: result.at_best("random", name) for name in (ASKED, NOT_ASKED)},
            "stories": _write_stories(config, task, model, tokenizer, units, result, importance),
        }
        return finish_job(run, table, summary)


def _choices(config: StoryPruneConfig, task: StoriesConfig) -> dict[str, Choices]:
    """Set of stories -> the places where a twist may come; but for the last, the instruction names it."""
    found = {}
    for name, split, kind in (
        ("scored", "probe", ASKED),
        ("validation", "validation", ASKED),
        (ASKED, "test", ASKED),
        (NOT_ASKED, "test", NOT_ASKED),
    ):
        stories = find_stories(task, split, config.seed, config.prune_stories)
        found[name] = make_choices(task, make_documents(task, stories, kind, config.seed))
    return found


def _importance(model: PreTrainedModel, units: Units, scored: Choices) -> Importance:
    """Gradient x weight for the loss of the twist's token."""
    columns = torch.cat([scored.token_ids, scored.mask, scored.twist[:, None], scored.belief[:, None]], dim=1)
    width = scored.token_ids.shape[1]

    def loss(rows: Tensor) -> Tensor:
        part = Choices(rows[:, :width], rows[:, width : 2 * width], rows[:, -2], rows[:, -1])
        return twist_loss(model, part)

    return gradient_importance(units, loss, columns, batch_size=32)


def _sweep(
    config: StoryPruneConfig,
    model: PreTrainedModel,
    units: Units,
    importance: Importance,
    sets: Mapping[str, Choices],
    progress: Progress | None,
) -> PruningResult:
    done, total = 0, len(set(config.sizes)) * (1 + config.num_random) + config.num_random_at_best

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, total), total, "")
        with pruned(units, mask):
            return {name: float(twists_chosen(model, sets[name]).double().mean()) for name in names}

    return prune_sweep(
        importance,
        evaluate,
        unit=config.unit,
        test_sets=list(sets),
        control_sets=[ASKED, NOT_ASKED],
        sizes=sorted({0, *config.sizes}),
        max_best_k=config.max_best_k,
        chosen_on="validation",
        num_random=config.num_random,
        num_random_at_best=config.num_random_at_best,
        seed=config.seed,
        unit_name=lambda group, number: units[group].name(group, number),
    )


def _at(result: PruningResult, size: int, method: str, name: str) -> float:
    return float(np.mean([e[name] for e in result.curve if (e["num_pruned"], e["method"]) == (size, method)]))


def _write_stories(
    config: StoryPruneConfig,
    task: StoriesConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    units: Units,
    result: PruningResult,
    importance: Importance,
) -> dict[str, Any]:
    """Twists in whole stories: as the model is, pruned, and with as many random neurons pruned."""
    scoring = ScoreConfig(seed=config.seed, generations=config.generations, max_new_tokens=config.max_new_tokens)
    stories = find_stories(task, "test", config.seed, config.generations)
    rng = np.random.default_rng([config.seed, result.best_k, 0])  # the first of the random masks of the curve
    masks = {
        "before": top_mask(importance, 0),
        "best": result.best_mask,
        "random": random_mask(importance, result.best_k, rng),
    }
    found = {}
    for name, mask in masks.items():
        with pruned(units, mask):
            found[name] = score_model(scoring, task, model, tokenizer, stories, judge)[1]
    return found
