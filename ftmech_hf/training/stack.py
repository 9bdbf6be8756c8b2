"""Several models of one shape trained at once: a step of all of them is one step of a device.

Each model keeps its own rows, rate, clipping and optimizer state: its weights are, up to rounding, those that
:func:`ftmech_hf.training.loop.fit` would have given it alone, and its checkpoints are of the same form. On a GPU a
block, the loss and the clipping are compiled, and the whole step, with the schedule and the optimizer, is recorded once
in a CUDA graph and played again: the device is told what to do once, not once a step, and no step waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ftmech_hf.models.stacked import Layout, check_shapes, stack_model
from ftmech_hf.training.objectives import AnswerOnly, NextToken, Objective
from ftmech_hf.training.optim import SGD_MOMENTUM, lr_factor_of, optimizers_of
from ftmech_hf.training.settings import TrainConfig

WARMUP_STEPS = 3
"""Steps before a graph is recorded, in which kernels are compiled and memory is found; they are undone."""


class Stack:
    """The weights of M models behind one another, and what their training needs.

    Args:
        models: of one shape; they are copied.
        trains: how each is trained; all but the rate must be equal.
        objective: what is minimised, of rows of one shape whose answer is the last token but one.
        stream_of: which of the streams of rows each model learns from.
        device: where.
        precision: of products, ``no`` for float32 or ``bf16``.
        compiled: compile a GPT-2's block and the loss, and on a GPU record the step.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        trains: Sequence[TrainConfig],
        objective: Objective,
        stream_of: Sequence[int],
        *,
        device: torch.device,
        precision: str,
        compiled: bool,
    ) -> None:
        assert isinstance(objective, NextToken | AnswerOnly)
        self.objective, self.trains, self.config, self.device = objective, trains, trains[0], device
        layouts = [Layout(model) for model in models]
        check_shapes(layouts)
        self.layout = layouts[0]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.template = models[0].eval()
        self.template.to(device)
        self._answers = stack_model(self.template, precision=dtype)  # of rows in other numbers than a step's
        self._logits = stack_model(self.template, precision=dtype, compiled=compiled)
        rows = [self.layout.flatten(dict(model.named_parameters())).to(device) for model in models]
        self.weights = torch.stack(rows)
        self._gradients = torch.zeros_like(self.weights)
        self._stream_of = torch.tensor(stream_of, device=device)
        self._peaks = torch.tensor([train.lr for train in trains], device=device)
        self._rates = torch.zeros_like(self._peaks)
        self._factors = torch.tensor(
            [lr_factor_of(self.config, step) for step in range(self.config.steps)], device=device
        )
        self._factor = torch.zeros((), device=device)
        self.losses = torch.zeros(len(models), device=device)
        self.optimizer = self._build_optimizer()
        self._token_ids: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded = compiled and device.type == "cuda"
        self._loss_of, self._clip_of = self._loss, self._clip
        if compiled:
            self._loss_of = torch.compile(self._loss, dynamic=False)
            self._clip_of = torch.compile(self._clip, dynamic=False)

    def __len__(self) -> int:
        return len(self.weights)

    def _build_optimizer(self) -> Optimizer:
        """One optimizer whose groups are the models, each a single parameter with a rate on the device."""
        groups = []
        for model in range(len(self)):
            parameter = nn.Parameter(self.weights[model])  # the same memory
            parameter.grad = self._gradients[model]
            groups.append({"params": [parameter], "lr": self._rates[model]})
        common: dict[str, Any] = {"weight_decay": self.config.weight_decay, "fused": True}
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=SGD_MOMENTUM, **common)
        betas = (self.config.adam_beta1, self.config.adam_beta2)
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, capturable=self.device.type == "cuda", **common)

    def _losses(self, weights: Tensor, token_ids: Tensor) -> Tensor:
        """The loss of each model (M,) on its rows (M, N, T)."""
        only_answers = isinstance(self.objective, AnswerOnly)
        shown = token_ids[..., :-2] if only_answers else token_ids[..., :-1]
        targets = token_ids[..., -2:-1] if only_answers else token_ids[..., 1:]
        return self._loss_of(self._logits(self.layout.stacked_views(weights), shown, last=only_answers), targets)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of each model (M,) for logits (M, N, T, V), by the weights of tokens."""
        each = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape)
        if isinstance(self.objective, NextToken) and self.objective.answer_weight != 1:
            weight = torch.ones_like(each[0])
            weight[:, -2] = self.objective.answer_weight
            return (each * weight).sum((1, 2)) / weight.sum()
        return each.mean((1, 2))

    def _clip(self, gradients: Tensor) -> Tensor:
        """Each model's gradient, scaled down to the norm it may have, as ``torch.nn.utils.clip_grad_norm_`` does."""
        norms = gradients.norm(dim=1, keepdim=True)
        return gradients * (self.config.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)

    def _once(self) -> None:
        assert self._token_ids is not None
        torch.mul(self._peaks, self._factor, out=self._rates)
        weights = self.weights.detach().requires_grad_()
        losses = self._losses(weights, self._token_ids.index_select(0, self._stream_of).long())
        (gradients,) = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            self._gradients.copy_(self._clip_of(gradients))
            self.losses.copy_(losses)
        self.optimizer.step()

    def step(self, step: int, token_ids: Tensor) -> Tensor:
        """One step of all models.

        Args:
            step: its number, from 0.
            token_ids: of each stream, int32 (S, N, T), on the CPU.

        Returns:
            the loss of each model's rows before the step, (M,); the next step writes over it.
        """
        if self._token_ids is None:
            self._token_ids = torch.zeros(token_ids.shape, dtype=token_ids.dtype, device=self.device)
        self._token_ids.copy_(token_ids, non_blocking=True)
        self._factor.copy_(self._factors[step])
        if self._graph is None and self._recorded:
            self._record()
        if self._graph is None:
            self._once()
        else:
            self._graph.replay()
        return self.losses

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _record(self) -> None:
        """Record a step in a graph, and leave everything as it was."""
        state = self._state_tensors()
        before = [tensor.clone() for tensor in state]
        fresh = not self.optimizer.state
        usual, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(usual)
        with torch.cuda.stream(side):
            for _ in range(WARMUP_STEPS):
                self._once()
        usual.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # By itself torch captures on a stream of the device that was current when it first captured anything.
        stream = torch.cuda.Stream(self.device)
        # Another thread may go on pinning rows: what it asks of the device is no part of the step.
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._once()
        for tensor, kept in zip(state, before, strict=True):
            tensor.copy_(kept)
        if fresh:  # what an optimizer remembers begins at zero
            for tensor in self._state_tensors()[1:]:
                tensor.zero_()
        self._graph = graph

    def _state_tensors(self) -> list[Tensor]:
        remembered = [value for state in self.optimizer.state.values() for value in state.values()]
        return [self.weights, *(value for value in remembered if isinstance(value, Tensor))]

    @torch.no_grad()
    def answers(self, token_ids: Tensor) -> Tensor:
        """The token that each model answers its rows (M, N, T) with, (M, N)."""
        logits = self._answers(self.layout.stacked_views(self.weights), token_ids[..., :-2], last=True)
        return logits[:, :, -1].argmax(-1)

    def one(self, model: int) -> tuple[PreTrainedModel, list[Optimizer]]:
        """A model by its number as it is alone, and its optimizers; the next call changes that model."""
        self.layout.load(self.weights[model], self.template)
        optimizers = self.optimizers_alone(model)
        (parameter,) = self.optimizer.param_groups[model]["params"]
        views: dict[str, dict[str, Tensor]] = {}
        for key, value in self.optimizer.state.get(parameter, {}).items():
            whole = isinstance(value, Tensor) and value.numel() == self.layout.size
            views[key] = self.layout.views(value) if whole else dict.fromkeys(self.layout.shapes, value)
        for name, weight in self.template.named_parameters():
            state = {key: each[name].clone() for key, each in views.items()}
            if state:
                optimizers[0].state[weight] = state
        return self.template, optimizers

    def optimizers_alone(self, model: int) -> list[Optimizer]:
        """Fresh optimizers of what :meth:`one` gives for a model."""
        return optimizers_of(self.trains[model], self.template)

    @torch.no_grad()
    def replace(self, model: int, optimizers: Sequence[Optimizer]) -> None:
        """Take over the weights that :meth:`one`'s model has now, and what its optimizers remember."""
        named = dict(self.template.named_parameters())
        self.weights[model] = self.layout.flatten(named)
        remembered = {name: optimizers[0].state[weight] for name, weight in named.items()}
        (parameter,) = self.optimizer.param_groups[model]["params"]
        first = next(iter(remembered.values()))
        state = self.optimizer.state[parameter]
        for key, value in first.items():
            if value.shape == next(iter(named.values())).shape:
                state[key] = self.layout.flatten({name: each[key] for name, each in remembered.items()}).to(self.device)
            else:
                state[key] = value.clone().to(self.device)
