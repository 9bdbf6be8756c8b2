"""What a diagnosis is given as objects: models and rows that are in memory, in place of folders and files.

Models are used as they are and left as they were: in the mode they were in, without hooks, their weights untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.config import tell
from ftmech_hf.models.causality import check_causal
from ftmech_hf.models.identity import settings_digest
from ftmech_hf.models.loading import check_finite, check_has_weights
from ftmech_hf.models.merging import merge_in_memory
from ftmech_hf.models.quantized import packed_weights, unpacked
from ftmech_hf.tasks.text.reading import Table


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """Objects by the settings whose place they take.

    Attributes:
        models: ``base``, ``finetuned``, ``control``, ``twin`` or ``reversed`` -> model.
        tokenizer: of the base; None if it lies beside the base.
        tables: ``dataset`` or ``other_dataset`` -> rows.
    """

    models: Mapping[str, PreTrainedModel] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)

    def inputs(self) -> dict[str, str]:
        """Setting -> hash of the object that takes its place."""
        return {
            **{role: weights_hash(model) for role, model in self.models.items()},
            **({} if self.tokenizer is None else {"tokenizer": _tokenizer_hash(self.tokenizer)}),
            **{name: table.hash() for name, table in self.tables.items()},
        }

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """The models in evaluation mode; at the end in the mode they were in, with the hooks that they had."""
        modes = [(each, each.training) for model in self.models.values() for each in model.modules()]
        before = [(model, set(model._forward_pre_hooks)) for model in self.models.values()]
        try:
            for model in self.models.values():
                model.eval()
            yield
        finally:
            for each, training in modes:
                each.training = training
            for model, hooks in before:
                for hook in set(model._forward_pre_hooks) - hooks:
                    del model._forward_pre_hooks[hook]
                    model._forward_pre_hooks_with_kwargs.pop(hook, None)


def plain_model(model: Any, role: str) -> PreTrainedModel:
    """A model as every instrument takes it: an adapter is merged, quantized weights are unpacked, into a copy.

    Args:
        model: of transformers, or of peft.
        role: what errors call it.

    Raises:
        ValueError: it is no model of transformers, adapters are attached to it that are no part of it, or weights of it
            are elsewhere, or quantized in a layer that is not linear; or its logits depend on tokens to come.
    """
    if getattr(model, "peft_config", None) and not isinstance(model, PreTrainedModel):
        model = merge_in_memory(model, f"{role}: it")
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{role}: {type(model).__name__}, expected a model of transformers, its folder or its name")
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            f"{role}: an adapter is attached to its layers; expected the model alone, such as its name, or the model "
            "of peft as a whole"
        )
    check_has_weights(model)
    if packed := packed_weights(model):
        kinds = ", ".join(sorted(set(packed.values())))
        tell(f"{role}: {len(packed)} of its weights are quantized ({kinds}); a copy of it is unpacked to float32")
        model = unpacked(model)
    check_finite(model)
    check_causal(model)
    return model


def weights_hash(model: PreTrainedModel) -> str:
    """What identifies a model in memory: its architecture, its configs, and names, types, shapes and bytes of weights.

    Weights alone do not say what is computed with them: the base of rotary positions and how many experts are asked
    stand in the config, and by what a text ends in that of generation.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for config in (model.config, getattr(model, "generation_config", None)):
        digest.update(settings_digest({} if config is None else _without_type(config.to_dict())).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{weight.dtype}\0{tuple(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _without_type(settings: dict[str, Any]) -> dict[str, Any]:
    """A config without the type of the weights, which saving a model writes into it and the weights say themselves."""
    return {
        name: _without_type(value) if isinstance(value, dict) else value
        for name, value in settings.items() if name not in ("dtype", "torch_dtype")
    }  # fmt: skip


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = (
        str(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str(),
        str(tokenizer.special_tokens_map), str(getattr(tokenizer, "chat_template", None)),
    )  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
