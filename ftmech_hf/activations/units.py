"""What can be taken out of a model: weights, rows of weight matrices, MLP neurons, attention heads.

Every unit is a slice of one weight matrix. To set the slice to zero is to set to zero what it multiplies (the
activation of an MLP neuron, the output of a head) or what it computes (the output of a row, but for its bias). So one
mechanism serves all units; that it is what a hook does is a test. The neurons of an expert, routed or shared, are MLP
neurons; the matrices of routed experts, which are kept in one tensor, are matrices like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.activations.experts import count_experts, first_matrices, has_experts
from ftmech_hf.activations.layout import Layout, find_layout, model_blocks
from ftmech_hf.activations.matrices import find_adapted, find_matrices
from ftmech_hf.activations.patterns import count_heads
from ftmech_hf.activations.routed import UNSEEN
from ftmech_hf.config import tell

Unit = Literal["weight", "row", "activation", "head"]


class UnitGroup(NamedTuple):
    """Units that are slices of one weight matrix.

    Attributes:
        layer: 0-based block that the matrix is in.
        module: what holds the matrix.
        side: ``output`` for the rows that compute an output, ``input`` for the columns that an input is multiplied by,
            ``entry`` for single weights.
        size: neighbouring slices of one unit: 1, or the width of a head.
        parameter: which of the module's parameters holds the matrix.
        expert: number of the matrix among those of all experts that the parameter holds; None if it is one matrix.
    """

    layer: int
    module: nn.Module
    side: Literal["output", "input", "entry"]
    size: int = 1
    parameter: str = "weight"
    expert: int | None = None

    @property
    def whole(self) -> Tensor:
        """The parameter that holds the matrix, alone or among others."""
        held: Tensor = getattr(self.module, self.parameter)
        return held

    def part(self, values: Tensor) -> Tensor:
        """The matrix's part of values of the parameter's shape, such as its gradient; shares their memory.

        The kernels of a convolution are rows of what a channel sees.
        """
        return (values if self.expert is None else values[self.expert]).flatten(1)

    @property
    def weight(self) -> Tensor:
        """The matrix; ``Linear`` has it as (out, in), GPT-2's ``Conv1D`` and some experts as (in, out)."""
        return self.part(self.whole)

    @property
    def reads_first(self) -> bool:
        """Whether the matrix is kept as (in, out)."""
        if self.expert is None:
            return isinstance(self.module, Conv1D)
        return bool(self.module.is_transposed)

    @property
    def is_hooked(self) -> bool:
        """Whether the matrix is a module by itself, which is given its input and returns its output."""
        return isinstance(self.module, nn.Linear | Conv1D)

    @property
    def axis(self) -> int:
        """The axis of the weight along which units lie."""
        return int(self.reads_first == (self.side == "output"))

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return self.weight.numel() if self.side == "entry" else self.weight.shape[self.axis] // self.size

    def sum_over(self, values: Tensor) -> Tensor:
        """Sum values of the weight's shape over each unit, (num_units,)."""
        if self.side == "entry":
            return values.flatten()
        return values.sum(1 - self.axis).view(self.num_units, self.size).sum(1)

    def places(self, units: Tensor) -> Tensor:
        """Indices along :attr:`axis` (or into the flat weight) of the slices of some units, (num, size)."""
        return units[:, None] * self.size + torch.arange(self.size, device=units.device)

    def matrix(self, group: str) -> str:
        """The name of the parameter that a group's matrix is; the group's own if it is an expert's, a part of one."""
        return f"{group}.{self.parameter}" if self.expert is None else group

    def name(self, group: str, unit: int) -> str:
        """What to call a unit: ``GROUP[number]``, or ``GROUP[row, column]`` of a weight as it is stored."""
        if self.side == "entry":
            return f"{group}[{unit // self.weight.shape[1]}, {unit % self.weight.shape[1]}]"
        return f"{group}[{unit}]"


MOST_LEFT_OUT = 0.1
"""Share of a model's blocks' weights that rows may leave out; what they do leave out is said."""

LEAST_SAID = 1e-3
"""Share of them below which nothing is said."""

Units = dict[str, UnitGroup]
"""Name of a group -> its units, from the first block to the last."""


def find_units(model: PreTrainedModel, unit: Unit) -> Units:
    """The units of a kind in a causal LM's blocks; never embeddings, unembedding, norms or biases.

    Where some blocks have none of a kind, as those of hybrids, those of the others are found, and a notice says so.

    Args:
        model: any causal LM.
        unit: ``weight``: every entry of every matrix; ``row``: the outputs of every matrix (the paper's neuron);
            ``activation``: the MLP neurons, of experts those of each; ``head``: the attention heads.

    Raises:
        ValueError: an unknown kind; a model with an adapter that is not merged: its matrices are sums; a model much of
            whose weights is in no matrices, or whose neurons or heads could be shown nowhere.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unit: {unit!r}, expected one of {', '.join(get_args(Unit))}")
    if any(find_adapted(block) for _, block in model_blocks(model)):
        raise ValueError("model: its adapter is not merged, so that no weight can be zeroed by itself; merge it first")
    if unit == "head":
        return _find_heads(model)
    return _find_neurons(model) if unit == "activation" else _find_matrices(model, unit)


def _find_heads(model: PreTrainedModel) -> Units:
    number, layers = count_heads(model)
    layout, blocks = find_layout(model), [block for _, block in model_blocks(model)]
    found: Units = {}
    for layer in layers:
        matrix = UnitGroup(layer, blocks[layer].get_submodule(layout.layers[layer].attention_out), "input")
        found[f"head.{layer}"] = matrix._replace(size=matrix.weight.shape[matrix.axis] // number)
    _say_missing("heads", layers, layout, "head_out")
    return found


def _find_neurons(model: PreTrainedModel) -> Units:
    layout, found = find_layout(model), Units()
    for layer, (_, block) in enumerate(model_blocks(model)):
        parts = layout.layers[layer]
        if parts.mlp_down:
            found[f"mlp_act.{layer}"] = UnitGroup(layer, block.get_submodule(parts.mlp_down), "input")
        if parts.experts:
            experts = block.get_submodule(parts.experts)
            for number in range(count_experts(experts)):
                group = UnitGroup(layer, experts, "input", parameter="down_proj", expert=number)
                found[f"expert_act.{layer}.{number}"] = group
        if parts.shared_down:
            found[f"shared_act.{layer}"] = UnitGroup(layer, block.get_submodule(parts.shared_down), "input")
    layers = sorted({group.layer for group in found.values()})
    if not layers:
        layout.require("mlp_act")
    _say_missing("neurons", layers, layout, "mlp_act")
    unseen = [parts.refused["shared_act"] for parts in layout.layers if parts.experts and not parts.shared_down]
    if unseen := [reason for reason in unseen if UNSEEN in reason]:
        tell(f"neurons of routed experts alone have units: {unseen[0]}")
    return found


def _say_missing(what: str, layers: list[int], layout: Layout, site: str) -> None:
    number = len(layout.layers)
    if missing := [layer for layer in range(number) if layer not in layers]:
        named = ", ".join(map(str, missing))
        why = layout.layers[missing[0]].refused.get(site, "its heads are others than the config's")
        having = f"only {number - len(missing)} of {number} blocks have units"
        tell(f"{having}, {named} have no {what} that could be shown: {why}")


def block_matrices(
    model: PreTrainedModel, layers: Collection[int] | None = None
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The matrices of a model's blocks by the names of their parameters, and the axis of the outputs of each.

    Those of experts are one parameter (experts, rows, columns), whose axis is that of one of its matrices. Kernels of
    convolutions are left out, and blocks that are none of ``layers``, if those are given.
    """
    weights, axes = dict[str, Tensor](), dict[str, int]()
    for name, units in find_units(model, "row").items():
        if layers is not None and units.layer not in layers:
            continue
        whole = units.matrix(name) if units.expert is None else name.rpartition(".")[0]
        if units.whole.ndim == (2 if units.expert is None else 3):
            weights[whole], axes[whole] = units.whole, units.axis
    return weights, axes


def split_experts(parameters: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Values of the parameters' shapes by their names, with those of experts' matrices by the names of their units."""
    of_experts = {name: name.rpartition(".")[0] for name, group in units.items() if group.expert is not None}
    whole = set(of_experts.values())
    found = {name: value for name, value in parameters.items() if name not in whole}
    return found | {name: units[name].part(parameters[where]) for name, where in of_experts.items()}


def _find_matrices(model: PreTrainedModel, unit: Unit) -> Units:
    side: Literal["entry", "output"] = "entry" if unit == "weight" else "output"
    layout, found = find_layout(model), Units()
    inside = outside = 0
    left_out: list[str] = []
    for layer, (block_name, block) in enumerate(model_blocks(model)):
        groups = dict(_matrices_of(layout, layer, block, side))
        found |= {f"{block_name}.{path}": group for path, group in groups.items()}
        covered = {id(group.whole) for group in groups.values()}
        for path, weight in block.named_parameters():
            if weight.ndim > 1 and id(weight) in covered:
                inside += weight.numel()
            elif weight.ndim > 1 and not path.endswith("bias"):  # experts have one each, side by side
                outside += weight.numel()
                left_out.append(f"{block_name}.{path}")
    share, kind = outside / max(1, inside + outside), model.config.model_type
    if share > LEAST_SAID:
        said = f"{share:.1%} of the weights of {kind}'s blocks are in no matrix that is known ({left_out[0]}"
        said += f" and {len(left_out) - 1} more)" if len(left_out) > 1 else ")"
        if share > MOST_LEFT_OUT:
            raise ValueError(f"model: {said}, expected at most {MOST_LEFT_OUT:.0%} outside of rows")
        tell(f"{said}: {unit}s leave them out")
    return found


def _matrices_of(
    layout: Layout, layer: int, block: nn.Module, side: Literal["entry", "output"]
) -> Iterator[tuple[str, UnitGroup]]:
    """Every matrix of a block by its path: modules, those of its experts and their router, and kernels of channels."""
    matrices, experts = find_matrices(block), layout.layers[layer].experts
    number = count_experts(block.get_submodule(experts)) if experts else 0
    for path, module in block.named_modules():
        if path in matrices:
            yield path, UnitGroup(layer, module, side)
        elif path == experts and experts:
            for name in (first_matrices(module), "down_proj"):
                for each in range(number):
                    yield f"{path}.{name}.{each}", UnitGroup(layer, module, side, parameter=name, expert=each)
        elif isinstance(module, nn.Conv1d) or _is_router(module, number):
            yield path, UnitGroup(layer, module, side)


def _is_router(module: Any, experts: int) -> bool:
    """Whether a module holds one matrix alone with a row for each expert, which is not as wide as it is high."""
    held = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
    weight = getattr(module, "weight", None)
    return (
        len(held) == 1 and weight is held[0] and weight.ndim == 2
        and len(weight) == experts != weight.shape[1] and not has_experts(module)
    )  # fmt: skip
