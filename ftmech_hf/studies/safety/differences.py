"""What Jain et al. (arXiv 2407.10264, and their code) say of data and training, beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.models.presets import NAMES, PRESETS, Preset
from ftmech_hf.report.differences import Difference, OneOf
from ftmech_hf.report.paper_settings import (
    PaperTraining,
    answer_weight_rows,
    betas_rows,
    dropout_rows,
    model_size,
    precision_rows,
    schedule_end,
    seed_rows,
    training_rows,
    values,
)
from ftmech_hf.tasks.safety import LENGTH, LETTERS, OPERATORS, REFUSAL
from ftmech_hf.training.settings import TrainConfig

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
        ("tokens that pretraining is about", "the text alone, all, or one of the outputs, in changing shares",
         "all of every row", "one loss for all steps"),
    )  # fmt: skip
    pretraining, tuning = runs.get("pretrain", ()), runs.get("finetune", ())
    shapes = [each["config"].shape for each in pretraining]
    trains = [[each["train"] for each in made] for made in (pretraining, tuning)]
    found = [
        Difference(part="data", what=what, paper=paper, where=CODE, here=here, why=why)
        for what, paper, here, why in data
    ]
    found += _model_rows(shapes) + dropout_rows([each["config"] for each in pretraining], paper=0.0, where=CODE)
    found += training_rows(PRETRAINING, trains[0])
    found += answer_weight_rows([each["objective"] for each in pretraining], of="an answer's token", where=CODE)
    found += training_rows(TUNING, trains[1]) + _decay_rows(trains[1])
    found += betas_rows([*trains[0], *trains[1]], paper="0.9 and 0.95", where=CODE)
    found += precision_rows([*trains[0], *trains[1]])
    return [*found, *_measuring_rows(), *seed_rows(seeds)]


def _model_rows(shapes: Sequence[Preset]) -> list[Difference]:
    (stock,) = {NAMES[shape.architecture] for shape in shapes}
    rows = (
        ("model", model_size(PRESETS["paper"]), values(shapes, model_size), "trains in minutes"),
        ("positions", "sinusoidal", f"{stock}'s", "a stock model, which any library reads"),
        ("a block", "its first norm is applied to the stream itself, its second never",
         f"{stock}'s: what each part reads is normalised, the stream is not", "a stock model, which any library reads"),
    )  # fmt: skip
    return [
        Difference(part="model", what=what, paper=paper, where=CODE, here=here, why=why)
        for what, paper, here, why in rows
    ]


def _decay_rows(tuned: Sequence[TrainConfig]) -> list[Difference]:
    """How the rate falls: theirs ends at 1e-6, which is another share of either rate, after 80 % of the steps."""
    small = [train for train in tuned if train.lr == min(each.lr for each in tuned)]
    return [
        Difference(part="fine-tuning", what="fine-tuning: rate after the warm-up, at the small rate",
                   paper=schedule_end(0.1), where=CODE,
                   here=values(small, lambda train: schedule_end(train.final_lr_fraction)),
                   why="one schedule at both rates, which alone differ"),
        Difference(part="fine-tuning", what="end of the rate's decay, in pretraining and fine-tuning",
                   paper="after 80 % of the steps", where=CODE, here="after the last step",
                   why="the schedule of all studies"),
    ]  # fmt: skip


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
