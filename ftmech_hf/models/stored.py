"""What a checkpoint of a model holds: its parameters, and buffers that are saved beside them."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor
from transformers import PreTrainedModel


def stored_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """All numbers by which two models of one shape can differ, by name: every parameter once, and saved buffers.

    The routers of many mixtures of experts choose by such a buffer, ``e_score_correction_bias``. Buffers that are made
    anew whenever a model is loaded, as those of rotary embeddings, and whole numbers are left out.
    """
    saved = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}


def as_stored_in(dtype: torch.dtype, model: PreTrainedModel) -> PreTrainedModel:
    """A model in another type of number, as if its checkpoint had been loaded in it; it is changed in place.

    ``model.to(dtype)`` would also round what an architecture keeps in float32, as the frequencies of rotary embeddings.
    """
    if model.dtype == dtype:
        return model
    with torch.device("meta"):
        like: PreTrainedModel = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    types = {name: each.dtype for name, each in (*like.named_parameters(), *like.named_buffers())}
    exact = [pattern.replace("*", ".*") for pattern in like._get_dtype_plan(dtype)]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            kept = torch.float32 if any(re.search(each, name) for each in exact) else types.get(name, dtype)
            tensor.data = tensor.data.to(kept)
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.dtype = dtype
    return model
