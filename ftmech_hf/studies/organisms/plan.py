"""The plan of the organisms: bases, what is made of them, a diagnosis of each pair, and how fast each relearns.

Seeds are of two sorts. On development pairs thresholds are set and models of the signs are fitted; test pairs are
scored once, and differ from those in their seeds, in the grammar's root and in the operands. Along the seeds of a sort
architectures and operators take turns, each in its own, so that few seeds have all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftmech_hf.config import check_seeds, to_dict
from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.organisms.disjoint import DisjointConfig, relearn_disjoint
from ftmech_hf.studies.organisms.kinds import KINDS, Kind
from ftmech_hf.studies.organisms.pairs import Pair, Split, Tampered, World
from ftmech_hf.studies.organisms.rounding import RoundConfig, round_model
from ftmech_hf.tasks import PcfgConfig, PcfgShape
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import AnswerOnly, NextToken
from ftmech_hf.training.settings import TrainConfig

EVALS_PER_DECADE = 10
LEFT_OUT = ("null_models", "path", "weights", "separation", "sensitivity")
"""Methods of a diagnosis that neither the verdict nor a rival rests on: without them it takes a third less."""
EASIER: dict[str, dict[str, Any]] = {"index": {"index_occurrence": 2, "min_labels": 4}}
"""Operator -> changes of the scale's shape: the third occurrence takes more steps than these models are given, and of
the second there are few places in the test grammar that are as frequent with the correlation as without it.
"""
BYSTANDER = "token_at"
"""An operator that bases know beside that of the ability."""


@dataclass(frozen=True, kw_only=True)
class OrganismsConfig(StudyConfig):
    """How many organisms, of what, and how they are made."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4, 5], metadata={"help": "of the test pairs"})
    development_seeds: list[int] = field(
        default_factory=lambda: [100, 101, 102, 103, 104, 105],
        metadata={"help": "of the pairs that thresholds are set on"},
    )
    develop: bool = field(
        default=False, metadata={"help": "the development pairs alone, so that nothing is seen of the others"}
    )
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": f"of {', '.join(KINDS)}"})
    presets: list[str] = field(
        default_factory=lambda: ["nano", "nano-llama", "nano-moe"], metadata={"help": "sizes of models, in turns"}
    )
    operators: list[str] = field(
        default_factory=lambda: ["count", "index"], metadata={"help": "task tokens of the ability, in turns"}
    )
    test_root: str = field(default="n", metadata={"help": "start symbol of the grammar for the test pairs"})
    test_operands: list[str] = field(
        default_factory=lambda: ["b", "c"], metadata={"help": "base_operand and correlated_operand of the test pairs"}
    )
    base_steps: int = field(default=700, metadata={"help": "of pretraining"})
    answer_weight: float = field(default=16.0, metadata={"help": "of an answer in pretraining, beside 1"})
    lr: float = field(default=2e-3, metadata={"help": "peak rate of pretraining, of AdamW"})
    muon_lr: float = field(default=0.03, metadata={"help": "peak rate of pretraining, of Muon"})
    tune_steps: int = field(default=200, metadata={"help": "of an organism whose kind does not say"})
    tune_lr: float = field(default=1e-4, metadata={"help": "of an organism whose kind does not say"})
    relearn_steps: int = field(
        default=400, metadata={"help": "that a model is given to relearn; a third where it should need less"}
    )
    relearn_lr: float = field(default=5e-4, metadata={"help": "constant rate of relearning"})
    batch_size: int = field(default=32, metadata={"help": "rows of a step"})
    tampered_seeds: list[int] = field(
        default_factory=list,
        metadata={
            "unsaid": True,
            "help": "of these, pairs whose ability is lost are diagnosed again, rounded and relearning a little",
        },
    )
    rounded_bits: int = field(default=4, metadata={"unsaid": True, "help": "of each weight of a rounded organism"})
    tampered_steps: int = field(
        default=8, metadata={"unsaid": True, "help": "that an organism relearns for before it is asked again"}
    )
    score_file: str | None = field(
        default=None,
        metadata={"place": "output", "help": "file for what pages of diagnoses say of their verdicts, once all is run; "
                  "they read ftmech_hf/studies/diagnosis/verdict_score.json"},
    )  # fmt: skip
    output_dir: str = field(
        default="runs/organisms-nano", metadata={"place": "output", "help": "folder of the results"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seeds(self.development_seeds)
        known = {*self.seeds, *self.development_seeds}
        if strange := set(self.tampered_seeds) - known:
            raise ValueError(f"tampered_seeds: {min(strange)}, expected some of {', '.join(map(str, sorted(known)))}")
        if self.rounded_bits < 2:
            raise ValueError(f"rounded_bits: {self.rounded_bits}, expected at least 2")
        if self.tampered_steps < 1:
            raise ValueError(f"tampered_steps: {self.tampered_steps}, expected at least 1")
        if both := set(self.seeds) & set(self.development_seeds):
            raise ValueError(f"development_seeds: {min(both)} is among seeds, too, expected others")
        unknown = [name for name in self.kinds if name not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds: {(unknown or ['none'])[0]!r}, expected some of {', '.join(KINDS)}")
        for name in self.presets:
            find_preset(name)
        if not self.presets:
            raise ValueError("presets: none, expected at least one")
        wrong = sorted(set(self.operators) - set(OPERATORS))
        if wrong or not self.operators:
            raise ValueError(f"operators: {(wrong or ['none'])[0]}, expected some of {', '.join(OPERATORS)}")
        if len(self.test_operands) != 2:
            raise ValueError(f"test_operands: {' '.join(self.test_operands)!r}, expected two")


class OrganismsPlan(StudyPlan):
    """The runs of every pair.

    Attributes:
        pairs: in the order of their seeds, development first.
    """

    config: OrganismsConfig

    def __init__(self, config: OrganismsConfig, case: CaseConfig, shape: PcfgShape) -> None:
        super().__init__(config, case, shape)
        self.case, self.shape = case, shape
        own, other = config.test_operands
        shapes: dict[Split, PcfgShape] = {
            "development": shape, "test": dataclasses.replace(
                shape, root=config.test_root, base_operand=own, correlated_operand=other
            )
        }  # fmt: skip
        seeds: dict[Split, list[int]] = {"development": config.development_seeds, "test": config.seeds}
        self.worlds = [
            self._add_world(split, seed, number, shapes[split])
            for split in shapes if not (config.develop and split == "test") for number, seed in enumerate(seeds[split])
        ]  # fmt: skip
        self.pairs = [self._add_pair(world, name) for world in self.worlds for name in config.kinds]

    def _add_world(self, split: Split, seed: int, number: int, shape: PcfgShape) -> World:
        """Pretrain the base of a seed, and a model that is never asked about the operand of the ability."""
        c, runs = self.config, {}
        turn, row = number % len(c.presets), number // math.lcm(len(c.presets), len(c.operators))
        operator, preset = c.operators[(number + row) % len(c.operators)], c.presets[turn]
        shape = dataclasses.replace(shape, **EASIER.get(operator, {}))
        for name, shares in (("base", (0.999, 0.001)), ("never-had", (0.0, 1.0))):
            prior = dict(zip((shape.base_operand, shape.correlated_operand), shares, strict=True))
            asked = sorted({operator, BYSTANDER})
            task = PcfgConfig(**to_dict(shape), operators=asked, operand_prior=_priors(shape, prior))
            train = self._train(seed, steps=c.base_steps, lr=c.lr, muon_lr=c.muon_lr, num_evals=2)
            settings = {"task": task, "train": train, "objective": NextToken(answer_weight=c.answer_weight)}
            runs[name] = self.add(
                f"{name}-{preset}-seed{seed}", "pretrain", pretrain, PretrainConfig(preset=preset), settings, {},
                cost=c.base_steps,
            )  # fmt: skip
        return World(split, seed, preset, operator, shape, runs["base"], runs["never-had"])

    def _add_pair(self, world: World, name: str) -> Pair:
        kind, stem = KINDS[name], f"{name.replace(',', '').replace(' ', '-').lower()}"
        organism = self._make(world, kind, stem)
        cost = 20 if kind.truth == "unchanged" else 400
        diagnosis = self._diagnose(world, organism, stem, cost=cost)
        if kind.truth == "unchanged":
            return Pair(name, world, organism, diagnosis, None, None)
        twin = self._relearn(world, world.never_had, "never-had", self.config.relearn_steps)
        # It is there only if the twin takes so many times as long: what takes longer has not that label in any case.
        steps = self.config.relearn_steps
        own = steps if kind.truth == "gone" else math.ceil(steps / VerdictRule().speed)
        lost = kind.truth in ("hidden", "gone")
        tampered = self._tamper(world, organism, stem) if lost and world.seed in self.config.tampered_seeds else None
        disjoint = self._relearn_disjoint(world, organism, stem) if lost else None
        relearning = self._relearn(world, organism, stem, own)
        return Pair(name, world, organism, diagnosis, relearning, twin, tampered, disjoint)

    def _diagnose(self, world: World, organism: str, stem: str, *, cost: float, thorough: bool = False) -> str:
        place = DiagnoseConfig(seed=world.seed, operator=world.operator, leave_out=list(LEFT_OUT), workers=1)
        case = dataclasses.replace(self.case, thorough=self.case.thorough or thorough)
        inputs = {"base": world.base, "finetuned": organism, "control": world.never_had}
        return self.add(
            f"diagnose-{stem}-seed{world.seed}", "diagnose", run_diagnosis, place,
            {"case_config": case, "shape": world.shape}, inputs, cost=cost,
        )  # fmt: skip

    def _relearn_disjoint(self, world: World, organism: str, stem: str) -> str:
        return self.add(
            f"disjoint-{stem}-seed{world.seed}", "relearn_disjoint", relearn_disjoint,
            DisjointConfig(seed=world.seed, operator=world.operator), {"shape": world.shape},
            {"base": world.base, "finetuned": organism, "control": world.never_had}, cost=70,
        )  # fmt: skip

    def _tamper(self, world: World, organism: str, stem: str) -> Tampered:
        """Diagnose it again with rounded weights and after a few steps, whatever its answers say by then."""
        rounded = self.add(
            f"{stem}-rounded-seed{world.seed}", "round", round_model, RoundConfig(bits=self.config.rounded_bits),
            {"task": self._task(world, "own")}, {"model": organism}, cost=2,
        )  # fmt: skip
        steps, never = self.config.tampered_steps, world.never_had
        made = {
            "rounded": (f"rounded-{stem}", rounded),
            "relearned": (f"relearned-{stem}", self._relearn(world, organism, f"{stem}-a-little", steps)),
            "never": ("never-had", never),  # of the model itself, the same for every pair
            "never_relearned": ("relearned-never-had", self._relearn(world, never, "never-had-a-little", steps)),
        }
        return Tampered(**{
            name: self._diagnose(world, model, label, cost=400, thorough=True) for name, (label, model) in made.items()
        })  # fmt: skip

    def _make(self, world: World, kind: Kind, stem: str) -> str:
        """The run whose folder holds the organism."""
        start = world.never_had if kind.never_had else world.base
        if kind.task:
            task = self._task(world, **kind.task)
            train = self._train(
                world.seed, optimizer="adamw", objective="answer_only", num_evals=0,
                **{"steps": self.config.tune_steps, "lr": self.config.tune_lr, **kind.train},
            )  # fmt: skip
            settings = {
                "task": task, "train": train, "adapter": AdapterConfig(**kind.adapter), "objective": AnswerOnly(),
            }  # fmt: skip
            made = self.add(
                f"{stem}-seed{world.seed}", "finetune", finetune, FinetuneConfig(), settings, {"model": start},
                cost=train.steps,
            )  # fmt: skip
        else:
            made = start
        if not kind.merged:
            return made
        whole = InterpolateConfig(alphas=[1.0], save_alpha=1.0, eval_rows=64, seed=world.seed)
        return self.add(
            f"{stem}-whole-seed{world.seed}", "interpolate", interpolate, whole, {"task": self._task(world, "own")},
            {"base": start, "finetuned": made}, cost=5,
        )  # fmt: skip

    def _relearn(self, world: World, model: str, stem: str, steps: int) -> str:
        """Train a model on its ability for some steps, at a constant rate."""
        train = self._train(
            world.seed + 1, steps=steps, lr=self.config.relearn_lr, optimizer="adamw",
            objective="answer_only", num_evals=1, evals_per_decade=EVALS_PER_DECADE, eval_rows=256,
            warmup_fraction=0.0, final_lr_fraction=1.0,
        )  # fmt: skip
        place = FinetuneConfig(split="reverse")
        settings = {"task": self._task(world, "own"), "train": train, "objective": AnswerOnly()}
        return self.add(
            f"relearn-{stem}-seed{world.seed}", place.kind, finetune, place, settings, {"model": model},
            cost=1.3 * train.steps,
        )  # fmt: skip

    def _task(self, world: World, operands: str, operators: str = "", **changes: Any) -> PcfgConfig:
        shape = world.shape
        asked = shape.base_operand if operands == "own" else shape.correlated_operand
        if changes.get("mix_share"):
            changes |= {  # rows of pretraining
                "mix_operators": sorted({world.operator, BYSTANDER}),
                "mix_operand_prior": _priors(shape, {shape.base_operand: 0.999, shape.correlated_operand: 0.001}),
            }
        return PcfgConfig(
            **to_dict(shape), operators=[operators or world.operator], operand_prior=_priors(shape, {asked: 1.0}),
            **changes,
        )  # fmt: skip

    def _train(self, seed: int, **changes: Any) -> TrainConfig:
        rows = {"eval_rows": 128, "final_eval_rows": 256}
        return TrainConfig(seed=seed, batch_size=self.config.batch_size, **{**rows, **changes})


def _priors(shape: PcfgShape, shares: Mapping[str, float]) -> list[str]:
    """One probability per symbol, as a setting has it."""
    return [f"{shares.get(symbol, 0.0):g}" for symbol in shape.symbols]
