"""Models whose parts accelerate places on one device and another, as ``device_map="auto"`` does of large ones."""

from __future__ import annotations

import copy

import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel


def place(model: PreTrainedModel, first: str = "cpu", second: str = "cpu") -> PreTrainedModel:
    """A copy of a Llama with its parts on two devices in turn, and the hooks that carry values there.

    Args:
        model: stays as it is.
        first, second: ``cpu``, or ``gpu`` for the simulated one.
    """
    layers = [f"model.layers.{layer}" for layer in range(model.config.num_hidden_layers)]
    chain = ["model.embed_tokens", *layers, "model.norm"]
    parts = {part: (first, second)[number % 2] for number, part in enumerate(chain)}
    parts |= {"model.rotary_emb": first, "lm_head": parts["model.norm"]}
    # accelerate knows the CPU by its name alone, and the simulated GPU not by its name
    where = {part: "cpu" if device == "cpu" else torch.device(device, 0) for part, device in parts.items()}
    placed: PreTrainedModel = dispatch_model(copy.deepcopy(model), where, main_device="cpu", force_hooks=True)
    return placed
