"""The plan of the study of stories (Jain et al., arXiv 2311.12786, Sect. 5.2 and App. F): which runs there are.

Per seed: a model is pretrained on stories with all features, and a control on those without a twist. The model is then
fine-tuned so that it loses the twist, in three ways and at two learning rates: on stories without one (F), on such
stories whose instruction calls another feature a twist (F+MM), and on such stories some of whose instructions ask for a
twist that is not there (F+R). All of them and the control are fine-tuned back on stories with a twist. At every step of
interest a model writes stories with and without being asked for a twist; base, control, tuned and reversed models are
probed for all features; and those tuned at the large rate and the control are pruned. With ``lora``, one deletion and
one reversal more, by low-rank updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ftmech_hf.jobs.fit_judge import check_choice, judge_version
from ftmech_hf.jobs.study import StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.report.differences import Difference
from ftmech_hf.studies.tinystories.config import RATES, StoriesStudyConfig, log_spaced
from ftmech_hf.studies.tinystories.differences import stories_rows
from ftmech_hf.studies.tinystories.probes import StoryProbeConfig, probe_stories
from ftmech_hf.studies.tinystories.pruning import StoryPruneConfig, prune_stories
from ftmech_hf.studies.tinystories.scores import ScoreConfig, can_choose, score_stories
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import Documents
from ftmech_hf.training.settings import TrainConfig

LOSSES = 16
"""Log-spaced steps of fine-tuning back at which losses are taken, which cost little beside stories."""

CONTROL = "control"
BASE = "base"


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


def pretraining(config: StoriesStudyConfig, seed: int) -> TrainConfig:
    """How a base is made."""
    return TrainConfig(
        seed=seed, steps=config.base_steps, batch_size=config.base_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps, objective="documents",
        optimizer=config.optimizer, muon_lr=config.muon_lr, lr=config.base_lr, weight_decay=config.base_weight_decay,
        warmup_fraction=config.base_warmup, final_lr_fraction=config.base_final_lr,
        mixed_precision=config.mixed_precision, num_evals=6, eval_rows=config.eval_rows,
        final_eval_rows=config.eval_rows,
    )  # fmt: skip


def tuning(config: StoriesStudyConfig, seed: int, lr: float, steps: int, **more: Any) -> TrainConfig:
    """How a feature is deleted or brought back: at a constant rate, as in the paper."""
    return TrainConfig(
        seed=seed, steps=steps, lr=lr, batch_size=config.tune_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps, optimizer="adamw", objective="documents",
        weight_decay=config.weight_decay, warmup_fraction=0.0, final_lr_fraction=1.0,
        mixed_precision=config.mixed_precision, eval_rows=config.eval_rows, final_eval_rows=config.eval_rows, **more,
    )  # fmt: skip


class StoriesPlan(StudyPlan):
    """The runs of the study.

    Attributes:
        models: in the order of the paper's table; the base first, the control last.
        probes: (seed, label, whether it is the reversed model) -> name of the run that probes it.
    """

    config: StoriesStudyConfig

    def __init__(self, config: StoriesStudyConfig, task: StoriesConfig) -> None:
        if task.files and config.answer_weight != 1:
            raise ValueError(
                f"answer_weight: {config.answer_weight}, but nobody knows which words of stories from files show their "
                "features; expected 1"
            )
        check_choice(config.judge, task)
        super().__init__(config, task)
        self.task = task
        self.models: list[Model] = []
        self.probes: dict[tuple[int, str, bool], str] = {}
        for seed in config.seeds:
            self._add_seed(seed)

    def differences(self) -> list[Difference]:
        """From the paper, in the settings of the runs."""
        return stories_rows(self.by_kind(), self.config.seeds)

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
        never = Model(CONTROL, "", seed, control, self._score(control, seed))
        self._add_model(self._prune(self._reverse(never, AdapterConfig())))

    def _delete(
        self, name: str, protocol: str, rate: str, base: str, seed: int, lr: float, adapter: AdapterConfig
    ) -> None:
        config = self.config
        changes: dict[str, dict[str, Any]] = {
            "F": {}, "F+R": {"claim": config.claimed}, "F+MM": {"rename": config.renamed}
        }  # fmt: skip
        task = dataclasses.replace(self.task, without=self.task.feature, **changes[protocol])
        train = self._train(seed, lr, config.delete_steps, num_evals=5)
        run = self._tune(name, "finetune", task, train, adapter, base)
        model = self._reverse(Model(protocol, rate, seed, run, self._score(run, seed)), adapter)
        self._add_model(self._prune(model) if rate == "large" else model)

    def _prune(self, model: Model) -> Model:
        config = self.config
        if not config.prune_stories or not can_choose(self.task):
            return model
        place = StoryPruneConfig(
            seed=model.seed, prune_stories=config.prune_stories, generations=config.generations,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            score_batch_size=config.score_batch_size,
        )  # fmt: skip
        cost = config.prune_stories * 20 + 6 * config.generations
        return model._replace(
            prune=self.add(
                f"prune-{model.run}", "stories_prune", prune_stories, place, {"task": self.task},
                {"model": model.run}, cost / 100,
            )
        )  # fmt: skip

    def _add_model(self, model: Model) -> None:
        self.models.append(model)
        self._probe(model.label, model.run, model.seed, reverse=False)
        if model.rate == "large":
            self._probe(model.label, model.reverse, model.seed, reverse=True)

    def _train(self, seed: int, lr: float, steps: int, **more: Any) -> TrainConfig:
        return tuning(self.config, seed, lr, steps, **more)

    def _pretrain(self, name: str, task: StoriesConfig, seed: int) -> str:
        config = self.config
        train = pretraining(config, seed)
        place = PretrainConfig(task="stories", preset=config.preset)
        cost = config.base_steps * config.base_batch_size / 50
        settings = {"task": task, "train": train, "objective": Documents(answer_weight=config.answer_weight)}
        return self.add(f"{name}-seed{seed}", "pretrain", pretrain, place, settings, {}, cost)

    def _tune(
        self,
        name: str,
        split: Literal["finetune", "reverse"],
        task: StoriesConfig,
        train: TrainConfig,
        adapter: AdapterConfig,
        model: str,
    ) -> str:
        settings: Mapping[str, Any] = {"task": task, "train": train, "adapter": adapter}
        place = FinetuneConfig(task="stories", split=split)
        cost = train.steps * train.batch_size / 50
        return self.add(name, place.kind, finetune, place, settings, {"model": model}, cost)

    def _reverse(self, model: Model, adapter: AdapterConfig) -> Model:
        config = self.config
        points = config.points
        kept = [step for step in points if step < config.reverse_steps]
        looks = sorted({*points, *log_spaced(config.reverse_steps, LOSSES)})
        lr = config.lora_reverse_lr if adapter.adapter == "lora" else config.reverse_lr
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
            score_batch_size=config.score_batch_size,
        )  # fmt: skip
        cost = 2 * config.generations * (1 + len(steps or [])) / 50
        return self.add(
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
        self.probes[seed, label, reverse] = self.add(
            name, "stories_probe", probe_stories, place, settings, {label: run}, number / 50
        )
