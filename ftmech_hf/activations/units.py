"""What can be taken out of a model: weights, rows of weight matrices, MLP neurons, attention heads.

Every unit is a slice of one weight matrix. To set the slice to zero is to set to zero what it multiplies (the
activation of an MLP neuron, the output of a head) or what it computes (the output of a row, but for its bias). So one
mechanism serves all units; that it is what a hook does is a test.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.activations.layout import find_layout, model_blocks
from ftmech_hf.activations.matrices import find_adapted, find_matrices
from ftmech_hf.activations.patterns import count_heads

Unit = Literal["weight", "row", "activation", "head"]


class UnitGroup(NamedTuple):
    """Units that are slices of one weight matrix.

    Attributes:
        layer: 0-based block that the matrix is in.
        module: the matrix.
        side: ``output`` for the rows that compute an output, ``input`` for the columns that an input is multiplied by,
            ``entry`` for single weights.
        size: neighbouring slices of one unit: 1, or the width of a head.
    """

    layer: int
    module: nn.Module
    side: Literal["output", "input", "entry"]
    size: int = 1

    @property
    def weight(self) -> Tensor:
        """The matrix's weight; ``Linear`` has it as (out, in), GPT-2's ``Conv1D`` as (in, out)."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    @property
    def axis(self) -> int:
        """The axis of the weight along which units lie."""
        return int(isinstance(self.module, Conv1D) == (self.side == "output"))

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

    def name(self, group: str, unit: int) -> str:
        """What to call a unit: ``GROUP[number]``, or ``GROUP[row, column]`` of a weight as it is stored."""
        if self.side == "entry":
            return f"{group}[{unit // self.weight.shape[1]}, {unit % self.weight.shape[1]}]"
        return f"{group}[{unit}]"


NEEDED_SITE: dict[Unit, str] = {"activation": "mlp_act", "head": "head_out"}
"""Kind of unit -> the site that must be known in every block."""

MAX_WEIGHTS_ELSEWHERE = 1e-3
"""Share of a model's blocks' weights that rows may leave out without a word."""

Units = dict[str, UnitGroup]
"""Name of a group -> its units, from the first block to the last."""


def find_units(model: PreTrainedModel, unit: Unit) -> Units:
    """The units of a kind in a causal LM's blocks; never embeddings, unembedding, norms or biases.

    Args:
        model: any causal LM.
        unit: ``weight``: every entry of every matrix; ``row``: the outputs of every matrix (the paper's neuron);
            ``activation``: the MLP neurons; ``head``: the attention heads.

    Raises:
        ValueError: an unknown kind; a model with an adapter that is not merged: its matrices are sums; a model whose
            weights are not all in matrices, or whose neurons or heads could not be shown.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unit: {unit!r}, expected one of {', '.join(get_args(Unit))}")
    if any(find_adapted(block) for _, block in model_blocks(model)):
        raise ValueError("model: its adapter is not merged, so that no weight can be zeroed by itself; merge it first")
    layout = find_layout(model)
    if unit in NEEDED_SITE:
        layout.require(NEEDED_SITE[unit])
    else:
        _check_coverage(model)
    heads = count_heads(model) if unit == "head" else 1
    found: Units = {}
    for layer, (block_name, block) in enumerate(model_blocks(model)):
        if unit == "activation":
            found[f"mlp_act.{layer}"] = UnitGroup(layer, block.get_submodule(layout.mlp_down), "input")
        elif unit == "head":
            matrix = UnitGroup(layer, block.get_submodule(layout.attention_out), "input")
            width = matrix.weight.shape[matrix.axis]
            found[f"head.{layer}"] = matrix._replace(size=width // heads)
        else:
            side: Literal["entry", "output"] = "entry" if unit == "weight" else "output"
            for path in find_matrices(block):
                found[f"{block_name}.{path}"] = UnitGroup(layer, block.get_submodule(path), side)
    return found


def _check_coverage(model: PreTrainedModel) -> None:
    """Raises ValueError where much of the blocks' weights is in other things than matrices, such as fused experts."""
    inside = outside = 0
    where: list[str] = []
    for name, block in model_blocks(model):
        for path, module in block.named_modules():
            size = sum(weight.numel() for weight in module.parameters(recurse=False) if weight.ndim > 1)
            if isinstance(module, Conv1D | nn.Linear):
                inside += size
            elif size:
                outside += size
                where.append(f"{name}.{path}")
    if outside > MAX_WEIGHTS_ELSEWHERE * (inside + outside):
        share, kind = outside / (inside + outside), model.config.model_type
        raise ValueError(
            f"model: {kind} keeps {share:.0%} of its blocks' weights in other things than matrices ({where[0]} and "
            f"{len(where) - 1} more), such as fused experts, expected all of them in rows"
        )
