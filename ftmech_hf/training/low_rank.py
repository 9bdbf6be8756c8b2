"""An adapter that is trained on a model in its place and leaves it as it was: what is kept is the change alone.

A second copy of a large model, its gradients and two moments of them are eight times its weights in bfloat16; an
adapter of low rank is less than a hundredth of them. Its own numbers are float32 whatever the model's are, so that no
step is lost by rounding, as steps of 1e-4 on weights in bfloat16 are.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.memory import recompute_blocks

ADAPTER = AdapterConfig(adapter="lora")
"""All matrices of the blocks, with the ranks that a fine-tuning of ours has."""


@dataclass(frozen=True)
class LowRankChange:
    """A change of some matrices of a model by products of two thin ones.

    Attributes:
        factors: name of a parameter -> (left (rows, R), right (R, columns)); their product is its change. Those of
            experts, which are one parameter (experts, rows, columns), have the experts in front.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    @torch.no_grad()
    def added_to(
        self, model: PreTrainedModel, share: float = 1.0, into: PreTrainedModel | None = None
    ) -> PreTrainedModel:
        """A model with a share of the change: those between 0 and 1 lie on the straight line to it.

        Args:
            model: stays as it is.
            share: of the change.
            into: a copy of the model, whose weights are overwritten; a new one if None.

        Raises:
            ValueError: the change is of something that is no parameter of the model.
        """
        before = stored_tensors(model)  # a router may choose by a buffer, which the copy may have of another model
        if unknown := sorted(self.factors.keys() - before.keys()):
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(f"change: {unknown[0]}{more}, expected names of the model's parameters")
        changed = copy.deepcopy(model) if into is None else into
        for name, parameter in stored_tensors(changed).items():
            parameter.copy_(before[name])
            if name in self.factors:
                start, left, right = (each.to(parameter.device) for each in (before[name], *self.factors[name]))
                parameter.copy_((start.float() + share * (left @ right)).to(parameter.dtype))
        return changed.eval()


@contextlib.contextmanager
def adapter_in_place(model: PreTrainedModel, *, seed: int) -> Iterator[None]:
    """Put an adapter on a model while it is open, which alone is trained; the model comes back as it was, bit for bit.

    Blocks keep only what enters them and are computed again in the backward pass, where a model offers it.

    Args:
        model: stays the same object, and computes with the adapter; nothing else may change its modules meanwhile.
        seed: of the adapter's random half.
    """
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {module: module.training for module in model.modules()}
    adapted = add_adapter(model, ADAPTER, base="", seed=seed)
    offers = bool(getattr(model, "supports_gradient_checkpointing", False))
    recomputed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    cached = getattr(model.config, "use_cache", None)
    try:
        if offers:
            recompute_blocks(model, True)
            model.config.use_cache = False  # no use to a block that is computed again
        yield
    finally:
        if offers:
            recompute_blocks(model, recomputed)
            model.config.use_cache = cached
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])
            parameter.grad = None
        for module, training in modes.items():
            module.training = training


def change_of(model: PreTrainedModel) -> LowRankChange:
    """What the adapter on a model changes just now, in tensors of its own."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    factors = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        inside, outside = (
            dict(model.get_submodule(f"{name}.{side}.default").named_parameters())["weight"].detach()
            for side in ("lora_A", "lora_B")
        )
        left, right = outside * float(module.scaling["default"]), inside.clone()
        name = name.replace(".base_layer", "")  # several parameters of one module have wrappers around wrappers
        if isinstance(module, ParamWrapper):
            factors[f"{name}.{module.parameter_name}"] = _of_experts(module, left, right)
        else:
            factors[f"{name}.weight"] = (right.T, left.T) if getattr(module, "fan_in_fan_out", False) else (left, right)
    return LowRankChange(factors)


def _of_experts(module: Any, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of a parameter that holds a matrix for each expert, (experts, rows, R) and (experts, R, columns).

    Args:
        module: peft's ``ParamWrapper``, which keeps the factors of all experts side by side.
        left: (outputs, R x experts), of which neighbours are of several experts.
        right: (experts x R, inputs), of which neighbours are of one expert.
    """
    experts, parameter = module.num_experts, module.get_param()
    if parameter.ndim == 2:
        return left, right
    left = left.unflatten(1, (-1, experts)).permute(2, 0, 1)
    right = right.unflatten(0, (experts, -1))
    is_transposed = getattr(module.get_base_layer(), "is_transposed", False)
    return (right.mT, left.mT) if is_transposed else (left, right)
