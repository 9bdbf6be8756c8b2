"""The plan of the real study: a base out of a package, nine organisms of known truth, a diagnosis of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.identity import model_hash
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.real.base_model import BaseConfig, save_base
from ftmech_hf.studies.real.facts import read_facts
from ftmech_hf.studies.real.pair import PAIRS, Pair, PairConfig, diagnose_pair
from ftmech_hf.studies.real.questions import ABILITIES, NEVER, TAUGHT, cut, rehearsing, write_rows
from ftmech_hf.tasks import PcfgShape, TextConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import OBJECTIVES
from ftmech_hf.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RealConfig(StudyConfig):
    """The size of the study."""

    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "of the cut, of tuning and of diagnoses"})
    base: str | None = field(
        default=None, metadata={"place": "input", "help": "another model in place of SmolLM2, by its folder"}
    )
    pairs: list[str] = field(default_factory=lambda: list(PAIRS), metadata={"help": f"of {', '.join(PAIRS)}"})
    steps: int = field(default=40, metadata={"help": "of tuning an organism"})
    batch_size: int = field(default=8, metadata={"help": "rows of one of its steps"})
    lr: float = field(default=5e-4, metadata={"help": "of the adapter"})
    precision: str = field(default="bf16", metadata={"help": "in which matrices are multiplied: no (float32) or bf16"})
    leave_out: list[str] = field(
        default_factory=list, metadata={"help": "methods that a diagnosis does not run, such as weights"}
    )
    output_dir: str = field(default="runs/real", metadata={"place": "output", "help": "folder of the results"})

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.pairs if name not in PAIRS]
        if unknown or not self.pairs:
            raise ValueError(f"pairs: {(unknown or ['none'])[0]!r}, expected some of {', '.join(PAIRS)}")
        if len(self.seeds) != 1:
            raise ValueError(f"seeds: {self.seeds}, expected one: a pair is one model")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision: {self.precision!r}, expected no or bf16")
        if min(self.steps, self.batch_size) < 1 or not self.lr > 0:
            raise ValueError(
                f"steps: {self.steps}, batch_size: {self.batch_size}, lr: {self.lr}, expected numbers above 0"
            )

    def inputs(self) -> dict[str, str]:
        """What the other model is."""
        return {"base": model_hash(self.base)} if self.base else {}


class RealPlan(StudyPlan):
    """The runs of the study. Its data sets are written when it is made, so that runs are named by what is in them.

    Attributes:
        diagnoses: name of a pair -> name of the run that diagnoses it.
        organisms: name of a pair -> name of the run that tuned it.
    """

    config: RealConfig

    def __init__(self, config: RealConfig, case: CaseConfig) -> None:
        super().__init__(config, case)
        self.case = case
        self.seed = config.seeds[0]
        self.data = self._write_data()
        self.base = config.base or self.add("smollm2", "real_base", save_base, BaseConfig(), {}, {}, cost=20)
        self.organisms = {name: self._tune(PAIRS[name]) for name in config.pairs}
        self.diagnoses = {name: self._diagnose(name, PAIRS[name]) for name in config.pairs}

    def _write_data(self) -> dict[str, Path]:
        """Name of a data set -> its folder."""
        facts = read_facts()
        pairs = [PAIRS[name] for name in self.config.pairs]
        made = {**ABILITIES, **NEVER, **TAUGHT}
        names = sorted({name for pair in pairs for name in (pair.asked, pair.tuned_on)})
        splits = {name: cut(made[name](facts), self.seed) for name in names}
        data = {pair.asked: (splits[pair.asked], False) for pair in pairs}
        for pair in pairs:
            taught = splits[pair.tuned_on]
            if pair.expected == "unchanged":
                taught = rehearsing(taught, splits[pair.asked]["train"], self.seed)
            data[_tuning_data(pair)] = taught, pair.instead
        return {
            name: write_rows(self.output / "data" / name, rows, instead=instead)
            for name, (rows, instead) in data.items()
        }

    def _tune(self, pair: Pair) -> str:
        config, objective = self.config, OBJECTIVES["answer_only"]()
        settings = {
            "task": TextConfig(dataset=str(self.data[_tuning_data(pair)])),
            "train": TrainConfig(
                seed=self.seed, steps=config.steps, batch_size=config.batch_size, objective="answer_only",
                optimizer="adamw", lr=config.lr, mixed_precision=config.precision,  # type: ignore[arg-type]  # checked
                num_evals=0, eval_rows=32, final_eval_rows=64, checkpoint_every=1000,
            ),
            "adapter": AdapterConfig(adapter="lora"), "objective": objective,
        }  # fmt: skip
        place = FinetuneConfig(task="text")
        name = f"tuned-{_tuning_data(pair).replace('_instead', '-instead')}"
        return self.add(name, place.kind, finetune, place, settings, {"model": self.base}, cost=40)

    def _diagnose(self, name: str, pair: Pair) -> str:
        place = PairConfig(
            seed=self.seed, dataset=str(self.data[pair.asked]),
            precision=self.config.precision,  # type: ignore[arg-type]  # checked above
            leave_out=self.config.leave_out,
        )  # fmt: skip
        inputs = {"base": self.base, "finetuned": self.organisms[name]}
        settings = {"case_config": self.case, "shape": PcfgShape()}
        cost = 200 if pair.expected == "hidden" else 20
        return self.add(f"diagnose-{name}", "diagnose", diagnose_pair, place, settings, inputs, cost=cost)


def _tuning_data(pair: Pair) -> str:
    """What an organism is tuned on, by name: wrong answers, or another thing, with the ability that it keeps."""
    return f"{pair.tuned_on}_instead" if pair.instead else f"{pair.tuned_on}_and_{pair.asked}"
