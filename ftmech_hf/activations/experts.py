"""Routed experts: which of them a token is sent to, how their outputs are weighted, and what their neurons are.

Transformers keeps the weights of all routed experts of a block in a few tensors, and calls them through one interface:
a module that is given tokens, the experts of each, and what each expert's output is multiplied by before all are added.
What is computed here in its place is shown to be what the module computes, on the tensors of every block, before
anything is read or written; see :mod:`ftmech_hf.activations.proofs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ftmech_hf.activations.replacement import forward_replaced
from ftmech_hf.models.forward import signature_of

Change = Callable[[Tensor], Tensor]

ROUTED_SITES = ("router", "expert_act")


class RoutedCall(NamedTuple):
    """What experts are called with, token by token.

    Attributes:
        tokens: what they read, (N, D).
        chosen: the experts of each token, (N, K).
        weights: what each of their outputs is multiplied by, (N, K).
    """

    tokens: Tensor
    chosen: Tensor
    weights: Tensor

    @classmethod
    def of(cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RoutedCall:
        """Sort out a call of a module's forward pass: tokens, experts and weights, under whatever names.

        Raises:
            TypeError: it is called with other things.
        """
        call = signature_of(type(module).forward).bind(module, *args, **kwargs)
        given = [value for value in list(call.arguments.values())[1:] if isinstance(value, Tensor)]
        if len(given) != 3 or given[1].is_floating_point() or given[1].shape != given[2].shape:
            raise TypeError("expected tokens, the experts of each, and their weights")
        tokens, chosen, weights = (value.reshape(-1, value.shape[-1]) for value in given)
        return cls(tokens, chosen, weights)


def find_experts(block: nn.Module) -> list[str]:
    """Paths of the modules that hold a block's routed experts as transformers keeps them."""
    return [path for path, module in block.named_modules() if has_experts(module)]


def has_experts(module: nn.Module) -> bool:
    """Whether a module holds routed experts as transformers keeps them."""
    last = getattr(module, "down_proj", None)
    return hasattr(module, "is_transposed") and isinstance(last, nn.Parameter) and last.ndim == 3


def first_matrices(module: nn.Module) -> str:
    """Name of the parameter that an expert's neurons are computed with."""
    return "gate_up_proj" if module.has_gate else "up_proj"


def count_experts(module: nn.Module) -> int:
    """How many experts there are."""
    last: Tensor = module.down_proj  # type: ignore[assignment]
    return len(last)


def count_expert_neurons(module: nn.Module) -> int:
    """How many neurons each of them has."""
    last: Tensor = module.down_proj  # type: ignore[assignment]
    return int(last.shape[1 if module.is_transposed else 2])


def _apply(module: nn.Module, name: str, expert: int, values: Tensor) -> Tensor:
    """What one expert's matrix makes of values (N, inputs)."""
    weight: Tensor = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(values, weight.T if module.is_transposed else weight, bias)


def _of_each(chosen: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every expert that some token is sent to, those tokens, and as which of its experts."""
    for expert in chosen.unique().tolist():
        tokens, places = (chosen == expert).nonzero(as_tuple=True)
        yield expert, tokens, places


def expert_neurons(module: Any, call: RoutedCall) -> Tensor:
    """What the last matrix of each token's experts reads, (N, K, I)."""
    found = call.tokens.new_zeros(*call.chosen.shape, count_expert_neurons(module))
    for expert, tokens, places in _of_each(call.chosen):
        values = _apply(module, first_matrices(module), expert, call.tokens[tokens])
        values = module._apply_gate(values) if module.has_gate else module.act_fn(values)
        found[tokens, places] = values.to(found.dtype)
    return found


def combine(module: Any, call: RoutedCall, neurons: Tensor) -> Tensor:
    """What the experts return for tokens, given what their last matrices read, (N, D)."""
    parts = torch.zeros(*call.chosen.shape, call.tokens.shape[-1], dtype=neurons.dtype, device=neurons.device)
    for expert, tokens, places in _of_each(call.chosen):
        values = _apply(module, "down_proj", expert, neurons[tokens, places])
        parts[tokens, places] = module.post_expert_norm(values) if module.has_post_expert_norm else values
    return (parts * call.weights[..., None]).sum(1).to(call.tokens.dtype)


def why_not_experts(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any, tolerance: float) -> str:
    """Why what a module returned is not what experts with these neurons and weights add up to; empty if it is."""
    try:
        call = RoutedCall.of(module, args, kwargs)
        found = combine(module, call, expert_neurons(module, call)).float()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return " ".join(f"cannot be called by themselves ({type(error).__name__}: {error})".split())[:160]
    if not isinstance(output, Tensor) or output.numel() != found.numel():
        return "return something else than one vector for each token"
    rest = (output.reshape(found.shape).float() - found).norm(dim=-1)
    if not bool((rest <= tolerance * found.norm(dim=-1).clamp(min=1e-12)).all()):  # nan is no agreement
        return "do not return the sum of their outputs times the router's weights"
    return ""


def spread(values: Tensor, chosen: Tensor, number: int) -> Tensor:
    """What belongs to each token's experts (..., K, width), by expert: (..., E, width), zero for the others."""
    dense = values.new_zeros(*values.shape[:-2], number, values.shape[-1])
    return dense.scatter_add(-2, chosen[..., None].expand(values.shape), values)


def keep_routed(module: nn.Module, keep: Callable[[str, Tensor, Tensor], None], sites: list[str]) -> RemovableHandle:
    """Hands what experts compute to a function, until the handle is removed.

    Args:
        module: the experts.
        keep: is called with a site, its values (N, K, width) for the chosen experts of each token, and those (N, K).
        sites: some of :data:`ROUTED_SITES`.
    """

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = RoutedCall.of(module, args, kwargs)
        if "router" in sites:
            keep("router", call.weights[..., None], call.chosen)
        if "expert_act" in sites:
            keep("expert_act", expert_neurons(module, call), call.chosen)

    return module.register_forward_hook(hook, with_kwargs=True)


@contextlib.contextmanager
def changed_experts(module: nn.Module, changes: dict[str, Change]) -> Iterator[None]:
    """While open, experts compute with other weights of the router, or other neurons.

    Args:
        module: the experts.
        changes: site -> change of its values, (N, E) for ``router`` and (N, E x I) for ``expert_act``. Neurons of
            experts that a token is not sent to stay out of it.
    """
    number = count_experts(module)

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        call = RoutedCall.of(module, args, kwargs)
        shape = next(value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if "router" in changes:
            weights = changes["router"](spread(call.weights[..., None], call.chosen, number)[..., 0])
            most = max(1, int((weights != 0).sum(-1).max()))
            chosen = weights.abs().topk(most, dim=-1).indices
            call = call._replace(chosen=chosen, weights=weights.gather(-1, chosen))
        neurons = expert_neurons(module, call)
        if "expert_act" in changes:
            every = changes["expert_act"](spread(neurons, call.chosen, number).flatten(1)).unflatten(1, (number, -1))
            neurons = every.gather(1, call.chosen[..., None].expand(neurons.shape))
        return combine(module, call, neurons).reshape(shape)

    with forward_replaced(module, forward):
        yield
