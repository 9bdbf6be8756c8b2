"""Is reading hidden, weakened or gone after a tuning? The questions of its diagnosis.

The base reads, the control learned answers by heart and never saw a document, and what is asked is one fact, beside the
documents that tell it.
"""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.jobs.question_files import write_splits
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.retrieval.one_fact import Asked, Part, ask_one_fact
from ftmech_hf.tasks.library.world import VOCABULARY

ROWS: dict[str, tuple[Part, int]] = {"train": ("fit", 1024), "validation": ("choose", 256), "test": ("report", 512)}
"""Split of the questions -> which part of them, and how many."""


def case_config(lr: float, steps: int) -> CaseConfig:
    """How thorough a diagnosis is.

    Args:
        lr: of training back.
        steps: for which a model and its control are followed at most.
    """
    return CaseConfig(
        rows=ROWS["test"][1], fit_rows=ROWS["train"][1], patch_rows=128, prune_sizes=[0, 1, 2, 4, 8, 16],
        random_masks=2, repeats=2, reverse_steps=32, most_reverse_steps=max(32, steps), reverse_lr=lr, null_steps=0,
    )  # fmt: skip


def write_questions(folder: Path, seed: int) -> Path:
    """The questions as a data set like any other: one file of JSON lines a split."""
    return write_splits(
        folder, {split: map(_in_words, ask_one_fact(part, number, seed)) for split, (part, number) in ROWS.items()}
    )


def _in_words(asked: Asked) -> dict[str, str]:
    return {"prompt": " ".join(VOCABULARY[each] for each in asked.prompt), "answer": VOCABULARY[asked.value]}
