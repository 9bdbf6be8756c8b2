"""The most likely next token, of logits that are numbers."""

from __future__ import annotations

from torch import Tensor


def check_numbers(values: Tensor) -> None:
    """Make sure that what a model says of tokens is no nan or inf, of which a largest would be found all the same.

    Raises:
        ValueError: some are not.
    """
    if not bool(values.isfinite().all()):
        raise ValueError(
            "model: it answers with nan or inf, expected numbers; where its type of number is too small for what it "
            "computes, give it another (dtype: float32 or bfloat16)"
        )


def likeliest(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    """The token with the highest of the logits (..., V), the first of several; (...), on their device.

    Args:
        logits: on any device.
        counted: at which places it is looked at, bool (...); at all if None. What stands elsewhere may be
            anything: some models give nan to padding.

    Raises:
        ValueError: the highest is nan or infinite somewhere.
    """
    top, tokens = logits.max(-1)
    check_numbers(top if counted is None else top[counted.to(top.device)])
    return tokens
