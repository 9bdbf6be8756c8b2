"""Named sites of a model's blocks, and their values in one forward pass, read through nnsight.

Sites (l is a 0-based layer):

- ``resid_pre``: the stream entering block l, (B, T, D); for l = 0 the embedding's output.
- ``resid_post``: the stream leaving block l, (B, T, D); ``hidden_states[l + 1]`` for all but the last block, where HF
  applies the final norm first.
- ``mlp_act``: what the MLP's last matrix reads, (B, T, N): one value per MLP neuron.
- ``head_out``: what the attention's last matrix reads, the heads' outputs side by side, (B, T, H x width of a head).
- ``attn_out``: what the stream receives from the attention, (B, T, D): the stream that the MLP reads is the one
  entering the block plus this. Where a norm stands between the attention and the stream (Gemma 2 and 3, OLMo 2, GLM-4)
  it is the norm's output, where the attention's output is multiplied by a constant (Granite) it is the product, and
  where the attention adds the stream by itself (BLOOM) it is what is added. Where the stream is normalised afterwards
  (OPT-350m, GPT-1, BERT) it is what is added before the norm.
- ``attn_pattern``: attention weights, (B, H, T, T); the model must be loaded with ``attn_implementation="eager"``.

Where tokens are sent to experts (E of them, each of I neurons):

- ``router``: what each expert's output is multiplied by before all are added, (B, T, E); 0 for those that a token is
  not sent to.
- ``expert_act``: what each expert's last matrix reads, side by side, (B, T, E x I); 0 likewise.
- ``shared_act``: the same of the one expert that every token passes beside those, (B, T, N).

A model may have a site in some blocks only, as hybrids of attention and other layers do.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ftmech_hf.activations.experts import ROUTED_SITES, count_experts, keep_routed, spread
from ftmech_hf.activations.layout import Layout, model_blocks
from ftmech_hf.activations.proofs import first_tensor, run_settings
from ftmech_hf.config import leave_garbage
from ftmech_hf.models.forward import forward_parameters

with leave_garbage():
    import nnsight

Take = Callable[[str, Tensor], Tensor]


@contextlib.contextmanager
def plain_objects() -> Iterator[None]:
    """While open, objects have no ``save`` that is nnsight's: it gives one to every object of the process.

    What looks at all attributes of its classes when it is imported, as anyio does, has to be imported in here.
    """
    from nnsight._c import mount, unmount

    mounted = unmount is not None and hasattr(object, "save")
    if mounted:
        unmount("save")
    try:
        yield
    finally:
        if mounted:
            mount(nnsight.save, "save")


SITES = (
    "resid_pre", "resid_post", "mlp_act", "head_out", "attn_out", "attn_pattern", *ROUTED_SITES, "shared_act",
)  # fmt: skip
EXPERT_SITES = (*ROUTED_SITES, "shared_act")
"""Those of them that only blocks with experts have."""


class SiteReader:
    """Reads the sites of one model, a batch at a time; that they are what they say is up to the caller to show.

    Args:
        model: any causal LM.
        layout: where its parts are.

    Attributes:
        modules: the model's blocks.
        blocks: the same as nnsight shows them inside a trace of ``traced``.
        takes_position_ids: whether the model is told positions; if not, it counts padding too.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self.modules = [block for _, block in model_blocks(model)]
        self.takes_position_ids = "position_ids" in forward_parameters(model)
        with warnings.catch_warnings():
            # Parts with a name of nnsight's own, such as "output", have another one there: they are looked up by
            # identity, not by their path.
            warnings.filterwarnings("ignore", "Module .* has a submodule named", UserWarning)
            self.traced = nnsight.NNsight(model)
        self._envoys = {id(envoy._module): envoy for envoy in self.traced.modules()}
        self.blocks: list[Any] = [self._envoys[id(block)] for block in self.modules]

    def _part(self, layer: int, path: str) -> Any:
        return self._envoys[id(self.modules[layer].get_submodule(path))]

    def inputs(self, token_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
        """What the model is called with for rows (B, T); positions count real tokens only."""
        device = self.model.device
        if attention_mask is None:
            return {"input_ids": token_ids.to(device)}
        inputs = {"input_ids": token_ids.to(device), "attention_mask": attention_mask.to(device)}
        if self.takes_position_ids:
            inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        return inputs

    def read(
        self, inputs: Mapping[str, Tensor], sites: Sequence[str], layers: Sequence[int], take: Take | None = None
    ) -> dict[tuple[str, int], Tensor]:
        """Activations of one batch, (site, layer) -> value, on the model's device and in its type of number.

        Within a block, sites are read in the order in which they are computed.

        Args:
            inputs: what the model is called with, of :meth:`inputs`.
            sites: some of :data:`SITES`, none of which the layout refuses.
            layers: 0-based, in any order; blocks behind the last of them are not run. All of them have all sites.
            take: (site, whole value) -> a copy of what is wanted of it, so that no whole value outlives its block; all
                if not given.
        """
        return self.read_each(inputs, [(site, layer) for layer in sorted(layers) for site in sites], take)

    def read_each(
        self, inputs: Mapping[str, Tensor], places: Sequence[tuple[str, int]], take: Take | None = None
    ) -> dict[tuple[str, int], Tensor]:
        """:meth:`read` of certain sites of certain layers."""
        take = take or (lambda site, value: value.clone())
        layers = sorted({layer for _, layer in places})
        sites_of = {layer: [site for site, at in places if at == layer] for layer in layers}
        last, rows = layers[-1], inputs["input_ids"].shape
        routed: dict[tuple[str, int], Tensor] = {}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for layer in layers:
                if wanted := [site for site in sites_of[layer] if site in ROUTED_SITES]:
                    stack.callback(self._keep_routed(layer, wanted, len(inputs["input_ids"]), take, routed).remove)
            with self.traced.trace(**inputs, **run_settings(self.model)) as tracer:
                found = nnsight.save({})
                for layer in layers:
                    sites = sites_of[layer]
                    if "resid_pre" in sites:
                        found["resid_pre", layer] = take(
                            "resid_pre", self.blocks[layer].input
                        )  # blocks may add in place
                    for where, path in self.layout.layers[layer].order:
                        for site in sites:
                            if self._place(site, layer) == (where, path):
                                part = self._part(layer, path)
                                value = part.input if where == "in" else part.output
                                found[site, layer] = self._value(site, layer, value, rows, take)
                    output = self.blocks[layer].output  # waits for all that the block computes
                    if "resid_post" in sites:
                        found["resid_post", layer] = take(
                            "resid_post", output[0] if isinstance(output, tuple | list) else output
                        )
                    if layer == last:
                        tracer.stop()  # later blocks need not be computed
        return {**found, **routed}

    def _place(self, site: str, layer: int) -> tuple[str, str]:
        """Which part of a block a site is read from, and whether it is what the part reads."""
        block = self.layout.layers[layer]
        return {
            "mlp_act": ("in", block.mlp_down),
            "head_out": ("in", block.attention_out),
            "attn_out": ("out", block.attention_added),
            "attn_pattern": ("out", block.attention),
            "shared_act": ("in", block.shared_down),
        }.get(site, ("", ""))

    def _value(self, site: str, layer: int, value: Any, rows: torch.Size, take: Take) -> Tensor:
        """What is wanted of a site, of what its part reads or returns."""
        if site == "attn_pattern":
            return take(site, value[1])
        first, scale = first_tensor(value), self.layout.layers[layer].attention_scale
        assert first is not None
        first = take(site, first if first.ndim > 2 else first.unflatten(0, (rows[0], -1)))
        return first * scale if site == "attn_out" and scale != 1 else first

    def _keep_routed(
        self, layer: int, sites: list[str], rows: int, take: Take, kept: dict[tuple[str, int], Tensor]
    ) -> RemovableHandle:
        """Puts what a block's experts compute among what is kept, until the handle is removed.

        Only what is wanted is spread over all experts.
        """
        experts = self.modules[layer].get_submodule(self.layout.layers[layer].experts)

        def keep(site: str, values: Tensor, chosen: Tensor) -> None:
            wanted = take(site, values.flatten(1).unflatten(0, (rows, -1)))  # (B, P, K x width)
            of = take(site, chosen.unflatten(0, (rows, -1)))
            dense = spread(wanted.unflatten(-1, (chosen.shape[1], -1)), of, count_experts(experts))
            kept[site, layer] = dense.flatten(-2)

        return keep_routed(experts, keep, sites)

    def masked_logits(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, V) after the last token of rows (B, T), with MLP activations multiplied by a mask (L, N)."""
        settings = run_settings(self.model, logits_to_keep=1)
        with self.traced.trace(input_ids=token_ids, **settings):
            for layer in range(len(self.blocks)):
                down = self._part(layer, self.layout.layers[layer].mlp_down)
                down.input = down.input * mask[layer].to(down.input.device)
            logits = self.traced.output.logits.save()
        kept: Tensor = logits[:, -1].float()
        return kept
