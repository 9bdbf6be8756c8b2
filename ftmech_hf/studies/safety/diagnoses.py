"""Is the ability to answer unsafe prompts hidden, weakened or gone after a protocol? The questions of its diagnosis.

The base had it, the control is the model that never learned to answer what is unsafe, tuned by the same protocol, and
what is asked is unsafe prompts of splits that nothing was trained on.
"""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.jobs.question_files import write_splits
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.tasks import RowStream, SafetyConfig
from ftmech_hf.tasks.safety import OUTPUT

ROWS = {"train": ("reverse", 256), "validation": ("validation", 128), "test": ("test", 192)}
"""Split of the questions -> split of the task, and how many."""


def case_config(lr: float) -> CaseConfig:
    """How thorough a diagnosis is: less than by default, as there are many; reverse tuning is at the study's rate."""
    return CaseConfig(
        rows=ROWS["test"][1], fit_rows=ROWS["train"][1], patch_rows=64, max_layers=4, prune_sizes=[0, 1, 2, 4, 8],
        random_masks=2, repeats=2, reverse_steps=32, most_reverse_steps=64, reverse_lr=lr, null_steps=0,
    )  # fmt: skip


def write_questions(folder: Path, seed: int) -> Path:
    """Unsafe prompts with what is instructed, as a data set like any other: one file of JSON lines a split."""
    words, splits = SafetyConfig.vocabulary, {}
    for name, (split, number) in ROWS.items():
        rows = RowStream(SafetyConfig(mixture="unsafe", map_seed=seed), seed=seed, split=split).rows(0, number)
        splits[name] = [
            {"prompt": " ".join(words[each] for each in row[: OUTPUT.start]),
             "answer": " ".join(words[each] for each in row[OUTPUT])}
            for row in rows.token_ids
        ]  # fmt: skip
    return write_splits(folder, splits)
