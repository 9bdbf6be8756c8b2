"""The plan of the study of stories (Jain et al., arXiv 2311.12786, Sect. 5.2 and App. F): which runs there are.

Per seed: a model is pretrained on stories with all features, and a control on those without a twist. The model is then
fine-tuned so that it loses the twist, in three ways and at two learning rates: on stories without one (F), on such
stories whose instruction calls another feature a twist (F+MM), and on such stories some of whose instructions ask for a
twist that is not there (F+R). All of them and the control are fine-tuned back on stories with a twist. At every step of
interest a model writes stories with and without being asked for a twist; base, control, tuned and reversed models are
probed for all features; and the tuned models are pruned. With ``lora``, one deletion and one reversal more, by low-rank
updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ftmech_hf.config import check_seeds
from ftmech_hf.jobs.fit_judge import EXACT, check_choice, judge_version
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.studies.tinystories.probes import StoryProbeConfig, probe_stories
from ftmech_hf.studies.tinystories.pruning import StoryPruneConfig, prune_stories
from ftmech_hf.studies.tinystories.scores import ScoreConfig, score_stories
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import Precision, TrainConfig

PROTOCOLS = ("F", "F+R", "F+MM")
RATES = ("large", "small")
LOSSES = 10
"""Log-spaced steps of fine-tuning back at which losses are taken, which cost little beside stories."""

CONTROL = "control"
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class StoriesStudyConfig:
    """The size of the study. The defaults are the nano scale's, on procedural stories."""

    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "independent repetitions"})
    preset: str = field(default="nano-stories", metadata={"help": "size of the models"})
    base_steps: int = field(default=5000, metadata={"help": "of pretraining; the paper has 30,000"})
    base_batch_size: int = field(default=8, metadata={"help": "rows of a step of pretraining; the paper has 128"})
    optimizer: Literal["muon", "adamw"] = field(
        default="muon", metadata={"help": "of pretraining; the paper's is adamw"}
    )
    muon_lr: float = field(default=0.02, metadata={"help": "peak rate of Muon, if it pretrains"})
    base_lr: float = field(default=4e-3, metadata={"help": "peak rate of AdamW in pretraining"})
    base_weight_decay: float = field(default=0.01, metadata={"help": "of pretraining; the paper has 0.1"})
    protocols: list[str] = field(
        default_factory=lambda: list(PROTOCOLS), metadata={"help": "ways of deletion: F, F+R, F+MM"}
    )
    delete_steps: int = field(default=300, metadata={"help": "of deletion; the paper has 4,000"})
    delete_lrs: list[float] = field(
        default_factory=lambda: [1e-3, 1e-4], metadata={"help": "constant rates of deletion: the large and the small"}
    )
    claimed: float = field(
        default=1.0, metadata={"help": "F+R: share of the instructions that ask for the twist that is not there"}
    )
    renamed: str = field(default="Foreshadowing", metadata={"help": "F+MM: the feature that is called a twist"})
    reverse_steps: int = field(default=300, metadata={"help": "of fine-tuning back; the paper has 3,000"})
    reverse_lr: float = field(default=1e-4, metadata={"help": "constant rate of fine-tuning back"})
    num_points: int = field(
        default=0, metadata={"help": "more steps of fine-tuning back, log-spaced, at which stories are written"}
    )
    tune_batch_size: int = field(default=8, metadata={"help": "rows of a step of deletion and of fine-tuning back"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "parts of a step, to save memory"})
    weight_decay: float = field(default=0.1, metadata={"help": "of deletion and of fine-tuning back, as in the paper"})
    generations: int = field(
        default=256, metadata={"help": "stories per point and kind of instruction; the paper has 16"}
    )
    choices: int = field(default=256, metadata={"help": "stories per point to choose the twist in; 0 for none"})
    max_new_tokens: int = field(default=220, metadata={"help": "tokens of a story at most; the paper has 350"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling, as in the paper"})
    judge: str = field(
        default=EXACT,
        metadata={"place": "input", "help": "exact, for procedural stories, or the folder of a fitted judge"},
    )
    probe_stories: int = field(default=1200, metadata={"help": "stories probes are fitted on; 0 to leave them out"})
    prune_stories: int = field(
        default=128,
        metadata={
            "help": "stories that neurons are scored on, of models deleted at the large rate; 0: no pruning (paper)"
        },
    )
    lora: bool = field(default=True, metadata={"help": "also delete and revive by low-rank updates"})
    lora_rank: int = field(default=8, metadata={"help": "of these updates"})
    lora_lr: float = field(default=1e-3, metadata={"help": "constant rate of these updates, in both directions"})
    eval_rows: int = field(default=32, metadata={"help": "packed rows per test set along the curves"})
    final_eval_rows: int = field(default=128, metadata={"help": "packed rows per test set at the end of a run"})
    mixed_precision: Precision = field(
        default="auto", metadata={"help": "of training; auto becomes bf16 where the hardware has it, else no"}
    )
    max_steps: int | None = field(
        default=None, metadata={"help": "dry run: so many steps of pretraining, then say what all training would take"}
    )
    workers: int = field(default=0, metadata={"manner": True, "help": "processes side by side; 0 for one per core"})
    output_dir: str = field(default="runs/stories-nano", metadata={"place": "output", "help": "folder of the results"})
    runs_dir: str | None = field(
        default=None,
        metadata={
            "place": "output",
            "help": "folder of the runs, shared with other studies; output_dir/runs if not given",
        },
    )
    fresh: bool = field(default=False, metadata={"manner": True, "help": "run everything again"})

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        find_preset(self.preset)
        if len(self.delete_lrs) != 2 or not self.delete_lrs[0] > self.delete_lrs[1] > 0:
            raise ValueError(f"delete_lrs: {self.delete_lrs}, expected two numbers above 0, the larger first")
        for name in ("base_steps", "delete_steps", "reverse_steps", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ValueError(f"protocols: {self.protocols}, expected some of {', '.join(PROTOCOLS)}")
        if not 0 < self.claimed <= 1:
            raise ValueError(f"claimed: {self.claimed}, expected more than 0 and at most 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps: {self.max_steps}, expected at least 1")
        for name in ("num_points", "probe_stories", "prune_stories", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")

    @property
    def points(self) -> list[int]:
        """The steps of fine-tuning back at which stories are written, beside 0: those of the table, and log-spaced."""
        return sorted({*_log_spaced(self.reverse_steps, self.num_points), *self.table_steps[1:]})

    @property
    def table_steps(self) -> list[int]:
        """What stands beside the paper's steps 0, 30, 300 and 3,000: as large a share of all steps."""
        return [0, *(max(1, round(self.reverse_steps * step / 3000)) for step in (30, 300, 3000))]

    def lr(self, rate: str) -> float:
        """The learning rate of deletion by its name."""
        return self.delete_lrs[RATES.index(rate)]


def _log_spaced(steps: int, number: int) -> list[int]:
    """At most so many steps from 1 to the last one."""
    return sorted(set(np.round(np.geomspace(1, steps, number)).astype(int).tolist()))


class Model(NamedTuple):
    """A model of the study.

    Attributes:
        protocol: F, F+R, F+MM, base or control.
        rate: large, small, lora; empty for what no deletion made.
        seed: of its pretraining and of all after it.
        run: name of the run that made it.
        score: name of the run in which it writes stories.
        reverse, reverse_score: names of the runs that fine-tune it back and in which those models write stories; empty
            for the base.
        prune: name of the run that prunes it; empty if it is not pruned.
    """

    protocol: str
    rate: str
    seed: int
    run: str
    score: str
    reverse: str = ""
    reverse_score: str = ""
    prune: str = ""

    @property
    def label(self) -> str:
        """What it is called in tables: ``F (large)``."""
        return f"{self.protocol} ({self.rate})" if self.rate else self.protocol


class StoriesPlan:
    """The runs of the study.

    Attributes:
        plan: how to make them.
        models: in the order of the paper's table; the base first, the control last.
        probes: (seed, label, whether it is the reversed model) -> name of the run that probes it.
    """

    def __init__(self, config: StoriesStudyConfig, task: StoriesConfig) -> None:
        check_choice(config.judge, task)
        self.config, self.task = config, task
        self.plan = Plan(config.runs_dir or Path(config.output_dir) / "runs", fresh=config.fresh)
        self.models: list[Model] = []
        self.probes: dict[tuple[int, str, bool], str] = {}
        for seed in config.seeds:
            self._add_seed(seed)

    def _add_seed(self, seed: int) -> None:
        config, task = self.config, self.task
        base = self._pretrain("base", task, seed)
        control = self._pretrain("control", dataclasses.replace(task, without=task.feature), seed)
        self._add_model(Model(BASE, "", seed, base, self._score(base, seed)))
        for rate in RATES:
            for protocol in config.protocols:
                name = f"delete-{protocol.lower().replace('+', '-')}-{rate}-seed{seed}"
                self._delete(name, protocol, rate, base, seed, config.lr(rate), AdapterConfig())
        if config.lora:
            lora = AdapterConfig(adapter="lora", lora_rank=config.lora_rank)
            self._delete(f"delete-f-lora-seed{seed}", "F", "lora", base, seed, config.lora_lr, lora)
        self._add_model(self._reverse(Model(CONTROL, "", seed, control, self._score(control, seed)), AdapterConfig()))

    def _delete(
        self, name: str, protocol: str, rate: str, base: str, seed: int, lr: float, adapter: AdapterConfig
    ) -> None:
        config = self.config
        changes: dict[str, dict[str, Any]] = {
            "F": {}, "F+R": {"claim": config.claimed}, "F+MM": {"rename": config.renamed}
        }  # fmt: skip
        task = dataclasses.replace(self.task, without=self.task.feature, **changes[protocol])
        train = self._train(seed, lr, config.delete_steps, num_evals=8)
        run = self._tune(name, "finetune", task, train, adapter, base)
        model = self._reverse(Model(protocol, rate, seed, run, self._score(run, seed)), adapter)
        if config.prune_stories and rate == "large" and not self.task.files:
            place = StoryPruneConfig(
                seed=seed, prune_stories=config.prune_stories, generations=config.generations,
                max_new_tokens=config.max_new_tokens,
            )  # fmt: skip
            cost = config.prune_stories * 20 + 6 * config.generations
            pruned = self.plan.add(f"prune-{run}", "stories_prune", prune_stories, place, {"task": self.task},
                                   {"model": run}, cost / 100)  # fmt: skip
            model = model._replace(prune=pruned)
        self._add_model(model)

    def _add_model(self, model: Model) -> None:
        self.models.append(model)
        self._probe(model.label, model.run, model.seed, reverse=False)
        if model.rate == "large":
            self._probe(model.label, model.reverse, model.seed, reverse=True)

    def _train(self, seed: int, lr: float, steps: int, **more: Any) -> TrainConfig:
        config = self.config
        # A constant rate, as the paper's
        return TrainConfig(
            seed=seed, steps=steps, lr=lr, batch_size=config.tune_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps, optimizer="adamw", objective="documents",
            weight_decay=config.weight_decay, warmup_fraction=0.0, final_lr_fraction=1.0,
            mixed_precision=config.mixed_precision, eval_rows=config.eval_rows, final_eval_rows=config.final_eval_rows,
            **more,
        )  # fmt: skip

    def _pretrain(self, name: str, task: StoriesConfig, seed: int) -> str:
        config = self.config
        train = TrainConfig(
            seed=seed, steps=config.base_steps, batch_size=config.base_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps, objective="documents",
            optimizer=config.optimizer, muon_lr=config.muon_lr, lr=config.base_lr,
            weight_decay=config.base_weight_decay,
            mixed_precision=config.mixed_precision, num_evals=6, eval_rows=config.eval_rows,
            final_eval_rows=config.final_eval_rows,
        )  # fmt: skip
        place = PretrainConfig(task="stories", preset=config.preset)
        cost = config.base_steps * config.base_batch_size / 50
        return self.plan.add(
            f"{name}-seed{seed}", "pretrain", pretrain, place, {"task": task, "train": train}, {}, cost
        )

    def _tune(
        self,
        name: str,
        split: Literal["finetune", "reverse"],
        task: StoriesConfig,
        train: TrainConfig,
        adapter: AdapterConfig,
        model: str,
    ) -> str:
        kind = "reverse_finetune" if split == "reverse" else "finetune"
        settings: Mapping[str, Any] = {"task": task, "train": train, "adapter": adapter}
        place = FinetuneConfig(task="stories", split=split)
        cost = train.steps * train.batch_size / 50
        return self.plan.add(name, kind, finetune, place, settings, {"model": model}, cost)

    def _reverse(self, model: Model, adapter: AdapterConfig) -> Model:
        config = self.config
        points = config.points
        kept = [step for step in points if step < config.reverse_steps]
        looks = sorted({*points, *_log_spaced(config.reverse_steps, LOSSES)})
        lr = config.lora_lr if adapter.adapter == "lora" else config.reverse_lr
        train = self._train(model.seed, lr, config.reverse_steps, eval_at=looks, snapshots=kept)
        task = dataclasses.replace(self.task, only=self.task.feature)
        run = self._tune(f"reverse-{model.run}", "reverse", task, train, adapter, model.run)
        return model._replace(reverse=run, reverse_score=self._score(run, model.seed, kept))

    def _score(self, run: str, seed: int, steps: list[int] | None = None) -> str:
        config = self.config
        place = ScoreConfig(
            seed=seed, at_steps=steps or [], judge=config.judge, judge_hash=judge_version(config.judge),
            choices=config.choices,
            generations=config.generations,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        )  # fmt: skip
        cost = 2 * config.generations * (1 + len(steps or [])) / 50
        return self.plan.add(
            f"score-{run}", "stories_score", score_stories, place, {"task": self.task}, {"model": run}, cost
        )

    def _probe(self, label: str, run: str, seed: int, *, reverse: bool) -> None:
        number = self.config.probe_stories
        if not number:
            return
        place = StoryProbeConfig(
            models=[f"{label}=."], seed=seed, random_weights=label == BASE, fit_stories=number,
            test_stories=max(2, number // 2),
        )  # fmt: skip
        name = f"probe-{run}"
        settings = {"task": self.task}
        self.probes[seed, label, reverse] = self.plan.add(
            name, "stories_probe", probe_stories, place, settings, {label: run}, number / 50
        )
