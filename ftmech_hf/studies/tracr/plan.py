"""The plan of the Tracr study (Jain et al., arXiv 2311.12786, App. B to D): which runs there are, and in what order.

Per program and seed: the compiled program gets noise on its weights, is fine-tuned at every learning rate and
correlation to give another answer (Table 3), and each fine-tuned model is taken apart. Those of ``reverse_from`` are
fine-tuned back, beside a control that was compiled to give the other answer and never knew the first. The instruments
are tried on the compiled programs themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.jobs.stacked_cells import stack_cells
from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.report.differences import Difference
from ftmech_hf.studies.tracr.differences import tracr_rows
from ftmech_hf.studies.tracr.ground_truth import KnownConfig, try_instruments
from ftmech_hf.studies.tracr.weight_pruning import DissectConfig, dissect
from ftmech_hf.tasks import TASKS
from ftmech_hf.tasks.letters import LettersConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig

PROGRAMS = ("counter", "max_identifier")


@dataclass(frozen=True, kw_only=True)
class TracrConfig(StudyConfig):
    """The size of the study. The defaults are the nano scale's: C_Tr 0 and 1."""

    programs: list[str] = field(default_factory=lambda: list(PROGRAMS), metadata={"help": "counter, max_identifier"})
    counter_length: int = field(default=20, metadata={"help": "letters in the counter's texts; the paper has 45"})
    lrs: list[float] = field(
        default_factory=lambda: [1e-1, 1e-2, 1e-3, 1e-4], metadata={"help": "peak learning rates of fine-tuning"}
    )
    correlations: list[float] = field(default_factory=lambda: [0.0, 1.0], metadata={"help": "C_Tr"})
    steps: int = field(default=1500, metadata={"help": "of fine-tuning; the paper has 10,000"})
    batch_size: int = field(default=32, metadata={"help": "rows of a step; the paper has 96"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping; the paper names none"})
    noise: float = field(default=1e-4, metadata={"help": "standard deviation of the noise on compiled weights"})
    reverse_from: list[float] = field(
        default_factory=lambda: [1e-2], metadata={"help": "rates whose fine-tuned models are fine-tuned back"}
    )
    reverse_lrs: list[float] = field(
        default_factory=lambda: [1e-2, 1e-3, 1e-4], metadata={"help": "constant rates of fine-tuning back"}
    )
    reverse_steps: int = field(default=400, metadata={"help": "of fine-tuning back; 0 to leave it out"})
    instrument_rows: int = field(
        default=256, metadata={"help": "rows that models are taken apart on; probes are fitted on eight times as many"}
    )
    stack: int = field(default=12, metadata={"manner": True, "help": "runs that are trained at once in one process"})
    output_dir: str = field(default="runs/tracr-nano", metadata={"place": "output", "help": "folder of the results"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("programs", "lrs", "correlations"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: {values}, expected at least one and none twice")
        if unknown := [name for name in self.programs if name not in PROGRAMS]:
            raise ValueError(f"programs: unknown {unknown[0]!r}, expected some of {', '.join(PROGRAMS)}")
        if outside := [lr for lr in self.reverse_from if lr not in self.lrs]:
            raise ValueError(f"reverse_from: {outside[0]} is none of lrs: {self.lrs}")
        if min(self.correlations) < 0 or max(self.correlations) > 1:
            raise ValueError(f"correlations: {self.correlations}, expected shares between 0 and 1")
        if self.instrument_rows < 2:
            raise ValueError(f"instrument_rows: {self.instrument_rows}, expected at least 2")
        if self.stack < 1 or self.steps < 1 or self.reverse_steps < 0:
            raise ValueError(
                f"stack: {self.stack}, steps: {self.steps}, reverse_steps: {self.reverse_steps}, "
                "expected at least 1, 1 and 0"
            )

    def task(self, program: str) -> LettersConfig:
        """The data of a program."""
        kind = TASKS[program]
        task = kind(length=self.counter_length) if program == "counter" else kind()  # type: ignore[call-arg]
        assert isinstance(task, LettersConfig)
        return task


class FinetunedCell(NamedTuple):
    """A cell of Table 3 with one seed: its settings, and the names of its runs."""

    program: str
    lr: float
    correlation: float
    seed: int
    finetune: str
    dissect: str


class ReversedCell(NamedTuple):
    """A model that is fine-tuned back; ``origin`` is the C_Tr it was fine-tuned with, or ``control``."""

    program: str
    origin: str
    lr: float
    seed: int
    run: str


class TracrPlan(StudyPlan):
    """The runs of the study.

    Attributes:
        finetunings: the cells of Table 3.
        reversals: what is fine-tuned back.
        starts: (program, seed) -> name of the run with the noisy program.
        known: program -> name of the run that tries the instruments.
    """

    config: TracrConfig

    def __init__(self, config: TracrConfig) -> None:
        super().__init__(config)
        self.finetunings: list[FinetunedCell] = []
        self.reversals: list[ReversedCell] = []
        self.starts: dict[tuple[str, int], str] = {}
        self.known: dict[str, str] = {}
        for program in config.programs:
            task = config.task(program)
            place = KnownConfig(
                task=program, seed=config.seeds[0], noise=[0.0, config.noise], rows=config.instrument_rows,
                fit_rows=8 * config.instrument_rows,
            )  # fmt: skip
            self.known[program] = self.add(
                f"known-{program}", "known", try_instruments, place, {"task": task}, {}, 20_000
            )
            for seed in config.seeds:
                self._add_seed(program, task, seed)

    def differences(self) -> list[Difference]:
        """From the paper, in the settings of the runs."""
        return tracr_rows(self.by_kind(), self.config.correlations, self.config.seeds)

    def _add_seed(self, program: str, task: LettersConfig, seed: int) -> None:
        c = self.config
        self.starts[program, seed] = start = self._start(program, task, seed)
        for lr in c.lrs:
            for correlation in c.correlations:
                words = f"{program}-{lr:g}-{correlation:g}-seed{seed}"
                asked = dataclasses.replace(task, operand=task.correlated_operand, correlation=correlation)
                run = self._tune(f"finetune-{words}", program, asked, start, self._train(seed, lr))
                rows = c.instrument_rows
                place = DissectConfig(task=program, seed=seed, score_rows=rows, eval_rows=rows)
                apart = self.add(f"dissect-{words}", "dissect", dissect, place, {"task": task}, {"model": run}, 4_000)
                self.finetunings.append(FinetunedCell(program, lr, correlation, seed, run, apart))
                if lr in c.reverse_from and c.reverse_steps:
                    self._reverse(program, task, seed, run, f"C_Tr {correlation:g}, from {lr:g}")
        if c.reverse_from and c.reverse_steps:
            never = dataclasses.replace(task, operand=task.correlated_operand)
            self._reverse(program, task, seed, self._start(program, never, seed), "control")

    def _start(self, program: str, task: LettersConfig, seed: int) -> str:
        place = CompileConfig(task=program, noise=self.config.noise, seed=seed)
        words = f"start-{program}-{task.operand}-seed{seed}"
        return self.add(words, "compile", start_compiled, place, {"task": task}, {}, 500)

    def _reverse(self, program: str, task: LettersConfig, seed: int, model: str, origin: str) -> None:
        for lr in self.config.reverse_lrs:
            # A constant rate, as elsewhere here: under a warm-up a revival is over before the rate has risen
            train = dataclasses.replace(
                self._train(seed, lr), steps=self.config.reverse_steps, warmup_fraction=0.0, final_lr_fraction=1.0,
                evals_per_decade=12, eval_near=0.95,
            )  # fmt: skip
            name = f"reverse-{model}-{lr:g}"
            run = self._tune(name, program, task, model, train, split="reverse")
            self.reversals.append(ReversedCell(program, origin, lr, seed, run))

    def _train(self, seed: int, lr: float) -> TrainConfig:
        c = self.config
        return TrainConfig(
            seed=seed, lr=lr, steps=c.steps, batch_size=c.batch_size, optimizer="sgd", objective="answer_only",
            weight_decay=0.0, warmup_fraction=0.2, final_lr_fraction=0.01, max_grad_norm=c.max_grad_norm,
            mixed_precision="no", num_evals=6, eval_rows=128, final_eval_rows=512,
        )  # fmt: skip

    def _tune(
        self, name: str, program: str, task: LettersConfig, model: str, train: TrainConfig, split: str = "finetune"
    ) -> str:
        place = FinetuneConfig(task=program, split=split)  # type: ignore[arg-type]
        settings: Mapping[str, Any] = {"task": task, "train": train, "adapter": AdapterConfig()}
        width = task.length * task.letters
        return self.add(
            name, place.kind, finetune, place, settings, {"model": model}, train.steps * train.batch_size * width / 180
        )

    def cells(self) -> list[Cell]:
        """The runs still to make, those that train put together in stacks."""

        def kind_of(cell: Cell) -> str:
            place, train = cell.kwargs["config"], cell.kwargs["train"]
            return f"{place.split} {place.task} {train.steps}"

        return stack_cells(self.unfinished(), self.config.stack, kind_of)
