"""What the parts of a model's blocks do, shown by writing into them.

One forward pass carries a copy of a short row for every part of a block: one is left alone, in one the stream entering
the block is moved, and in every other what one part computes is moved by noise, or held while the stream is moved. A
statement about parts, such as "the stream receives what this module returns", is an equation between tensors, and it
must hold in every copy: where it holds by chance in the row that is left alone, it does not in the one that was moved.
At every block the copies begin alike again, so that one pass is enough for all blocks. Nothing is believed because of a
name but this: what carries something from token to token is an attention where it, or its class, is called so.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.block_record import BlockRecord
from ftmech_hf.activations.equations import BlockParts, Equations
from ftmech_hf.activations.experts import has_experts, why_not_experts
from ftmech_hf.activations.matrices import find_adapted, find_matrices, is_inside
from ftmech_hf.models.forward import forward_parameters
from ftmech_hf.models.tolerance import tolerance_of

NUM_TOKENS = 4
"""Tokens of the row that is tried. Writes leave the last one alone, to show what only attention can carry there."""


def first_tensor(value: Any) -> Tensor | None:
    """What a module returns, or the first of several; None if that is no tensor."""
    value = value[0] if isinstance(value, tuple | list) and value else value
    return value if isinstance(value, Tensor) else None


def with_first(value: Any, first: Tensor) -> Any:
    """The same with another first."""
    if isinstance(value, tuple):
        return (first, *value[1:])
    return [first, *value[1:]] if isinstance(value, list) else first


def text_config(model: PreTrainedModel) -> Any:
    """The config of what reads and writes text in a model; of most it is the only one."""
    try:
        return model.config.get_text_config(decoder=True)
    except (AttributeError, ValueError):  # transformers' own, where there are several
        return model.config


def padding_tolerance(model: PreTrainedModel) -> float:
    """How far a padded row may be from the row alone, relative to its size: batches of other shapes round otherwise."""
    return max(1e-3, tolerance_of(model))


class NotAStreamError(ValueError):
    """A block is not given a stream (rows, tokens, width), or does not return one, or not one of numbers."""


def run_settings(model: PreTrainedModel, **wanted: Any) -> dict[str, Any]:
    """Those of the wanted settings, and to keep no cache, that a model's forward pass takes."""
    taken, wanted = forward_parameters(model), {"use_cache": False, **wanted}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return wanted
    return {name: value for name, value in wanted.items() if name in taken}


def run(model: PreTrainedModel, token_ids: Tensor, **wanted: Any) -> Any:
    """A forward pass with those of the wanted settings that the model takes.

    Raises:
        ValueError: the model cannot be run on plain rows, with its own reason in the same line.
    """
    try:
        return model(token_ids, **run_settings(model, **within_context(model, token_ids), **wanted))
    except NotAStreamError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"model: {model.config.model_type} cannot be run on rows of tokens alone ({reason})"
        ) from error


def within_context(model: PreTrainedModel, token_ids: Tensor) -> dict[str, Tensor]:
    """Positions for rows longer than a model's context, of which the last is taken again; for others nothing.

    Programs that are compiled for two letters take rows of three tokens, and the proofs longer ones.
    """
    limit, length = getattr(text_config(model), "max_position_embeddings", None), token_ids.shape[-1]
    if not isinstance(limit, int) or length <= limit:
        return {}
    return {"position_ids": torch.arange(length, device=token_ids.device).clamp(max=limit - 1)[None]}


def probe_tokens(model: PreTrainedModel, length: int = NUM_TOKENS) -> Tensor:
    """A row of any tokens but padding, about which transformers would warn, (1, length)."""
    pad = getattr(text_config(model), "pad_token_id", None)
    two = [token for token in range(3) if token != pad][:2]
    return torch.tensor([[two[place % 2] for place in range(length)]], device=model.device)


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients while it is open; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def prove_parts(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> list[BlockParts]:
    """Find the parts of every block; two forward passes of at most a few dozen rows of four tokens.

    Args:
        model: any causal LM, in any mode; it is run in evaluation mode and left as it was.
        blocks: its blocks, first to last.

    Raises:
        ValueError: the model does not run, or its blocks do not carry a stream (B, T, D).
    """
    found: list[BlockParts] = []
    constants = {float(value) for value in vars(model.config).values() if _is_constant(value)}
    with in_evaluation(model):
        tolerance = tolerance_of(model)
        ran: list[int] = []
        nothing: list[list[str]] = [[] for _ in blocks]
        moved, held = list(nothing), list(nothing)

        def list_parts(layer: int, record: BlockRecord) -> None:
            ran.append(layer)
            moved[layer] = record.streams()
            held[layer] = [path for path in find_matrices(blocks[layer]) if path in moved[layer]]

        _Run(model, blocks, nothing, nothing, list_parts)()
        if ran != list(range(len(blocks))):
            ran_layers = ", ".join(map(str, ran))
            raise ValueError(f"model: {model.config.model_type} runs blocks {ran_layers}, expected each once, in order")

        def prove(layer: int, record: BlockRecord) -> None:
            known = constants | {float(value) for value in vars(blocks[layer]).values() if _is_constant(value)}
            found.append(Equations(blocks[layer], record, known, tolerance).parts())

        _Run(model, blocks, moved, held, prove)()
    return found


def _is_constant(value: Any) -> bool:
    return isinstance(value, float) and value != 0.0


class _Run:
    """A run with a copy of the row that is left alone, one whose stream is moved, and one for every changed part.

    Args:
        model, blocks: as for :func:`prove_parts`.
        moved: of every block, paths of the modules whose output is moved; with none there is only one copy.
        held: of every block, paths of the modules whose output is held as in the first copy while the stream is moved.
        done: is handed every block's number and record as soon as it has run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Sequence[nn.Module],
        moved: Sequence[Sequence[str]],
        held: Sequence[Sequence[str]],
        done: Callable[[int, BlockRecord], None],
    ) -> None:
        self.model, self.blocks, self.moved, self.held, self.done = model, blocks, moved, held, done
        self.copies = max(2 + len(one) + len(other) for one, other in zip(moved, held, strict=True))
        self.copies = self.copies if any(moved) else 1
        self.generator = torch.Generator().manual_seed(0)
        self.record = BlockRecord(self.copies, NUM_TOKENS, [], [])

    def __call__(self) -> None:
        """Run."""
        handles = []
        for layer, block in enumerate(self.blocks):
            enter, leave = functools.partial(self._enter, layer), functools.partial(self._leave, layer)
            handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(block.register_forward_hook(leave))
            adapted = find_adapted(block)
            for path, part in block.named_modules():
                if path and not is_inside(path, adapted):
                    read, wrote = functools.partial(self._read, path), functools.partial(self._wrote, layer, path)
                    handles.append(part.register_forward_pre_hook(read, with_kwargs=True))
                    if has_experts(part):  # before what it returns is moved
                        route = functools.partial(self._route, path)
                        handles.append(part.register_forward_hook(route, with_kwargs=True))
                    handles.append(part.register_forward_hook(wrote))
        try:
            run(self.model, probe_tokens(self.model).expand(self.copies, -1), logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()

    def _noise(self, value: Tensor, copies: Sequence[int]) -> Tensor:
        """A value by rows, with noise of its size at all but the last position of some copies."""
        size = value[0].float().square().mean().sqrt() + self.record.entered[:1].square().mean().sqrt().to(value.device)
        write = torch.zeros(value.shape)
        write[list(copies), :-1] = float(size) * torch.randn(value[0, :-1].shape, generator=self.generator)
        return value + write.to(value.device, value.dtype)

    def _enter(self, layer: int, _: nn.Module, args: Any, kwargs: Any) -> Any:
        record = self.record = BlockRecord(self.copies, NUM_TOKENS, self.moved[layer], self.held[layer])
        given = args[0] if args else kwargs.get("hidden_states")
        rows = record.rows(given) if isinstance(given, Tensor) and given.ndim == 3 else None
        if rows is None:
            where = f"block {layer} of {self.model.config.model_type}"
            raise NotAStreamError(f"model: {where} is not given a stream (rows, tokens, width)")
        record.entered = rows[:1].detach().to("cpu", torch.float32, copy=True)
        stream = rows[:1].repeat(self.copies, 1, 1)
        holding = range(2 + len(self.moved[layer]), self.copies)
        stream = self._noise(stream, [1, *holding]) if self.copies > 1 else stream
        record.entered = stream.detach().to("cpu", torch.float32, copy=True)
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    def _leave(self, layer: int, _: nn.Module, args: Any, output: Any) -> None:
        stream = first_tensor(output)
        rows = None if stream is None else self.record.rows(stream)
        if rows is None or rows.shape != self.record.entered.shape:
            kind = self.model.config.model_type
            raise NotAStreamError(f"model: block {layer} of {kind} does not return the stream (rows, tokens, width)")
        self.record.left = rows.detach().to("cpu", torch.float32, copy=True)
        if not self.record.left.isfinite().all():
            kind, number = self.model.config.model_type, str(self.model.dtype).removeprefix("torch.")
            raise NotAStreamError(
                f"model: block {layer} of {kind} gives nan or inf in {number}, expected numbers; "
                "where that type is too small, take another (dtype: float32 or bfloat16)"
            )
        self.done(layer, self.record)

    def _read(self, path: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.record.keep("in", path, given[0] if given else None)

    def _route(self, path: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.record.experts[path] = why_not_experts(module, args, kwargs, output, tolerance_of(self.model))

    def _wrote(self, layer: int, path: str, _: nn.Module, args: Any, output: Any) -> Any:
        value = first_tensor(output)
        rows = None if value is None else self.record.rows(value)
        moved, held = self.moved[layer], self.held[layer]
        if value is not None and rows is not None and path in moved:
            rows = self._noise(rows, [2 + moved.index(path)])
            if path in held:
                rows[2 + len(moved) + held.index(path)] = rows[0]
            value = rows.view(value.shape)
            output = with_first(output, value)
        self.record.keep("out", path, value)
        return output
