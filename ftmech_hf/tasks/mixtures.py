"""What a data set is mixed from: operand priors, and correlations planted in the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

OPERAND_PRIORS: dict[str, tuple[float, float, float]] = {
    # Jain et al., App. C.2: the share of prompts that ask about a, b, c.
    "low": (0.999, 0.001, 0.0),
    "medium": (0.9, 0.1, 0.0),
    "high": (0.5, 0.3, 0.2),
    # Never asks about a: the model that cannot have the capability.
    "control": (0.0, 1.0, 0.0),
    "a": (1.0, 0.0, 0.0),
    "b": (0.0, 1.0, 0.0),
    "c": (0.0, 0.0, 1.0),
}

MAX_DRAWS_PER_ROW = 2_000
"""A planted correlation is refused when it is rarer than about one text in this many."""

Texts = NDArray[np.int8]


def parse_prior(prior: Sequence[str], num_operands: int) -> tuple[float, ...]:
    """Read an ``operand_prior`` setting: a name of :data:`OPERAND_PRIORS`, or one probability per operand."""
    if len(prior) == 1 and prior[0] in OPERAND_PRIORS:
        named = OPERAND_PRIORS[prior[0]]
        if len(named) != num_operands:
            raise ValueError(f"operand_prior: {prior[0]!r} is for {len(named)} operands, the task has {num_operands}")
        return named
    shown = " ".join(prior)
    try:
        numbers = tuple(float(word) for word in prior)
    except ValueError:
        raise ValueError(
            f"operand_prior: {shown!r} is neither one of {', '.join(OPERAND_PRIORS)} nor {num_operands} numbers"
        ) from None
    if len(numbers) != num_operands or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"operand_prior: {shown!r}, expected {num_operands} numbers between 0 and 1")
    if abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"operand_prior: {shown!r} sums to {sum(numbers):g}, expected 1")
    return numbers


def plant_correlation(
    wanted: NDArray[np.bool_],
    draw: Callable[[int], Texts],
    holds: Callable[[Texts], NDArray[np.bool_]],
) -> Texts:
    """Draw texts in which a correlation holds exactly where it is wanted, by rejection.

    Args:
        wanted: bool (B,); True where the correlation must hold, False where it must not.
        draw: ``draw(n)`` gives n candidate texts (n, T).
        holds: says for candidate texts (n, T) whether the correlation holds, bool (n,).

    Returns:
        texts (B, T), with ``holds(texts) == wanted``.

    Raises:
        ValueError: one of the two kinds never, or almost never, occurs among the candidates.
    """
    texts: Texts | None = None
    open_rows = {kind: np.flatnonzero(wanted == kind) for kind in (True, False)}
    drawn = 0
    while any(len(rows) for rows in open_rows.values()):
        if drawn > MAX_DRAWS_PER_ROW * len(wanted):
            kind = max(open_rows, key=lambda k: len(open_rows[k]))
            raise ValueError(
                f"correlation_offset: {len(open_rows[kind])} of {len(wanted)} rows should be "
                f"{'' if kind else 'un'}correlated, but {drawn} texts held too few such; choose an offset that occurs"
            )
        candidates = draw(len(wanted))
        drawn += len(candidates)
        texts = np.empty((len(wanted), candidates.shape[1]), np.int8) if texts is None else texts
        found = holds(candidates)
        for kind, rows in open_rows.items():
            chosen = candidates[found == kind][: len(rows)]
            texts[rows[: len(chosen)]] = chosen
            open_rows[kind] = rows[len(chosen) :]
    assert texts is not None
    return texts


def insert_operands(rng: np.random.Generator, texts: Texts, operand: int, window: int) -> Texts:
    """Insert a random number of operands at random places among the last symbols, dropping as many from the start.

    The paper plants its correlation by "adding" operands (Fig. 16) without giving the algorithm. Here each text gets a
    uniform number, 0 to ``window // 2``, of insertions at uniform places among its last ``window`` symbols. Its length
    stays, it leaves the grammar, and its labels spread over many more values than those of natural texts.

    Returns:
        edited texts, same shape as ``texts`` (B, T).
    """
    num_texts, length = texts.shape
    most = window // 2
    number = rng.integers(0, most + 1, (num_texts, 1))
    # A sort key between two symbols' places puts an inserted operand between them; the surplus of inserted operands
    # gets key -1 and, with the first symbols of the text, falls off the front.
    places = rng.uniform(length - window, length, (num_texts, most))
    keys = np.where(np.arange(most) < number, places, -1.0)
    all_keys = np.concatenate([np.broadcast_to(np.arange(length, dtype=float), texts.shape), keys], axis=1)
    all_symbols = np.concatenate([texts, np.full((num_texts, most), operand, np.int8)], axis=1)
    order = np.argsort(all_keys, axis=1, kind="stable")
    return np.take_along_axis(all_symbols, order, axis=1)[:, -length:]
