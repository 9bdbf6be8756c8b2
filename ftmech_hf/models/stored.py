"""What a checkpoint of a model holds: its parameters, and buffers that are saved beside them."""

from __future__ import annotations

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
