"""Vectors of texts by any encoder of transformers, read as sentence-transformers saves one, without that package.

``modules.json`` names the parts: a transformer, how its last hidden states become one vector (``1_Pooling``), and at
most a division by the length, which a cosine does not see. A folder without it is read with the mean over tokens. What
has another part, such as a dense layer, is left to the package itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from ftmech_hf.downloads import check_folder, local_folder
from ftmech_hf.models.loading import find_device

Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Texts -> a vector each, (texts, D)."""

POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
"""Setting of a pooling -> what it does here."""


def pool(states: Tensor, shown: Tensor, way: str) -> Tensor:
    """One vector of the last hidden states of each text, (B, D).

    Args:
        states: (B, T, D).
        shown: 1 where a token is no padding, (B, T).
        way: ``mean``, ``first``, ``last`` or ``max``, over tokens that are no padding.
    """
    real = shown.bool()
    if way == "mean":
        return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    if way == "max":
        return states.masked_fill(~real[..., None], -torch.inf).amax(1)
    place = real.int().argmax(1) if way == "first" else real.shape[1] - 1 - real.flip(1).int().argmax(1)
    return states[torch.arange(len(states), device=states.device), place]


def read_pooling(folder: Path, name: str) -> str:
    """How an encoder's hidden states become a vector, as its folder says it; the mean where it says nothing.

    Raises:
        ValueError: it has a part that is not known here, or poolings that are not one of :data:`POOLINGS`.
    """
    if not (folder / "modules.json").is_file():
        return "mean"
    kinds = {each["path"]: each["type"].rpartition(".")[2] for each in _read(folder / "modules.json")}
    if unknown := [kind for kind in kinds.values() if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise ValueError(f"embedder: {name} has a part {unknown[0]}, expected a transformer and a pooling alone")
    place = next((path for path, kind in kinds.items() if kind == "Pooling"), None)
    if place is None:
        return "mean"
    said = _read(folder / place / "config.json")
    chosen = [key for key, value in said.items() if key.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ValueError(f"embedder: {name} has poolings {', '.join(chosen)}, expected one of {', '.join(POOLINGS)}")
    return POOLINGS[chosen[0]]


def load_embedder(name: str, *, device: str = "auto", batch_size: int = 32) -> Embed:
    """Vectors of texts, not divided by their lengths.

    Args:
        name: folder of an encoder, or its name on the Hub.
        device: where it computes.
        batch_size: texts that are read at once.

    Raises:
        ValueError: see :func:`read_pooling` and :func:`~ftmech_hf.downloads.check_folder`; or the folder holds no
            model of transformers, or not all of its weights.
    """
    folder = local_folder(name)
    check_folder(folder, name)
    way = read_pooling(folder, name)
    try:
        found: Any = AutoModel.from_pretrained(  # a pair, unlike its annotation
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        model = found[0].eval().to(find_device(device))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"embedder: {name} holds no encoder that transformers can read: {error}") from error
    if lost := sorted(key for key in found[1]["missing_keys"] if not key.startswith("pooler.")):  # which is not asked
        raise ValueError(f"embedder: {name} lacks {len(lost)} weights of its config (first {lost[0]})")
    settings = folder / "sentence_bert_config.json"
    longest = _read(settings).get("max_seq_length") if settings.is_file() else None
    longest = longest or num_positions(model)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> NDArray[np.floating]:
        parts = []
        for start in range(0, len(texts), batch_size):
            inputs = tokenizer(
                list(texts[start : start + batch_size]), padding=True, truncation=longest is not None,
                max_length=longest, return_tensors="pt",
            ).to(model.device)  # fmt: skip
            states = model(**inputs).last_hidden_state
            parts.append(pool(states, inputs["attention_mask"], way).float().cpu().numpy())
        return np.concatenate(parts)

    return embed


def num_positions(model: PreTrainedModel) -> int | None:
    """Tokens that an encoder can be shown at a time; None if its config does not say.

    RoBERTa and its kind count positions from the one behind padding's, and have so many less than their config says.
    """
    said: int | None = getattr(model.config, "max_position_embeddings", None)
    places = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(places, "padding_idx", None)
    return said if said is None or padding is None else said - padding - 1


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
