"""The case that a diagnosis looks into: a pair of models, what they are asked, and how thoroughly."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, model_blocks
from ftmech_hf.activations.layout import spaced_layers
from ftmech_hf.activations.patches import Stands
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import rows_at_once
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.whole_words import WritesWords
from ftmech_hf.models.loading import random_twin, seed_of_its_own
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.models.untrained import never_trained
from ftmech_hf.models.vocabulary import CommonTokens, fit_vocabulary
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.studies.diagnosis.finetuning import self_distil
from ftmech_hf.studies.diagnosis.signs import VerdictRule

BASE, FINETUNED, NULL = "base", "fine-tuned", "reference"
SELF_DISTILLED, OTHER_SEED = "taught nothing", "another seed"
"""Null models, as the table calls them: the base after a fine-tuning on its own answers, and a base trained with
another seed. What sets these apart from it has no meaning."""
LARGE = 64_000_000
"""Parameters from which on a model is trained back by an adapter, in its place, and not as a copy."""
BACKWARD_TOKENS = 512
"""Tokens of a backward pass of a large model. Of 135 million weights they keep 0.7 GB, more than one copy of them."""
ReverseBy = Literal["auto", "weights", "adapter"]
LEAST = {"rows": 8, "patch_rows": 2, "random_masks": 2, "repeats": 2}
"""Numbers below which some methods have nothing to choose on, or to report."""
SPLITS = ("train", "validation", "test")
"""Rows that are fitted on, that choose, and that are reported, as a behavior calls them."""


@dataclass(frozen=True, kw_only=True)
class CaseConfig:
    """How thorough a diagnosis is."""

    rows: int = field(default=512, metadata={"help": "test rows per kind of question"})
    fit_rows: int = field(default=1000, metadata={"help": "rows the probes are fitted on"})
    patch_rows: int = field(
        default=192, metadata={"help": "test rows of patching, pruning, logit lens, paths and gradients"}
    )
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
        default=256,
        metadata={
            "help": "where it is not back, it and the control go on to the evaluation at or after so many, until one is"
        },
    )
    reverse_lr: float = field(default=1e-4, metadata={"help": "learning rate of reverse fine-tuning"})
    reverse_batch_size: int = field(default=32, metadata={"help": "rows of one of its steps"})
    reverse_by: ReverseBy = field(
        default="auto",
        metadata={"unsaid": True, "help": "what it trains: weights: all, of a copy; adapter: one of low rank on the "
                  "model in its place, at ten times the rate; auto: an adapter from 64 million parameters on"},
    )  # fmt: skip
    null_steps: int = field(
        default=32, metadata={"help": "steps of a fine-tuning that teaches nothing, at the same rate; 0 for none"}
    )
    thorough: bool = field(
        default=False, metadata={"help": "run all methods, even where the answers alone decide the verdict"}
    )
    edits: bool = field(
        default=False,
        metadata={
            "unsaid": True,
            "help": "also take back parts of the weight change, of the stream and of what neurons compute; the model "
            "without the smallest part that helps is saved in repaired/ of the run",
        },
    )
    attacks: bool = field(
        default=False,
        metadata={
            "unsaid": True,
            "help": "also round the weights to few bits, shake them, and train models back in many ways",
        },
    )

    def __post_init__(self) -> None:
        for name in (
            "rows", "fit_rows", "patch_rows", "max_layers", "random_masks", "repeats", "reverse_steps",
            "reverse_batch_size",
        ):  # fmt: skip
            least = LEAST.get(name, 1)
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")
        if self.most_reverse_steps < self.reverse_steps:
            raise ValueError(
                f"most_reverse_steps: {self.most_reverse_steps}, expected at least reverse_steps: {self.reverse_steps}"
            )
        if self.reverse_by not in get_args(ReverseBy):
            raise ValueError(f"reverse_by: {self.reverse_by!r}, expected one of {', '.join(get_args(ReverseBy))}")
        if self.null_steps < 0:
            raise ValueError(f"null_steps: {self.null_steps}, expected 0 or more")
        if not self.reverse_lr > 0:
            raise ValueError(f"reverse_lr: {self.reverse_lr}, expected a number above 0")
        if not self.prune_sizes or min(self.prune_sizes) < 0 or max(self.prune_sizes) < 1:
            raise ValueError(f"prune_sizes: {self.prune_sizes}, expected numbers of 0 or more, and one above")

    def in_place(self, parameters: int) -> bool:
        """Whether models of so many parameters are trained back by an adapter."""
        return self.reverse_by == "adapter" or (self.reverse_by == "auto" and parameters >= LARGE)


def backward_rows(large: bool, tokens: int) -> int:
    """Rows of a backward pass through all weights: 64, of a large model as many as have :data:`BACKWARD_TOKENS`."""
    return max(BACKWARD_TOKENS // tokens, 1) if large else 64


def is_reference(model: str) -> bool:
    """Whether a model is there for the others to be compared with."""
    return model not in (BASE, FINETUNED)


class Case:
    """A pair of models, a model without the capability, and what they are asked.

    Args:
        models: by :data:`BASE`, :data:`FINETUNED` and :data:`NULL`, all of one shape.
        capability: what may have been lost.
        other: what fine-tuning taught, if that is known.
        config: how thorough to be.
        seed: of all that is drawn by chance.
        other_seed: the base trained with another seed, if there is one.
        reversed_model: the fine-tuned model after reverse fine-tuning, if there is one already.
        own: the same questions in the fine-tuned model's own tokens, where those are others: then only answers can be
            compared.
        difference: the first question that is read as other tokens, if one is.
        common: name of a model -> the tokens that the base and it both know; a model without an entry has the base's
            vocabulary.
        prompt_kind: which kind of learned tokens make the fine-tuned model of its base, if it is no change of weights.
        leave_out: methods that are not wanted.
        drawn: whether the model without the capability was drawn here, with random weights, as none was given.

    Attributes:
        more_references: names and seeds of two models of random weights, for what differs between such models; they
            are made when they are looked into.
        layers: those that are looked into.
    """

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        capability: Behavior,
        other: Behavior | None,
        config: CaseConfig,
        seed: int,
        other_seed: PreTrainedModel | None = None,
        reversed_model: PreTrainedModel | None = None,
        own: Sequence[Behavior] | None = None,
        difference: str | None = None,
        common: Mapping[str, CommonTokens] | None = None,
        prompt_kind: str | None = None,
        leave_out: Sequence[str] = (),
        drawn: bool = False,
    ) -> None:
        self.models, self.capability, self.other, self.config, self.seed = models, capability, other, config, seed
        self.rule = VerdictRule()
        self.more_references = {f"random weights {number}": seed_of_its_own(seed, number) for number in (2, 3)}
        self.both = {"capability": capability, **({"other": other} if other else {})}
        self.own = None if own is None else dict(zip(self.both, own, strict=True))
        self.num_layers = len(model_blocks(models[BASE]))
        self.layers = spaced_layers(self.num_layers, config.max_layers)
        self._streams: dict[tuple[str, str, str], dict[int, Tensor]] = {}
        self._opened: dict[str, TracedModel] = {}
        self._right: dict[str, NDArray[np.bool_]] = {}
        self._other_seed = other_seed
        self.common, self.prompt_kind, self.leave_out = dict(common or {}), prompt_kind, leave_out
        self.reversed_model, self.difference, self.drawn = reversed_model, difference, drawn

    @functools.cached_property
    def null_models(self) -> dict[str, PreTrainedModel]:
        """Models that differ from the base without a meaning, by :data:`SELF_DISTILLED` and :data:`OTHER_SEED`."""
        config, found = self.config, {} if self._other_seed is None else {OTHER_SEED: self._other_seed}
        if not config.null_steps:
            return found
        distilled = self_distil(
            self.models[BASE], self.capability, seed=self.seed, steps=config.null_steps, lr=config.reverse_lr,
            batch_size=config.reverse_batch_size, in_place=self.in_place,
        )  # fmt: skip
        return {SELF_DISTILLED: distilled, **found}

    def right(self, model: str) -> NDArray[np.bool_]:
        """Whether a model answers each test row of the capability right, (B,); asked once."""
        if model not in self._right:
            self._right[model] = answers_right(self.models[model], self.asked(model, "capability"))
        return self._right[model]

    @property
    def base_right(self) -> NDArray[np.bool_]:
        """What others are measured by."""
        return self.right(BASE)

    @property
    def floor(self) -> float:
        """What is right without the capability: by naming one answer, or by the reference."""
        return max(self.capability.chance, float(self.right(NULL).mean()))

    @functools.cached_property
    def in_place(self) -> bool:
        """Whether models are trained back by an adapter in their place."""
        return self.config.in_place(self.models[BASE].num_parameters())

    @functools.cached_property
    def control(self) -> bool:
        """Whether the reference has learned something, so that it is a control and not just random weights."""
        return not (self.drawn or never_trained(self.models[NULL]))

    @property
    def everyone(self) -> dict[str, PreTrainedModel]:
        """All models by name."""
        return {**self.models, **self.null_models}

    def base_like(self, model: str) -> PreTrainedModel:
        """The base in the vocabulary of another model, for what mixes the weights of the two."""
        base = self.models[BASE]
        return fit_vocabulary(base, self.everyone[model], self.common[model]) if model in self.common else base

    def asked(self, model: str, kind: str) -> Behavior:
        """Questions as a model reads them."""
        return self.own[kind] if self.own is not None and model == FINETUNED else self.both[kind]

    def stream(self, model: str, questions: str, split: str) -> dict[int, Tensor]:
        """The stream of a model after every chosen block where it predicts the answer's first token, read once."""
        if (model, questions, split) not in self._streams:
            opened = self.opened(model)
            # a model of random weights is not kept, so that all of it is read at once
            for each in (split,) if model in self.everyone else SPLITS:
                rows: AnswerRows = getattr(self.both[questions], each)
                ids, size = rows.prompts()[0], self.rows_at_once(rows, 256)
                found = opened.collect(ids, ["resid_post"], layers=self.layers, batch_size=size)
                self._streams[model, questions, each] = {layer: found["resid_post", layer] for layer in self.layers}
        return self._streams[model, questions, split]

    def opened(self, model: str) -> TracedModel:
        """A model as its activations are read; its sites are proved once. One of random weights is made anew."""
        if model not in self.everyone:
            drawn = random_twin(self.models[BASE], self.more_references[model])
            return TracedModel(mask_padding(drawn, self.capability.pad))
        if model not in self._opened:
            self._opened[model] = TracedModel(self.everyone[model])
        return self._opened[model]

    def sites(self, model: str, questions: str, split: str) -> dict[str, Tensor]:
        """:meth:`stream` by the names that the table gives to places in the stream."""
        return {f"block {layer}": values for layer, values in self.stream(model, questions, split).items()}

    @staticmethod
    def rows_at_once(rows: AnswerRows, most: int = 128) -> int:
        """How many rows of a forward pass have no more tokens than answers are asked with."""
        return rows_at_once(rows.token_ids.shape[1], most)

    def stands(self, questions: str, rows: AnswerRows) -> Stands | None:
        """What tells answers from beginnings of longer words; None where any token may follow, or none has a place."""
        score = self.both[questions].score
        longest = rows.token_ids.shape[1] if rows.shown is None else int(rows.shown.sum(1).max())
        rooms = [found for each in self.everyone.values() if (found := positions_of(each)) is not None]
        return score.stand if isinstance(score, WritesWords) and longest - 1 <= min(rooms, default=longest) else None

    def few(self, questions: str) -> AnswerRows:
        """The first test rows, for what costs more."""
        return self.both[questions].test[: self.config.patch_rows]

    @property
    def few_groups(self) -> dict[str, Groups]:
        """Kind of question -> what each of them is about; None where each is by itself."""
        return {kind: self.few(kind).groups for kind in self.both}

    def few_right(self, model: PreTrainedModel, questions: str) -> NDArray[np.bool_]:
        """Whether a model, as it is now, answers each of them right."""
        right: NDArray[np.bool_] = self.both[questions].score(model, self.few(questions)).numpy()
        return right


def answers_right(model: PreTrainedModel, questions: Behavior) -> NDArray[np.bool_]:
    """Whether a model answers each test row right, (B,)."""
    with questions.answered_alone(model):
        right: NDArray[np.bool_] = questions.score(model, questions.test).numpy()
    return right
