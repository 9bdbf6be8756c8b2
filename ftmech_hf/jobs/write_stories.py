"""What does a model write, and how well does it predict stories that it has not seen?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ftmech_hf.config import tell, to_dict
from ftmech_hf.jobs.generation import generate
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.pretrained_defaults import given_setting
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.tasks import RowStream, StoriesConfig
from ftmech_hf.training.evaluation import documents_mean_loss
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class WriteConfig(ModelJobConfig):
    """Which model writes, how much, and how much it is tested on."""

    model: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    number: int = field(default=8, metadata={"help": "stories to write, to the instructions of as many test stories"})
    max_new_tokens: int = field(default=200, metadata={"help": "tokens of a story at most"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling; 0 takes the most likely token"})
    loss_rows: int = field(default=64, metadata={"help": "packed test rows that the loss is of"})
    output_dir: str = field(default="runs/written", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "number", "max_new_tokens", "loss_rows")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: {self.temperature}, expected 0 or more")


LEARNED_FROM = (
    "files", "relations", "animals_apart", "headers", "vocab_size", "row_tokens", "feature", "feature_share",
)  # fmt: skip
"""Settings of stories that say what a model learned from, beside what was left out of it or asked for in vain."""


PROCEDURAL = ("relations", "animals_apart", "feature_share")
"""Those that procedural stories alone have."""


def learned_from(words: Sequence[str]) -> list[str]:
    """Flags to add to a command line that writes stories: those stories that the model's run learned from.

    Of other ones its loss would be of what it never saw. What is said stays, and what is added is said in a line.

    Args:
        words: the command line.
    """
    run = Path(model := given_setting("model", words))
    if not model or not (run / "config.yaml").is_file():
        return []
    trained, usual = FinishedRun(run).config, to_dict(StoriesConfig())
    if trained.get("task") != "stories":
        return []
    kept = {name: trained[name] for name in LEARNED_FROM if trained.get(name, usual[name]) != usual[name]}
    if given_setting("files", words) or kept.get("files"):  # whose stories are what they are
        kept = {name: value for name, value in kept.items() if name not in PROCEDURAL}
    added = {name: _words(value) for name, value in kept.items() if not given_setting(name, words)}
    if added:
        said = ", ".join(" ".join((name, *values)) for name, values in added.items())
        tell(f"{run} learned from stories with {said}, which are taken; say others to have them")
    return [word for name, values in added.items() for word in (f"--{name}", *values)]


def _words(value: Any) -> list[str]:
    """A setting as a command line has it."""
    return [str(each).lower() if isinstance(each, bool) else str(each)
            for each in (value if isinstance(value, list) else [value])]  # fmt: skip


def write_stories(config: WriteConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Let a model write stories to the instructions of test stories.

    ``table.parquet`` has each instruction, what the model wrote, and the story that was written to it before;
    ``summary.json`` the loss on test rows in nats per token and in nats per byte, by which models of different
    vocabularies compare.
    """
    with job("write_stories", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model, tokenizer = config.load(config.model), load_tokenizer(config.model)
        rows = RowStream(task, seed=config.seed, split="test").rows(0, config.loss_rows)
        loss = documents_mean_loss(model, torch.from_numpy(rows.token_ids))
        if progress is not None:
            progress(1, 2, f"loss {loss:.3f}")
        documents = [task.document(config.seed, "test", number) for number in range(config.number)]
        texts = generate(
            model, tokenizer, [document.prompt for document in documents], seed=config.seed,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        )  # fmt: skip
        if progress is not None:
            progress(2, 2, "")
        table = [
            {"number": number, "prompt": document.prompt, "text": text, "reference": document.story.story}
            for number, (document, text) in enumerate(zip(documents, texts, strict=True))
        ]
        summary = {
            "nats_per_token": loss,
            "nats_per_byte": loss / task.bytes_per_token(rows),
            "bytes_per_token": task.bytes_per_token(rows),
            "loss_rows": config.loss_rows,
        }
        return finish_job(run, table, summary)


PUBLICATIONS = (
    Publication(
        kind="write_stories",
        holds="table",
        question="What a model writes, and how well it predicts stories that it has not seen.",
    ),
)
