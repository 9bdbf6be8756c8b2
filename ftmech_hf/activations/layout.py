"""Where a causal language model keeps the parts that sites are named after.

Nothing here knows architectures by name: a transformer's blocks are the one list of as many modules as the config has
layers. What their parts are is shown on tensors, block by block, see :mod:`ftmech_hf.activations.proofs`. A part that
could not be shown in a block is refused there with the reason when it is requested; the others can be used.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from ftmech_hf.activations.equations import BlockParts
from ftmech_hf.activations.proofs import in_evaluation, probe_tokens, prove_parts, run, text_config
from ftmech_hf.models.prompt_learning import nothing_in_front

NEEDS = {
    "attn_out": "added", "head_out": "heads", "mlp_act": "neurons", "router": "experts", "expert_act": "experts",
    "shared_act": "shared",
}  # fmt: skip
"""Site -> what must be known of a block to read and write it; the stream itself needs nothing."""


class BlockLayout(NamedTuple):
    """Paths from a block to its parts; a part that could not be shown is "".

    Attributes:
        attention: its attention.
        mlp_down: its MLP's last matrix.
        attention_out: its attention's last matrix, which reads the heads' outputs side by side.
        attention_added: the module whose output the stream receives: the attention, a norm behind it, or a matrix in
            it where attention adds the stream itself.
        attention_scale: the constant that this output is multiplied by before it is added.
        experts: what holds its routed experts.
        shared_down: the last matrix of the expert that every token passes.
        order: (``in`` or ``out``, path) of these parts, as a block computes.
        refused: site -> why it could not be shown in this block.
    """

    attention: str = ""
    mlp_down: str = ""
    attention_out: str = ""
    attention_added: str = ""
    attention_scale: float = 1.0
    experts: str = ""
    shared_down: str = ""
    order: tuple[tuple[str, str], ...] = ()
    refused: Mapping[str, str] = MappingProxyType({})


class Layout(NamedTuple):
    """Where every block of a model has its parts.

    Attributes:
        blocks: path from the model to the list of blocks.
        layers: what is in each, first to last.
    """

    blocks: str
    layers: tuple[BlockLayout, ...]

    @property
    def refused(self) -> dict[str, str]:
        """Site -> why it cannot be had in every block: the reason of the first that lacks it."""
        found: dict[str, str] = {}
        for block in self.layers:
            found = {**block.refused, **found}
        return found

    def layers_of(self, site: str) -> list[int]:
        """The layers that have a site, 0-based."""
        return [layer for layer, block in enumerate(self.layers) if site not in block.refused]

    def require(self, site: str, layer: int | None = None) -> None:
        """Make sure that a site can be had.

        Args:
            site: one of :data:`ftmech_hf.activations.sites.SITES`.
            layer: where; in every block if None.

        Raises:
            ValueError: it could not be shown there, with the reason and with the layers that have it.
        """
        refused = self.refused if layer is None else self.layers[layer].refused
        if site in refused:
            raise ValueError(f"model: no {site}: {refused[site]}{say_layers(self.layers_of(site))}")


def say_layers(layers: Sequence[int]) -> str:
    """The layers that have a site which others lack; nothing if none has it."""
    return f"; layers {', '.join(map(str, layers))} have it" if layers else ""


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

    Where a part may be seen in several places of a block, the one that all blocks share is taken.

    Raises:
        ValueError: there is not one list of blocks, or the model cannot be run.
    """
    parts, kind = find_parts(model), model.config.model_type

    def choose(of: Callable[[BlockParts], Sequence[Any]]) -> list[Any]:
        """Of every block the likeliest place, or the likeliest that all blocks have which have any; None for none."""
        having = [each for each in parts if of(each)]
        shared = [one for one in of(having[0]) if all(one in of(each) for each in having)] if having else []
        return [None if not of(each) else shared[0] if shared else of(each)[0] for each in parts]

    added, heads, neurons = choose(lambda each: each.added), choose(lambda each: each.heads), choose(
        lambda each: each.neurons
    )  # fmt: skip
    found = []
    for layer, each in enumerate(parts):
        where = f"block {layer} of {kind}"
        refused = {site: f"{where} {each.why_not[what]}" for site, what in NEEDS.items() if not getattr(each, what)}
        if not each.attention:
            refused["attn_pattern"] = f"{where} has not one attention"
        path, scale = added[layer] or ("", 1.0)
        block = BlockLayout(
            each.attention, neurons[layer] or "", heads[layer] or "", path, scale, each.experts,
            each.shared[0] if each.shared else "", (), MappingProxyType(refused),
        )  # fmt: skip
        used = {
            ("in", block.attention_out), ("out", path), ("out", block.attention), ("in", block.mlp_down),
            ("in", block.shared_down), ("out", block.experts),
        }  # fmt: skip
        found.append(block._replace(order=tuple(dict.fromkeys(event for event in each.order if event in used))))
    return Layout(find_block_list(model), tuple(found))


def check_layout(model: PreTrainedModel, layout: Layout) -> None:
    """Compare what a layout says with what every block was shown to do.

    Raises:
        ValueError: a part is said to be where it is not.
    """
    kind = model.config.model_type
    for layer, (parts, block) in enumerate(zip(find_parts(model), layout.layers, strict=True)):
        for field, value, shown in (
            ("attention", block.attention, [parts.attention]),
            ("attention_out", block.attention_out, parts.heads),
            ("mlp_down", block.mlp_down, parts.neurons),
            ("experts", block.experts, [parts.experts]),
            ("shared_down", block.shared_down, parts.shared),
            ("attention_added", (block.attention_added, block.attention_scale), parts.added),
        ):
            claimed = value[0] if isinstance(value, tuple) else value
            if claimed and value not in shown:
                said = ", ".join(map(str, filter(None, shown))) or "none"
                raise ValueError(f"model: {field} of block {layer} of {kind} is not {value}, expected {said}")


def find_block_list(model: PreTrainedModel) -> str:
    """Path of the list of blocks.

    Raises:
        ValueError: there is none, or more than one; says what is there.
    """
    kind, number = model.config.model_type, getattr(text_config(model), "num_hidden_layers", None)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(lists) > 1:
        lists = _called_lists(model, lists)
    if len(lists) != 1:
        named = f" ({', '.join(lists)})" if lists else ""
        raise ValueError(
            f"model: {kind} has {len(lists)} lists of {number} blocks{named} that tokens pass, expected one"
        )
    return lists[0]


_CALLED: weakref.WeakKeyDictionary[nn.Module, tuple[list[str], list[str]]] = weakref.WeakKeyDictionary()


def _called_lists(model: PreTrainedModel, lists: list[str]) -> list[str]:
    """Those of several lists all of whose modules a row of tokens passes: the layers of images do not."""
    known = _CALLED.get(model)
    if known is None or known[0] != lists:
        called: set[str] = set()
        handles = [
            module.register_forward_pre_hook(lambda *_, name=f"{path}.{number}": called.add(name))
            for path in lists for number, module in enumerate(model.get_submodule(path).children())
        ]  # fmt: skip
        try:
            with nothing_in_front(model), in_evaluation(model):
                run(model, probe_tokens(model))
        finally:
            for handle in handles:
                handle.remove()
        passed = [
            path for path in lists
            if all(f"{path}.{number}" in called for number in range(len(list(model.get_submodule(path).children()))))
        ]  # fmt: skip
        known = _CALLED[model] = lists, passed
    return known[1]


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


def spaced_layers(num_layers: int, most: int) -> list[int]:
    """Layers that are looked into: all, or ``most`` of them, evenly spaced from the first to the last."""
    found: list[int] = np.linspace(0, num_layers - 1, min(most, num_layers)).round().astype(int).tolist()
    return found
