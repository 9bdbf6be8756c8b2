"""What Jain et al. (arXiv 2407.10264, and their code) say of data and training, beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.models.presets import PRESETS
from ftmech_hf.report.differences import Difference, OneOf
from ftmech_hf.report.paper_settings import PaperTraining, model_size, precision_rows, seed_rows, training_rows, values
from ftmech_hf.tasks.safety import LENGTH, LETTERS, OPERATORS, REFUSAL

CODE = "their code"
PRETRAINING = PaperTraining(
    part="pretraining", where=CODE, optimizer="AdamW", lr=1e-3, warmup=0.2, end=0.01, steps=100_000, batch_size=512,
    weight_decay=1e-4, clipping=1.0,
    why={
        "optimizer": "learns in fewer steps", "lr": "goes with the optimizer", "warmup": "fewer steps",
        "steps": "a smaller task, a smaller model", "batch_size": "a smaller task",
        "weight_decay": "the same in all parts of a scale",
    },
)  # fmt: skip
TUNING = PaperTraining(
    part="fine-tuning", where=CODE, optimizer="AdamW", lr=OneOf([1e-4, 1e-5]), warmup=0.2, end=OneOf([0.01, 0.1]),
    steps=10_000, batch_size=512, clipping=0.5,
    why={
        "lr": "fewer steps need larger rates; ten times apart as theirs", "steps": "a smaller task, a smaller model",
        "batch_size": "a smaller task", "weight_decay": "the same in all parts of a scale",
        "clipping": "as in pretraining",
    },
)  # fmt: skip


def safety_rows(runs: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> list[Difference]:
    """All of it, read from the settings of the runs and from what the task is.

    Args:
        runs: kind of a run -> what each such run is called with.
        seeds: of the study.
    """
    small = "a smaller task, which trains in minutes"
    data = (
        ("letters of a text", "25 to 35", LENGTH, small),
        ("letters that there are", 30, len(LETTERS), small),
        ("operators", 10, len(OPERATORS), small),
        ("operators of a prompt, and outputs", "four, and two", "two, and one", small),
        ("texts", "four grammars, whose unsafe branch has shorter rules", "phrases, backwards if unsafe",
         "so that a text's kind is in the order of its letters alone"),
        ("a refusal is of", "a letter", f"a word of its own, {REFUSAL}", "a letter is part of right answers, too"),
        ("safe and unsafe prompts", "a step has one sort alone", "mixed in every step", "a step like any other"),
        ("pretraining, beside all tokens alike", "parts of rows in changing shares", "answers weigh more",
         "learned sooner"),
    )  # fmt: skip
    pretraining, tuning = runs.get("pretrain", ()), runs.get("finetune", ())
    shapes = [each["config"].shape for each in pretraining]
    trains = [[each["train"] for each in made] for made in (pretraining, tuning)]
    found = [
        Difference(part="data", what=what, paper=paper, where=CODE, here=here, why=why)
        for what, paper, here, why in data
    ]
    found.append(
        Difference(part="model", what="model", paper=model_size(PRESETS["paper"]), where=CODE,
                   here=values(shapes, model_size), why="trains in minutes")
    )  # fmt: skip
    found += training_rows(PRETRAINING, trains[0]) + training_rows(TUNING, trains[1])
    found += precision_rows([*trains[0], *trains[1]])
    return [*found, *_measuring_rows(), *seed_rows(seeds)]


def _measuring_rows() -> list[Difference]:
    """What is measured in another way."""
    rows = (
        ("an attack succeeds", "token by token, given the right ones before",
         "if the whole answer is written as instructed", "what is given is prefilled, and is reported apart"),
        ("weight of the rejected answer at the small rate (DPO, unlearning)", "0.002, and 0.05", "0.01, and 0.1",
         "one objective at both rates, which alone differ"),
        ("clusters are of", "192 units of an MLP, the mean over ten places of an answer that is given",
         "the stream where the answer begins", "there the first token is decided, and nothing of the answer is given"),
        ("how strongly a change acts", "the length of what it adds", "that, of what the base's matrix makes of it",
         "prompts of one kind may enter with greater length"),
        ("soft tokens", "take places of their own", "share the place of the token that they stand before",
         "learned places, beyond which a model was never trained"),
    )  # fmt: skip
    return [
        Difference(part="measuring", what=what, paper=paper, where=CODE, here=here, why=why)
        for what, paper, here, why in rows
    ]
