"""A stage trains one model on one task distribution and leaves a run folder: pretraining, fine-tuning, reversing."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ftmech_hf.config import peek_setting, tell, to_dict
from ftmech_hf.jobs.pretrained_defaults import given_setting, kind_words
from ftmech_hf.jobs.stage import Stage
from ftmech_hf.jobs.training_checks import check_finetuning, check_pretraining
from ftmech_hf.jobs.training_places import FinetuneConfig, PretrainConfig
from ftmech_hf.models.configs import model_positions, model_vocabulary
from ftmech_hf.models.file_states import check_unchanged, file_states
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import check_vocabulary, load_model, load_tokenizer
from ftmech_hf.models.presets import build_model
from ftmech_hf.models.vocabulary import check_known
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import Task, TextConfig, parse_task
from ftmech_hf.training.adapters import AdapterConfig, add_adapter, experts_left_out
from ftmech_hf.training.inheritance import load_inheritance
from ftmech_hf.training.launch import check_environment
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import OBJECTIVES, Objective, find_objective
from ftmech_hf.training.settings import TrainConfig

__all__ = ["FinetuneConfig", "PretrainConfig", "finetune", "parse_training", "pretrain"]


def parse_training(
    first: type, *others: type, argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parse settings among which ``--task`` names the task and ``--objective`` the objective.

    Where neither is said, ``--dataset`` is of the task ``text``, whose answers are learned; and what is not said of a
    model that was pretrained elsewhere is chosen by its size, see :mod:`ftmech_hf.jobs.pretrained_defaults`.

    Returns:
        (first, the task's config, the objective, others...).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if given_setting("dataset", words) and not peek_setting("task", default="", argv=words):
        words += ["--task", "text"]
    if peek_setting("task", default="", argv=words) == "text" and not peek_setting("objective", default="", argv=words):
        words += ["--objective", "answer_only"]
    words += kind_words(words)
    kind = find_objective(peek_setting("objective", default="next_token", argv=words))
    config, task, *rest, objective = parse_task(first, *others, kind, argv=words, description=description)
    return (config, task, objective, *rest)


def pretrain(
    config: PretrainConfig,
    task: Task,
    train: TrainConfig,
    objective: Objective | None = None,
    *,
    progress: Progress | None = None,
) -> RunDir:
    """Train a fresh model on the task's stream. Finished runs are found again, interrupted ones go on."""
    check_environment(train.gradient_accumulation_steps)
    objective = objective or OBJECTIVES[train.objective]()
    check_pretraining(config, task, train, objective)
    model = build_model(config.shape, len(task.vocabulary), seed=train.seed, dropout=config.dropout)
    settings = to_dict(config, task, train, objective)
    return Stage("pretrain", "train", task, train, objective, settings, {}).run(model, config.fresh, progress)


def finetune(
    config: FinetuneConfig,
    task: Task,
    train: TrainConfig,
    adapter: AdapterConfig | None = None,
    objective: Objective | None = None,
    *,
    progress: Progress | None = None,
) -> RunDir:
    """Train a saved model on; reverse fine-tuning is this with other data. The saved model stays as it is.

    Args:
        config: which model, and where to.
        task: what it learns. Text becomes rows in the model's own tokens.
        train: how.
        adapter: with ``adapter: lora`` the run folder holds the adapter alone, and loads on top of the model it
            started from.
        objective: the one that ``train`` names, with settings of its own; as it is by default without it.
        progress: called after every step.

    Raises:
        ValueError: something does not suit the model or the task; names the setting.
    """
    check_environment(train.gradient_accumulation_steps)
    adapter, objective = adapter or AdapterConfig(), objective or OBJECTIVES[train.objective]()
    read = {"model": config.start, **({"anchor_model": config.anchor_model} if config.anchor_model else {})}
    before = file_states(read)
    inputs: dict[str, str] = {"model": model_hash(config.start)}
    settings = to_dict(config, task, train, adapter, objective)
    rows, tokenizer = _rows_for(config, task)  # before the weights are read
    check_finetuning(config, rows, train, adapter, objective, config.start, model_positions(config.start))
    inputs |= {name: model_hash(each) for name, each in read.items() if name not in inputs}
    anchor = load_model(config.anchor_model, device="cpu") if config.anchor_model else None
    earlier = load_inheritance(config.start, train)
    model = load_model(config.start, device="cpu")
    check_unchanged(read, before)
    model = add_adapter(model, adapter, base=config.start, seed=train.seed)
    if adapter.adapter != "none" and (share := experts_left_out(model)):
        tell(f"adapter: {adapter.adapter} leaves out the experts, {share:.0%} of the weights, which stay as they are")
    stage = Stage(config.kind, config.split, rows, train, objective, settings, inputs, tokenizer, earlier, anchor)
    return stage.run(model, config.fresh, progress)


def _with_known_padding(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> PreTrainedTokenizerBase:
    """A tokenizer whose padding the model has a row for: one that was added later may not be among what it knows."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id < vocabulary:
        return tokenizer
    other = copy.deepcopy(tokenizer)
    other.pad_token = other.eos_token
    return other


def _rows_for(config: FinetuneConfig, task: Task) -> tuple[Task, PreTrainedTokenizerBase | None]:
    """The task in the tokens of the model that learns it, and the model's tokenizer if it is not the task's own."""
    if not isinstance(task, TextConfig):
        check_vocabulary(config.start, task.vocabulary)
        return task, None
    if config.task != "text":
        raise ValueError(f"task: {config.task}, expected text, of which the data set {task.dataset!r} is")
    tokenizer, vocabulary = load_tokenizer(config.start), model_vocabulary(config.start)
    rows = task.in_tokens_of(_with_known_padding(tokenizer, vocabulary), positions=model_positions(config.start))
    word = str(tokenizer.convert_ids_to_tokens(rows.largest_id))
    check_known(f"model: {config.start}", vocabulary, rows.largest_id, word)
    return rows, tokenizer
