"""What is known of Barnett et al. (arXiv 2406.11201), beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.report.differences import NOT_READ, Difference, Part
from ftmech_hf.report.paper_settings import model_size, peak_rate, values

READ, SUMMARIES = "abstract, introduction", "summaries by others"


def retrieval_rows(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, sizes: Sequence[int], questions: int, epochs: int,
    seeds: Sequence[int],
) -> list[Difference]:  # fmt: skip
    """All that could be read of the paper, and what runs have.

    Args:
        runs: kind of a run -> what each such run is called with.
        sizes: questions that are taught.
        questions: that each model is asked, of each way to ask.
        epochs: of fine-tuning.
        seeds: of the study.
    """
    bases = runs["pretrain"]
    tuned = [each for each in runs["finetune"] if "adapter" in each]
    full = [each["train"] for each in tuned if each["adapter"].adapter == "none"]
    steps = max(each["train"].steps for each in bases)
    rows: tuple[tuple[Part, str, Any, str, Any, str], ...] = (
        ("data", "data sets", "BioASQ, Natural Questions, Qasper", READ, "a library made by chance",
         "what is true, and what documents tell, is known"),
        ("data", "questions that are taught", (200, 500, 1000), READ, tuple(sizes), ""),
        ("data", "documents beside these questions", NOT_READ, "",
         "none, what a search finds, or those that are needed: a model of each", "it decides whether reading is kept"),
        ("model", "models", "Mixtral (or Mistral: summaries differ), Llama 2; GPT-4 untuned beside them", SUMMARIES,
         values([each["config"].shape for each in bases], model_size), "trains in minutes"),
        ("pretraining", "pretraining", "by others, on text", READ, f"here, in {steps:,} steps, to read and by heart",
         "so that what it knows is known"),
        ("fine-tuning", "what is tuned", NOT_READ, "", "all weights; in one model an adapter", "the simplest reading"),
        ("fine-tuning", "peak learning rate", NOT_READ, "", values(full, peak_rate),
         "chosen on another seed by what is learned by heart; others to see what the rate does"),
        ("fine-tuning", "length of fine-tuning", NOT_READ, "", f"{epochs} epochs, or as many steps as the largest",
         "questions and steps grow together otherwise"),
        ("fine-tuning", "rows of a step", NOT_READ, "", values(full, lambda train: train.batch_size),
         "of the task's size"),
        ("fine-tuning", "weight decay", NOT_READ, "", values(full, lambda train: float(train.weight_decay)),
         "the same in all parts of a scale"),
        ("measuring", "how documents are found", NOT_READ, "", "BM25, four; other searches and numbers beside it",
         "finds by words, with nothing learned"),
        ("measuring", "how answers are judged", "accuracy and completeness, by a judge that we could not identify",
         SUMMARIES, "accuracy: all that is asked and nothing wrong; completeness: the share of it that is told; both "
         "exact", "every fact of an answer can be read back"),
        ("measuring", "questions that are asked", NOT_READ, "", questions, "of each way to ask"),
        ("measuring", "numbers of the paper", "four figures, of which no number could be read", SUMMARIES,
         "the direction alone is compared",
         "pictures are all that there is"),
        ("measuring", "seeds", NOT_READ, "", len(seeds), "independent repetitions, each with a world of its own"),
    )  # fmt: skip
    return [
        Difference(part=part, what=what, paper=paper, where=where, here=here, why=why)
        for part, what, paper, where, here, why in rows
    ]
