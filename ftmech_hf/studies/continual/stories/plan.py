"""The plan of the second sequence: a base writes stories of six features, of which three are deleted in a row.

Base and deletion are those of the study of stories (Jain et al., arXiv 2311.12786, App. F): fine-tuning on stories
without a feature, all of whose instructions ask for it (F+R). What no task is about is therefore in the stories of
every task, and a feature that was deleted is in those of the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.studies.continual.methods import GRIDS, METHODS, Method, StrengthConfig
from ftmech_hf.studies.continual.sequences import OTHER_WEIGHTS
from ftmech_hf.studies.continual.stories.features import FeaturesConfig, measure_features
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.plan import pretraining, tuning
from ftmech_hf.studies.tinystories.probes import StoryProbeConfig, probe_stories
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import Documents
from ftmech_hf.training.settings import Precision

DELETED = ("Twist", "Dialogue", "BadEnding")
"""What the tasks are about, in their order."""

KEPT = ("Foreshadowing", "MoralValue", "Conflict")
"""What no task is about."""

FAR = 1000
"""Between the seeds of tasks that follow each other: they share no stories."""

FAINT = 0.004
"""The share of rows that the control of replay shows again: about ten of a task's 2,400, three of the 800 that
are published."""

FIRST = "plain"


class Chain(NamedTuple):
    """What is tuned one after another, and how.

    Attributes:
        says: what it is.
        method: how each task is learned.
        tasks: the features that are deleted; None where a task deletes nothing, and its stories are those of
            pretraining.
    """

    says: str
    method: Method
    tasks: tuple[str | None, ...] = DELETED


def _faint(strengths: StrengthConfig, number: int, before: object) -> Mapping[str, Any]:
    return {"keep_rows": strengths.buffer_rows, **({"replay_share": FAINT} if number else {})}


CHAINS: dict[str, Chain] = {
    **{name: Chain(METHODS[name].says, METHODS[name])
       for name in (FIRST, "ldifs-previous", "ldifs-base", "replay", "ldifs-random")},
    "replay-faint": Chain("control: replay of next to no rows", Method("", _faint)),
    "nothing": Chain("control: fine-tuning that deletes nothing", METHODS[FIRST], (None, None, None)),
    "twist-alone": Chain("the first deletion, then fine-tuning that deletes nothing", METHODS[FIRST],
                         (DELETED[0], None, None)),
}  # fmt: skip
"""Name -> what is tuned; the first is what all others are measured against."""

CONTROLS = ("ldifs-random", "replay-faint", "nothing", "twist-alone")

TRIED: dict[str, tuple[str, tuple[float, ...]]] = {
    "ldifs_strength": ("ldifs-previous", (1.0, 10.0, 100.0)), "replay": GRIDS["replay"],
}  # fmt: skip
"""Strengths that ``develop`` tries."""

TRIED_TASKS = 2
"""So many tasks ``develop`` takes: of the first there is nothing yet to replay."""


@dataclass(frozen=True, kw_only=True)
class StorySequenceConfig(StudyConfig, StrengthConfig):
    """The size of the study. The defaults are the nano scale's, as in the study of stories."""

    chains: list[str] = field(
        default_factory=lambda: list(CHAINS), metadata={"help": f"what is tuned, of {', '.join(CHAINS)}"}
    )
    probed: list[str] = field(
        default_factory=lambda: [FIRST], metadata={"help": "chains whose last model is probed, beside the base"}
    )
    develop: bool = field(
        default=False,
        metadata={"help": "in place of the study: try the strengths of LDIFS and replay, on a seed reported nowhere"},
    )
    preset: str = field(default="nano-stories", metadata={"help": "size of the models"})
    base_steps: int = field(default=3000, metadata={"help": "of pretraining"})
    base_batch_size: int = field(default=8, metadata={"help": "rows of a step of pretraining"})
    task_lr: float = field(default=1e-3, metadata={"help": "constant rate of each task"})
    task_steps: int = field(default=300, metadata={"help": "of each task"})
    stories: int = field(default=84, metadata={"help": "that a model writes for each of the six features"})
    max_new_tokens: int = field(default=220, metadata={"help": "tokens of a story at most"})
    probe_stories: int = field(default=1200, metadata={"help": "stories that probes are fitted on; 0 for none"})
    eval_rows: int = field(default=32, metadata={"help": "packed rows per test set of every loss"})
    mixed_precision: Precision = field(default="auto", metadata={"help": "of training"})
    output_dir: str = field(
        default="runs/continual-stories-nano", metadata={"place": "output", "help": "folder of the results"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_unused(chain.method for chain in CHAINS.values())
        find_preset(self.preset)
        if unknown := [each for each in self.chains if each not in CHAINS]:
            raise ValueError(f"chains: {unknown[0]!r}, expected some of {', '.join(CHAINS)}")
        if unknown := [each for each in self.probed if each not in self.chains]:
            raise ValueError(f"probed: {unknown[0]!r}, expected some of the chains, {', '.join(self.chains)}")
        if FIRST not in self.chains:
            raise ValueError(f"chains: expected {FIRST} among them, which the others are measured against")
        if self.probe_stories < 0:
            raise ValueError(f"probe_stories: {self.probe_stories}, expected 0 or more")

    @property
    def study(self) -> StoriesStudyConfig:
        """The same settings of the study of stories, whose bases these are."""
        return StoriesStudyConfig(
            preset=self.preset, base_steps=self.base_steps, base_batch_size=self.base_batch_size,
            eval_rows=self.eval_rows, mixed_precision=self.mixed_precision,
        )  # fmt: skip


class StorySequencePlan(StudyPlan):
    """The runs of every seed.

    Attributes:
        models: seed -> name of a chain -> the runs that made its models, one a task.
        others: seed -> the runs of the base and of random weights.
        asked: name of a run -> name of the run in which its model writes stories.
        probed: name of a run -> name of the run that probes its model, of those that are probed.
    """

    config: StorySequenceConfig

    def __init__(self, config: StorySequenceConfig, task: StoriesConfig) -> None:
        if task.files:
            raise ValueError("files: features are judged exactly of procedural stories alone; remove them")
        super().__init__(config, task)
        self.task = task
        self.models: dict[int, dict[str, list[str]]] = {seed: {} for seed in config.seeds}
        self.others: dict[int, dict[str, str]] = {seed: {} for seed in config.seeds}
        self.asked: dict[str, str] = {}
        self.probed: dict[str, str] = {}
        for seed in config.seeds:
            self._add_bases(seed)
            for name in [FIRST] if config.develop else config.chains:
                self._add_chain(seed, name, name, config)
            if config.develop:
                self._add_grids(seed)

    def _add_bases(self, seed: int) -> None:
        study = self.config.study
        needed = {"base": study.base_steps}
        if "ldifs-random" in self.config.chains and not self.config.develop:
            needed["random"] = 0
        for name, steps in needed.items():
            train = replace(pretraining(study, seed + (name == "random") * OTHER_WEIGHTS), steps=steps)
            settings = {"task": self.task, "train": train, "objective": Documents(answer_weight=study.answer_weight)}
            place = PretrainConfig(task="stories", preset=study.preset)
            run = self.add(f"{name}-seed{seed}", "pretrain", pretrain, place, settings, {}, 1 + steps / 6)
            self.others[seed][name] = run
        self._ask(self.others[seed]["base"], seed, probed=True)

    def _add_grids(self, seed: int) -> None:
        for setting, (name, values) in TRIED.items():
            for value in values:
                change: dict[str, Any] = {setting: value}
                self._add_chain(seed, name, f"{name}@{value:g}", replace(self.config, **change))

    def _add_chain(self, seed: int, name: str, called: str, strengths: StrengthConfig) -> None:
        chain, runs, before = CHAINS[name], [], self.others[seed]["base"]
        tasks = chain.tasks[:TRIED_TASKS] if self.config.develop else chain.tasks
        for number, feature in enumerate(tasks):
            before = self._tune(seed, called, number, feature, before, chain.method, strengths)
            self._ask(before, seed, probed=called in self.config.probed and number == len(tasks) - 1)
            runs.append(before)
        self.models[seed][called] = runs

    def _tune(
        self, seed: int, called: str, number: int, feature: str | None, before: str, method: Method,
        strengths: StrengthConfig,
    ) -> str:  # fmt: skip
        c = self.config
        task = self.task if feature is None else replace(self.task, feature=feature, without=feature, claim=1.0)
        changes = method.settings(strengths, number, [])
        train = tuning(c.study, seed + FAR * number, c.task_lr, c.task_steps, num_evals=0, **changes)
        inputs = {"model": before}
        others = self.others[seed]
        anchor = {"start": before, "base": others["base"], "random": others.get("random", before)}[method.anchor]
        if anchor != before:  # in the first task the base is the start
            inputs["anchor_model"] = anchor
        place = FinetuneConfig(task="stories")
        label = f"{called}-{number + 1}-{(feature or 'nothing').lower()}-seed{seed}"
        settings = {"task": task, "train": train, "adapter": AdapterConfig()}
        return self.add(label, place.kind, finetune, place, settings, inputs, c.task_steps / 6)

    def _ask(self, run: str, seed: int, *, probed: bool) -> None:
        c = self.config
        place = FeaturesConfig(
            seed=seed + FAR * c.develop, stories=c.stories, max_new_tokens=c.max_new_tokens
        )  # what chooses a strength are no stories that are reported
        self.asked[run] = self.add(
            f"features-{run}", "story_features", measure_features, place, {"task": self.task}, {"model": run}, 10
        )
        if probed and c.probe_stories and not c.develop:
            probes = StoryProbeConfig(
                models=[f"{run}=."], seed=seed, random_weights=run == self.others[seed]["base"],
                fit_stories=c.probe_stories, test_stories=max(2, c.probe_stories // 2),
            )  # fmt: skip
            self.probed[run] = self.add(
                f"probe-{run}", "stories_probe", probe_stories, probes, {"task": self.task}, {run: run}, 12
            )
