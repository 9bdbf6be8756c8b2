"""What a model makes of any stream behind its last block, by its own last norm and unembedding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.agreement import same_logits
from ftmech_hf.activations.calls import answer_position, last_streams, replaced
from ftmech_hf.activations.layout import model_blocks
from ftmech_hf.activations.proofs import run_settings
from ftmech_hf.models.prompt_learning import nothing_in_front

Read = Callable[[Tensor], Tensor]
"""A stream (B, D) -> the logits that a model makes of it, (B, V)."""


class NoLensError(ValueError):
    """A model makes its logits of more than the stream behind its last block, so that no stream can be read alone."""


@contextlib.contextmanager
def streams_read(model: PreTrainedModel, token_ids: Tensor) -> Iterator[tuple[list[Tensor], Read]]:
    """While open, the streams of rows behind every block, and what reads any stream as if it were the last block's.

    Blocks are run once, and none to read a stream.

    Args:
        model: any causal LM.
        token_ids: rows (B, T), read where they are answered.

    Raises:
        NoLensError: what is read of the last block's stream are not the model's logits, on these rows.
    """
    streams, returned, logits = last_streams(model, token_ids)
    with _tail_alone(model, returned) as read:
        if not _gives(model, read, streams[-1], logits):
            kind = model.config.model_type
            raise NoLensError(
                f"model: the stream behind the last block of {kind}, read alone, does not give its logits, as a logit "
                "lens expects"
            )
        yield streams, read


def _gives(model: PreTrainedModel, read: Read, stream: Tensor, logits: Tensor) -> bool:
    with torch.no_grad():
        try:
            return same_logits(model, read(stream), logits)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False


@contextlib.contextmanager
def _tail_alone(model: PreTrainedModel, returned: Sequence[Any]) -> Iterator[Read]:
    """While open, reads a stream without a block; every row is as long as it must be to be answered, as a rule 1 token.

    What each block returned once says in which form it must return.
    """
    blocks = [block for _, block in model_blocks(model)]
    tokens = torch.zeros(1, (answer_position(model) or 0) + 1, dtype=torch.long, device=model.device)

    def read(stream: Tensor) -> Tensor:
        everywhere = stream[:, None].expand(-1, tokens.shape[1], -1)
        with replaced(blocks[-1], everywhere, returned[-1]):
            settings = run_settings(model, logits_to_keep=1)
            logits: Tensor = model(tokens.expand(len(stream), -1), **settings).logits
        return logits[:, -1].float()

    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_in_front(model))
        for block, form in zip(blocks[:-1], returned[:-1], strict=True):
            stack.enter_context(replaced(block, None, form))
        yield read
