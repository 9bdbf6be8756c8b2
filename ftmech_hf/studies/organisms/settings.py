"""How many organisms the study makes, of what, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftmech_hf.analysis.restoring import BANDS
from ftmech_hf.config import check_seeds
from ftmech_hf.jobs.study import StudyConfig
from ftmech_hf.models.presets import find_preset
from ftmech_hf.studies.organisms.kinds import KINDS
from ftmech_hf.tasks.operators_table import OPERATORS


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
    edited_seeds: list[int] = field(
        default_factory=list,
        metadata={
            "unsaid": True,
            "help": "of these, lost and weakened abilities are asked under noise, and planted edits of known place and "
            "rank are looked for",
        },
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
        for name in ("tampered_seeds", "edited_seeds"):
            if strange := set(getattr(self, name)) - known:
                raise ValueError(f"{name}: {min(strange)}, expected some of {', '.join(map(str, sorted(known)))}")
        if both := set(self.seeds) & set(self.development_seeds):
            raise ValueError(f"development_seeds: {min(both)} is among seeds, too, expected others")
        self._check_names()
        deep = [name for name in self.presets if find_preset(name).n_layer > BANDS]
        if self.edited_seeds and deep:
            raise ValueError(
                f"presets: {deep[0]!r} has more than {BANDS} blocks, whose places a diagnosis takes together, so that "
                "no planted edit has one of its own; expected others, or no edited_seeds"
            )
        if self.rounded_bits < 2:
            raise ValueError(f"rounded_bits: {self.rounded_bits}, expected at least 2")
        if self.tampered_steps < 1:
            raise ValueError(f"tampered_steps: {self.tampered_steps}, expected at least 1")

    def _check_names(self) -> None:
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
