"""One optimizer step: forward, backward, clipping, update; operation by operation, or as one graph of a GPU."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ftmech_hf.tasks import RowStream
from ftmech_hf.training.objectives import Batch
from ftmech_hf.training.optim import set_lr, take_lr_from_device
from ftmech_hf.training.parts import Weights
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss

Way = Literal["eager", "captured", "compiled"]
"""Operation by operation; the same operations as one CUDA graph; operations fused by torch.compile, on a GPU in one."""

WARM_UP = 3
"""Steps before one is captured: kernels are chosen and compiled, and the optimizer's state is made, in the first."""

BACKEND = "inductor"
"""Of torch.compile."""


def why_not_captured(
    config: TrainConfig, accelerator: Accelerator, total: TotalLoss, stream: RowStream, model: PreTrainedModel
) -> str | None:
    """What stands against computing each step as the one before, with other rows in the same place; None if nothing."""
    if accelerator.num_processes > 1:
        return "several processes"
    if accelerator.device.type not in ("cuda", "cpu"):
        return f"a device of type {accelerator.device.type}"
    against = {
        "deterministic: true": config.deterministic,
        "gradient_checkpointing: true": config.gradient_checkpointing,
        "optimizer: sgd": config.optimizer == "sgd",
        "what compares with the model that training started from": total.start is not None,
        # which ones is decided by the host, and would be decided once for all steps
        "a model that leaves out layers by chance": any(
            getattr(model.config, name, 0) for name in ("layerdrop", "decoder_layerdrop")
        ),
    }
    if (reason := next((reason for reason, there in against.items() if there), None)) is not None:
        return reason
    return None if stream.rows(0, 1).lengths is None else "rows of unequal lengths"


def find_way(config: TrainConfig, device: torch.device, why_not: str | None, began_with: str | None) -> Way:
    """How the steps of a run are computed.

    Args:
        config: how to train.
        device: that computes.
        why_not: from :func:`why_not_captured`.
        began_with: how the run began, if it goes on: it stays that.

    Raises:
        ValueError: ``compile: on`` cannot be, or the run began in a way that is not possible here, or not asked for.
    """
    if config.compile == "on" and why_not is not None:
        raise ValueError(f"compile: on is not possible with {why_not}; expected auto or off")
    if config.compile == "on" and not _has_compiler():
        raise ValueError("compile: on, but there is no C++ compiler (g++ or clang++); expected auto or off")
    on_gpu = device.type == "cuda"
    if config.compile == "on":
        possible: list[Way] = ["compiled"]
    elif config.compile == "off" or why_not is not None or not on_gpu:
        possible = ["eager"]
    else:
        possible = ["captured", "eager", *(["compiled"] if _has_compiler() else [])]  # type: ignore[list-item]
    if began_with not in (None, *possible):
        raise ValueError(
            f"compile: {config.compile} makes steps {possible[0]} here, but this run began with {began_with} ones; go "
            "on where they are that, or start over with --fresh"
        )
    return next((each for each in possible if each == began_with), possible[0])


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++"))


class Step:
    """One step, operation by operation.

    Args:
        config: how to train.
        accelerator: of this process.
        total: what is minimised.
        model: wrapped by the accelerator.
        raw_model: the same without its wrapper.
        optimizers: wrapped by the accelerator.
        raw_optimizers: the same without their wrappers.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        total: TotalLoss,
        model: nn.Module,
        raw_model: nn.Module,
        optimizers: Sequence[Optimizer],
        raw_optimizers: Sequence[Optimizer],
    ) -> None:
        self.config, self.accelerator, self.total = config, accelerator, total
        self.model, self.raw_model = model, raw_model
        self.optimizers, self.raw_optimizers = optimizers, raw_optimizers

    def __call__(self, step: int, parts: Sequence[tuple[Batch, Weights]], factor: float) -> Tensor:
        """Take one; no device is waited for.

        Args:
            step: its number; what dropout is drawn from is a function of it.
            parts: rows with their weights.
            factor: of the peak learning rates.

        Returns:
            the loss before the step, which the next step may overwrite.
        """
        self.prepare(step)
        set_lr(self.raw_optimizers, factor)
        return self.compute(parts)

    def prepare(self, step: int) -> None:
        """Make dropout, too, a function of (seed, step, process)."""
        entropy = [self.config.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        # The starting model is called without dropout, and so is what is compared with it.
        compares = self.total.objective.needs_reference
        self.model.train(not compares)
        if compares and self.config.gradient_checkpointing:
            keep_recomputing(self.raw_model)

    def compute(self, parts: Sequence[tuple[Batch, Weights]]) -> Tensor:
        """Forward, backward, clipping and update."""
        total = torch.zeros((), device=self.accelerator.device)
        for number, (part, weights) in enumerate(parts, start=1):
            last = number == len(parts)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss_of(part, weights)
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for each in self.optimizers:
            each.step()
            each.zero_grad()
        return total

    def loss_of(self, part: Batch, weights: Weights) -> Tensor:
        """The loss of a part, by its weights."""
        return self.total(self.model, part, self.raw_model, **weights)


def keep_recomputing(model: nn.Module) -> None:
    """Have the blocks of a model in evaluation mode compute their activations again in the backward pass.

    Transformers' do so in training mode alone. Blocks that drop something themselves stay as they are, and all that is
    in a block: nothing is dropped.
    """
    for module in model.modules():
        drops = any("drop" in name and isinstance(p, float) and p > 0 for name, p in vars(module).items())
        if isinstance(module, GradientCheckpointingLayer) and not drops:
            module.training = True


class CapturedStep(Step):
    """The same step on rows that are copied into one place, with learning rates that lie on the device.

    So all steps are one sequence of kernels on the same memory: after :data:`WARM_UP` of them, which are steps like
    others, a GPU captures it and the host only says when to start. Fused by torch.compile it rounds differently.

    A step that waits for the device, as some models' do, cannot be captured, and is computed as it is.

    Args:
        compiled: whether operations are fused, too.
    """

    def __init__(self, *args: object, compiled: bool) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.device = self.accelerator.device
        take_lr_from_device(self.raw_optimizers, self.device)
        self._compiled: Callable[..., Tensor] = self.total.__call__
        if compiled:
            self._compiled = torch.compile(self._compiled, backend=BACKEND, dynamic=False)
        self._parts: list[tuple[Batch, Weights]] = []
        self._loss = torch.zeros((), device=self.device)
        self._aside: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warmed_up, self.waits_at = 0, ""

    def loss_of(self, part: Batch, weights: Weights) -> Tensor:
        """The loss of a part, by its weights."""
        return self._compiled(self.model, part, self.raw_model, **weights)

    def compute(self, parts: Sequence[tuple[Batch, Weights]]) -> Tensor:
        """Forward, backward, clipping and update; replayed as soon as it can be."""
        self._copy(parts)
        if self.device.type != "cuda":
            self._run()
        elif self._warmed_up < WARM_UP or self.waits_at:
            self._warm_up()
        else:
            if self._graph is None:
                self._capture()
            assert self._graph is not None
            self._graph.replay()
        return self._loss

    def _copy(self, parts: Sequence[tuple[Batch, Weights]]) -> None:
        """Put rows and weights where the sequence of kernels reads them."""
        if not self._parts:
            self._parts = [
                (part.cloned(), {name: torch.zeros((), device=self.device) for name in weights})
                for part, weights in parts
            ]
        for (place, of_place), (part, weights) in zip(self._parts, parts, strict=True):
            place.copy_(part)
            for name, weight in weights.items():
                found = of_place[name]
                assert isinstance(found, Tensor)
                found.fill_(weight)

    def _run(self) -> None:
        """The sequence. Gradients begin as None, so that each step writes them and adds to none."""
        for each in self.raw_optimizers:
            each.zero_grad(set_to_none=True)
        self._loss.zero_()
        for part, weights in self._parts:
            loss = self.loss_of(part, weights)
            loss.backward()
            self._loss += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for each in self.raw_optimizers:
            each.step()

    def _warm_up(self) -> None:
        """A step on a stream of its own, as capturing needs them before; the last shows whether it waits."""
        self._warmed_up += 1
        usual = torch.cuda.current_stream(self.device)
        self._aside = self._aside or torch.cuda.Stream(self.device)
        self._aside.wait_stream(usual)
        with torch.cuda.stream(self._aside), _waits(self._warmed_up == WARM_UP) as found:
            self._run()
        usual.wait_stream(self._aside)
        if found:
            self.waits_at = found[0]

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # By itself torch captures on a stream of the device that was current when it first captured anything.
        stream = torch.cuda.Stream(self.device)
        # Other threads may go on making rows: what they ask of the device is no part of it.
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._run()
        self._graph = graph


@contextlib.contextmanager
def _waits(looked_for: bool) -> Iterator[list[str]]:
    """Where the host waits for the GPU meanwhile."""
    found: list[str] = []
    if not looked_for:
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    # not the warning that not all of them are found
    found += [f"{each.filename}:{each.lineno}" for each in caught if "called a synchronizing" in str(each.message)]
