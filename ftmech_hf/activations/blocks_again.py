"""The blocks of a model run again, from any of them on: copies of rows whose stream was changed there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from accelerate.utils import recursively_apply
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.agreement import same_logits
from ftmech_hf.activations.calls import adding_at, answer_position, last_query, replaced
from ftmech_hf.activations.proofs import first_tensor
from ftmech_hf.activations.whole_pass import WholePass


class BlocksAgain(WholePass):
    """One batch of rows, run through the model from any block on: blocks are called as the model called them.

    Args:
        model, token_ids: as of :class:`WholePass`.

    Attributes:
        answers_last: whether the model answers at the last position.
        answer: where it answers, as a slice of positions.
        trims_last_block: whether the last block may be run where the answer is alone.

    Raises:
        ValueError: rows too short to be answered, or a model whose blocks one after the other do not give its logits.
    """

    def __init__(self, model: PreTrainedModel, token_ids: Tensor) -> None:
        last = token_ids.shape[1] - 1
        found = answer_position(model)
        at = last if found is None else found
        if at > last:
            raise ValueError(f"token_ids: rows of {last + 1} tokens, expected more: the model answers at position {at}")
        self.answers_last = at == last
        self.answer = slice(-1, None) if self.answers_last else slice(at, at + 1)
        super().__init__(model, token_ids)
        last = len(self.blocks) - 1
        self.trims_last_block = False
        if not self.agrees(lambda: self.left_by(0, self.before[0].repeat(2, 1, 1)), self.logits.repeat(2, 1)):
            kind = model.config.model_type
            raise ValueError(f"model: the blocks of {kind}, run one after the other, do not give its logits")
        self.trims_last_block = bool(self.layout.layers[last].attention_out)
        self.trims_last_block = self.trims_last_block and self.agrees(
            lambda: self.left_by(last, self.before[last]), self.logits
        )

    def agrees(self, shortcut: Callable[[], Tensor], expected: Tensor) -> bool:
        """Whether what a shortcut leaves gives the logits that it should; one that fails to run does not."""
        try:
            return same_logits(self.model, self.read(shortcut()), expected)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False

    def left_by(self, layer: int, stream: Tensor) -> Tensor:
        """What the last block leaves where the answer is (R, 1, D), if a stream (R, T, D) enters a block.

        R is a multiple of the number of rows. Behind the last block it is the stream itself.
        """
        for number in range(layer, len(self.blocks)):
            stream = self.run_block(number, stream)
        return stream if stream.shape[1] == 1 else stream[:, self.answer]

    def read(self, stream: Tensor) -> Tensor:
        """Logits (R, V) of what the last block leaves where the answer is."""
        length = 1 if self.answers_last else self.token_ids.shape[1]
        stream = stream.expand(-1, length, -1)
        with contextlib.ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                stack.enter_context(replaced(block, stream if number == 0 else None, self.returned))
            return self.forward(self.token_ids[:, -length:].repeat(len(stream) // len(self.token_ids), 1))

    def run_block(self, number: int, stream: Tensor) -> Tensor:
        """The stream leaving a block; if that is the last and trimmed, where the answer is alone."""
        block, copies = self.blocks[number], len(stream) // len(self.token_ids)
        per_row = iter(self.per_row[number])

        def repeated(value: Tensor) -> Tensor:
            return value.repeat(copies, *[1] * (value.ndim - 1)) if next(per_row) else value

        args, kwargs = recursively_apply(repeated, self.given[number])
        with contextlib.ExitStack() as stack:
            if self.trims_last_block and number + 1 == len(self.blocks):
                # The block adds to one position of the stream, and its attention reads all of them.
                assert self.first_part is not None
                whole, stream = stream, stream[:, self.answer]
                reader = block.get_submodule(self.layout.layers[number].attention_out)
                stack.enter_context(adding_at(self.first_part, reader, lambda: whole, self.answer))
                if self.answers_last:
                    stack.enter_context(last_query(self.model))
            output = block(stream, *args, **kwargs)
        left = first_tensor(output)
        assert left is not None
        return left
