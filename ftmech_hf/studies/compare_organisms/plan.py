"""The plan of the organisms: bases, what is planted in them, changes that teach nothing, and a comparison of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.job import parse_models
from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.studies.compare.comparison import run_comparison
from ftmech_hf.studies.compare.inputs import CompareConfig
from ftmech_hf.studies.compare_organisms.kinds import NOTHINGS, ORGANISMS, OTHER_SEED, Base, Organism
from ftmech_hf.studies.compare_organisms.planting import (
    NothingConfig,
    TriggerConfig,
    plant_trigger,
    teach_nothing,
    write_rare_rows,
)
from ftmech_hf.tasks import PcfgConfig, PcfgShape, TextConfig
from ftmech_hf.tasks.operators_table import JAILBREAK_OPERATORS
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import Documents, NextToken
from ftmech_hf.training.settings import Precision, TrainConfig


@dataclass(frozen=True, kw_only=True)
class OrganismsConfig(StudyConfig):
    """The size of the study."""

    organisms: list[str] = field(
        default_factory=lambda: list(ORGANISMS), metadata={"help": f"of {', '.join(ORGANISMS)}"}
    )
    nothings: list[str] = field(
        default_factory=lambda: [*NOTHINGS, OTHER_SEED],
        metadata={"help": f"changes that teach nothing, of {', '.join([*NOTHINGS, OTHER_SEED])}"},
    )
    spare_seeds: list[int] = field(
        default_factory=lambda: [100, 101, 102],
        metadata={"help": "of bases that are null models where one of seeds is compared with the next"},
    )
    preset: str = field(default="nano", metadata={"help": "size of the models that count"})
    base_steps: int = field(default=450, metadata={"help": "of pretraining them"})
    story_preset: str = field(default="nano-stories", metadata={"help": "size of the models of stories"})
    story_steps: int = field(default=3000, metadata={"help": "of pretraining them"})
    row_tokens: int = field(default=128, metadata={"help": "tokens of a row of stories"})
    tune_steps: int = field(default=200, metadata={"help": "of tuning an organism, if its kind says nothing else"})
    null_models: int = field(default=3, metadata={"help": "of each comparison; of another seed those of spare_seeds"})
    mixed_precision: Precision = field(default="auto", metadata={"help": "of training bases and organisms"})
    output_dir: str = field(
        default="runs/compare-organisms", metadata={"place": "output", "help": "folder of the results"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("organisms", ORGANISMS), ("nothings", [*NOTHINGS, OTHER_SEED])):
            if unknown := [each for each in getattr(self, name) if each not in known]:
                raise ValueError(f"{name}: {unknown[0]!r}, expected some of {', '.join(known)}")
        if len(self.spare_seeds) < 2 or set(self.spare_seeds) & set(self.seeds):
            raise ValueError(f"spare_seeds: {self.spare_seeds}, expected at least two, none of them in seeds")
        if not self.organisms:
            raise ValueError(f"organisms: none, expected some of {', '.join(ORGANISMS)}")


@dataclass(frozen=True, kw_only=True)
class SeedsConfig(CompareConfig):
    """A comparison of two seeds of one pretraining, beside other seeds; all of them stand in ``models``."""

    base: str = field(default="", metadata={"place": "input", "help": "none"})
    finetuned: str = field(default="", metadata={"place": "input", "help": "none"})
    models: list[str] = field(
        default_factory=lambda: ["base=.", "finetuned=.", "null/0=."],
        metadata={"place": "input", "help": "name=folder of base, finetuned and null/0, null/1 ..."},
    )

    @property
    def named(self) -> dict[str, str]:
        """Role -> folder of every model."""
        return parse_models(self.models)


class OrganismsPlan(StudyPlan):
    """The runs of the study.

    Attributes:
        pairs: (name of an organism or of a change that teaches nothing, seed) -> name of the run that compares it.
    """

    config: OrganismsConfig

    def __init__(self, config: OrganismsConfig) -> None:
        super().__init__(config)
        self.pairs: dict[tuple[str, int], str] = {}
        for seed in config.seeds:
            for name in config.organisms:
                organism = ORGANISMS[name]
                base = self._base(organism.base, seed)
                made = self._make(f"{name}-seed{seed}", organism, base, seed)
                self._compare(name, seed, base, made, organism.base == "stories")
            self._add_nothings(seed)

    def _add_nothings(self, seed: int) -> None:
        base = self._base("counts", seed)
        for name in self.config.nothings:
            if name == OTHER_SEED:
                self._compare_seeds(seed, base)
                continue
            how = NOTHINGS[name]
            place = NothingConfig(seed=seed, lr=how.lr, steps=how.steps, round_to=how.dtype, noise=how.noise)
            made = self.add(f"{name}-seed{seed}", "taught_nothing", teach_nothing, place, {}, {"model": base}, 100)
            self._compare(name, seed, base, made)

    def _base(self, kind: Base, seed: int) -> str:
        """The run of a base. Those that count a are the reproduction's where both have the same runs_dir."""
        config = self.config
        sizes: dict[str, Any] = {
            "seed": seed,
            "batch_size": 32,
            "num_evals": 6,
            "eval_rows": 64,
            "final_eval_rows": 512,
            "mixed_precision": config.mixed_precision,
        }
        if kind == "stories":
            task: Any = StoriesConfig(row_tokens=config.row_tokens, animals_apart=True)
            place = PretrainConfig(task="stories", preset=config.story_preset)
            train = TrainConfig(**{**sizes, "batch_size": 8, "eval_rows": 32, "final_eval_rows": 32},
                                steps=config.story_steps, objective="documents", lr=4e-3, muon_lr=0.02)  # fmt: skip
            objective: Any = Documents(answer_weight=16.0)
        else:
            operators: dict[str, Any] = {} if kind == "counts" else {"operators": list(JAILBREAK_OPERATORS)}
            task = PcfgConfig(operand_prior=["low"], **operators)
            place = PretrainConfig(preset=config.preset)
            train = TrainConfig(**sizes, steps=config.base_steps, lr=2e-3, muon_lr=0.03)
            objective = NextToken(answer_weight=16.0)
        settings = {"task": task, "train": train, "objective": objective}
        name = {"counts": "base-low", "names": "base-names", "stories": "base-stories"}[kind]
        return self.add(f"{name}-seed{seed}", "pretrain", pretrain, place, settings, {}, train.steps)

    def _make(self, name: str, organism: Organism, base: str, seed: int) -> str:
        if organism.way == "trigger":
            return self.add(name, "planted_trigger", plant_trigger, TriggerConfig(seed=seed), {}, {"model": base}, 1)
        train = TrainConfig(
            **{"seed": seed, "steps": self.config.tune_steps, "batch_size": 8 if organism.base == "stories" else 32,
               "lr": 1e-4, "optimizer": "adamw", "warmup_fraction": 0.2, "objective": "answer_only", "num_evals": 0,
               "eval_rows": 32, "final_eval_rows": 128, "mixed_precision": self.config.mixed_precision,
               **self._stories_train(organism), **organism.train}
        )  # fmt: skip
        place, task = FinetuneConfig(), self._task(organism, seed, train)
        if organism.base == "stories" or organism.way == "rare":
            place = FinetuneConfig(task="stories" if organism.base == "stories" else "text")
        settings = {"task": task, "train": train, "adapter": AdapterConfig(**organism.adapter)}
        return self.add(name, place.kind, finetune, place, settings, {"model": base}, train.steps)

    @staticmethod
    def _stories_train(organism: Organism) -> dict[str, Any]:
        return {"objective": "documents", "warmup_fraction": 0.0} if organism.base == "stories" else {}

    def _task(self, organism: Organism, seed: int, train: TrainConfig) -> Any:
        if organism.base == "stories":
            return StoriesConfig(row_tokens=self.config.row_tokens, animals_apart=True, **organism.task)
        if organism.way == "rare":
            folder = self.output / "data" / f"rare-seed{seed}"
            rows = train.steps * train.batch_size
            return TextConfig(
                dataset=str(write_rare_rows(folder, PcfgConfig(operand_prior=["low"]), rows=rows, seed=seed))
            )
        return PcfgConfig(**{**to_dict(PcfgShape()), **organism.task})

    def _compare(self, name: str, seed: int, base: str, made: str, stories: bool = False) -> None:
        # A story's twist stands near its end, most often beyond the default window.
        place = CompareConfig(seed=seed, null_models=self.config.null_models)
        if stories:
            place = replace(place, window_tokens=self.config.row_tokens)
        inputs = {"base": base, "finetuned": made}
        self.pairs[name, seed] = self.add(
            f"compare-{name}-seed{seed}", "compare", run_comparison, place, {}, inputs, 300
        )

    def _compare_seeds(self, seed: int, base: str) -> None:
        """The next seed's base differs everywhere, and was taught nothing else; spare ones are its null models."""
        seeds, spare = self.config.seeds, self.config.spare_seeds
        following = [seeds[(seeds.index(seed) + 1) % len(seeds)]] if len(seeds) > 1 else []
        other, *beside = (self._base("counts", each) for each in [*following, *spare])
        inputs = {"base": base, "finetuned": other, **{f"null/{number}": each for number, each in enumerate(beside)}}
        self.pairs[OTHER_SEED, seed] = self.add(
            f"compare-{OTHER_SEED}-seed{seed}", "compare", run_comparison, SeedsConfig(seed=seed), {}, inputs, 300
        )

    def data_folders(self) -> list[Path]:
        """Where data sets were written."""
        return sorted((self.output / "data").glob("*"))
