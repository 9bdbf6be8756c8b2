"""Transformers with the architecture that tracr compiles RASP programs into, as an ordinary ``PreTrainedModel``.

No norms, ReLU, biases everywhere, attention in both directions unless ``causal``; a stream whose every direction has a
name (``config.residual_names``), some of which are the logits: there is no unembedding matrix, as in tracr, where it is
a fixed projection.

This file and that of the config import nothing else of ftmech_hf, so that they can be saved beside weights and run from
there by people who say ``trust_remote_code=True``; see :func:`ftmech_hf.jobs.compiling.save_compiled`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .compiled_config import CompiledConfig

NEVER = -1e4
"""Logit of a word that the program cannot output. Finite, so that divergences stay numbers."""


class CompiledAttention(nn.Module):
    """Softmax attention at temperature ``sqrt(key_size)``; returns (output, pattern)."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.heads, self.key_size = config.num_attention_heads, config.key_size
        inner = self.heads * self.key_size
        self.q_proj = nn.Linear(config.hidden_size, inner)
        self.k_proj = nn.Linear(config.hidden_size, inner)
        self.v_proj = nn.Linear(config.hidden_size, inner)
        self.o_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, stream: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend within rows (B, T, D); ``bias`` (B or 1, 1, T, T) is added to the scores."""

        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.heads, self.key_size)).transpose(-2, -3)

        query, key, value = split(self.q_proj(stream)), split(self.k_proj(stream)), split(self.v_proj(stream))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.key_size)
        pattern = (scores if bias is None else scores + bias).softmax(-1)
        return self.o_proj((pattern @ value).transpose(-2, -3).flatten(-2)), pattern


class CompiledMLP(nn.Module):
    """Two layers with a ReLU between them."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, stream: Tensor) -> Tensor:
        """What is added to the stream (B, T, D)."""
        return self.down_proj(self.up_proj(stream).relu())


class CompiledBlock(nn.Module):
    """Attention, then an MLP, each added to the stream."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.attn = CompiledAttention(config)
        self.mlp = CompiledMLP(config)

    def forward(self, stream: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The stream (B, T, D) after this block, and the attention pattern (B, H, T, T)."""
        attended, pattern = self.attn(stream, bias)
        stream = stream + attended
        return stream + self.mlp(stream), pattern


class CompiledModel(PreTrainedModel):
    """A compiled program. What it outputs at each position are the logits; see :meth:`forward`."""

    config_class = CompiledConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(CompiledBlock(config) for _ in range(config.num_hidden_layers))
        self._indices: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of words."""
        return self.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of words."""
        self.token_embedding = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> None:
        """There are none: output directions are logits."""
        return None

    def _output_indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(output directions, word -> its place among them, or one past the last if it is no output)."""
        if device not in self._indices:
            outputs = self.config.output_ids
            places = [
                outputs.index(word) if word in outputs else len(outputs) for word in range(self.config.vocab_size)
            ]
            chosen = torch.tensor(self.config.output_directions, device=device)
            self._indices[device] = chosen, torch.tensor(places, device=device)
        return self._indices[device]

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits (..., V) of a stream (..., D), :data:`NEVER` for what is no output; (..., 1) if it is a number."""
        directions, places = self._output_indices(stream.device)
        outputs = stream.index_select(-1, directions)
        if not self.config.output_ids:
            return outputs
        return torch.cat([outputs, torch.full_like(outputs[..., :1], NEVER)], -1).index_select(-1, places)

    def _bias(self, length: int, attention_mask: Tensor | None, stream: Tensor) -> Tensor | None:
        lowest = torch.finfo(stream.dtype).min
        bias = None
        if self.config.causal:
            bias = torch.full((length, length), lowest, device=stream.device, dtype=stream.dtype).triu(1)[None, None]
        if attention_mask is not None:
            hidden = (attention_mask[:, None, None, :] == 0).to(stream.dtype) * lowest
            bias = hidden if bias is None else (bias + hidden).clamp(min=lowest)
        return bias

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Run the program.

        Args:
            input_ids: rows (B, T) that begin with ``<bos>``.
            attention_mask: 1 for real words and 0 for padding, (B, T). tracr itself never masks padding.
            position_ids: (B, T), if they are not 0 to T - 1.
            labels: the word that each position should output, (B, T), -100 to leave one out.
            logits_to_keep: 0 for all positions. Otherwise that many, which for a program with an ``answer_position``
                end there, and for others at the last: where a user of one position's logits wants the answer.
            output_hidden_states: return the stream after the embedding and after every block.
            output_attentions: return the patterns.
            return_dict, use_cache: accepted and without effect.

        Raises:
            ValueError: labels for a program that outputs a number.
        """
        del return_dict, use_cache, kwargs
        length = input_ids.shape[-1]
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        stream = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        bias = self._bias(length, attention_mask, stream)
        streams, patterns = [stream], []
        for block in self.blocks:
            stream, *pattern = block(stream, bias)  # a block that is replaced may give the stream alone
            streams.append(stream)
            patterns += pattern
        if logits_to_keep:
            at = self.config.answer_position
            end = length if at is None else at + 1
            stream = stream[..., end - logits_to_keep : end, :]
        logits = self.unembed(stream)
        if labels is not None and not self.config.output_ids:
            raise ValueError("labels: the output of this program is a number, expected none")
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return CausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(streams) if output_hidden_states else None,
            attentions=tuple(patterns) if output_attentions else None,
        )


# Transformers' auto classes know the model from here on. A bidirectional program is no causal LM; it is under that name
# too because this is what everything that loads a model here, and many tools elsewhere, ask for.
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification):
    auto.register(CompiledConfig, CompiledModel, exist_ok=True)
