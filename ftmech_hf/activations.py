"""The door to nnsight: named sites to read and write in any supported causal language model.

Sites (l is a 0-based layer):

- ``resid_pre``: the stream entering block l, (B, T, D); for l = 0 the embedding's output.
- ``resid_post``: the stream leaving block l, (B, T, D); ``hidden_states[l + 1]`` for all but the last block, where HF
  applies the final norm first.
- ``mlp_act``: what the MLP's last matrix reads, (B, T, N): one value per MLP neuron.
- ``attn_out``: the attention's output before it is added to the stream, (B, T, D).
- ``attn_pattern``: attention weights, (B, H, T, T); the model must be loaded with ``attn_implementation="eager"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import nnsight
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

SITES = ("resid_pre", "resid_post", "mlp_act", "attn_out", "attn_pattern")


class Layout(NamedTuple):
    """Where a model family keeps its parts: paths from the model to the blocks, and from a block on."""

    blocks: str
    attention: str
    mlp_down: str


LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout("transformer.h", "attn", "mlp.c_proj"),
    "llama": Layout("model.layers", "self_attn", "mlp.down_proj"),
}


def model_blocks(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    """The model's blocks with their names, first to last.

    Raises:
        ValueError: the architecture has no entry in :data:`LAYOUTS`.
    """
    if model.config.model_type not in LAYOUTS:
        raise ValueError(
            f"model: architecture {model.config.model_type!r} is not supported, expected one of {', '.join(LAYOUTS)}"
        )
    path = LAYOUTS[model.config.model_type].blocks
    blocks = model.get_submodule(path)
    return [(f"{path}.{name}", block) for name, block in blocks.named_children()]


class TracedModel:
    """A causal LM with named sites. Opening it runs one tiny forward pass and checks that the sites are what they say.

    Args:
        model: a model whose architecture is in :data:`LAYOUTS`; it is put into evaluation mode, its weights are shared.

    Raises:
        ValueError: unknown architecture, or a site that is missing or has an unexpected type or shape.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.num_layers = len(model_blocks(model))
        self.layout = LAYOUTS[model.config.model_type]
        self.model = model.eval()
        self.has_patterns = model.config._attn_implementation == "eager"
        self._traced = nnsight.NNsight(model)
        blocks = self._traced.get(self.layout.blocks)
        self._blocks: list[Any] = [blocks[layer] for layer in range(self.num_layers)]
        self._check()
        self.num_neurons = int(self._collect(self._probe_input(), ["mlp_act"], [0])["mlp_act", 0].shape[-1])

    def _probe_input(self) -> Tensor:
        # Any token but padding, about which transformers would warn.
        token = 1 if self.model.config.pad_token_id == 0 else 0
        return torch.full((2, 3), token, device=self.model.device)

    def _part(self, layer: int, path: str) -> Any:
        return self._blocks[layer].get(path)

    def _check(self) -> None:
        token_ids = self._probe_input()
        try:
            found = self._collect(token_ids, ["resid_pre", "mlp_act", "attn_out", "resid_post"], range(self.num_layers))
        except (AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"model: {self.model.config.model_type} lacks an expected site: {error}") from error
        with torch.no_grad():
            expected = self.model(token_ids, output_hidden_states=True, use_cache=False).hidden_states
        for layer in range(self.num_layers):
            reference = [("resid_pre", expected[layer])]
            if layer + 1 < self.num_layers:
                reference.append(("resid_post", expected[layer + 1]))
            for site, value in reference:
                if not torch.equal(found[site, layer], value):
                    raise ValueError(f"model: {site} of layer {layer} is not the model's hidden state")
            if found["attn_out", layer].shape != expected[layer].shape:
                raise ValueError(f"model: attn_out of layer {layer} is {tuple(found['attn_out', layer].shape)}")

    def _collect(self, token_ids: Tensor, sites: Sequence[str], layers: Sequence[int]) -> dict[tuple[str, int], Tensor]:
        """Whole activations of one batch. Within a block, sites are read in the order in which they are computed."""
        last = max(layers)
        with torch.no_grad(), self._traced.trace(input_ids=token_ids, use_cache=False) as tracer:
            found = nnsight.save({})
            for layer in sorted(layers):
                if "resid_pre" in sites:
                    found["resid_pre", layer] = self._blocks[layer].input
                if "attn_out" in sites or "attn_pattern" in sites:
                    output = self._part(layer, self.layout.attention).output
                    if "attn_out" in sites:
                        found["attn_out", layer] = output[0]
                    if "attn_pattern" in sites:
                        found["attn_pattern", layer] = output[1]
                if "mlp_act" in sites:
                    found["mlp_act", layer] = self._part(layer, self.layout.mlp_down).input
                if "resid_post" in sites:
                    found["resid_post", layer] = self._blocks[layer].output
                if layer == last:
                    tracer.stop()  # later blocks need not be computed
        return dict(found)

    def collect(
        self,
        token_ids: Tensor,
        sites: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        position: int = -1,
        batch_size: int = 128,
    ) -> dict[tuple[str, int], Tensor]:
        """Activations at one position of many rows.

        Args:
            token_ids: rows without padding, (B, T).
            sites: some of :data:`SITES`.
            layers: which layers; all if None.
            position: which token; for ``attn_pattern`` the querying token.
            batch_size: rows of one forward pass.

        Returns:
            (site, layer) -> float32 on the CPU: (B, D), (B, N) or, for ``attn_pattern``, (B, H, T).
        """
        for site in sites:
            if site not in SITES:
                raise ValueError(f"sites: unknown {site!r}, expected some of {', '.join(SITES)}")
        if "attn_pattern" in sites and not self.has_patterns:
            raise ValueError('sites: attn_pattern needs a model loaded with attn_implementation="eager"')
        chosen = list(range(self.num_layers)) if layers is None else list(layers)
        if not chosen or not all(0 <= layer < self.num_layers for layer in chosen):
            raise ValueError(f"layers: {chosen}, expected some of 0 to {self.num_layers - 1}")
        parts: dict[tuple[str, int], list[Tensor]] = {}
        for rows in token_ids.split(batch_size):
            for key, value in self._collect(rows.to(self.model.device), sites, chosen).items():
                # A copy: a view of one position would keep all positions in memory.
                at_position = value[..., position, :].to("cpu", torch.float32, copy=True)
                parts.setdefault(key, []).append(at_position)
        return {key: torch.cat(values) for key, values in parts.items()}

    def masked_logits(self, token_ids: Tensor, mlp_mask: Tensor) -> Tensor:
        """Logits (B, V) after the last token of rows (B, T), with MLP activations multiplied by ``mlp_mask`` (L, N).

        Differentiable in ``mlp_mask``; the activation of every position is multiplied.
        """
        if mlp_mask.shape != (self.num_layers, self.num_neurons):
            raise ValueError(f"mlp_mask: {tuple(mlp_mask.shape)}, expected {(self.num_layers, self.num_neurons)}")
        mask = mlp_mask.to(self.model.device, self.model.dtype)
        with self._traced.trace(input_ids=token_ids, use_cache=False, logits_to_keep=1):
            for layer in range(self.num_layers):
                down = self._part(layer, self.layout.mlp_down)
                down.input = down.input * mask[layer]
            logits = self._traced.output.logits.save()
        kept: Tensor = logits[:, -1].float()
        return kept

    def masked_accuracy(self, token_ids: Tensor, mlp_mask: Tensor, *, batch_size: int = 128) -> float:
        """Accuracy of the answers, the last token but one of rows (B, T), under a mask over MLP activations."""
        with torch.no_grad():
            right = [
                int((self.masked_logits(rows[:, :-2], mlp_mask).argmax(-1) == rows[:, -2]).sum())
                for rows in self._batches(token_ids, batch_size)
            ]
        return sum(right) / len(token_ids)

    def activation_importance(self, token_ids: Tensor, *, batch_size: int = 64) -> Tensor:
        """First-order fall of the answers' mean loss when an MLP activation is zeroed everywhere, nats, (L, N).

        This is gradient x activation, summed over positions: the derivative of the loss with respect to the mask, at 1.
        """
        importance = torch.zeros((self.num_layers, self.num_neurons))
        for rows in self._batches(token_ids, batch_size):
            mask = torch.ones_like(importance, requires_grad=True)
            loss = F.cross_entropy(self.masked_logits(rows[:, :-2], mask), rows[:, -2], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, mask)
            importance += gradient / len(token_ids)
        return importance

    def _batches(self, token_ids: Tensor, batch_size: int) -> Iterator[Tensor]:
        return (rows.to(self.model.device) for rows in token_ids.split(batch_size))
