"""Several small models of one shape in one tensor, run at once.

A small model leaves most of a device idle: a step costs less than the calls that it is made of. The weights of M models
lie behind one another in a tensor (M, P), P of each, and every operation works on all of them. Of GPT-2 the forward
pass is written out, so that products are batched ones and attention is the fused kernel; compiled programs go through
``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ftmech_hf.models.compiled import CompiledModel

FILLED = 36
"""Products that keep a large GPU busy; fewer are cut along their rows, which their weight gradients sum over.

A prototype on an H200 cut the rows of 3 models of the paper's size in 12 parts, and those of 18 in 2.
"""

ALIGNED = 8
"""Columns, of which a multiple is multiplied fast."""

Weights = Mapping[str, Tensor]
"""Name of a parameter -> those of all models, (M, *shape)."""


class Layout:
    """Where each parameter of a model lies in its row of the flat tensor: those that are trained, in their order.

    Args:
        model: whose names and shapes these are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    @property
    def size(self) -> int:
        """The weights of one model, P."""
        return sum(self.sizes)

    def flatten(self, tensors: Weights) -> Tensor:
        """Tensors of one model by their names -> its row, (P,)."""
        return torch.cat([tensors[name].detach().flatten() for name in self.shapes])

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """A row (P,) -> what lies in it, by name."""
        parts = zip(self.shapes.items(), row.split(self.sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def stacked_views(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (M, P) -> what lies in them, by name, each (M, *shape)."""
        parts = zip(self.shapes.items(), rows.split(self.sizes, 1), strict=True)
        return {name: part.view(-1, *shape) for (name, shape), part in parts}

    @torch.no_grad()
    def load(self, row: Tensor, model: nn.Module) -> None:
        """Give a model the weights of a row."""
        views = self.views(row)
        for name, parameter in model.named_parameters():
            parameter.copy_(views[name])


class StackedModel(Protocol):
    """What runs several models at once."""

    def __call__(self, weights: Weights, token_ids: Tensor, *, last: bool) -> Tensor:
        """Logits of each model on rows of its own.

        Args:
            weights: of M models.
            token_ids: (M, N, T).
            last: at the last position alone.

        Returns:
            (M, N, 1 or T, V), in the precision of the products.
        """


def stack_model(
    model: PreTrainedModel, *, precision: torch.dtype = torch.float32, compiled: bool = False
) -> StackedModel:
    """The way to run several models of the shape of ``model`` at once.

    Args:
        model: in evaluation mode.
        precision: of the products; norms, softmax and the residual stream are float32 in any case.
        compiled: fuse the operations of a GPT-2's blocks with torch.compile, for each shape of rows anew.

    Raises:
        ValueError: it is neither a GPT-2 nor a compiled program, or drops out, which each would do alone.
    """
    config = model.config
    if any(isinstance(each, nn.Dropout) and each.p for each in model.modules()):
        raise ValueError(f"model: {config.model_type} with dropout, expected one without for runs trained together")
    if isinstance(model, GPT2LMHeadModel) and isinstance(config, GPT2Config) and _is_plain(config):
        return _StackedGpt2(config, precision, compiled)
    if isinstance(model, CompiledModel):
        return _Vmapped(model, precision)
    raise ValueError(
        f"model: {type(model).__name__} of {config.model_type}, expected a usual GPT-2 or a compiled program for runs "
        "that are trained together"
    )


def _is_plain(config: GPT2Config) -> bool:
    """Whether a GPT-2 is the usual one, which is written out below."""
    return (
        config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
    )


class _Vmapped:
    def __init__(self, model: PreTrainedModel, precision: torch.dtype) -> None:
        self.model, self.precision = model, precision

    def __call__(self, weights: Weights, token_ids: Tensor, *, last: bool) -> Tensor:
        def one(weights: Weights, token_ids: Tensor) -> Tensor:
            options = {"logits_to_keep": 1} if last else {}
            logits: Tensor = functional_call(self.model, dict(weights), (token_ids,), options).logits
            return logits[:, -1:] if last else logits

        with torch.autocast(token_ids.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            found: Tensor = vmap(one)(dict(weights), token_ids)
        return found


class _StackedGpt2:
    def __init__(self, config: GPT2Config, precision: torch.dtype, compiled: bool) -> None:
        self.config, self.precision = config, precision
        # One of the blocks, which all are alike, takes a sixth of the time to compile that all would take.
        self._run_block = torch.compile(self._block, dynamic=False) if compiled else self._block
        self._run_head = torch.compile(self._head, dynamic=False) if compiled else self._head

    def __call__(self, weights: Weights, token_ids: Tensor, *, last: bool) -> Tensor:
        models, rows, length = token_ids.shape
        parts = self._parts(models, rows, token_ids.device)
        words, vocabulary = weights["transformer.wte.weight"], self.config.vocab_size
        first = torch.arange(models, device=token_ids.device)[:, None, None] * vocabulary
        stream = F.embedding(token_ids + first, words.reshape(models * vocabulary, -1))
        stream = stream + weights["transformer.wpe.weight"][:, None, :length]
        for layer in range(self.config.n_layer):
            prefix = f"transformer.h.{layer}."
            block = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            stream = self._run_block(stream, block, parts, last and layer == self.config.n_layer - 1)
        norm = {name.removeprefix("transformer."): w for name, w in weights.items() if ".ln_f." in name}
        return self._run_head(stream, norm, weights.get("lm_head.weight", words), 1 if last else parts)

    def _block(self, stream: Tensor, block: Weights, parts: int, only_last: bool) -> Tensor:
        """One block; of the last one, what follows its keys and values may concern the last position alone."""
        attended = self._attention(block, self._norm(stream, block, "ln_1"), parts, only_last)
        stream = stream[:, :, -1:] if only_last else stream
        parts = 1 if only_last else parts
        stream = stream + self._linear(attended, block, "attn.c_proj", parts)
        neurons = self._linear(self._norm(stream, block, "ln_2"), block, "mlp.c_fc", parts)
        return stream + self._linear(F.gelu(neurons, approximate="tanh"), block, "mlp.c_proj", parts)

    def _head(self, stream: Tensor, norm: Weights, words: Tensor, parts: int) -> Tensor:
        logits = self._product(self._norm(stream, norm, "ln_f"), _padded(words.mT), parts)
        return logits[..., : self.config.vocab_size]

    def _parts(self, models: int, rows: int, device: torch.device) -> int:
        if device.type != "cuda":
            return 1
        return max(parts for parts in range(1, rows + 1) if rows % parts == 0 and models * parts <= max(FILLED, models))

    def _norm(self, stream: Tensor, weights: Weights, name: str) -> Tensor:
        """(M, N, T, D) -> the same, in the precision of the products."""
        normed = F.layer_norm(stream, stream.shape[-1:], eps=self.config.layer_norm_epsilon)
        scale, shift = (weights[f"{name}.{each}"][:, None, None] for each in ("weight", "bias"))
        return (normed * scale + shift).to(self.precision)

    def _product(self, x: Tensor, matrices: Tensor, parts: int) -> Tensor:
        """Each model's rows (M, N, T, D) with its matrix (M, D, E), in so many parts."""
        models, rows, length, width = x.shape
        cut = matrices.to(self.precision)[:, None].expand(-1, parts, -1, -1).reshape(models * parts, width, -1)
        made = torch.bmm(x.reshape(models * parts, rows // parts * length, width), cut)
        return made.view(models, rows, length, -1)

    def _linear(self, x: Tensor, weights: Weights, name: str, parts: int) -> Tensor:
        """A product and its bias, which is a row of the matrix: its gradient, too, comes out of a product."""
        matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        filled = matrix.new_zeros(len(matrix), ALIGNED - 1, matrix.shape[-1])
        one = torch.cat([x.new_ones(*x.shape[:-1], 1), x.new_zeros(*x.shape[:-1], ALIGNED - 1)], -1)
        return self._product(torch.cat([x, one], -1), torch.cat([matrix, bias[:, None], filled], 1), parts)

    def _attention(self, block: Weights, read: Tensor, parts: int, only_last: bool) -> Tensor:
        """What the heads write, before it is projected: (M, N, T or 1, D)."""
        models, rows, _, width = read.shape
        heads = self.config.n_head

        def split(x: Tensor) -> Tensor:
            return x.view(models * rows, -1, heads, width // heads).transpose(1, 2)

        if only_last:
            matrix, bias = block["attn.c_attn.weight"], block["attn.c_attn.bias"]
            asked, shown = (
                {"at.weight": matrix[..., columns], "at.bias": bias[..., columns]}
                for columns in (slice(width), slice(width, None))
            )
            query = self._linear(read[:, :, -1:], asked, "at", 1)
            key, value = self._linear(read, shown, "at", parts).split(width, -1)
        else:
            query, key, value = self._linear(read, block, "attn.c_attn", parts).split(width, -1)
        attended = F.scaled_dot_product_attention(split(query), split(key), split(value), is_causal=not only_last)
        return attended.transpose(1, 2).reshape(models, rows, -1, width)


def _padded(head: Tensor) -> Tensor:
    """An unembedding (M, D, V) with a number of columns that fast kernels divide."""
    return F.pad(head, (0, -head.shape[-1] % 32))


def check_shapes(layouts: Sequence[Layout]) -> None:
    """Make sure that models can lie in one tensor.

    Raises:
        ValueError: they are of different shapes.
    """
    if any(each.shapes != layouts[0].shapes for each in layouts):
        raise ValueError("model: runs that are trained together start from models of one shape")
