"""What a data set is mixed from: operand priors, correlations planted in the text, and changed labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

OPERAND_PRIORS: dict[str, tuple[float, float, float]] = {
    # Jain et al., App. C.2: the share of prompts that ask about a, b, c.
    "low": (0.999, 0.001, 0.0),
    "low_99": (0.99, 0.01, 0.0),
    "medium": (0.9, 0.1, 0.0),
    "medium_70": (0.7, 0.2, 0.1),
    "high": (0.5, 0.3, 0.2),
    # Never asks about a: the model that cannot have the capability.
    "control": (0.0, 1.0, 0.0),
    "a": (1.0, 0.0, 0.0),
    "b": (0.0, 1.0, 0.0),
    "c": (0.0, 0.0, 1.0),
}

MAX_DRAWS_PER_ROW = 500
"""A planted correlation is refused when one text in this many is too few for it."""

Texts = NDArray[np.int8]


def parse_prior(prior: Sequence[str], num_operands: int, *, field: str = "operand_prior") -> tuple[float, ...]:
    """Read an operand prior: a name of :data:`OPERAND_PRIORS`, or one probability per operand.

    Raises:
        ValueError: neither; names ``field``.
    """
    if len(prior) == 1 and prior[0] in OPERAND_PRIORS:
        named = OPERAND_PRIORS[prior[0]]
        if len(named) != num_operands:
            raise ValueError(f"{field}: {prior[0]!r} is for {len(named)} operands, the task has {num_operands}")
        return named
    try:
        return check_distribution([float(word) for word in prior], num_operands, field=field)
    except ValueError as error:
        if str(error).startswith(field):
            raise
        raise ValueError(
            f"{field}: {' '.join(prior)!r} is neither one of {', '.join(OPERAND_PRIORS)} nor {num_operands} numbers"
        ) from None


def check_distribution(numbers: Sequence[float], length: int, *, field: str) -> tuple[float, ...]:
    """Make sure that ``numbers`` are ``length`` probabilities with sum 1; the error names ``field``.

    Raises:
        ValueError: they are none.
    """
    shown = " ".join(map(str, numbers))
    if len(numbers) != length or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"{field}: {shown!r}, expected {length} numbers between 0 and 1")
    if abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"{field}: {shown!r} sums to {sum(numbers):g}, expected 1")
    return tuple(numbers)


def plant_correlation(
    wanted: NDArray[np.integer],
    draw: Callable[[int], Texts],
    cell_of: Callable[[Texts], NDArray[np.integer]],
    describe: Callable[[int], str] = str,
) -> Texts:
    """Draw texts of wanted kinds by rejection.

    Given its kind, a text keeps the distribution it has under ``draw``.

    Args:
        wanted: the cell that each text should fall into, int (B,); for a bare correlation 1 where it must hold and 0
            where it must not.
        draw: ``draw(n)`` gives n candidate texts (n, T).
        cell_of: the cells of candidate texts (n, T), int (n,).
        describe: words for a cell, for the error.

    Returns:
        texts (B, T), with ``cell_of(texts) == wanted``.

    Raises:
        ValueError: a wanted cell never, or almost never, occurs among the candidates.
    """
    texts: Texts | None = None
    open_rows = {int(cell): np.flatnonzero(wanted == cell) for cell in np.unique(wanted)}
    drawn = 0
    while open_rows:
        if drawn > MAX_DRAWS_PER_ROW * len(wanted):
            cell, rows = max(open_rows.items(), key=lambda entry: len(entry[1]))
            raise ValueError(
                f"correlation: {len(rows)} of {len(wanted)} rows should be {describe(cell)}, but {drawn} texts "
                "held too few such; choose a correlation_offset or a share that occurs"
            )
        candidates = draw(len(wanted))
        drawn += len(candidates)
        texts = np.empty((len(wanted), candidates.shape[1]), np.int8) if texts is None else texts
        found = cell_of(candidates)
        for cell, rows in list(open_rows.items()):
            chosen = candidates[found == cell][: len(rows)]
            texts[rows[: len(chosen)]] = chosen
            open_rows[cell] = rows[len(chosen) :]
            if not len(open_rows[cell]):
                del open_rows[cell]
    assert texts is not None
    return texts


def common_labels(label: NDArray[np.integer], correlated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The label distribution to use both with and without a correlation, estimated from a sample of texts.

    Proportional to the smaller of the two conditional distributions, over labels that make up at least one text in
    :data:`MAX_DRAWS_PER_ROW` / 5 in either condition, so that drawing them by rejection stays possible.

    Returns:
        probabilities indexed by label, (largest label + 1,); empty if the conditions share no label.
    """
    known = label >= 0
    size = int(label.max(initial=0)) + 1
    counts = np.stack([np.bincount(label[known & (correlated == kind)], minlength=size) for kind in (False, True)])
    possible = (counts * MAX_DRAWS_PER_ROW >= 5 * len(label)).all(axis=0)
    shares = np.where(possible, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), 0.0).min(axis=0)
    return shares / shares.sum() if shares.sum() > 0 else np.empty(0)


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
