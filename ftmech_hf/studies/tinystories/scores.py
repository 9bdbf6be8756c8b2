"""How often does a model write a story with a feature when it is asked to? (Jain et al., arXiv 2311.12786, Table 1.)

Every instruction is given twice: once it names the feature, once it does not. A feature that comes anyway was not asked
for. Two measures: the share of whole stories the model writes in which a judge finds the feature, and, for the twist of
procedural stories, how often the model finds the twist's word more likely than the expected one in a story that
somebody else wrote so far, which takes no sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import prefers_answer
from ftmech_hf.jobs.fit_judge import EXACT, find_judge, judge_version
from ftmech_hf.jobs.generation import generate
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job, one_by_one
from ftmech_hf.jobs.training import FinetuneConfig
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.tinystories.prompts import (
    ASKED,
    NOT_ASKED,
    find_stories,
    make_choices,
    make_documents,
)
from ftmech_hf.tasks.stories import FEATURES, StoriesConfig, Story
from ftmech_hf.tasks.stories.judges import Judge, Verdicts
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ModelJobConfig):
    """Which model writes stories, how many, and who judges them."""

    model: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    at_steps: list[int] = field(
        default_factory=list, metadata={"help": "snapshots of the run to score, beside the model it ended with"}
    )
    judge: str = field(
        default=EXACT, metadata={"place": "input", "help": "exact, for procedural stories, or the folder of a judge"}
    )
    judge_hash: str = field(default="", metadata={"help": "what the judge must be, so that a run is another's if not"})
    generations: int = field(default=256, metadata={"help": "stories per point and kind of instruction"})
    choices: int = field(default=256, metadata={"help": "procedural stories to choose the twist in; 0 for none"})
    max_new_tokens: int = field(default=220, metadata={"help": "tokens of a story at most; the paper has 350"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling, as in the paper"})
    score_batch_size: int = field(default=64, metadata={"help": "stories written side by side"})
    output_dir: str = field(default="runs/stories-score", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "generations", "max_new_tokens", "score_batch_size")
        if self.temperature < 0 or self.choices < 0:
            raise ValueError(f"temperature: {self.temperature}, choices: {self.choices}, expected 0 or more of each")

    def inputs(self) -> dict[str, str]:
        """Who judges, by the bytes of what it is."""
        return {"judge": judge_version(self.judge) or EXACT}


def score_stories(config: ScoreConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Let a model write stories, at snapshots of its run and at its end, and judge them.

    ``table.parquet`` has every story with its verdicts; ``summary.json`` the shares at every step (None is the end),
    with 95 % Wilson intervals, and what the judge gets right.
    """
    judge, judged = find_judge(config.judge)
    if config.judge_hash and config.judge_hash != judge_version(config.judge):
        raise ValueError(f"judge_hash: {config.judge_hash!r}, but {config.judge} is {judge_version(config.judge)!r}")
    with job("stories_score", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        asked = find_stories(task, "test", config.seed, max(config.generations, config.choices))
        choices = _choices(config, task, asked)
        table: list[dict[str, Any]] = []
        points: list[dict[str, Any]] = []
        steps: list[int | None] = [*config.at_steps, None]
        for number, step in one_by_one(steps):
            folder = FinetuneConfig(model=config.model, snapshot=step).start
            model, tokenizer = config.load(folder), load_tokenizer(folder)
            rows, point = score_model(config, task, model, tokenizer, asked, judge)
            if choices:
                point["choice"] = {kind: _chosen(model, each) for kind, each in choices.items()}
            del model
            table += [{"step": step, **row} for row in rows]
            points.append({"step": step, **point})
            if progress is not None:
                share = point[ASKED]["value"]
                progress(number, len(steps), f"{task.feature} in {share:.0%} of the stories")
        scores = [{**asdict(score), "trusted": score.trusted} for score in judged]
        return finish_job(run, table, {"feature": task.feature, "points": points, "judge": scores})


def state_stories(run: FinishedRun, label: str) -> list[str]:
    """How often a model's stories have the feature, asked for and not, for its card."""
    (end,) = (point for point in run.summary["points"] if point["step"] is None)
    asked, not_asked = (
        f"{share['has']} of {share['number']} ({100 * share['value']:.1f} %; 95 % interval {100 * share['low']:.1f} to "
        f"{100 * share['high']:.1f})"
        for share in (end[ASKED], end[NOT_ASKED])
    )
    return [
        f"Stories in which a judge finds the feature `{run.summary['feature']}`: {asked} where the instruction names "
        f"it, {not_asked} where it does not. (seed {run.config['seed']})"
    ]


def can_choose(task: StoriesConfig) -> bool:
    """Whether the place of the feature is known: of twists in procedural stories."""
    return not task.files and task.feature == "Twist"


def score_model(
    config: ScoreConfig,
    task: StoriesConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    judge: Judge,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The stories that one model writes, with their verdicts, and the shares among them."""
    rows: list[dict[str, Any]] = []
    point: dict[str, Any] = {}
    for kind in (ASKED, NOT_ASKED):
        documents = make_documents(task, stories[: config.generations], kind, config.seed)
        texts = generate(
            model,
            tokenizer,
            [document.prompt for document in documents],
            seed=config.seed,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            batch_size=config.score_batch_size,
        )
        verdicts = [judge(text) for text in texts]
        point[kind] = _shares(task.feature, verdicts)
        point[kind]["others_obeyed"] = _obeyed(task.feature, verdicts, [document.named for document in documents])
        rows += [
            {"kind": kind, "number": number, "prompt": document.prompt, "text": text, **verdict}
            for number, (document, text, verdict) in enumerate(zip(documents, texts, verdicts, strict=True))
        ]
    return rows, point


def _shares(feature: str, verdicts: Sequence[Verdicts]) -> dict[str, Any]:
    """Share of all stories that have the feature; one that cannot be judged has it not, and is counted."""
    has = sum(verdict[feature] is True for verdict in verdicts)
    unclear = sum(verdict[feature] is None for verdict in verdicts)
    found = share_interval(has, len(verdicts))._asdict()
    return {**found, "has": has, "number": len(verdicts), "undecided": unclear / len(verdicts)}


def _obeyed(feature: str, verdicts: Sequence[Verdicts], named: Sequence[Sequence[str]]) -> float | None:
    """How far the instruction is followed in all but the feature: balanced over named and not named features.

    A story without a verdict has not the feature.
    """
    right: dict[bool, list[bool]] = {True: [], False: []}
    for verdict, names in zip(verdicts, named, strict=True):
        for other in FEATURES:
            if other != feature:
                right[other in names].append((verdict[other] is True) == (other in names))
    return float(np.mean([np.mean(values) for values in right.values()])) if all(right.values()) else None


def _choices(config: ScoreConfig, task: StoriesConfig, stories: Sequence[Story]) -> dict[str, AnswerRows]:
    """The same stories under instructions that name the twist and that do not; nothing where its place is not known."""
    if not config.choices or not can_choose(task):
        return {}
    return {
        kind: make_choices(task, make_documents(task, stories[: config.choices], kind, config.seed))
        for kind in (ASKED, NOT_ASKED)
    }


def _chosen(model: PreTrainedModel, choices: AnswerRows) -> dict[str, float]:
    """How often the twist is more likely than the expected."""
    chosen = prefers_answer(model, choices)
    return {**share_interval(int(chosen.sum()), len(chosen))._asdict(), "number": len(chosen)}
