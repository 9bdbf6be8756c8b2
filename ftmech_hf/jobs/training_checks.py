"""What of the settings of training is refused before it begins: also where the model is still to be made.

A run says so before a weight is read, and a plan before anything runs: each calls the same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from transformers import PreTrainedModel

from ftmech_hf.config import tell
from ftmech_hf.jobs.stage import check_suits
from ftmech_hf.jobs.training_places import FinetuneConfig, PretrainConfig
from ftmech_hf.models.configs import config_positions
from ftmech_hf.models.loading import check_words
from ftmech_hf.models.presets import Preset, build_model, model_config
from ftmech_hf.tasks import Rows, RowStream, Task, TextConfig
from ftmech_hf.tasks.schema import Offer
from ftmech_hf.tasks.text.task import TextTask
from ftmech_hf.training.adapters import AdapterConfig, adapter_targets
from ftmech_hf.training.inheritance import check_kept
from ftmech_hf.training.launch import check_batch, check_tracker
from ftmech_hf.training.objectives import Batch, Objective
from ftmech_hf.training.settings import TrainConfig


def check_pretraining(config: PretrainConfig, task: Task, train: TrainConfig, objective: Objective) -> None:
    """Make sure that a fresh model can be trained so.

    Raises:
        ValueError: it cannot; names the setting.
    """
    if isinstance(task, TextConfig):
        raise ValueError("task: text is learned in a model's own tokens, and a fresh one has none; use finetune.py")
    if task.row_length > config.shape.n_positions:
        raise ValueError(
            f"n_positions: {config.shape.n_positions} of preset {config.preset!r} are too few "
            f"for the task's rows of {task.row_length} tokens"
        )
    for name in ("replay_share", "der", "ewc", "olora"):
        if getattr(train, name):
            raise ValueError(f"{name}: {getattr(train, name)} is of an earlier run, which a fresh model has none of")
    check_keeping(train, AdapterConfig(), task, objective, config.task)
    check_suits(objective, train, task, config.task)
    _check_training(train, task, "train")


def check_finetuning(
    config: FinetuneConfig, rows: Task, train: TrainConfig, adapter: AdapterConfig, objective: Objective,
    start: str, room: int | None,
) -> None:  # fmt: skip
    """Make sure that a model can be trained so on some rows.

    Args:
        config, train, adapter, objective: the settings.
        start: what errors call the model.
        rows: in the model's tokens.
        room: positions of the model, None for any number.

    Raises:
        ValueError: it cannot; names the setting.
    """
    check_suits(objective, train, rows, config.task)
    if room is not None and not isinstance(rows, TextTask):  # whose rows are cut to what there is room for
        shown = _shown_tokens(rows, train, objective, config.split)
        if shown > room:
            raise ValueError(
                f"model: {start} has {room} positions, but objective: {train.objective} shows it rows of {shown} "
                f"tokens of task {config.task}"
            )
    if config.anchor_model is not None and not (train.ldifs or train.lfl):
        raise ValueError(f"anchor_model: {config.anchor_model} changes nothing, expected ldifs or lfl above 0")
    check_keeping(train, adapter, rows, objective, config.task)
    _check_training(train, rows, config.split)


def _check_training(train: TrainConfig, rows: Task, split: str) -> None:
    check_tracker(train.log_with)
    check_batch(train.batch_size, train.gradient_accumulation_steps)
    check_kept(RowStream(rows, seed=train.seed, split=split), train, train.steps * train.batch_size)


class PlannedModel(NamedTuple):
    """What is known of a model that a plan is still to make.

    Attributes:
        name: of the run that makes it.
        shape: of it.
        vocabulary: the task's that it was pretrained on.
        train: how that run trains.
    """

    name: str
    shape: Preset
    vocabulary: tuple[str, ...]
    train: TrainConfig

    @property
    def positions(self) -> int | None:
        """How many tokens it can be shown."""
        return config_positions(model_config(self.shape, len(self.vocabulary), dropout=0.0))

    def untrained(self) -> PreTrainedModel:
        """A model of this shape."""
        return _untrained(self.shape, len(self.vocabulary))

    def knows(self, vocabulary: tuple[str, ...]) -> None:
        """Make sure that it has a task's words.

        Raises:
            ValueError: it has others.
        """
        check_words(self.name, {word: number for number, word in enumerate(self.vocabulary)}, vocabulary)


@functools.lru_cache(maxsize=4)
def _untrained(shape: Preset, words: int) -> PreTrainedModel:
    return build_model(shape, words, seed=0)


def check_planned_finetuning(
    made: PlannedModel, config: FinetuneConfig, task: Task, train: TrainConfig, adapter: AdapterConfig,
    objective: Objective,
) -> None:  # fmt: skip
    """:func:`check_finetuning` of a model that is still to be made, and what its run would refuse besides.

    Raises:
        ValueError: it cannot be trained so; names the setting.
    """
    if config.snapshot is not None and config.snapshot not in made.train.snapshots:
        raise ValueError(
            f"snapshot: {made.name} keeps none of step {config.snapshot}, expected one of {made.train.snapshots}"
        )
    if adapter.adapter != "none" or adapter.trainable != "all":
        adapter_targets(made.untrained(), adapter)
    for name, needed in (("replay_share", "keep_rows"), ("ewc", "keep_fisher")):
        if getattr(train, name) and not getattr(made.train, needed):
            raise ValueError(f"{name}: {getattr(train, name)}, but {made.name} is trained without {needed}")
    if isinstance(task, TextConfig):  # which has rows once there is a tokenizer
        return
    made.knows(task.vocabulary)
    check_finetuning(config, task, train, adapter, objective, made.name, made.positions)


_DRAWN: dict[tuple[str, int, str], Rows] = {}
"""First rows of the tasks of a plan, in which many runs have the same."""


def _first_row(task: Task, seed: int, split: str) -> Rows:
    """The first row of a stream; a correlation that cannot be shows here."""
    if isinstance(task, TextTask):  # is no setting, which says all of itself
        return RowStream(task, seed=seed, split=split).rows(0, 1)
    key = (repr(task), seed, split)
    if key not in _DRAWN:
        _DRAWN[key] = RowStream(task, seed=seed, split=split).rows(0, 1)
    return _DRAWN[key]


def _shown_tokens(rows: Task, train: TrainConfig, objective: Objective, split: str) -> int:
    """How many tokens of a row a model will be shown."""
    return int(objective.shown(Batch.of(_first_row(rows, train.seed, split))).token_ids.shape[1])


KEPT_OF: Mapping[str, tuple[Offer, ...]] = {
    **dict.fromkeys(("lwf", "keep_fisher", "der"), ("answers",)),
    **dict.fromkeys(("keep_rows", "replay_share"), ("answers", "documents")),
}
"""Setting -> what rows must have some of."""


def check_keeping(train: TrainConfig, adapter: AdapterConfig, rows: Task, objective: Objective, task: str) -> None:
    """Make sure that what keeps a model near what it was suits what is trained of it.

    Raises:
        ValueError: it does not; names the setting.
    """
    if train.replay_share and objective.needs == "pairs":
        raise ValueError(
            f"replay_share: {train.replay_share}, but objective: {train.objective} needs pairs of answers, of which "
            "kept rows have one; expected an objective of single answers"
        )
    if adapter.lora_dropout and adapter.adapter == "lora" and objective.needs_reference:
        tell(
            f"lora_dropout: {adapter.lora_dropout} drops nothing: objective {train.objective} compares with the model "
            "that training started from, and both are called without dropout"
        )
    if adapter.trainable == "head":
        _check_head(train, objective)
    if adapter.adapter != "none":
        for name in ("average", "ewc", "keep_fisher"):
            if getattr(train, name):
                raise ValueError(f"{name}: {getattr(train, name)} is of a model's own weights, expected adapter: none")
    if train.olora and adapter.adapter != "lora":
        raise ValueError(f"olora: {train.olora} is of LoRA adapters, expected adapter: lora")
    for name, kinds in KEPT_OF.items():
        if getattr(train, name) and not set(kinds) & set(rows.offers):
            raise ValueError(
                f"{name}: {getattr(train, name)} is of {' or '.join(kinds)}, which the rows of task {task} lack"
            )


def _check_head(train: TrainConfig, objective: Objective) -> None:
    """Nothing before the unembedding changes where that alone is trained."""
    expected = "which trainable: head leaves as they are; expected all, body or an adapter"
    for name in ("ldifs", "lfl"):
        if getattr(train, name):
            raise ValueError(f"{name}: {getattr(train, name)} is of features, {expected}")
    if objective.reads_layer is not None:
        raise ValueError(f"objective: {train.objective} is of a block's outputs, {expected}")
