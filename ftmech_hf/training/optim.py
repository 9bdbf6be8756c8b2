"""Optimizers and the learning-rate schedule, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftmech_hf.training.muon import Muon
from ftmech_hf.training.settings import TrainConfig

SGD_MOMENTUM = 0.9
"""The paper trains its compiled models with "SGD with momentum" and does not say which (App. C.1)."""


def lr_factor(step: int, *, steps: int, warmup_fraction: float, final_lr_fraction: float) -> float:
    """Linear warm-up from 0, then a cosine down to ``final_lr_fraction``; multiply it with the peak learning rate.

    Jain et al. (App. C.2) warm up over 20 % of the steps and end at 1/100 of the peak.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return final_lr_fraction + (1 - final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizers(
    model: nn.Module,
    *,
    optimizer: str,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    shared: bool = False,
) -> list[Optimizer]:
    """``adamw``: one AdamW (the paper's). ``sgd``: with momentum (its Tracr models'). ``muon``: Muon on the matrices of
    the blocks, AdamW on the rest.

    Embeddings, unembedding, biases and norms are AdamW's in both: orthogonalised updates are meant for hidden layers.
    So are tables that multiply nothing, such as Mamba's ``A_log`` and biases of many experts, and the weights of
    routed experts, which lie behind one another in tensors of three axes.
    Every group keeps its peak learning rate under ``peak_lr``. Processes with the same gradients (``shared``) share
    Muon's work.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = _hidden_matrices(model) if optimizer == "muon" else []
    taken = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in taken]
    built: list[Optimizer] = []
    if hidden:
        built.append(Muon(hidden, lr=muon_lr, weight_decay=weight_decay, shared=shared))
    if rest and optimizer == "sgd":
        built.append(torch.optim.SGD(rest, lr=lr, momentum=SGD_MOMENTUM, weight_decay=weight_decay))
    elif rest:
        built.append(torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas, fused=True))
    for each in built:
        for group in each.param_groups:
            group["peak_lr"] = group["lr"]
    return built


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices of the blocks that are trained.

    What a module multiplies with it calls ``weight``, be it a linear layer or a router of experts; the factors of an
    adapter are in a dict of their own.
    """
    find = getattr(model, "get_output_embeddings", None)  # what it is called differs: lm_head, embed_out, head
    outputs = (getattr(model, "lm_head", None), None if find is None else find())
    inputs_and_outputs, found = set[int](), dict[int, nn.Parameter]()
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding) or any(module is each for each in outputs):
                inputs_and_outputs.add(id(p))
            elif p.requires_grad and p.ndim == 2 and (name == "weight" or isinstance(module, nn.ParameterDict)):
                found[id(p)] = p
    return [p for number, p in found.items() if number not in inputs_and_outputs]


def lr_factor_of(config: TrainConfig, step: int) -> float:
    """:func:`lr_factor` of a run's settings."""
    return lr_factor(
        step, steps=config.steps, warmup_fraction=config.warmup_fraction, final_lr_fraction=config.final_lr_fraction
    )


def optimizers_of(config: TrainConfig, model: nn.Module, *, shared: bool = False) -> list[Optimizer]:
    """:func:`build_optimizers` of a run's settings."""
    return build_optimizers(
        model, optimizer=config.optimizer, lr=config.lr, muon_lr=config.muon_lr, weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2), shared=shared,
    )  # fmt: skip


def take_lr_from_device(optimizers: Sequence[Optimizer], device: torch.device) -> None:
    """Let learning rates lie on the device, where a step that was captured finds them; after any state was loaded."""
    for each in optimizers:
        for group in each.param_groups:
            group["lr"] = torch.tensor(float(group["peak_lr"]), device=device)
            if "capturable" in group:
                group["capturable"] = device.type == "cuda"


def set_lr(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its peak."""
    for each in optimizers:
        for group in each.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["peak_lr"] * factor)
            else:
                group["lr"] = group["peak_lr"] * factor
