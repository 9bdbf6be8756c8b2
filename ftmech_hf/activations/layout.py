"""Where a causal language model keeps the parts that sites are named after.

Nothing here knows architectures by name: a transformer's blocks are the one list of as many modules as the config has
layers, attention is a block's child called so, the last matrix inside it makes its output, and the last one outside it
the MLP's. What is found is checked on the model at hand when :class:`~ftmech_hf.activations.TracedModel` opens it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class Layout(NamedTuple):
    """Paths from the model to its blocks, and from a block to its parts.

    Attributes:
        blocks: the list of blocks.
        attention: its attention.
        mlp_down: its MLP's last matrix.
        attention_out: its attention's last matrix, which reads the heads' outputs side by side.
    """

    blocks: str
    attention: str
    mlp_down: str
    attention_out: str


def find_layout(model: PreTrainedModel) -> Layout:
    """Find the parts of a causal LM.

    Raises:
        ValueError: there is no part of a kind, or more than one; says what is there.
    """
    kind, number = model.config.model_type, getattr(model.config, "num_hidden_layers", None)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(lists) != 1:
        raise ValueError(f"model: {kind} has {len(lists)} lists of {number} blocks ({', '.join(lists)}), expected one")
    block = model.get_submodule(lists[0])[0]  # type: ignore[index]
    attention = [name for name, _ in block.named_children() if "attn" in name or "attention" in name]
    attention = [name for name in attention if "norm" not in name and "drop" not in name]
    if len(attention) != 1:
        raise ValueError(
            f"model: a block of {kind} has {len(attention)} attentions ({', '.join(attention)}), expected one"
        )
    matrices = _matrices(block)
    inside = [name for name in matrices if name.startswith(f"{attention[0]}.")]
    outside = [name for name in matrices if name not in inside]
    if not inside or not outside:
        where, expected = ("outside", "an MLP") if inside else ("in", "its output's")
        raise ValueError(f"model: a block of {kind} has no matrix {where} its attention, expected {expected}")
    return Layout(lists[0], attention[0], outside[-1], inside[-1])


def _matrices(block: nn.Module) -> list[str]:
    """Paths of a block's matrices; one that peft has wrapped is the wrapper, not the parts of it."""
    wrappers = [name for name, module in block.named_modules() if hasattr(module, "base_layer")]
    return [
        name
        for name, module in block.named_modules()
        if name in wrappers
        or (isinstance(module, nn.Linear | Conv1D) and not any(name.startswith(f"{each}.") for each in wrappers))
    ]


def model_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The model's blocks with their names, first to last."""
    path = find_layout(model).blocks
    return [(f"{path}.{name}", block) for name, block in model.get_submodule(path).named_children()]


def inside_peft(model: Any) -> PreTrainedModel:
    """The model that peft has put adapters into, which computes with them; any other as it is.

    Raises:
        ValueError: the adapter is not inside the model, but tokens in front of its rows.
    """
    if not hasattr(model, "get_base_model"):
        whole: PreTrainedModel = model
        return whole
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"model: {kind} adds tokens in front of a row, expected adapters inside the blocks")
    inside: PreTrainedModel = model.get_base_model()
    return inside
