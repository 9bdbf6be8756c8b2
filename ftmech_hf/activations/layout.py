"""Where a causal language model keeps the parts that sites are named after.

Nothing here knows architectures by name: a transformer's blocks are the one list of as many modules as the config has
layers. What their parts are is shown on tensors, see :mod:`ftmech_hf.activations.proofs`, and it must be so in every
block. A part that could not be shown is refused with the reason when it is requested; the others can be used.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ftmech_hf.activations.equations import BlockParts
from ftmech_hf.activations.proofs import prove_parts
from ftmech_hf.models.prompt_learning import nothing_in_front

NEEDS = {"attn_out": "added", "head_out": "heads", "mlp_act": "neurons"}
"""Site -> what must be known of every block to read and write it; the stream itself needs nothing."""


class Layout(NamedTuple):
    """Paths from the model to its blocks, and from a block to its parts; a part that could not be shown is "".

    Attributes:
        blocks: the list of blocks.
        attention: its attention.
        mlp_down: its MLP's last matrix.
        attention_out: its attention's last matrix, which reads the heads' outputs side by side.
        attention_added: the module whose output the stream receives: the attention, a norm behind it, or a matrix in
            it where attention adds the stream itself.
        attention_scale: the constant that this output is multiplied by before it is added.
        order: (``in`` or ``out``, path) of these parts, as a block computes.
        refused: site -> why it could not be shown; see :meth:`require`.
    """

    blocks: str
    attention: str
    mlp_down: str
    attention_out: str
    attention_added: str = ""
    attention_scale: float = 1.0
    order: tuple[tuple[str, str], ...] = ()
    refused: Mapping[str, str] = MappingProxyType({})

    def require(self, site: str) -> None:
        """Raises ValueError with the reason if a site of this model could not be shown."""
        if site in self.refused:
            raise ValueError(f"model: no {site}: {self.refused[site]}")


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[object, list[BlockParts]]] = weakref.WeakKeyDictionary()


def find_parts(model: PreTrainedModel) -> list[BlockParts]:
    """Parts of every block; found once, and again when a module of the model was exchanged.

    Raises:
        ValueError: there is not one list of blocks, or the model cannot be run.
    """
    modules = tuple((name, id(module)) for name, module in model.named_modules())
    known = _KNOWN.get(model)
    if known is None or known[0] != modules:
        with nothing_in_front(model):
            known = _KNOWN[model] = modules, prove_parts(model, [block for _, block in model_blocks(model)])
    return known[1]


def find_layout(model: PreTrainedModel) -> Layout:
    """Find the parts of a causal LM by running it on a few short rows; parts that were shown are not shown again.

    Raises:
        ValueError: there is not one list of blocks, or the model cannot be run.
    """
    parts, kind, refused = find_parts(model), model.config.model_type, {}
    attentions = list(dict.fromkeys(each.attention for each in parts))

    def common(site: str, of: Callable[[BlockParts], Sequence[Any]]) -> Any:
        for layer, each in enumerate(parts):
            if not of(each):
                refused[site] = f"block {layer} of {kind} {each.why_not[NEEDS[site]]}"
                return None
        shared = [one for one in of(parts[0]) if all(one in of(each) for each in parts)]
        if not shared:
            refused[site] = f"the blocks of {kind} have it in different places"
        return shared[0] if shared else None

    added = common("attn_out", lambda each: each.added)
    path, scale = added or ("", 1.0)
    heads = common("head_out", lambda each: each.heads) or ""
    neurons = common("mlp_act", lambda each: each.neurons) or ""
    attention = attentions[0] if len(attentions) == 1 else ""
    if not attention:
        refused["attn_pattern"] = f"the blocks of {kind} have no attention in common"
    used = {("in", heads), ("out", path), ("out", attention), ("in", neurons)}
    order = tuple(dict.fromkeys(event for event in parts[0].order if event in used))
    return Layout(find_block_list(model), attention, neurons, heads, path, scale, order, MappingProxyType(refused))


def check_layout(model: PreTrainedModel, layout: Layout) -> None:
    """Compare what a layout says with what every block was shown to do.

    Raises:
        ValueError: a part is said to be where it is not.
    """
    kind = model.config.model_type
    for layer, parts in enumerate(find_parts(model)):
        for field, value, shown in (
            ("attention", layout.attention, [parts.attention]),
            ("attention_out", layout.attention_out, parts.heads),
            ("mlp_down", layout.mlp_down, parts.neurons),
            ("attention_added", (layout.attention_added, layout.attention_scale), parts.added),
        ):
            claimed = value[0] if isinstance(value, tuple) else value
            if claimed and value not in shown:
                said = ", ".join(map(str, shown)) or "none"
                raise ValueError(f"model: {field} of block {layer} of {kind} is not {value}, expected {said}")


def find_block_list(model: PreTrainedModel) -> str:
    """Path of the list of blocks.

    Raises:
        ValueError: there is none, or more than one; says what is there.
    """
    kind, number = model.config.model_type, getattr(model.config, "num_hidden_layers", None)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(lists) != 1:
        raise ValueError(f"model: {kind} has {len(lists)} lists of {number} blocks ({', '.join(lists)}), expected one")
    return lists[0]


def model_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The model's blocks with their names, first to last."""
    path = find_block_list(model)
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
