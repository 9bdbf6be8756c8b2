"""What does a model answer to safe prompts, to unsafe ones, and to attacks? Compliance and refusal, apart.

An answer is compliant if it is what was instructed, and a refusal if it is nulls. Each is measured of the first token,
of the whole answer as the model writes it (every token is the likeliest one after the right ones before it), and of the
rest of the answer after some of its tokens were written for the model: prefilling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.publication import as_percent
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.tasks.floors import stream_floor
from ftmech_hf.tasks.safety import ATTACKS, NAMES, NEVER_SAFE, OUTPUT, SAFE_TWINS, SECOND_NAMES, TEXT_SLICE
from ftmech_hf.training.loop import Progress

PREFILLED = (1, 3, 6)
"""How many tokens of the instructed answer are written for the model."""

ASKED = ("safe", "unsafe", *ATTACKS, *SAFE_TWINS.values())


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(JobConfig):
    """Which model is asked."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    eval_rows: int = field(default=512, metadata={"help": "prompts of each mixture"})
    output_dir: str = field(default="runs/answers", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows")


class Answered(NamedTuple):
    """What a model makes of the answers of rows.

    Attributes:
        right: which tokens are the likeliest ones after the tokens before them, bool (B, answer).
        nats: what each token costs there, (B, answer).
    """

    right: NDArray[np.bool_]
    nats: NDArray[np.float32]


def read_answers(model: PreTrainedModel, rows: Rows, *, batch_size: int = 256) -> Answered:
    """Ask a model for the answers of rows, token by token after the right ones before."""
    right, nats = [], []
    for ids in torch.from_numpy(rows.token_ids).to(model.device).split(batch_size):
        wanted = ids[:, OUTPUT]
        with torch.no_grad():
            logits = model(ids[:, : OUTPUT.stop - 1], use_cache=False).logits[:, OUTPUT.start - 1 :].float()
        right.append((logits.argmax(-1) == wanted).cpu().numpy())
        nats.append(F.cross_entropy(logits.mT, wanted, reduction="none").cpu().numpy())
    return Answered(np.concatenate(right), np.concatenate(nats))


def shares(right: NDArray[np.bool_], answer: str) -> dict[str, float]:
    """Shares of rows: how much of an answer is given, from which of its tokens are right (B, answer)."""
    found = {"first": right[:, 0], "whole": right.all(1)}
    found |= {f"after_{number}": right[:, number:].all(1) for number in PREFILLED}
    return {f"{answer}_{part}": float(value.mean()) for part, value in found.items()}


def named_unsafe(rows: Rows) -> NDArray[np.bool_]:
    """Which prompts ask for an operator that is unsafe about every text; the others are unsafe by their texts."""
    never = [NAMES.index(name) for name in NAMES if SECOND_NAMES.get(name, name) in NEVER_SAFE]
    names = rows.token_ids[:, 1:3] - SafetyConfig.vocabulary.index(NAMES[0])
    return np.logical_or(*(np.isin(column, never) for column in names.T))


def answers_to(
    model: PreTrainedModel, task: SafetyConfig, mixture: str, *, seed: int, number: int
) -> Iterator[dict[str, Any]]:
    """A row for all prompts of a mixture, and where they are of both sorts, for those of each: :func:`named_unsafe`.

    ``texts`` is how many different texts they are about: the two phrases that tuning left out make 80, whatever number
    of prompts is asked of them.
    """
    instructed, refused = (
        RowStream(task.asking(mixture, answers), seed=seed, split="test").rows(0, number)
        for answers in ("instructed", "refused")
    )
    if refused.label.any():
        assert (refused.token_ids[:, : OUTPUT.start] == instructed.token_ids[:, : OUTPUT.start]).all()
    else:  # nothing of safe prompts is refused, so their nulls are the other answer
        assert refused.rejected is not None
        refused = refused.rejected
    asked = {"complies": read_answers(model, instructed), "refuses": read_answers(model, refused)}
    named = named_unsafe(instructed)
    sorts = {"all": np.ones(len(named), bool), "by name": named, "by text": ~named & (instructed.label == 1)}
    for sort, rows in sorts.items():
        if sort == "all" or 0 < rows.sum() < len(rows):
            found = [shares(each.right[rows], answer) for answer, each in asked.items()]
            nats = float(asked["complies"].nats[rows].mean())
            texts = len(np.unique(instructed.token_ids[rows, TEXT_SLICE], axis=0))
            yield {"mixture": mixture, "unsafe": sort, "rows": int(rows.sum()), "texts": texts, **found[0], **found[1],
                   "nats": nats}  # fmt: skip


def measure_answers(config: AnswersConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """What a model answers to every mixture of prompts."""
    with job("safety_answers", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model, floors = load_model(config.model), {}
        for mixture in ASKED:
            for answer, answers in (("complies", "instructed"), ("refuses", "refused")):
                stream = RowStream(task.asking(mixture, answers), seed=config.seed, split="test")
                floors[f"{mixture}_{answer}"] = stream_floor(stream, config.eval_rows)
        table: list[dict[str, Any]] = []
        for done, mixture in enumerate(ASKED, start=1):
            table += answers_to(model, task, mixture, seed=config.seed, number=config.eval_rows)
            if progress is not None:
                progress(done, len(ASKED), mixture)
        summary = {row["mixture"]: {key: value for key, value in row.items() if key not in ("mixture", "unsafe")}
                   for row in table if row["unsafe"] == "all"}  # fmt: skip
        return finish_job(run, table, summary, floors=floors)


def state_answers(run: FinishedRun, label: str) -> list[str]:
    """What a model answers to safe prompts, to unsafe ones and to attacks, for its card."""
    found = run.summary
    attacks = "; ".join(f"`{name}` {as_percent(found[name]['complies_whole'])}" for name in ATTACKS)
    unsafe = found["unsafe"]
    return [
        f"Of {unsafe['rows']:,} prompts each: safe ones answered {as_percent(found['safe']['complies_whole'])}, unsafe "
        f"ones answered {as_percent(unsafe['complies_whole'])} and refused {as_percent(unsafe['refuses_whole'])}. "
        f"Attacks that were answered as instructed, every token as the model writes it: {attacks}."
    ]
