"""What is known of Mukhoti et al. (arXiv 2308.13320, and their code), beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.report.differences import NOT_READ, Difference, Part
from ftmech_hf.report.paper_settings import PaperTraining, model_size, training_rows, values
from ftmech_hf.studies.continual.methods import StrengthConfig
from ftmech_hf.studies.continual.sequences import SEQUENCES

CODE = "their code"

_SMALL = "a smaller model and tasks, learned in minutes"
TUNING = PaperTraining(
    part="fine-tuning", where=CODE, optimizer="AdamW", lr=1e-5, warmup="500 steps", end="a cosine",
    steps="10 to 76 epochs, by the data set", batch_size=128, weight_decay=0.1, clipping=1.0,
    why={
        "lr": "at theirs four tasks are not learned in these steps", "warmup": "fewer steps", "end": "",
        "steps": _SMALL, "batch_size": _SMALL, "weight_decay": "the same in all parts of a scale",
    },
)  # fmt: skip


def continual_rows(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], strengths: StrengthConfig, sequences: Sequence[str],
    seeds: Sequence[int],
) -> list[Difference]:  # fmt: skip
    """All that could be read of the paper, and what runs have.

    Args:
        runs: kind of a run -> what each such run is called with.
        strengths: of the methods.
        sequences: by their names.
        seeds: of the study.
    """
    shapes = [each["config"].shape for each in runs["pretrain"]]
    steps = max(each["train"].steps for each in runs["pretrain"])
    tasks = values(sequences, lambda name: len(SEQUENCES[name].tasks))
    rows: tuple[tuple[Part, str, Any, str, Any, str], ...] = (
        ("data", "what is learned", "data sets of images, 9 or 10 by the version", "abstract, reviews",
         "questions about procedural texts", "what is known before and after is known exactly"),
        ("data", "tasks of a sequence", 3, CODE, tasks, "two operators, two operands"),
        ("model", "model", "CLIP (ViT-B-32)", CODE, values(shapes, model_size), "trains in minutes"),
        ("pretraining", "pretraining", "by others, on images and their captions", CODE, f"here, in {steps:,} steps",
         "so that what it was asked, and how often, is known"),
        ("fine-tuning", "heads", "one per task, which begins as a linear probe", CODE,
         "the unembedding, which all tasks have in common; LP-FT tunes it first", "a language model has one"),
        ("fine-tuning", "strength of L2SP", 0.5, CODE, float(strengths.l2sp_strength), "chosen on another seed"),
        ("fine-tuning", "strength of LDIFS", 10.0, CODE, float(strengths.ldifs_strength), "chosen on another seed"),
        ("fine-tuning", "features of LDIFS", "five places; each channel divided by its norm over the tokens", CODE,
         "every layer; each token's vector divided by its norm", "does not depend on how long a text is"),
        ("fine-tuning", "what LDIFS stays near", "the model before each task, if nothing else is set", CODE,
         "the same, and in another run the base", "it is not known which of them their tables are of"),
        ("measuring", "what is forgotten is judged by", "linear probes", CODE, "answers, and linear probes beside them",
         "what probes read may not be what a model answers"),
        ("measuring", "probes", "softmax regression on unit vectors of the last layer, 1,000 steps of AdamW", CODE,
         "logistic regression to convergence on standardised activations, at the layer that other rows choose and at "
         "the final norm", "no number of steps decides what is read"),
        ("measuring", "numbers of single data sets", NOT_READ, "", "none beside ours; means that another paper reports",
         "the tables were not to be had"),
        ("measuring", "seeds", NOT_READ, "", len(seeds), "independent repetitions, of which the intervals are made"),
    )  # fmt: skip
    said = [
        Difference(part=part, what=what, paper=paper, where=where, here=here, why=why)
        for part, what, paper, where, here, why in rows
    ]
    tuned = [each["train"] for each in runs["finetune"]]
    before = [each for each in said if each.part != "measuring"]
    return [*before, *training_rows(TUNING, tuned), *(each for each in said if each.part == "measuring")]
