"""The size of the study of stories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ftmech_hf.jobs.fit_judge import EXACT, judge_version
from ftmech_hf.jobs.study import StudyConfig
from ftmech_hf.models.presets import find_preset
from ftmech_hf.training.settings import Precision

PROTOCOLS = ("F", "F+R", "F+MM")
RATES = ("large", "small")


@dataclass(frozen=True, kw_only=True)
class StoriesStudyConfig(StudyConfig):
    """The size of the study. The defaults are the nano scale's, on procedural stories."""

    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "independent repetitions"})
    preset: str = field(default="nano-stories", metadata={"help": "size of the models"})
    base_steps: int = field(default=3000, metadata={"help": "of pretraining; the paper has 30,000"})
    base_batch_size: int = field(default=8, metadata={"help": "rows of a step of pretraining; the paper has 128"})
    optimizer: Literal["muon", "adamw"] = field(
        default="muon", metadata={"help": "of pretraining; the paper's is adamw"}
    )
    muon_lr: float = field(default=0.02, metadata={"help": "peak rate of Muon, if it pretrains"})
    base_lr: float = field(default=4e-3, metadata={"help": "peak rate of AdamW in pretraining"})
    answer_weight: float = field(
        default=16.0,
        metadata={
            "help": "of pretraining: how much a word by which a procedural story shows a feature weighs beside any "
            "other; 1 for stories from files, and in the paper"
        },
    )
    base_weight_decay: float = field(default=0.01, metadata={"help": "of pretraining; the paper has 0.1"})
    base_warmup: float = field(
        default=0.02, metadata={"unsaid": True, "help": "share of the steps of pretraining that warm up"}
    )
    base_final_lr: float = field(
        default=0.01,
        metadata={"unsaid": True, "help": "where the rate of pretraining ends, as a share of its peak; the paper: 0"},
    )
    protocols: list[str] = field(
        default_factory=lambda: list(PROTOCOLS), metadata={"help": "ways of deletion: F, F+R, F+MM"}
    )
    delete_steps: int = field(default=300, metadata={"help": "of deletion; the paper has 4,000"})
    delete_lrs: list[float] = field(
        default_factory=lambda: [1e-3, 3e-4], metadata={"help": "constant rates of deletion: the large and the small"}
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
    score_batch_size: int = field(default=256, metadata={"help": "stories written side by side"})
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
    lora_lr: float = field(default=1e-3, metadata={"help": "constant rate of these updates in deletion"})
    lora_reverse_lr: float = field(default=1e-4, metadata={"help": "and in fine-tuning back; below that"})
    eval_rows: int = field(
        default=32, metadata={"help": "packed rows per test set of every loss: those of the base's, too, to compare"}
    )
    mixed_precision: Precision = field(
        default="auto", metadata={"help": "of training; auto becomes bf16 where the hardware has it, else no"}
    )
    max_steps: int | None = field(
        default=None,
        metadata={
            "help": "dry run: so many steps of pretraining, then say what all training would take; 0: sizes alone"
        },
    )
    output_dir: str = field(default="runs/stories-nano", metadata={"place": "output", "help": "folder of the results"})

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        self._check_rates()
        for name in ("base_steps", "score_batch_size", "delete_steps", "reverse_steps", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ValueError(f"protocols: {self.protocols}, expected some of {', '.join(PROTOCOLS)}")
        for name in ("base_warmup", "base_final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected a number between 0 and 1")
        if not 0 < self.claimed <= 1:
            raise ValueError(f"claimed: {self.claimed}, expected more than 0 and at most 1")
        if self.max_steps is not None and self.max_steps < 0:
            raise ValueError(f"max_steps: {self.max_steps}, expected 0 or more")
        for name in ("num_points", "probe_stories", "prune_stories"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")

    def _check_rates(self) -> None:
        if len(self.delete_lrs) != 2 or not self.delete_lrs[0] > self.delete_lrs[1] > 0:
            raise ValueError(f"delete_lrs: {self.delete_lrs}, expected two numbers above 0, the larger first")
        # The paper's App. D has a smaller rate on the way back; in its code of stories it is deletion's small one.
        for name, most in (("reverse_lr", self.delete_lrs[1]), ("lora_reverse_lr", self.lora_lr)):
            if not 0 < getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)}, expected above 0 and at most deletion's {most}")

    def inputs(self) -> dict[str, str]:
        """A fitted judge, by its bytes; the exact one is a part of this package."""
        return {} if self.judge == EXACT else {"judge": judge_version(self.judge)}

    @property
    def points(self) -> list[int]:
        """The steps of fine-tuning back at which stories are written, beside 0: those of the table, and log-spaced."""
        return sorted({*log_spaced(self.reverse_steps, self.num_points), *self.table_steps[1:]})

    @property
    def table_steps(self) -> list[int]:
        """What stands beside the paper's steps 0, 30, 300 and 3,000: as large a share of all steps."""
        return [0, *(max(1, round(self.reverse_steps * step / 3000)) for step in (30, 300, 3000))]

    def lr(self, rate: str) -> float:
        """The learning rate of deletion by its name."""
        return self.delete_lrs[RATES.index(rate)]


def log_spaced(steps: int, number: int) -> list[int]:
    """At most so many steps from 1 to the last one."""
    return sorted(set(np.round(np.geomspace(1, steps, number)).astype(int).tolist()))
