"""Weights that are kept in fewer bits: no instrument can work with them, so they are refused, with what to do instead.

Gradients, differences and parts of matrices are taken of numbers in floating point. Of what a quantization left, GGUF
files alone are unpacked here (:mod:`ftmech_hf.models.loading`).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNPACK = "save what its dequantize() makes of it (with its save_pretrained)"
"""What to do with a model of transformers whose weights are packed, in words."""


def refuse_quantized(folder: Path, name: str) -> None:
    """Make sure that a model's config says nothing of a quantization, in any of its parts.

    Raises:
        ValueError: it does, or it is no JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model: {name} has a config.json that is no JSON: {error}") from error
    parts = [config, *(each for each in config.values() if isinstance(each, dict))] if isinstance(config, dict) else []
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := part.get(key), dict) and found:
                raise ValueError(
                    f"model: {name} is quantized ({found.get('quant_method', key)}); expected weights in floating "
                    f"point, of which every instrument takes gradients and parts: name what it was made of, or {UNPACK}"
                )


def packed_kind(weight: Tensor) -> str | None:
    """What keeps a weight in fewer bits, such as ``torch.uint8`` or a class of tensors; None if nothing does."""
    if weight.dtype not in PLAIN:
        return str(weight.dtype)
    kind = type(weight.data)  # torchao and quanto call theirs by the type of number that they unpack to
    return None if kind in (Tensor, torch.nn.Parameter) else kind.__name__


def refuse_whole_numbers(folder: Path, model: torch.nn.Module, name: str) -> None:
    """Make sure that no weight stands in its file as a whole number: that is what a quantization left of it.

    A quantized model says so in its config, unless somebody took that away.

    Raises:
        ValueError: one does.
    """
    weights = [key for key, _ in model.named_parameters(remove_duplicate=False)]
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            types = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        for key, dtype in types.items():
            if dtype[0] in "IU" and any(f".{weight}".endswith(f".{key}") for weight in weights):
                raise ValueError(f"model: {key} of {name} is of whole numbers ({dtype}), expected floating point")
