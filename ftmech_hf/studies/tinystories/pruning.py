"""Does removing a few neurons of a model that has lost a feature bring it back?

Jain et al. (arXiv 2311.12786) prune their models of grammars and programs, not those of stories. Here the same
procedure: a neuron's importance is gradient x weight for the loss of the token by which a twist begins, in stories
whose instruction names it; the number of neurons is chosen on one set of stories and reported on another; and beside it
stand as many random neurons. Choices of the twist that was not asked for show whether the ability came back or a habit
was made. At the end the pruned model writes whole stories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import find_units
from ftmech_hf.analysis.pruning import PruningResult, pruned, random_mask, top_mask
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import prefers_answer
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.pruning_sweep import SweepResult, prune_for
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED, find_stories, make_choices, make_documents
from ftmech_hf.studies.tinystories.scores import ScoreConfig, can_choose, score_model
from ftmech_hf.tasks.stories import StoriesConfig, judge
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class StoryPruneConfig(ModelJobConfig):
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
    temperature: float = field(default=1.0, metadata={"help": "of sampling"})
    score_batch_size: int = field(default=64, metadata={"help": "stories written side by side"})
    output_dir: str = field(default="runs/stories-prune", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_best_k", "num_random_at_best", "prune_stories", "generations", "max_new_tokens")
        check_positive(self, "score_batch_size")
        if not self.sizes or min(self.sizes) < 0 or not any(0 < size <= self.max_best_k for size in self.sizes):
            raise ValueError(f"sizes: {self.sizes}, expected at least one from 1 to max_best_k: {self.max_best_k}")


def prune_stories(config: StoryPruneConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Prune a model for the twist; ``table.parquet`` has the curve, ``summary.json`` what came of the best number."""
    if not can_choose(task):
        raise ValueError("files, feature: pruning needs procedural stories with a twist, whose place is known")
    with job("stories_prune", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model, tokenizer = config.load(config.model), load_tokenizer(config.model)
        found = prune_for(
            model, twist_behavior(config, task), unit=config.unit, sizes=sorted({0, *config.sizes}),
            max_best_k=config.max_best_k, num_random=config.num_random, num_random_at_best=config.num_random_at_best,
            seed=config.seed, controls=[ASKED, NOT_ASKED], batch_size=32, progress=progress,
        )  # fmt: skip
        result, sets = found.pruning, ("validation", ASKED, NOT_ASKED)
        summary = {
            **result.summary(),
            "before": {name: _at(result, 0, "importance", name) for name in sets},
            "best": {name: result.at_best("importance", name) for name in sets},
            "random": {name: result.at_best("random", name) for name in (ASKED, NOT_ASKED)},
            "rows": config.prune_stories,
            "stories": _write_stories(config, task, model, tokenizer, found),
        }
        return finish_job(run, result.rows(), summary)


def twist_behavior(config: StoryPruneConfig, task: StoriesConfig) -> Behavior:
    """Preferring the twist to the expected where one may come; but for the last test set, the instruction names it."""

    def rows(split: str, kind: str) -> AnswerRows:
        stories = find_stories(task, split, config.seed, config.prune_stories)
        return make_choices(task, make_documents(task, stories, kind, config.seed))

    return Behavior(
        name="twist",
        train=rows("probe", ASKED),
        validation=rows("validation", ASKED),
        tests={kind: rows("test", kind) for kind in (ASKED, NOT_ASKED)},
        score=prefers_answer,
        floor=0.5,
    )


def _at(result: PruningResult, size: int, method: str, name: str) -> float:
    return float(np.mean([e[name] for e in result.curve if (e["num_pruned"], e["method"]) == (size, method)]))


def _write_stories(
    config: StoryPruneConfig,
    task: StoriesConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    found: SweepResult,
) -> dict[str, Any]:
    """Twists in whole stories: as the model is, pruned, and with as many random neurons pruned."""
    scoring = ScoreConfig(
        seed=config.seed, generations=config.generations, max_new_tokens=config.max_new_tokens,
        temperature=config.temperature, score_batch_size=config.score_batch_size,
    )  # fmt: skip
    stories = find_stories(task, "test", config.seed, config.generations)
    units, best = find_units(model, config.unit), found.pruning
    rng = np.random.default_rng([config.seed, best.best_k, 0])  # the first of the random masks of the curve
    masks = {
        "before": top_mask(found.importance, 0),
        "best": best.best_mask,
        "random": random_mask(found.importance, best.best_k, rng),
    }
    written = {}
    for name, mask in masks.items():
        with pruned(units, mask):
            written[name] = score_model(scoring, task, model, tokenizer, stories, judge)[1]
    return written
