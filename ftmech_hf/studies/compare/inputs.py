"""What a comparison is given: its settings, from which come the two models and the texts that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.job import ModelJobConfig, check_positive
from ftmech_hf.jobs.tokenizers import in_vocabulary_of
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.models.vocabulary import num_tokens, untie_alike
from ftmech_hf.studies.compare.texts import Windows, read_windows, width_within, write_windows
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
    top: int = field(default=10, metadata={"help": "findings of each kind"})
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


@dataclass(frozen=True)
class Pair:
    """What is compared.

    Attributes:
        models: ``base``, ``fine-tuned``, and null models that were given, in the base's vocabulary.
        tokenizer: of the base.
        windows: the texts.
    """

    models: Mapping[str, PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    windows: Windows

    @property
    def tokens(self) -> int:
        """How many ids may be tokens; embeddings often have more rows."""
        return num_tokens(self.models[BASE], self.tokenizer)


def load_pair(config: CompareConfig) -> Pair:
    """Load the models and read or write the texts.

    Raises:
        ValueError: models of other shapes, texts that are none, or a model without a tokenizer.
    """
    tokenizer = load_tokenizer(config.named["base"])
    loaded = {name: config.load(folder, **base_for(name, config.named)) for name, folder in config.named.items()}
    untie_alike(loaded.values())
    base, models = loaded["base"], {BASE: loaded["base"]}
    for role, model in loaded.items():
        if role == "base":
            continue
        name = FINETUNED if role == "finetuned" else f"{NULL} {int(role.removeprefix('null/')) + 1}"
        models[name] = in_vocabulary_of(base, tokenizer, role, config.named[role], model)
    width = width_within(base, config.window_tokens)
    sizes = {"number": config.windows, "width": width, "seed": config.seed}
    if config.texts:
        windows = read_windows(config.texts, tokenizer, **sizes)
    else:
        windows = write_windows(base, tokenizer, tokens=num_tokens(base, tokenizer), **sizes)
    return Pair(models, tokenizer, windows)
