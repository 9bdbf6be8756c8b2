"""The door to nnsight: named sites to read and write in any causal language model.

What each site is stands in :mod:`ftmech_hf.activations.sites`. That it is this is shown on tensors when the door opens,
in every block; see :mod:`ftmech_hf.activations.proofs`. A site for which it cannot be shown is refused with the reason
when it is requested, and the others can be used. A site may be there in some layers alone; those can be asked for.

A model that peft has put adapters into is opened as it computes, adapters and all, without merging them.

The same reading runs on NDIF: what :meth:`TracedModel.collect` does there is ``with lm.trace(prompts, remote=True):``
around ``lm.get(f"{layout.blocks}.{layer}").output.save()``, with ``layout`` of a small model. It is not tested here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.interventions import Write, intervene
from ftmech_hf.activations.layout import check_layout, find_layout, inside_peft, say_layers
from ftmech_hf.activations.matrices import num_inputs
from ftmech_hf.activations.patterns import patterns_at_once, why_no_patterns
from ftmech_hf.activations.positions import taken_at, token_places
from ftmech_hf.activations.proofs import (
    padding_tolerance,
    probe_tokens,
    run,
    text_config,
    within_context,
)
from ftmech_hf.activations.row_lengths import padding_limit
from ftmech_hf.activations.sites import SITES, SiteReader
from ftmech_hf.activations.store import ActivationStore, StoreWriter
from ftmech_hf.models.causality import check_causal
from ftmech_hf.models.loading import check_has_weights
from ftmech_hf.models.prompt_learning import nothing_in_front


class TracedModel:
    """A causal LM with named sites, shown to be what they say when it is opened.

    Opening runs at most thirteen forward passes of short rows: two of a few dozen rows of four tokens, in which every
    part of every block is written into, and the others of one or two rows.

    Args:
        model: any causal LM, or a ``PeftModel`` of one; it is put into evaluation mode, its weights are shared.

    Attributes:
        num_layers, num_neurons: blocks, and MLP neurons of each; no neurons where ``mlp_act`` is refused.
        sites: the sites that can be read in every layer; of others see :meth:`layers_of`.
        refused: site -> why it cannot be read in every layer.
        reader: what reads them, one batch at a time.
        refuses_padding: why padded rows would give wrong activations; empty if they do not.

    Raises:
        ValueError: it is no model of transformers but something that wraps one, it does not run, its blocks are not
            found, their stream is not its hidden states, or what it says depends on tokens to come.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        model = inside_peft(model)
        if not issubclass(type(model), PreTrainedModel):  # torch.compile makes something that passes for an instance
            raise ValueError(f"model: {type(model).__name__}, expected a model of transformers, as it is or from peft")
        check_has_weights(model)
        self.model = model.eval()
        self.layout = find_layout(model)
        with nothing_in_front(model):
            check_layout(model, self.layout)
            self._open(model)

    def _open(self, model: PreTrainedModel) -> None:
        self.reader = SiteReader(model, self.layout)
        self.num_layers = len(self.reader.blocks)
        self._check_stream()
        check_causal(model)
        self._without = self._find_refused()
        self.refused = {site: next(iter(reasons.values())) for site, reasons in self._without.items() if reasons}
        self.num_neurons = 0 if "mlp_act" in self.refused else next(iter(self._widths().values()))
        self.sites = tuple(site for site in SITES if site not in self.refused)
        self.refuses_padding = self._check_padding()

    def _check_stream(self) -> None:
        """Compare the stream with the model's own hidden states."""
        kind, token_ids = self.model.config.model_type, probe_tokens(self.model)
        with torch.no_grad():
            expected = getattr(run(self.model, token_ids, output_hidden_states=True), "hidden_states", None)
        if expected is None or len(expected) <= self.num_layers:
            raise ValueError(f"model: {kind} gives no hidden states to compare its blocks' stream with")
        inputs = {"input_ids": token_ids, **within_context(self.model, token_ids)}
        found = self.reader.read(inputs, ["resid_pre", "resid_post"], range(self.num_layers))
        for (site, layer), stream in found.items():
            number = layer + (site == "resid_post")
            value = expected[number].to(stream.device)  # of a split model all hidden states are on the first device
            if number < self.num_layers and (stream.shape != value.shape or not torch.equal(stream, value)):
                raise ValueError(f"model: {site} of layer {layer} of {kind} is not the model's hidden state")

    def _widths(self) -> dict[int, int]:
        """MLP neurons of every block that has them."""
        return {
            layer: num_inputs(self.reader.modules[layer].get_submodule(self.layout.layers[layer].mlp_down))
            for layer in self.layout.layers_of("mlp_act")
        }

    def _find_refused(self) -> dict[str, dict[int, str]]:
        """Site -> layer -> why it cannot be read there."""
        refused = {
            site: {
                layer: block.refused[site] for layer, block in enumerate(self.layout.layers) if site in block.refused
            }
            for site in SITES
        }
        if len(set(widths := list(self._widths().values()))) > 1:
            reason = f"blocks have {min(widths)} to {max(widths)} neurons, expected as many in each"
            refused["mlp_act"] = dict.fromkeys(range(self.num_layers), reason)
        refused["attn_pattern"] = why_no_patterns(self.model, self.layout)
        return refused

    def layers_of(self, site: str) -> list[int]:
        """The layers that a site can be read in, 0-based."""
        return [layer for layer in range(self.num_layers) if layer not in self._without[site]]

    def _check_padding(self) -> str:
        """Compare a row alone with the same row padded, on either side."""
        alone = probe_tokens(self.model, 3)[:, : getattr(text_config(self.model), "max_position_embeddings", None)]
        if too_long := self._too_long(alone.shape[1] + 2):
            return too_long
        values = self._read_all({"input_ids": alone})
        pad = torch.zeros_like(alone[:, :2])
        real = torch.ones_like(alone)
        for side, ids, mask, kept in (
            ("left", [pad, alone], [pad, real], slice(2, None)),
            ("right", [alone, pad], [real, pad], slice(0, -2)),
        ):
            padded = self._read_all(self.reader.inputs(torch.cat(ids, dim=1), torch.cat(mask, dim=1)))
            for key, value in values.items():
                if not (padded[key][:, kept] - value).norm() <= padding_tolerance(self.model) * value.norm():  # or nan
                    why = "" if self.reader.takes_position_ids else ": it takes no position_ids"
                    return f"{self.model.config.model_type} gives other activations to a row padded on the {side}{why}"
        return ""

    def _too_long(self, tokens: int) -> str:
        """Why rows of so many tokens cannot be padded, whatever a trial of short ones says; empty if they can."""
        limit = padding_limit(self.model)
        return f"{self.model.config.model_type} {limit.reason}" if limit and tokens > limit.tokens else ""

    def _read_all(self, inputs: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
        """Every site but patterns wherever it is, of one batch."""
        return self.reader.read_each(
            inputs, [(site, layer) for site in SITES if site != "attn_pattern" for layer in self.layers_of(site)]
        )

    def collect(
        self,
        token_ids: Tensor,
        sites: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        positions: int | Sequence[int] = -1,
        attention_mask: Tensor | None = None,
        batch_size: int = 256,
    ) -> dict[tuple[str, int], Tensor]:
        """Activations of many rows.

        Args:
            token_ids: rows, (B, T).
            sites: some of :data:`SITES`.
            layers: which layers, all of which must have all the sites; every layer if None.
            positions: which tokens; for ``attn_pattern`` the querying ones. Under a mask they count real tokens only:
                -1 is the last real token, 0 the first, whichever side is padded.
            attention_mask: 1 for real tokens and 0 for padding, (B, T); None if there is none.
            batch_size: rows of one forward pass; fewer long ones where patterns are read.

        Returns:
            (site, layer) -> float32 on the CPU: (B, D) or (B, N) for one position, (B, P, D) or (B, P, N) for several;
            for ``attn_pattern`` (B, H, T) or (B, H, P, T).

        Raises:
            ValueError: an unknown site, layer or position, no rows, or a mask where the model cannot be padded.

        While :meth:`intervene` is open, what a part gives (``resid_post``, ``attn_out``, ``router``, ``expert_act``) is
        read as it was before the write, and what a part is given as it is after it.
        """
        parts: dict[tuple[str, int], list[Tensor]] = {}
        for key, value in self._stream(token_ids, sites, layers, positions, attention_mask, batch_size):
            parts.setdefault(key, []).append(value)
        return {key: torch.cat(values) for key, values in parts.items()}

    def collect_to(
        self,
        folder: str | Path,
        token_ids: Tensor,
        sites: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        positions: int | Sequence[int] = -1,
        attention_mask: Tensor | None = None,
        batch_size: int = 64,
        model_hash: str = "",
    ) -> ActivationStore:
        """:meth:`collect` onto disk, with one batch in memory at a time.

        Args:
            folder: of the store, which must not exist.
            token_ids, sites, layers, positions, attention_mask, batch_size: as for :meth:`collect`, without
                ``attn_pattern``.
            model_hash: kept with the activations, to say whose they are.

        Raises:
            ValueError: as for :meth:`collect`; ``attn_pattern``; or the folder exists.
        """
        if "attn_pattern" in sites:
            raise ValueError("sites: attn_pattern is not stored; its length is a row's")
        several = [positions] if isinstance(positions, int) else list(positions)
        facts = {
            "sites": list(sites),
            "layers": self._chosen(layers),
            "positions": several,
            "model": model_hash,
        }
        read = self._stream(token_ids, sites, layers, several, attention_mask, batch_size)
        with StoreWriter(folder, len(token_ids), facts) as writer:
            for key, value in read:
                writer.append(key, value.numpy())
            return writer.close()

    def intervene(self, writes: Mapping[tuple[str, int], Write | Tensor]) -> contextlib.AbstractContextManager[None]:
        """See :func:`ftmech_hf.activations.interventions.intervene`."""
        return intervene(self.model, writes)

    def _chosen(self, layers: Sequence[int] | None) -> list[int]:
        chosen = list(range(self.num_layers)) if layers is None else list(layers)
        if not chosen or not all(0 <= layer < self.num_layers for layer in chosen):
            raise ValueError(f"layers: {chosen}, expected some of 0 to {self.num_layers - 1}")
        return chosen

    def _check_sites(self, sites: Sequence[str], layers: Sequence[int]) -> None:
        if not sites:
            raise ValueError(f"sites: none, expected some of {', '.join(SITES)}")
        for site in sites:
            if site not in SITES:
                raise ValueError(f"sites: unknown {site!r}, expected some of {', '.join(SITES)}")
            if missing := [layer for layer in layers if layer in self._without[site]]:
                others = say_layers(self.layers_of(site))
                raise ValueError(f"sites: {site} {self._without[site][missing[0]]}{others}")

    def _stream(
        self,
        token_ids: Tensor,
        sites: Sequence[str],
        layers: Sequence[int] | None,
        positions: int | Sequence[int],
        attention_mask: Tensor | None,
        batch_size: int,
    ) -> Iterator[tuple[tuple[str, int], Tensor]]:
        """What is read, batch by batch; what is wrong with the arguments is said at once."""
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size}, expected at least 1")
        if not len(token_ids):
            raise ValueError("token_ids: of no rows, expected at least one")
        if "attn_pattern" in sites:
            batch_size = patterns_at_once(self.model, token_ids.shape[-1], batch_size)
        chosen = self._chosen(layers)
        self._check_sites(sites, chosen)
        if attention_mask is not None and (why := self.refuses_padding or self._too_long(token_ids.shape[-1])):
            raise ValueError(f"attention_mask: {why}")
        wanted = [positions] if isinstance(positions, int) else list(positions)
        if not wanted:
            raise ValueError("positions: none, expected at least one")
        places = token_places(torch.tensor(wanted, device=token_ids.device), token_ids, attention_mask)

        def read() -> Iterator[tuple[tuple[str, int], Tensor]]:
            for start in range(0, len(token_ids), batch_size):
                rows = slice(start, start + batch_size)
                mask = None if attention_mask is None else attention_mask[rows]
                take = functools.partial(taken_at, places[rows], token_ids.shape[1])
                inputs = self.reader.inputs(token_ids[rows], mask)
                for key, value in self.reader.read(inputs, sites, chosen, take).items():
                    taken = value.to("cpu", torch.float32)
                    yield key, taken.squeeze(-2) if isinstance(positions, int) else taken

        return read()

    def masked_logits(self, token_ids: Tensor, mlp_mask: Tensor) -> Tensor:
        """Logits (B, V) after the last token of rows (B, T), with MLP activations multiplied by ``mlp_mask`` (L, N).

        Differentiable in ``mlp_mask``; the activation of every position is multiplied.

        Raises:
            ValueError: the model has no ``mlp_act``, or the mask is of another shape.
        """
        if "mlp_act" in self.refused:
            raise ValueError(f"sites: mlp_act {self.refused['mlp_act']}")
        if mlp_mask.shape != (self.num_layers, self.num_neurons):
            raise ValueError(f"mlp_mask: {tuple(mlp_mask.shape)}, expected {(self.num_layers, self.num_neurons)}")
        return self.reader.masked_logits(token_ids, mlp_mask.to(self.model.device, self.model.dtype))
