"""The plan of the organisms: bases, what is made of them, a diagnosis of each pair, and how fast each relearns.

Seeds are of two sorts. On development pairs thresholds are set and models of the signs are fitted; test pairs are for
scoring alone, and differ from those in their seeds, in the grammar's root and in the operands. Along the seeds of a
sort architectures and operators take turns, each in its own, so that few seeds have all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.jobs.study import StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.organisms.disjoint import DisjointConfig, relearn_disjoint
from ftmech_hf.studies.organisms.edits import BYSTANDER, DECOY, PLANTED, PRACTISED, Planted, planted_places, taught_to
from ftmech_hf.studies.organisms.kinds import KINDS, Kind
from ftmech_hf.studies.organisms.pairs import Pair, Split, Tampered, World
from ftmech_hf.studies.organisms.rounding import RoundConfig, round_model
from ftmech_hf.studies.organisms.settings import OrganismsConfig
from ftmech_hf.tasks import PcfgConfig, PcfgShape
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


class OrganismsPlan(StudyPlan):
    """The runs of every pair.

    Attributes:
        pairs: in the order of their seeds, development first.
        shaken: name of a pair whose ability is lost or weakened -> the run that asks it under noise, if asked for.
        planted: edits of known place and rank, if asked for.
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
        edited = {world.seed for world in self.worlds} & set(config.edited_seeds)
        self.shaken = {
            pair.name: self._shake(pair)
            for pair in self.pairs if pair.world.seed in edited and KINDS[pair.kind].truth != "unchanged"
        }  # fmt: skip
        self.planted = [
            self._plant(world, place)
            for world in self.worlds if world.seed in edited
            for place in planted_places(find_preset(world.preset))
        ]  # fmt: skip

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
        kind, stem = KINDS[name], _stem(name)
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

    def _plant(self, world: World, place: str) -> Planted:
        """A shortcut by one direction of one matrix, in a model that has changed everywhere, and as much elsewhere.

        Of every second edit what changed elsewhere is in the part after its own, of the others in that before: later
        parts take larger changes, and neither size nor order must tell the two apart.
        """
        targets = planted_places(find_preset(world.preset))
        places = list(targets)
        number, stem = places.index(place), f"planted-{_stem(place)}"
        other = places[(number + (1 if (number + world.seed) % 2 else -1)) % len(places)]
        practised = self._make(world, PRACTISED, "practised-more")
        decoy = taught_to(DECOY, targets[other], mix_operators=[world.operator])  # the rows that keep the ability
        taken = self._tune(world, decoy, f"decoy-{_stem(other)}", practised)
        kept = self._merge(world, f"decoy-{_stem(other)}", practised, taken)
        made = self._make(world, taught_to(PLANTED, targets[place]), stem, start=kept)
        run = self._instrument(world, made, stem, "change")
        return Planted(world, place, run, other, taken, kept)

    def _shake(self, pair: Pair) -> str:
        return self._instrument(pair.world, pair.organism, f"shaken-{_stem(pair.kind)}", "tampering")

    def _instrument(self, world: World, organism: str, stem: str, method: str) -> str:
        """A diagnosis by one method alone, beside what is asked first."""
        left_out = [name.replace(" ", "_") for name in METHODS if name not in ("behaviour", method)]
        place = DiagnoseConfig(seed=world.seed, operator=world.operator, leave_out=left_out, workers=1)
        case = dataclasses.replace(self.case, thorough=True, edits=method == "change", attacks=method == "tampering")
        settings = {"case_config": case, "shape": world.shape}
        inputs = {"base": world.base, "finetuned": organism, "control": world.never_had}
        return self.add(f"{stem}-seed{world.seed}", "diagnose", run_diagnosis, place, settings, inputs, cost=100)

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

    def _make(self, world: World, kind: Kind, stem: str, *, start: str | None = None) -> str:
        """The run whose folder holds the organism; ``start`` is what it is made of, if not what its kind says."""
        start = start or (world.never_had if kind.never_had else world.base)
        made = self._tune(world, kind, stem, start) if kind.task else start
        return self._merge(world, stem, start, made) if kind.merged else made

    def _tune(self, world: World, kind: Kind, stem: str, start: str) -> str:
        train = self._train(
            world.seed, optimizer="adamw", objective="answer_only", num_evals=0,
            **{"steps": self.config.tune_steps, "lr": self.config.tune_lr, **kind.train},
        )  # fmt: skip
        settings = {
            "task": self._task(world, **kind.task), "train": train, "adapter": AdapterConfig(**kind.adapter),
            "objective": AnswerOnly(),
        }  # fmt: skip
        return self.add(
            f"{stem}-seed{world.seed}", "finetune", finetune, FinetuneConfig(), settings, {"model": start},
            cost=train.steps,
        )  # fmt: skip

    def _merge(self, world: World, stem: str, start: str, made: str) -> str:
        """A model of whole weights, of what was made of ``start``; the ability is asked of it."""
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
            changes = {  # rows of pretraining
                "mix_operators": sorted({world.operator, BYSTANDER}),
                **changes,
                "mix_operand_prior": _priors(shape, {shape.base_operand: 0.999, shape.correlated_operand: 0.001}),
            }
        return PcfgConfig(
            **to_dict(shape), operators=[operators or world.operator], operand_prior=_priors(shape, {asked: 1.0}),
            **changes,
        )  # fmt: skip

    def _train(self, seed: int, **changes: Any) -> TrainConfig:
        rows = {"eval_rows": 128, "final_eval_rows": 256}
        return TrainConfig(seed=seed, batch_size=self.config.batch_size, **{**rows, **changes})


def _stem(name: str) -> str:
    """Of the names of an organism's runs."""
    return name.replace(",", "").replace(" ", "-").lower()


def _priors(shape: PcfgShape, shares: Mapping[str, float]) -> list[str]:
    """One probability per symbol, as a setting has it."""
    return [f"{shares.get(symbol, 0.0):g}" for symbol in shape.symbols]
