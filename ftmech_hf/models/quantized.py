"""Weights that are kept in fewer bits: no instrument can work with them, so they are unpacked, or refused.

Gradients, differences and parts of matrices are taken of numbers in floating point. A model in memory is unpacked, by
what its layers compute; GGUF files are when they are loaded (:mod:`ftmech_hf.models.loading`). Folders of other
quantizations are refused, with what to do instead.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.models.placing import placed_like

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNPACK = "load it yourself and save what ftmech_hf.models.quantized.unpacked makes of it (with its save_pretrained)"
"""What to do with a folder whose weights are packed, in words."""


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


def packed_weights(model: nn.Module) -> dict[str, str]:
    """Name of every weight that is kept in fewer bits -> its kind; some packages keep them as a buffer of a layer."""
    kinds = ((name, packed_kind(weight)) for name, weight in model.named_parameters())
    packed = {name: kind for name, kind in kinds if kind is not None}
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False) if hasattr(module, "in_features") else ():
            if buffer.ndim > 1 and not buffer.is_floating_point():
                packed[f"{path}.{name}"] = str(buffer.dtype)
    return packed


def unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """A model in float32 that computes what a quantized one does; that one stays as it is.

    A layer's matrix is what it makes of the unit vectors, so that no package's way to pack numbers need be known. One
    that rounds its inputs too, as bitsandbytes' of 8 bits, differs from its matrix by that rounding. Of adapters that
    are attached to its layers nothing is taken along.

    Args:
        model: whose packed weights belong to linear layers, as those of bitsandbytes, torchao and quanto.

    Raises:
        ValueError: another kind of layer has packed weights, a layer cannot compute here, or weights or buffers of the
            architecture are not in it; names them.
    """
    packed, state = packed_weights(model), dict[str, Tensor]()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name not in packed:
            state[_plain_name(name)] = value.detach().float() if value.is_floating_point() else value.detach()
    for name, kind in packed.items():
        layer, _, what = name.rpartition(".")
        module = model.get_submodule(layer)
        if what != "weight" or not hasattr(module, "in_features"):
            raise ValueError(
                f"model: {name} is quantized ({kind}) in a layer of {type(module).__name__}, expected linear layers"
            )
        weight = getattr(module, what)
        dtype = weight.dtype if weight.dtype in PLAIN else model.dtype
        try:
            state[_plain_name(name)] = _matrix_of(module, dtype, weight.device)
        except Exception as error:  # packages raise what they like: no kernel for these sizes, or for this device
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(
                f"model: {name} is quantized ({kind}), and its layer cannot compute here: {reason}"
            ) from error
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: PreTrainedModel = type(model)._from_config(config, dtype=torch.float32)
    if missing := sorted({*dict(plain.named_parameters()), *dict(plain.named_buffers())} - set(state)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"model: {missing[0]}{more} of a {type(model).__name__} is not in the quantized model")
    plain.load_state_dict(state, strict=False)  # what else a package keeps beside its weights has no place in it
    state.clear()  # of which all has been copied, and the whole model may go to a card now
    return placed_like(plain.eval(), model)


def _plain_name(name: str) -> str:
    """What a weight is called where no adapter is attached to its layer."""
    return re.sub(r"\.(base_layer|original_module)(?=\.)", "", name)


@torch.no_grad()
def _matrix_of(layer: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a layer makes of the unit vectors without its shift, beside which 16 bits would leave little of a weight."""
    units = torch.eye(int(layer.in_features), dtype=dtype).to(device)  # type: ignore[arg-type]  # checked by the caller
    bias = layer.bias
    layer.bias = None  # type: ignore[assignment]
    try:
        return layer(units).float().T.contiguous()
    finally:
        layer.bias = bias


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
