"""What a run leaves for the runs that go on from it: rows to show again, and how much each weight matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.config import tell
from ftmech_hf.models.identity import ADAPTER, ADAPTER_WEIGHTS, find_base, find_gguf, find_model
from ftmech_hf.tasks import Rows, RowStream
from ftmech_hf.training.earlier_tasks import answer_logits_of, fisher_information
from ftmech_hf.training.evaluation import logit_batches
from ftmech_hf.training.keeping_settings import KeepingConfig
from ftmech_hf.training.kept_rows import COLUMNS, ReplayStream, beside
from ftmech_hf.training.objectives import Batch

FOLDER, ROWS, FISHER = "inheritance", "rows.safetensors", "fisher.safetensors"

MOST_LOGITS = 2**30
"""Bytes of logits that are kept without being asked for."""


@dataclass(frozen=True)
class Inheritance:
    """What earlier runs left.

    Attributes:
        rows: of all earlier tasks, as many of each as its run kept; None if none were.
        logits: of the tokens of their answers (tokens, V), as they were when each task was learned; None of documents.
        fisher: name of a weight -> its Fisher information, a sum over earlier tasks.
        adapters: name of a weight -> A (rank, D) of each LoRA adapter that the model stands on.
    """

    rows: Rows | None = None
    logits: Tensor | None = None
    fisher: Mapping[str, Tensor] = field(default_factory=dict)
    adapters: tuple[Mapping[str, Tensor], ...] = ()


def load_inheritance(model: str, config: KeepingConfig) -> Inheritance:
    """What the run of a model left, as far as settings need it.

    Raises:
        ValueError: something that they need is not there; names the setting.
    """
    folder = find_model(model) if find_gguf(model) is None else Path(model).parent
    found = Inheritance()
    if (file := folder / FOLDER / ROWS).is_file() and (config.replay_share or config.keep_rows):
        tensors = load_file(file)
        columns: dict[str, Any] = {name: tensors[name].numpy() for name in COLUMNS if name in tensors}
        found = dataclasses.replace(found, rows=Rows(**columns), logits=tensors.get("logits"))
    if (file := folder / FOLDER / FISHER).is_file() and (config.ewc or config.keep_fisher):
        found = dataclasses.replace(found, fisher=load_file(file))
    if config.olora:
        found = dataclasses.replace(found, adapters=_earlier_adapters(folder))
    for setting, there, how in (
        ("replay_share", found.rows, "keeps no rows; train it with keep_rows"),
        (
            "der",
            found.logits is not None,
            "keeps no logits: its rows have no answers, or they would be too many; train it with keep_logits: always",
        ),
        ("ewc", found.fisher, "keeps no Fisher information; train it with keep_fisher"),
        ("olora", found.adapters, "stands on no LoRA adapter; train the first task with adapter: lora alone"),
    ):
        if getattr(config, setting) and not there:
            raise ValueError(f"{setting}: {getattr(config, setting)}, but the run of {model} {how}")
    return found


def check_inherited(model: nn.Module, config: KeepingConfig, earlier: Inheritance) -> None:
    """Make sure that what earlier runs left is of what is trained.

    Raises:
        ValueError: it is of other weights; names the setting.
    """
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if config.ewc and (lacking := [name for name in trained if name not in earlier.fisher]):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"ewc: {config.ewc}, but the run before keeps no Fisher information of {lacking[0]}{more}, expected that "
            "of all that is trained; train both with the same trainable"
        )
    adapted = {name.replace(".default.", ".") for name in trained if ".lora_A." in name}
    if config.olora and not any(adapted & set(one) for one in earlier.adapters):
        raise ValueError(
            f"olora: {config.olora}, but no earlier adapter is on a module of this one, expected some in common; give "
            "the same lora_targets"
        )


def _earlier_adapters(folder: Path) -> tuple[Mapping[str, Tensor], ...]:
    found = []
    while (folder / ADAPTER).is_file():
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        found.append({name: each for name, each in tensors.items() if ".lora_A." in name})
        folder = find_model(find_base(folder))
    return tuple(each for each in found if each)


def logit_bytes(vocabulary: int, stream: RowStream, config: KeepingConfig, earlier: Inheritance) -> int:
    """How much the logits take that a run keeps of its rows and was left of earlier ones; 0 where it keeps none.

    Args:
        vocabulary: tokens that the model has logits of.
        stream: the training rows.
        config: what is kept.
        earlier: what earlier runs left. Where they left rows of answers without logits, there are none of new ones.

    Raises:
        ValueError: logits are asked for, and those of earlier rows are not there.
    """
    if not config.keep_rows or config.keep_logits == "never" or "answers" not in stream.task.offers:
        return 0
    if earlier.rows is not None and earlier.logits is None:
        if config.keep_logits == "always":
            raise ValueError("keep_logits: always, but the run before keeps rows without logits, expected those of all")
        return 0
    rows = stream.rows(0, config.keep_rows)
    tokens = len(rows) if rows.answers is None else int(rows.answers.sum())
    left = 0 if earlier.logits is None else earlier.logits.nbytes
    size = 4 * vocabulary * tokens + left
    return 0 if config.keep_logits == "auto" and not config.der and size > MOST_LOGITS else size


def check_kept(stream: RowStream, config: KeepingConfig, rows_trained_on: int) -> None:
    """Make sure that no more rows are to be kept, or to be measured on, than are trained on.

    Raises:
        ValueError: they are; names the setting.
    """
    there = stream.task.num_rows(stream.split)
    most = rows_trained_on if there is None else min(there, rows_trained_on)
    for name in ("keep_rows", "keep_fisher"):
        if getattr(config, name) > most:
            raise ValueError(f"{name}: {getattr(config, name)}, expected at most {most}, the rows that are trained on")


def inherited_bytes(
    model: PreTrainedModel, stream: RowStream, config: KeepingConfig, earlier: Inheritance, rows_trained_on: int
) -> int:
    """How much :func:`save_inheritance` will write at most; says what is left out because it would be too much.

    Raises:
        ValueError: see :func:`logit_bytes`; or more rows are to be kept than are trained on.
    """
    stream, vocabulary = _new(stream), _vocabulary(model)
    check_kept(stream, config, rows_trained_on)
    if config.keep_rows and earlier.rows is not None:
        beside(earlier.rows, stream.rows(0, 1))
    logits = logit_bytes(vocabulary, stream, config, earlier)
    if config.keep_rows and config.keep_logits == "auto" and not logits and "answers" in stream.task.offers:
        tell(f"keep_rows: the logits of {config.keep_rows} rows over {vocabulary} tokens are not kept; only der needs "
             "them, for which keep_logits: always keeps them")  # fmt: skip
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad) if config.keep_fisher else 0
    return logits + 4 * weights


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)


def _new(stream: RowStream) -> RowStream:
    """The stream of new rows alone."""
    return stream.new if isinstance(stream, ReplayStream) else stream


@torch.no_grad()
def keep_rows(
    model: nn.Module, stream: RowStream, number: int, earlier: Inheritance, *, with_logits: bool
) -> dict[str, Tensor]:
    """The first rows of a stream and what a model says to them, after those of earlier tasks, as tensors to save.

    Of rows without answers, as packed documents, or without logits, the rows alone.
    """
    rows = stream.rows(0, number)
    logits = []
    if with_logits:
        device = next(model.parameters()).device
        logits = [answer_logits_of(model, each.to(device)).float().cpu() for each in logit_batches(model, rows)]
    if earlier.rows is not None:
        of_one_kind = not logits if earlier.logits is None else "answers" in stream.task.offers
        if not of_one_kind:
            raise ValueError("keep_rows: kept rows and new rows are of tasks of different kinds, expected one kind")
        rows = Rows.concatenate(beside(earlier.rows, rows))
        logits = [each for each in (earlier.logits,) if each is not None and with_logits] + logits
    columns = {name: getattr(rows, name) for name in COLUMNS}
    kept = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in columns.items() if each is not None}
    return kept | ({"logits": torch.cat(logits)} if logits else {})


def keep_fisher(model: nn.Module, stream: RowStream, number: int, seed: int, earlier: Inheritance) -> dict[str, Tensor]:
    """The Fisher information of a model on the first rows of a stream, added to that of earlier tasks."""
    device = next(model.parameters()).device
    rows = stream.rows(0, number)
    batches = [Batch.of(rows[place : place + 1]).to(device) for place in range(number)]
    found = fisher_information(model, batches, seed=seed)
    summed = {name: each.cpu() + earlier.fisher.get(name, torch.zeros(())) for name, each in found.items()}
    return {**earlier.fisher, **summed}  # what was frozen this time keeps what earlier tasks say of it


def save_inheritance(
    folder: Path, model: PreTrainedModel, stream: RowStream, config: KeepingConfig, seed: int, earlier: Inheritance
) -> None:
    """Write what a run is to leave into its folder; nothing by default."""
    if not (config.keep_rows or config.keep_fisher):
        return
    stream = _new(stream)
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    if config.keep_rows:
        with_logits = logit_bytes(_vocabulary(model), stream, config, earlier) > 0
        save_file(keep_rows(model, stream, config.keep_rows, earlier, with_logits=with_logits), place / ROWS)
    if config.keep_fisher:
        save_file(keep_fisher(model, stream, config.keep_fisher, seed, earlier), place / FISHER)
