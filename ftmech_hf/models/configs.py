"""What is known of a model before its weights are read: how many tokens it knows, and how many it can be shown."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from ftmech_hf.models.identity import ADAPTER, ADAPTER_WEIGHTS, find_base, find_gguf, find_model
from ftmech_hf.models.merging import loading_errors

_BEHIND_PADDING = frozenset((
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
))  # fmt: skip


def model_positions(name: str, *, base: str | None = None, onto: str | None = None) -> int | None:
    """How many tokens a model can be shown at once; None if nothing limits them. No weights are read."""
    found = config_positions(model_config(name, base=base, onto=onto))
    return None if found is None else found - _tokens_in_front(name)


def config_positions(config: Any) -> int | None:
    """The same of a model's config, which may be in memory.

    RoBERTa and its kind count positions from the one behind padding's, and have so many less than their config says.
    """
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)  # as MPT calls it
    if not isinstance(found, int) or found <= 0:
        return None
    return found - text.pad_token_id - 1 if text.model_type in _BEHIND_PADDING else found


def model_vocabulary(name: str, *, base: str | None = None, onto: str | None = None) -> int:
    """How many tokens a model knows; an adapter may have brought embeddings of more. No weights are read."""
    config = model_config(name, base=base, onto=onto).get_text_config()
    known = int(config.vocab_size)
    file = None if find_gguf(name) is not None else find_model(name) / ADAPTER_WEIGHTS
    if file is None or not file.is_file():
        return known
    with safe_open(file, "pt") as brought:
        shapes = [brought.get_slice(key).get_shape() for key in brought.keys() if ".lora_" not in key]  # noqa: SIM118  # it is no mapping
    return max([known, *(shape[0] for shape in shapes if shape[1:] == [config.hidden_size] and shape[0] > known)])


def _tokens_in_front(name: str) -> int:
    """Learned tokens that an adapter puts in front of every row."""
    if find_gguf(name) is not None or not (file := find_model(name) / ADAPTER).is_file():
        return 0
    return int(json.loads(file.read_text(encoding="utf-8")).get("num_virtual_tokens") or 0)


def model_config(name: str, *, base: str | None = None, onto: str | None = None) -> Any:
    """The config of a model, of an adapter that of what it stands on. No weights are read.

    Raises:
        ValueError: it cannot be read, or is of no causal language model, as those of encoders with a decoder.
    """
    if (file := find_gguf(name)) is not None:
        with loading_errors(name), gguf_at_hand(name):
            return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    folder = find_model(name)
    if (folder / ADAPTER).is_file():
        return model_config(find_base(folder, base, onto), base=base or onto)
    with loading_errors(name):
        config = AutoConfig.from_pretrained(folder)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"model: {name} is {config.model_type}, expected a causal language model")
    return config


@contextlib.contextmanager
def gguf_at_hand(name: str) -> Iterator[None]:
    """Refuse a GGUF file in words that help where the package that reads it is not there."""
    if find_gguf(name) is not None and importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError("expected the package gguf, which reads this file: pip install 'ftmech_hf[gguf]'")
    yield
