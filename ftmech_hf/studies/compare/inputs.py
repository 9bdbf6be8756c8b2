"""What a comparison is given: its settings, from which come the two models and the texts that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.analysis.output_difference import READ_TOGETHER
from ftmech_hf.jobs.generation import turn_ends
from ftmech_hf.jobs.job import ModelJobConfig, check_positive
from ftmech_hf.jobs.tokenizers import in_vocabulary_of, own_tokenizer
from ftmech_hf.models.configs import model_config
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.models.memory import check_memory, forward_bytes, parse_bytes, training_bytes, weight_bytes
from ftmech_hf.models.naming import check_models
from ftmech_hf.models.vocabulary import check_known, num_rows, num_tokens, untie_alike
from ftmech_hf.studies.compare.texts import Windows, read_windows, width_of, write_windows
from ftmech_hf.tasks.text.identity import dataset_hash

BASE, FINETUNED, NULL = "base", "fine-tuned", "null model"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ModelJobConfig):
    """Which models to compare, on which texts, and how thoroughly."""

    base: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of the base model, or its name on the Hub"}
    )
    finetuned: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "what it was fine-tuned into; may be an adapter"}
    )
    null: list[str] = field(
        default_factory=list,
        metadata={"place": "input", "help": "folders of models that differ from the base without a meaning, such as "
                  "one trained with another seed; auto, or nothing: null models are made here"},
    )  # fmt: skip
    null_models: int = field(default=3, metadata={"help": "how many null models are made"})
    null_steps: int = field(default=90, metadata={"help": "training steps of each; fewer are noisier"})
    null_batch_size: int = field(default=16, metadata={"help": "windows of each of these steps"})
    texts: str | None = field(
        default=None,
        metadata={"place": "input", "help": "texts that both read, a data set; what the base writes if not given"},
    )
    windows: int = field(default=512, metadata={"help": "windows of text"})
    window_tokens: int = field(default=64, metadata={"help": "tokens of a window"})
    completions: int = field(default=256, metadata={"help": "texts that each model writes, after 1 to 5 tokens"})
    completion_tokens: int = field(default=32, metadata={"help": "tokens of such a text"})
    strengths: list[float] = field(
        default_factory=lambda: [0.3, 1.0, 3.0, 10.0],
        metadata={"help": "how much stronger what was learned is made when as many texts are written again"},
    )
    max_layers: int = field(default=6, metadata={"help": "blocks that are looked behind, evenly spaced"})
    top: int = field(default=10, metadata={"help": "findings of each kind at most; of shifts no more than 3"})
    max_memory: str | None = field(
        default=None, metadata={"manner": True, "help": "stop before anything is loaded if it needs more, such as 16GB"}
    )
    output_dir: str = field(default="runs/compare", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "null_models", "null_steps", "null_batch_size", "completions", "completion_tokens", "top")
        check_positive(self, "max_layers")
        for name, least in (("windows", 32), ("window_tokens", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")
        if any(not each > 0 for each in self.strengths):
            raise ValueError(f"strengths: {self.strengths}, expected numbers above 0")
        if self.max_memory is not None:
            parse_bytes("max_memory", self.max_memory)
        if self.null == ["auto"]:
            object.__setattr__(self, "null", [])
        if "auto" in self.null:
            raise ValueError(f"null: {' '.join(self.null)}, expected auto, or folders of models")

    def inputs(self) -> dict[str, str]:
        """The texts, by what is in them."""
        return {"texts": dataset_hash(self.texts)} if self.texts else {}

    @property
    def named(self) -> dict[str, str]:
        """Role -> folder or name of every model that is given."""
        nulls = {f"null/{number}": folder for number, folder in enumerate(self.null)}
        return {"base": self.base, "finetuned": self.finetuned, **nulls}

    @property
    def nulls_given(self) -> list[str]:
        """Folders of the null models that are given."""
        return [folder for name, folder in self.named.items() if name.startswith("null/")]


@dataclass(frozen=True)
class Pair:
    """What is compared.

    Attributes:
        models: ``base``, ``fine-tuned``, and null models that were given, in the base's vocabulary.
        tokenizer: of the base.
        windows: the texts.
        ends: tokens by which one of the models stops, beside that which ends the tokenizer's texts.
    """

    models: Mapping[str, PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    windows: Windows
    ends: frozenset[int] = frozenset()

    @property
    def tokens(self) -> int:
        """How many ids may be tokens; embeddings often have more rows."""
        return num_tokens(self.models[BASE], self.tokenizer)


COPIES = 7
"""Of the logits of a batch, that are there where two models' predictions are compared."""


def memory_needs(config: CompareConfig, known: Any, dtype: torch.dtype) -> dict[str, int]:
    """Bytes at the same time, by what takes them; the sum is the most that is needed.

    A null model is trained in float32, whatever its weights are kept in.

    Args:
        config: of the comparison.
        known: the config of the base.
        dtype: of the weights.
    """
    tokens, weights = width_of(known, config.window_tokens), weight_bytes(known, dtype)
    made = not config.nulls_given
    copies = len(config.named) + made  # of null models that are made here one is there at a time
    logits = 4 * READ_TOGETHER * tokens * known.get_text_config().vocab_size
    compared = COPIES * logits + forward_bytes(known, READ_TOGETHER, tokens, 1, dtype)
    # the copy, what its blocks are given and what they had: 2.8 where it was measured
    passing = {"a changed copy of the base, and predictions": 3 * weights + compared}
    if made:
        whole = weight_bytes(known, torch.float32)
        step = training_bytes(known, config.null_batch_size, tokens)
        passing["a null model that is trained, with gradients and moments"] = whole - weights + step
    most = max(passing, key=lambda what: passing[what])
    return {f"{copies} models": copies * weights, most: passing[most]}


def _check_memory(config: CompareConfig) -> None:
    """Say what is needed before a weight is read, and stop if it is too much."""
    known = model_config(config.named["base"])
    needs = memory_needs(config, known, config.kept_as(known))
    less = (
        "--dtype bfloat16 takes half of what is not trained, --null no copy that is trained, fewer --null_batch_size "
        "and --window_tokens a little"
    )
    check_memory("this comparison", needs, config.max_memory, less)


def load_pair(config: CompareConfig) -> Pair:
    """Load the models and read or write the texts.

    Raises:
        ValueError: more memory is needed than may be taken, models of other shapes, texts that are none, or a model
            without a tokenizer.
    """
    check_models(config.named)
    _check_memory(config)
    tokenizer = load_tokenizer(config.named["base"])
    loaded = {name: config.load(folder, **base_for(name, config.named)) for name, folder in config.named.items()}
    untie_alike(loaded.values())
    base, models = loaded["base"], {BASE: loaded["base"]}
    for role, model in loaded.items():
        if role == "base":
            continue
        name = FINETUNED if role == "finetuned" else f"{NULL} {int(role.removeprefix('null/')) + 1}"
        models[name] = in_vocabulary_of(base, tokenizer, role, config.named[role], model)
    width = width_of(base.config, config.window_tokens)
    sizes = {"number": config.windows, "width": width, "seed": config.seed}
    if config.texts:
        windows = read_windows(config.texts, tokenizer, **sizes)
        largest = int(windows.token_ids.max())
        word = str(tokenizer.convert_ids_to_tokens(largest))
        check_known(f"base: {config.named['base']}", num_rows(base), largest, word)
    else:
        windows = write_windows(base, tokenizer, tokens=num_tokens(base, tokenizer), **sizes)
    return Pair(models, tokenizer, windows, _ends(config, tokenizer, loaded))


def _ends(
    config: CompareConfig, tokenizer: PreTrainedTokenizerBase, loaded: Mapping[str, PreTrainedModel]
) -> frozenset[int]:
    """The base's ids of all tokens by which the models, as loaded, stop: a chat's turn has an end of its own."""
    known, found = tokenizer.get_vocab(), set()
    for role, model in loaded.items():
        own = own_tokenizer(config.named[role]) or tokenizer
        words = own.convert_ids_to_tokens(sorted(turn_ends(model, own)))
        found |= {known[word] for word in words if word in known}
    return frozenset(found)
