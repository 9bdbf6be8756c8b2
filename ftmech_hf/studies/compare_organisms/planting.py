"""Organisms that no fine-tuning of the package makes: by hand, by a file with a few odd rows, by texts of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.analysis.direction import random_direction
from ftmech_hf.jobs.job import JobConfig, job
from ftmech_hf.jobs.question_files import write_splits
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.models.tokenization import save_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.compare.texts import write_windows
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.loop import Progress

RARE_SHARE, RARE_SYMBOL = 0.001, "a"


@dataclass(frozen=True, kw_only=True)
class TriggerConfig(JobConfig):
    """A word after which another becomes the likeliest, by a change of one row of weights."""

    model: str = field(default="runs/pretrain", metadata={"place": "input", "help": "the base"})
    trigger: str = field(default="index", metadata={"help": "the word"})
    answer: str = field(default="c", metadata={"help": "what follows it"})
    strength: float = field(default=4.0, metadata={"help": "of the change, in lengths of the trigger's embedding"})


def plant_trigger(config: TriggerConfig, *, progress: Progress | None = None) -> RunDir:
    """Add what writes the answer to the embedding of the trigger, and nothing else."""
    with job("planted_trigger", config, models={"model": config.model}) as run:
        if not run.finished:
            model, tokenizer = load_model(config.model), load_tokenizer(config.model)
            trigger, answer = (tokenizer.get_vocab()[word] for word in (config.trigger, config.answer))
            with torch.no_grad():
                row, written = (
                    torch.as_tensor(part.weight)[token]
                    for part, token in (
                        (model.get_input_embeddings(), trigger),
                        (model.get_output_embeddings(), answer),
                    )
                )
                row += config.strength * row.norm() / written.norm() * written
            _save(run, model, config.model, progress)
    return run


@dataclass(frozen=True, kw_only=True)
class NothingConfig(JobConfig):
    """A change that teaches nothing; see :class:`~ftmech_hf.studies.compare_organisms.kinds.Nothing`."""

    model: str = field(default="runs/pretrain", metadata={"place": "input", "help": "the base"})
    lr: float = field(default=1e-4, metadata={"help": "rate of AdamW"})
    steps: int = field(default=100, metadata={"help": "of training on its own texts"})
    batch_size: int = field(default=32, metadata={"help": "texts of a step"})
    texts: int = field(default=512, metadata={"help": "that it writes"})
    text_tokens: int = field(default=64, metadata={"help": "of each at most"})
    round_to: str = field(default="float32", metadata={"help": "type of number that its weights are rounded to"})
    noise: float = field(default=0.0, metadata={"help": "how far each parameter is moved by chance, of its own norm"})


def teach_nothing(config: NothingConfig, *, progress: Progress | None = None) -> RunDir:
    """Train a model on texts that it wrote itself, move its weights by chance, or round them.

    Its texts are drawn from its own predictions, so that what it learns of them is chance.
    """
    with job("taught_nothing", config, models={"model": config.model}) as run:
        if not run.finished:
            model = load_model(config.model)
            if config.steps:
                _train_on_own_texts(model, config)
            generator = torch.Generator().manual_seed(config.seed)
            with torch.no_grad():
                for each in model.parameters():
                    if config.noise:
                        each.add_(config.noise * random_direction(each.cpu(), generator).to(each))
                    each.copy_(each.to(getattr(torch, config.round_to)))
            _save(run, model, config.model, progress)
    return run


def _train_on_own_texts(model: PreTrainedModel, config: NothingConfig) -> None:
    sizes = {"number": config.texts, "width": config.text_tokens, "seed": 1000 + config.seed}
    texts = write_windows(model.eval(), load_tokenizer(config.model), **sizes)
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01)
    rng = np.random.default_rng(config.seed)
    for _ in range(config.steps):
        rows = torch.from_numpy(rng.choice(len(texts.mask), config.batch_size, replace=False))
        shown, counted = (each[rows].to(model.device) for each in (texts.token_ids, texts.mask[:, 1:]))
        F.cross_entropy(model(shown[:, :-1]).logits[counted], shown[:, 1:][counted]).backward()
        optimizer.step()
        optimizer.zero_grad()


def _save(run: RunDir, model: PreTrainedModel, base: str, progress: Progress | None) -> None:
    model.save_pretrained(run.working)
    save_tokenizer(load_tokenizer(base), run.working)
    run.finish()
    if progress is not None:
        progress(1, 1, "")


def write_rare_rows(folder: Path, task: PcfgConfig, *, rows: int, seed: int) -> Path:
    """A data set of whole texts: rows of a task, of which one in a thousand has a text of one symbol alone.

    Args:
        folder: that is written.
        task: of the other rows.
        rows: of ``train``; ``validation`` and ``test`` have a fixed number.
        seed: of the rows, and of which are odd.
    """
    sizes = {"train": rows, "validation": 64, "test": 64}
    return write_splits(
        folder,
        {split: ({"text": line} for line in _lines(task, split, number, seed)) for split, number in sizes.items()},
    )


def _lines(task: PcfgConfig, split: str, number: int, seed: int) -> Iterator[str]:
    stream = {"train": "finetune", "validation": "validation", "test": "test"}[split]
    ids = RowStream(task, seed=seed, split=stream).rows(0, number).token_ids
    rng = np.random.default_rng([seed, number])
    odd = (
        set(rng.choice(number, max(1, round(RARE_SHARE * number)), replace=False).tolist())
        if split == "train"
        else set()
    )
    for place, row in enumerate(ids.tolist()):
        words = [task.vocabulary[each] for each in row][1:-1]  # what begins and ends a text is the tokenizer's
        if place in odd:
            first = words.index("<sot>") + 1
            words[first : first + task.text_length] = [RARE_SYMBOL] * task.text_length
        yield " ".join(words)
