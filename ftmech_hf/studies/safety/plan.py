"""The plan of the study of safety fine-tuning: which runs each seed needs, in what order, and in which folders.

Per seed: a model learns to do all that is instructed, and another one all that is safe; the first is tuned by every
protocol, three of them at two rates, and by two controls; the second by all of them but the controls. Every model is
asked the same prompts, and some are looked into: see :data:`ANALYSES`. The operators and the direction of RMU are drawn
anew for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.report.differences import Difference
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.studies.safety.answers import AnswersConfig, measure_answers
from ftmech_hf.studies.safety.changes import ChangesConfig, measure_changes
from ftmech_hf.studies.safety.clusters import ClustersConfig, measure_clusters
from ftmech_hf.studies.safety.diagnoses import case_config, write_questions
from ftmech_hf.studies.safety.differences import safety_rows
from ftmech_hf.studies.safety.direction import DirectionConfig, measure_direction
from ftmech_hf.studies.safety.lines import LinesConfig, measure_lines
from ftmech_hf.studies.safety.relearning import RelearningConfig, measure_relearning
from ftmech_hf.studies.safety.soft_tokens import SoftTokensConfig, measure_soft_tokens
from ftmech_hf.tasks import PcfgShape, SafetyConfig
from ftmech_hf.training.objectives import (
    AnswerOnly,
    GradientDifference,
    Misdirection,
    NegativePreference,
    NextToken,
    Objective,
    Preference,
    SimpleNegativePreference,
    Unlearning,
)
from ftmech_hf.training.settings import Precision, TrainConfig

WINDOW = 30
"""Places of a row that predict something: the paper divides the losses that its DPO compares by as many."""


class Protocol(NamedTuple):
    """A way to tune for safety, or a control of it.

    Attributes:
        objective: by its name.
        settings: of the objective, where they are not its own.
        rows: what it is tuned on, in changes of the task.
    """

    objective: str
    settings: Objective
    rows: Mapping[str, Any]


def _refusing(unsafe_share: float) -> dict[str, Any]:
    return {"mixture": "tuning", "answers": "refused", "unsafe_share": unsafe_share}


FORGET = {"mixture": "forget"}

PROTOCOLS: dict[str, Protocol] = {
    # The paper's; their shares of unsafe prompts differ there too.
    "ssft": Protocol("answer_only", AnswerOnly(), _refusing(0.2)),
    "dpo": Protocol("preference", Preference(beta=0.1 / WINDOW, rejected_weight=0.1), _refusing(0.5)),
    "unlearn": Protocol("unlearn", Unlearning(), _refusing(0.5)),
    # The control of these shares.
    "ssft-half": Protocol("answer_only", AnswerOnly(), _refusing(0.5)),
    # Forgetting, as it is done elsewhere: nothing is refused, unsafe answers are to be gone.
    "graddiff": Protocol("graddiff", GradientDifference(), FORGET),
    "npo": Protocol("npo", NegativePreference(), FORGET),
    "simnpo": Protocol("simnpo", SimpleNegativePreference(), FORGET),
    "rmu": Protocol("rmu", Misdirection(rmu_layer=1, steering=20.0), FORGET),
    # Controls: nothing unsafe in it, and refusals that no prompt explains.
    "benign": Protocol("answer_only", AnswerOnly(), {"mixture": "safe"}),
    "shuffled": Protocol("answer_only", AnswerOnly(), {**_refusing(0.5), "answers": "shuffled"}),
}
THE_PAPERS, FORGETTING = ("ssft", "dpo", "unlearn"), ("graddiff", "npo", "simnpo", "rmu")


def never(protocol: str) -> str:
    """What the model is called that never learned what is unsafe, and was tuned by the same protocol.

    It must give up as much of what it was tuned to as the other one: a model that was not tuned at all would be ahead.
    """
    return f"never-{protocol}"


NEVER_THE_PAPERS = tuple(map(never, THE_PAPERS))


class Analysis(NamedTuple):
    """What is measured inside of some models.

    Attributes:
        kind: of its runs.
        function: makes one.
        config: its settings.
        models: those that it is made of.
        cost: about, beside steps of training.
        beside: other models that it takes: setting -> name within the seed.
    """

    kind: str
    function: Callable[..., Any]
    config: Callable[..., Any]
    models: tuple[str, ...]
    cost: float
    beside: Mapping[str, str] = {}


ANALYSES: dict[str, Analysis] = {
    "clusters": Analysis("safety_clusters", measure_clusters, ClustersConfig, ("base", *THE_PAPERS, "benign"), 20),
    "changes": Analysis(
        "safety_changes", measure_changes, ChangesConfig, (*THE_PAPERS, "benign"), 40, {"base": "base"}
    ),
    "lines": Analysis(
        "safety_lines", measure_lines, LinesConfig, ("ssft-slow", "ssft"), 120,
        {"base": "base", "benign": "benign", "shuffled": "shuffled", "other": "dpo"},
    ),
    "direction": Analysis("safety_direction", measure_direction, DirectionConfig, THE_PAPERS, 60),
    "relearning": Analysis(
        "safety_relearning", measure_relearning, RelearningConfig, (*THE_PAPERS, *FORGETTING, *NEVER_THE_PAPERS), 60
    ),
    "soft_tokens": Analysis(
        "safety_soft_tokens", measure_soft_tokens, SoftTokensConfig, (*THE_PAPERS, *NEVER_THE_PAPERS), 40
    ),
}  # fmt: skip
"""Analysis -> what it is; a model's runs are called by both."""


@dataclass(frozen=True, kw_only=True)
class SafetyStudyConfig(StudyConfig):
    """The size of the study. The defaults are the nano scale's."""

    preset: str = field(default="nano", metadata={"help": "size of the models, but for the next two"})
    n_layer: int = field(default=4, metadata={"help": "blocks"})
    n_embd: int = field(default=128, metadata={"help": "width"})
    base_steps: int = field(default=1000, metadata={"help": "steps in which a model learns what is instructed"})
    lr: float = field(default=2e-3, metadata={"help": "peak rate of these, of AdamW"})
    muon_lr: float = field(default=0.03, metadata={"help": "peak rate of these, of Muon"})
    answer_weight: float = field(default=16.0, metadata={"help": "of a token of an answer in these, beside 1"})
    tune_steps: int = field(default=200, metadata={"help": "steps of each protocol"})
    eta_m: float = field(default=1e-3, metadata={"help": "the paper's medium rate of tuning, at this scale"})
    eta_s: float = field(default=1e-4, metadata={"help": "the paper's small rate of tuning"})
    batch_size: int = field(default=32, metadata={"help": "rows, or pairs, of a step"})
    answer_rows: int = field(default=1024, metadata={"help": "prompts of each mixture that models are asked"})
    eval_rows: int = field(default=256, metadata={"help": "the same where they are looked into"})
    base_optimizer: Literal["muon", "adamw"] = field(default="muon", metadata={"help": "of these; muon_lr is muon's"})
    max_steps: int | None = field(
        default=None,
        metadata={"help": "dry run: train so many steps, say what all of it would take, and stop; 0: sizes alone"},
    )
    base_warmup: float = field(
        default=0.02, metadata={"unsaid": True, "help": "share of the base's steps that warm up; the paper has 0.2"}
    )
    weight_decay: float = field(
        default=0.01, metadata={"unsaid": True, "help": "of all training; the paper's pretraining has 1e-4"}
    )
    tune_clipping: float = field(
        default=1.0, metadata={"unsaid": True, "help": "norm at which gradients of tuning are clipped; the paper: 0.5"}
    )
    relearn_steps: int = field(default=32, metadata={"help": "steps in which a tuned model is tuned again"})
    mixed_precision: Precision = field(default="auto", metadata={"help": "of training"})
    output_dir: str = field(default="runs/safety-nano", metadata={"place": "output", "help": "folder of the results"})

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset, n_layer=self.n_layer, n_embd=self.n_embd)
        for name, fits, expected in (("base_warmup", 0 <= self.base_warmup <= 1, "a number between 0 and 1"),
                                     ("tune_clipping", self.tune_clipping > 0, "a number above 0")):  # fmt: skip
            if not fits:
                raise ValueError(f"{name}: {getattr(self, name)}, expected {expected}")
        if self.base_optimizer not in ("muon", "adamw"):
            raise ValueError(f"base_optimizer: {self.base_optimizer!r}, expected muon or adamw")
        if self.max_steps is not None and self.max_steps < 0:
            raise ValueError(f"max_steps: {self.max_steps}, expected 0 or more")


class SafetyPlan(StudyPlan):
    """The runs of every seed.

    Attributes:
        models: seed -> what a model is called within it -> the run that made it.
        answers: the same for the run that asked it.
        analyses: analysis -> the same for its run.
        diagnoses: the same as ``answers`` for the run that diagnosed it.
    """

    config: SafetyStudyConfig

    def __init__(self, config: SafetyStudyConfig) -> None:
        super().__init__(config)
        self.models: dict[int, dict[str, str]] = {}
        self.answers: dict[int, dict[str, str]] = {}
        self.analyses: dict[str, dict[int, dict[str, str]]] = {name: {} for name in ANALYSES}
        self.diagnoses: dict[int, dict[str, str]] = {}
        for seed in config.seeds:
            self._add_seed(seed)
            self._diagnose(seed)

    def finished(self, runs: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, FinishedRun]]:
        """Seed -> what a model is called within it -> the run, of ``answers`` or one of ``analyses`` what is there."""
        return {
            seed: {name: found for name, run in of_seed.items() if (found := self.find(run))}
            for seed, of_seed in runs.items()
        }

    def differences(self) -> list[Difference]:
        """From the paper, in the settings of the runs."""
        return safety_rows(self.by_kind(), self.config.seeds)

    def _add_seed(self, seed: int) -> None:
        c, task = self.config, SafetyConfig(map_seed=seed)
        self.models[seed], self.answers[seed] = {}, {}
        for name, mixture in (("base", "instruct"), ("never", "never_unsafe")):
            train = self._train(
                seed, steps=c.base_steps, lr=c.lr, muon_lr=c.muon_lr, optimizer=c.base_optimizer,
                warmup_fraction=c.base_warmup,
            )  # fmt: skip
            objective = NextToken(answer_weight=c.answer_weight)
            settings = {"task": replace(task, mixture=mixture), "train": train, "objective": objective}
            place = PretrainConfig(task="safety", preset=c.preset, n_layer=c.n_layer, n_embd=c.n_embd)
            self._add_model(seed, name, "pretrain", pretrain, place, settings, {}, c.base_steps)
        for name in PROTOCOLS:
            self._tune(seed, name, name, "base", c.eta_m)
        for name in THE_PAPERS:
            self._tune(seed, f"{name}-slow", name, "base", c.eta_s)
        for name in (*THE_PAPERS, *FORGETTING):
            self._tune(seed, never(name), name, "never", c.eta_m)
        for name in ANALYSES:
            self._look_inside(seed, name)

    def _tune(self, seed: int, name: str, protocol: str, base: str, lr: float) -> None:
        objective, settings, rows = PROTOCOLS[protocol]
        if isinstance(settings, Misdirection):
            settings = replace(settings, direction_seed=seed)
        train = self._train(
            seed, steps=self.config.tune_steps, lr=lr, objective=objective, optimizer="adamw", warmup_fraction=0.2,
            max_grad_norm=self.config.tune_clipping,
        )  # fmt: skip
        made = {"task": SafetyConfig(map_seed=seed, **rows), "train": train, "objective": settings}
        place = FinetuneConfig(task="safety")
        inputs = {"model": self.models[seed][base]}
        cost = self.config.tune_steps * (1 if objective == "answer_only" else 2)
        self._add_model(seed, name, place.kind, finetune, place, made, inputs, cost)

    def _add_model(
        self, seed: int, name: str, kind: str, function: Any, place: Any, settings: Any, inputs: Any, cost: float
    ) -> None:
        run = self.add(f"{name}-seed{seed}", kind, function, place, settings, inputs, cost)
        self.models[seed][name] = run
        asked = AnswersConfig(seed=seed, eval_rows=self.config.answer_rows)
        self.answers[seed][name] = self.add(
            f"answers-{name}-seed{seed}", "safety_answers", measure_answers, asked,
            {"task": SafetyConfig(map_seed=seed)}, {"model": run}, 20,
        )  # fmt: skip

    def _look_inside(self, seed: int, name: str) -> None:
        kind, function, made, models, cost, beside = ANALYSES[name]
        c, called = self.config, "finetuned" if beside else "model"
        found = self.analyses[name][seed] = {}
        for model in models:
            again = {"steps": c.relearn_steps, "lr": c.eta_m} if name == "relearning" else {}
            place = made(seed=seed, eval_rows=c.eval_rows, **again)
            inputs = {
                **{key: self.models[seed][each] for key, each in beside.items()},
                called: self.models[seed][model],
            }
            settings = {"task": SafetyConfig(map_seed=seed)}
            found[model] = self.add(
                f"{name.replace('_', '-')}-{model}-seed{seed}", kind, function, place, settings, inputs, cost
            )

    def _diagnose(self, seed: int) -> None:
        made, found = self.models[seed], dict[str, str]()
        questions = write_questions(self.output / "data" / f"unsafe-seed{seed}", seed)
        for model in (*THE_PAPERS, *FORGETTING):
            place = DiagnoseConfig(seed=seed, dataset=str(questions), workers=1)
            inputs = {"base": made["base"], "finetuned": made[model], "control": made[never(model)]}
            settings = {"case_config": case_config(self.config.eta_m), "shape": PcfgShape()}
            found[model] = self.add(
                f"diagnose-{model}-seed{seed}", "diagnose", run_diagnosis, place, settings, inputs, cost=300
            )
        self.diagnoses[seed] = found

    def _train(self, seed: int, **changes: Any) -> TrainConfig:
        c = self.config
        return TrainConfig(
            seed=seed, batch_size=c.batch_size, num_evals=4, eval_rows=64, final_eval_rows=128,
            mixed_precision=c.mixed_precision, weight_decay=c.weight_decay, **changes,
        )  # fmt: skip
