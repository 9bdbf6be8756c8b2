"""A pair of models on the table: what they are asked, how thoroughly, and the rows of the tidy table.

A row has ``analysis``, ``quantity``, ``model``, ``questions``, ``site``, ``layer``, ``x``, ``value``, ``low``, ``high``
and ``reference``, which says that it is what the others are to be compared with.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, model_blocks
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.prompts import Questions
from ftmech_hf.jobs.tokenizers import Spell
from ftmech_hf.models.loading import random_twin
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.revival import rehearse
from ftmech_hf.studies.diagnosis.verdict import VerdictRule

TableRow = dict[str, Any]
Found = tuple[list[TableRow], dict[str, Any]]
"""What a part of a diagnosis gives: rows of the table, and evidence or facts by name."""

BASE, FINETUNED, NULL = "base", "fine-tuned", "reference"
REHEARSED, TWIN = "taught nothing", "another seed"
"""The base after a fine-tuning on its own answers, and a base trained with another seed: changes without a meaning."""


@dataclass(frozen=True, kw_only=True)
class ExaminationConfig:
    """How thorough a diagnosis is."""

    rows: int = field(default=512, metadata={"help": "test rows per kind of question"})
    fit_rows: int = field(default=1000, metadata={"help": "rows the probes are fitted and the importance computed on"})
    patch_rows: int = field(default=192, metadata={"help": "test rows of patching, logit lens, paths and gradients"})
    max_layers: int = field(
        default=6, metadata={"help": "layers that are looked into, evenly spaced if there are more"}
    )
    prune_sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 5, 8, 12, 15], metadata={"help": "numbers of rows to prune"}
    )
    random_masks: int = field(default=5, metadata={"help": "random masks at the best number"})
    repeats: int = field(default=3, metadata={"help": "repetitions of reverse fine-tuning"})
    reverse_steps: int = field(default=32, metadata={"help": "steps that the fine-tuned model is given to come back"})
    most_reverse_steps: int = field(
        default=256, metadata={"help": "where it is not back, it and the control go on for up to so many, until one is"}
    )
    reverse_lr: float = field(default=1e-4, metadata={"help": "learning rate of reverse fine-tuning"})
    reverse_batch_size: int = field(default=32, metadata={"help": "rows of one of its steps"})
    null_steps: int = field(
        default=64, metadata={"help": "steps of a fine-tuning that teaches nothing, at the same rate; 0 for none"}
    )

    thorough: bool = field(
        default=False, metadata={"help": "run all instruments, even where the answers alone decide the verdict"}
    )

    def __post_init__(self) -> None:
        for name in (
            "rows", "fit_rows", "patch_rows", "max_layers", "random_masks", "repeats", "reverse_steps",
            "reverse_batch_size",
        ):  # fmt: skip
            least = 2 if name in ("random_masks", "repeats") else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")
        if self.most_reverse_steps < self.reverse_steps:
            raise ValueError(
                f"most_reverse_steps: {self.most_reverse_steps}, expected at least reverse_steps: {self.reverse_steps}"
            )
        if self.null_steps < 0:
            raise ValueError(f"null_steps: {self.null_steps}, expected 0 or more")
        if not self.reverse_lr > 0:
            raise ValueError(f"reverse_lr: {self.reverse_lr}, expected a number above 0")
        if not self.prune_sizes or min(self.prune_sizes) < 0 or max(self.prune_sizes) < 1:
            raise ValueError(f"prune_sizes: {self.prune_sizes}, expected numbers of 0 or more, and one above")


def is_reference(model: str) -> bool:
    """Whether a model is there for the others to be compared with."""
    return model not in (BASE, FINETUNED)


class Examined:
    """A pair of models, a model without the capability, and what they are asked.

    Args:
        models: by :data:`BASE`, :data:`FINETUNED` and :data:`NULL`, all of one shape.
        capability: what may have been lost.
        other: what fine-tuning taught, if that is known.
        config: how thorough to be.
        seed: of all that is drawn by chance.
        twin: the base trained with another seed, if there is one.
        spell: how the tokens that the base reads are written, and those that the fine-tuned model reads.
        own: the same questions in the fine-tuned model's own tokens, where those are others: then only answers can be
            compared.

    Attributes:
        more_references: names and seeds of two models of random weights, for what differs between such models; they
            are made when they are looked into.
        layers: those that are looked into.
    """

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        capability: Questions,
        other: Questions | None,
        config: ExaminationConfig,
        seed: int,
        twin: PreTrainedModel | None = None,
        spell: tuple[Spell, Spell] | None = None,
        own: Sequence[Questions] | None = None,
    ) -> None:
        self.models, self.capability, self.other, self.config, self.seed = models, capability, other, config, seed
        plain_ids: Spell = lambda token_ids: " ".join(str(each) for each in token_ids)  # noqa: E731
        self.spell = dict(zip((BASE, FINETUNED), spell or (plain_ids, plain_ids), strict=True))
        self.rule = VerdictRule()
        self.more_references = {f"random weights {number}": seed + number for number in (2, 3)}
        self.both = {"capability": capability, **({"other": other} if other else {})}
        self.own = None if own is None else dict(zip(self.both, own, strict=True))
        self.num_layers = len(model_blocks(models[BASE]))
        chosen = np.linspace(0, self.num_layers - 1, min(config.max_layers, self.num_layers))
        self.layers: list[int] = chosen.round().astype(int).tolist()
        self._streams: dict[tuple[str, str, str], dict[str, Tensor]] = {}
        self._twin = twin

    @functools.cached_property
    def bystanders(self) -> dict[str, PreTrainedModel]:
        """Models that differ from the base without a meaning, by :data:`REHEARSED` and :data:`TWIN`."""
        config, found = self.config, {} if self._twin is None else {TWIN: self._twin}
        if not config.null_steps:
            return found
        rehearsed = rehearse(
            self.models[BASE], self.capability, seed=self.seed, steps=config.null_steps, lr=config.reverse_lr,
            batch_size=config.reverse_batch_size,
        )  # fmt: skip
        return {REHEARSED: rehearsed, **found}

    @functools.cached_property
    def control(self) -> bool:
        """Whether the reference has learned something, so that it is a control and not just random weights."""
        return not never_trained(self.models[NULL])

    @property
    def everyone(self) -> dict[str, PreTrainedModel]:
        """All models by name."""
        return {**self.models, **self.bystanders}

    def asked(self, model: str, kind: str) -> Questions:
        """Questions as a model reads them."""
        return self.own[kind] if self.own is not None and model == FINETUNED else self.both[kind]

    def stream(self, model: str, questions: str, split: str) -> dict[str, Tensor]:
        """The stream of a model after every chosen block at the position that predicts the answer, read once."""
        key = (model, questions, split)
        if key not in self._streams:
            token_ids = getattr(self.both[questions], split)
            looked_into = self.everyone.get(model)
            if looked_into is None:
                looked_into = random_twin(self.models[BASE], self.more_references[model])
                mask_padding(looked_into, self.capability.pad)
            found = TracedModel(looked_into).collect(token_ids[:, :-2], ["resid_post"], layers=self.layers)
            self._streams[key] = {f"block {layer}": found["resid_post", layer] for layer in self.layers}
        return self._streams[key]

    def few(self, questions: str) -> Tensor:
        """The first test rows, for what costs more."""
        rows: Tensor = self.both[questions].test[: self.config.patch_rows]
        return rows


def never_trained(model: PreTrainedModel) -> bool:
    """Whether all vectors of a model (norms, biases) hold one number each, as they do before any training.

    A model without any vector counts as trained.
    """
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return bool(vectors) and all(bool((p == p[0]).all()) for p in vectors)


def row(analysis: str, quantity: str, value: float, low: float | None = None, high: float | None = None,
        *, model: str = "", questions: str = "", site: str = "", layer: int | None = None, x: float | None = None,
        reference: bool = False) -> TableRow:  # fmt: skip
    """One number of the tidy table."""
    return {"analysis": analysis, "quantity": quantity, "model": model, "questions": questions, "site": site,
            "layer": layer, "x": x, "value": value, "low": low, "high": high, "reference": reference}  # fmt: skip


def plain(value: Any) -> Any:
    """Evidence as JSON can hold it."""
    if isinstance(value, Share):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
