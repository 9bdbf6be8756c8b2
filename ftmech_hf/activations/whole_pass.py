"""One forward pass of a batch of rows, of which everything is kept that lets any block be called again by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.calls import Given, leading_sizes, split_call
from ftmech_hf.activations.experts import ROUTED_SITES, keep_routed
from ftmech_hf.activations.interventions import on_input
from ftmech_hf.activations.layout import find_layout, model_blocks
from ftmech_hf.activations.proofs import first_tensor, run_settings
from ftmech_hf.activations.units import UnitGroup


@contextlib.contextmanager
def zeroed(group: UnitGroup, units: Tensor) -> Iterator[None]:
    """While open, the weights of some units (K,) of a group are zero; then again what they were, to the bit."""
    weight = group.weight.detach()
    places = group.places(units.to(weight.device)).flatten()
    kept = weight.index_select(group.axis, places)
    weight.index_fill_(group.axis, places, 0.0)
    try:
        yield
    finally:
        weight.index_copy_(group.axis, places, kept)


class WholePass:
    """What a model computed for one batch.

    Args:
        model: any causal LM, in evaluation mode.
        token_ids: rows (B, T), on its device.

    Attributes:
        layout, blocks: where the model's parts are, and its blocks.
        before, after: the stream entering each block, and leaving it.
        given: what else each block is called with.
        per_row: which of the tensors among that have a part for every row.
        neurons: what the MLP's last matrix reads, (B, T, N), by layer.
        routed: (site, layer) -> values of the experts of each token (B x T, K, width), and which those are (B x T, K).
        first_part: what the last block calls first: in most models the norm before its attention.
        returned: what a block returned.
        logits: behind the last token, (B, V).
    """

    def __init__(self, model: PreTrainedModel, token_ids: Tensor) -> None:
        self.model, self.token_ids = model, token_ids
        self.layout, self.blocks = find_layout(model), [block for _, block in model_blocks(model)]
        self.before: dict[int, Tensor] = {}
        self.after: dict[int, Tensor] = {}
        self.given: dict[int, Given] = {}
        self.neurons: dict[int, Tensor] = {}
        self.routed: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.first_part: nn.Module | None = None
        self.returned: Any = None
        self.logits = self._run()
        self.per_row = self._find_per_row()

    def expert_activations(self, layer: int, expert: int) -> Tensor:
        """What the neurons of a routed expert are multiplied by on their way to the stream, (B, T, I)."""
        (neurons, chosen), (weights, _) = self.routed["expert_act", layer], self.routed["router", layer]
        found = (neurons * weights * (chosen == expert)[..., None]).sum(1)
        return found.unflatten(0, self.token_ids.shape)

    def _run(self) -> Tensor:
        handles = []
        for layer, block in enumerate(self.blocks):

            def keep_before(_: nn.Module, args: Any, kwargs: Any, layer: int = layer) -> None:
                self.before[layer], self.given[layer] = split_call(args, kwargs)

            def keep_after(_: nn.Module, args: Any, output: Any, layer: int = layer) -> None:
                self.returned, stream = output, first_tensor(output)
                assert stream is not None
                self.after[layer] = stream

            def keep_neurons(_: nn.Module, args: Any, layer: int = layer) -> None:
                self.neurons[layer] = args[0].reshape(*self.token_ids.shape, -1)

            handles.append(block.register_forward_pre_hook(keep_before, with_kwargs=True))
            handles.append(block.register_forward_hook(keep_after))
            if down := self.layout.layers[layer].mlp_down:
                matrix = block.get_submodule(down)
                handles.append(matrix.register_forward_pre_hook(keep_neurons))
            if path := self.layout.layers[layer].experts:
                experts = block.get_submodule(path)

                def keep_experts(site: str, values: Tensor, chosen: Tensor, layer: int = layer) -> None:
                    self.routed[site, layer] = values, chosen

                handles.append(keep_routed(experts, keep_experts, list(ROUTED_SITES)))

        def keep_first(part: nn.Module, args: Any) -> None:
            self.first_part = part if self.first_part is None else self.first_part

        handles += [part.register_forward_pre_hook(keep_first) for part in self.blocks[-1].children()]
        try:
            return self.forward(self.token_ids)
        finally:
            for handle in handles:
                handle.remove()

    def _find_per_row(self) -> dict[int, list[bool]]:
        """Of each block, which of the tensors that it is called with have a part for every row: they grow with them."""
        # the same rows twice, since of fewer a model may make less: no mask where none of those left is padded
        rows = self.token_ids.repeat(2, 1)
        sizes: dict[int, list[int]] = {}
        handles = []
        for layer, block in enumerate(self.blocks):

            def measure(_: nn.Module, args: Any, kwargs: Any, layer: int = layer) -> None:
                sizes[layer] = leading_sizes(split_call(args, kwargs)[1])

            handles.append(block.register_forward_pre_hook(measure, with_kwargs=True))
        try:
            self.forward(rows)
        finally:
            for handle in handles:
                handle.remove()
        return {
            layer: [size != other for size, other in zip(leading_sizes(given), sizes[layer], strict=True)]
            for layer, given in self.given.items()
        }

    def find_fed(self) -> int:
        """The last block that is given, beside the stream, what the blocks before it made; 0 if there is none.

        The stream that enters the first block is moved, and everything that is then given to another is compared.
        """
        size = self.before[0].float().square().mean().sqrt()
        noise = torch.randn(self.before[0].shape, generator=torch.Generator().manual_seed(0)).to(size.device) * size

        def given(moved: bool) -> dict[int, list[Tensor]]:
            found: dict[int, list[Tensor]] = {}
            with contextlib.ExitStack() as stack:
                for layer, block in enumerate(self.blocks):

                    def keep(_: nn.Module, args: Any, kwargs: Any, layer: int = layer) -> None:
                        found[layer] = []  # what is shared between blocks may be written to later
                        recursively_apply(lambda each: found[layer].append(each.clone()), split_call(args, kwargs)[1])

                    stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
                if moved:
                    stack.callback(on_input(self.blocks[0], lambda each: each + noise.to(each.dtype)).remove)
                self.forward(self.token_ids)
            return found

        clean, changed = given(False), given(True)

        def differ(layer: int) -> bool:
            one, other = clean[layer], changed[layer]
            return len(one) != len(other) or not all(torch.equal(*pair) for pair in zip(one, other, strict=True))

        return max(filter(differ, range(1, len(self.blocks))), default=0)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits (B, V) behind the last token of rows (B, T)."""
        return self.model(token_ids, **run_settings(self.model, logits_to_keep=1)).logits[:, -1].float()

    def logits_zeroed(self, group: UnitGroup, units: Tensor) -> Tensor:
        """The same of its rows with the weights of some units (K,) of a group really zero: no shortcut at all."""
        with zeroed(group, units):
            return self.forward(self.token_ids)
