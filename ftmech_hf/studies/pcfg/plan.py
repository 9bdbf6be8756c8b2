"""The plan of a reproduction: which runs each seed needs, in what order, and in which folders.

Per seed: three models are pretrained (low prior, high prior, and the control, which is never asked about a); the first
two are fine-tuned to count b on texts with a planted correlation; the fine-tuned low-prior model and the control are
reversed on a; and the low-prior pair and the control are pruned, probed and mapped. A run's folder is named by what it
computes, so changing one setting runs again only what depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.attention import AttentionConfig, map_attention
from ftmech_hf.jobs.probing import ProbeConfig, probe
from ftmech_hf.jobs.pruning import PruneConfig, prune
from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.report.differences import Difference
from ftmech_hf.report.pcfg_settings import pcfg_rows
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.pcfg.claims import REVIVAL_THRESHOLD
from ftmech_hf.tasks import PcfgConfig, PcfgShape
from ftmech_hf.training.objectives import NextToken
from ftmech_hf.training.settings import Precision, TrainConfig

EVALS_PER_DECADE = 12
"""Evaluations of a model that is fine-tuned back, while steps grow tenfold."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(StudyConfig):
    """The size of a reproduction. The defaults are the nano scale's."""

    preset: str = field(default="nano", metadata={"help": "size of the models"})
    low_steps: int = field(default=450, metadata={"help": "pretraining steps of the low-prior and control models"})
    high_steps: int = field(default=1200, metadata={"help": "pretraining steps of the high-prior model"})
    lr: float = field(default=2e-3, metadata={"help": "peak rate of pretraining, of AdamW"})
    muon_lr: float = field(default=0.03, metadata={"help": "peak rate of pretraining, of Muon"})
    answer_weight: float = field(
        default=16.0, metadata={"help": "of an answer in pretraining, beside 1 for every other token of its row"}
    )
    finetune_steps: int = field(default=300, metadata={"help": "fine-tuning steps"})
    finetune_lr: float = field(default=3e-5, metadata={"help": "peak rate of fine-tuning"})
    reverse_steps: int = field(default=600, metadata={"help": "reverse fine-tuning steps"})
    reverse_lr: float = field(
        default=1e-5, metadata={"help": "constant rate of reverse fine-tuning, below fine-tuning's as in the paper"}
    )
    batch_size: int = field(default=32, metadata={"help": "rows of a step"})
    eval_rows: int = field(default=64, metadata={"help": "rows per test set along the curves"})
    final_eval_rows: int = field(default=512, metadata={"help": "rows per test set at the end of a run"})
    prune_eval_rows: int = field(default=512, metadata={"help": "rows per test set under each pruning mask"})
    probe_fit_rows: int = field(default=2000, metadata={"help": "rows a probe is fitted on"})
    mixed_precision: Precision = field(
        default="auto", metadata={"help": "of training; auto becomes bf16 where the hardware has it, else no"}
    )
    output_dir: str = field(
        default="runs/reproduce-nano", metadata={"place": "output", "help": "folder of the results"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)


class ReproducePlan(StudyPlan):
    """The runs of every seed.

    Attributes:
        seeds: seed -> what a run is called within it -> the run's name.
    """

    config: ReproduceConfig

    def __init__(self, config: ReproduceConfig, shape: PcfgShape) -> None:
        super().__init__(config, shape)
        self.shape = shape
        self.seeds: dict[int, dict[str, str]] = {}
        for seed in config.seeds:
            self.seeds[seed] = {}
            self._add_training(seed)
            self._add_measurements(seed)

    def of_seed(self, seed: int) -> dict[str, Path]:
        """What a run of a seed is called within it -> its folder."""
        return {name: self.folders[run] for name, run in self.seeds[seed].items()}

    @property
    def finished(self) -> dict[int, dict[str, FinishedRun]]:
        """Seed -> what a run is called within it -> the run, of those that are there."""
        return {
            seed: {name: found for name, run in runs.items() if (found := self.find(run))}
            for seed, runs in self.seeds.items()
        }

    def differences(self) -> list[Difference]:
        """From the paper, in the settings of the runs."""
        return pcfg_rows(self.by_kind(), self.config.seeds)

    def _add_run(
        self,
        seed: int,
        name: str,
        kind: str,
        function: Callable[..., Any],
        place: Any,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        cost: float,
    ) -> None:
        runs = self.seeds[seed]
        needs = {label: runs[run] for label, run in inputs.items()}
        runs[name] = self.add(f"{name}-seed{seed}", kind, function, place, settings, needs, cost)

    def _add_training(self, seed: int) -> None:
        c = self.config
        self._pretrain(seed, "base-high", "high", c.high_steps)
        self._pretrain(seed, "base-low", "low", c.low_steps)
        self._pretrain(seed, "base-control", "control", c.low_steps)
        self._finetune(seed, "finetuned-low", "base-low", "b", 1.0)
        self._finetune(seed, "finetuned-high", "base-high", "b", 0.8)
        self._finetune(seed, "finetuned-control", "base-control", "b", 1.0)
        self._finetune(seed, "reversed-low", "finetuned-low", "a", None)
        self._finetune(seed, "reversed-control", "base-control", "a", None)

    def _add_measurements(self, seed: int) -> None:
        self._prune(seed, "prune-rows", "finetuned-low", "row")
        self._prune(seed, "prune-activations", "finetuned-low", "activation")
        self._prune(seed, "prune-control", "base-control", "row")
        self._prune(seed, "prune-finetuned-control", "finetuned-control", "row")
        trio = {"base": "base-low", "finetuned": "finetuned-low", "control": "base-control"}
        settings = ProbeConfig(models=["any=."], fit_rows=self.config.probe_fit_rows, seed=seed)
        self._add_run(seed, "probe", "probe", probe, settings, {"asked": self.shape}, trio, 200)
        mapped = {"base": "base-low", "finetuned": "finetuned-low", "reversed": "reversed-low"}
        self._add_run(
            seed, "attention", "attention", map_attention, AttentionConfig(seed=seed), {"asked": self.shape}, mapped, 30
        )

    def _train_config(self, seed: int, **changes: Any) -> TrainConfig:
        c = self.config
        return TrainConfig(
            seed=seed,
            batch_size=c.batch_size,
            eval_rows=c.eval_rows,
            final_eval_rows=c.final_eval_rows,
            mixed_precision=c.mixed_precision,
            **changes,
        )

    def _pretrain(self, seed: int, name: str, prior: str, steps: int) -> None:
        task = PcfgConfig(**to_dict(self.shape), operand_prior=[prior])
        c = self.config
        train = self._train_config(seed, steps=steps, num_evals=6, lr=c.lr, muon_lr=c.muon_lr)
        settings = {"task": task, "train": train, "objective": NextToken(answer_weight=c.answer_weight)}
        self._add_run(seed, name, "pretrain", pretrain, PretrainConfig(preset=c.preset), settings, {}, steps)

    def _finetune(self, seed: int, name: str, base: str, operand: str, correlation: float | None) -> None:
        """Fine-tune on the answers about b with a correlation, or reverse: on a, on untouched text."""
        task = PcfgConfig(**to_dict(self.shape), operators=["count"], operand_prior=[operand], correlation=correlation)
        reverse = correlation is None
        steps = self.config.reverse_steps if reverse else self.config.finetune_steps
        train = self._train_config(
            seed,
            steps=steps,
            lr=self.config.reverse_lr if reverse else self.config.finetune_lr,
            optimizer="adamw",
            objective="answer_only",
            num_evals=8,
            evals_per_decade=EVALS_PER_DECADE if reverse else 0,
            eval_near=REVIVAL_THRESHOLD if reverse else None,
            # A constant rate makes steps of reversing comparable: under the paper's 20 % warm-up a revival is over long
            # before the rate has risen, which shortens its distance to the control.
            warmup_fraction=0.0 if reverse else 0.2,
            final_lr_fraction=1.0 if reverse else 0.01,
        )
        place = FinetuneConfig(split="reverse" if reverse else "finetune")
        settings = {"task": task, "train": train}
        self._add_run(seed, name, place.kind, finetune, place, settings, {"model": base}, 1.3 * steps)

    def _prune(self, seed: int, name: str, model: str, unit: Literal["row", "activation"]) -> None:
        settings = PruneConfig(unit=unit, eval_rows=self.config.prune_eval_rows, seed=seed)
        self._add_run(
            seed, name, "prune", prune, settings, {"asked": self.shape}, {"model": model}, self.config.prune_eval_rows
        )
