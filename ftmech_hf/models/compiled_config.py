"""The shape of a compiled program, without what runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from transformers.configuration_utils import PretrainedConfig


class CompiledConfig(PretrainedConfig):
    """Shape of a compiled program.

    Args:
        vocab_size: words, of inputs and outputs together.
        hidden_size: directions of the stream.
        num_hidden_layers, num_attention_heads: blocks, and heads of each.
        key_size: of a head's queries, keys and values.
        intermediate_size: MLP neurons of each block.
        max_position_embeddings: longest row, with ``<bos>``.
        causal: whether a position sees only itself and those before it.
        residual_names: a name for every direction of the stream, such as ``count:3``.
        output_directions: which of them are the program's output.
        output_ids: the word that each output direction stands for; empty if the output is a number.
        answer_position: where a program that answers once per row does so; None if every position has an output.
        program: what was compiled.
    """

    model_type = "compiled_program"
    brings: ClassVar[list[Callable[[], object]]] = []
    """Called when a config is made: who has one may ask an auto class for its model, which must be known by then."""

    def __init__(
        self,
        vocab_size: int = 16,
        hidden_size: int = 8,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        key_size: int = 4,
        intermediate_size: int = 4,
        max_position_embeddings: int = 8,
        causal: bool = False,
        residual_names: list[str] | None = None,
        output_directions: list[int] | None = None,
        output_ids: list[int] | None = None,
        answer_position: int | None = None,
        program: str = "",
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.key_size, self.intermediate_size = key_size, intermediate_size
        self.max_position_embeddings, self.causal = max_position_embeddings, causal
        self.residual_names = list(residual_names or [])
        self.output_directions, self.output_ids = list(output_directions or []), list(output_ids or [])
        self.answer_position, self.program = answer_position, program
        for bring in self.brings:
            bring()
        super().__init__(**{"tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, **kwargs})
