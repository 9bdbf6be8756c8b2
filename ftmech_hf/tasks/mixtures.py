"""What a data set is mixed from: operand priors, correlations planted in the text, and changed labels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

OPERAND_PRIORS: dict[str, tuple[float, float, float]] = {
    # Jain et al., App. C.2: of the prompts that name an operand, the share that ask about a, b, c.
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

STRATIFIED_DRAWS = 50
"""Of K labels that are to occur equally often, each makes up one text in this many times K, or is left out."""

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

    Returns:
        them; divided by their sum where it is off by so much that numpy would not draw by them.

    Raises:
        ValueError: they are none.
    """
    shown = " ".join(map(str, numbers))
    if len(numbers) != length or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"{field}: {shown!r}, expected {length} numbers between 0 and 1")
    total = sum(numbers)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"{field}: {shown!r} sums to {total:g}, expected 1")
    if abs(total - 1) > 1e-9:  # numpy allows for 1.5e-8; what it takes stays as it is, to the last bit
        return tuple(number / total for number in numbers)
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


_KNOWN_LABELS: dict[tuple[Hashable, ...], NDArray[np.int64]] = {}


def remembered_labels(key: tuple[Hashable, ...], find: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """What :func:`stratified_labels` finds, once in a process: a study asks for the same labels in hundreds of runs.

    Args:
        key: all that they depend on.
        find: them; what it raises is not remembered.

    Returns:
        the labels (K,), read-only.
    """
    if key not in _KNOWN_LABELS:
        found = find()
        found.setflags(write=False)
        _KNOWN_LABELS[key] = found
    return _KNOWN_LABELS[key]


def stratified_labels(
    label: NDArray[np.integer], correlated: NDArray[np.bool_], *, at_least: int, asked: str
) -> NDArray[np.int64]:
    """The labels that texts are to have equally often, both with and without a correlation, from a sample of texts.

    As many as can be drawn by rejection: of K labels each must make up one text in :data:`STRATIFIED_DRAWS` * K, in
    either condition, for a row to cost that many draws where one condition is wanted alone.

    Args:
        label: of a sample of texts (B,); negative where there is none.
        correlated: whether the correlation holds in each, bool (B,).
        at_least: with fewer labels than this, a constant answer is right too often.
        asked: what is asked, for the error.

    Returns:
        the labels, ascending, (K,).

    Raises:
        ValueError: there are fewer than ``at_least``; it says which there are and how often each occurs.
    """
    known = label >= 0
    size = int(label.max(initial=0)) + 1
    counts = np.stack([np.bincount(label[known & (correlated == kind)], minlength=size) for kind in (False, True)])
    rarer = counts.min(axis=0)
    order = np.argsort(-rarer, kind="stable")
    enough = rarer[order] * STRATIFIED_DRAWS * np.arange(1, size + 1) >= len(label)
    chosen = np.sort(order[: int(np.flatnonzero(enough).max(initial=-1)) + 1])
    if len(chosen) < at_least:
        shown = ", ".join(f"{each} in {rarer[each] / len(label):.2%}" for each in np.sort(order[rarer[order] > 0]))
        raise ValueError(
            f"min_labels: {at_least}, but only {len(chosen)} labels of {asked} occur often enough both with and "
            f"without the correlation (of all texts, in the rarer condition: {shown or 'none'}); expected a larger "
            "count_window, spread_counts: true, correlation_method: insert or fewer min_labels"
        )
    return chosen


def spread_counts(
    rng: np.random.Generator, texts: Texts, operands: tuple[int, int], num_symbols: int, window: int, offset: int | None
) -> Texts:
    """Edit texts until the counts of two operands are spread: each uniform from 0 to half of the window.

    The paper plants its correlation by "adding" operands and spreads its labels over many values (Jain et al.,
    arXiv 2311.12786, Fig. 16) without giving the algorithm. Here both counts are drawn first; then as few of the last
    ``window`` symbols as possible are replaced, at random places, until the counts are those. The length stays, and the
    text leaves the grammar.

    Args:
        rng: of counts and places.
        texts: terminal ids (B, T).
        operands: ids of the two symbols.
        num_symbols: of the grammar; where there are only two, the second operand fills what the first leaves.
        window: of last symbols that are counted.
        offset: where given, half of the texts get second count = first count + offset, wherever that is possible,
            so that texts with the correlation need not be searched for.

    Returns:
        edited texts, same shape as ``texts``.
    """
    num_texts, most = len(texts), window // 2
    counts = rng.integers(0, most + 1, (num_texts, 2))
    if offset is not None:
        tied = rng.random(num_texts) < 0.5
        first = rng.integers(min(max(0, -offset), most), max(0, most - max(0, offset)) + 1, num_texts)
        counts = np.where(tied[:, None], np.clip(np.stack([first, first + offset], 1), 0, most), counts)
    if num_symbols == 2:
        counts[:, 1] = window - counts[:, 0]
    last = texts[:, -window:]
    key = rng.random(last.shape)
    free, missing = np.ones(last.shape, bool), []
    for operand, count in zip(operands, counts.T, strict=True):
        is_operand = last == operand
        free &= ~(is_operand & (_rank(key, is_operand) < count[:, None]))
        missing.append(np.maximum(count - is_operand.sum(1), 0)[:, None])
    # What is free is replaced in a random order, first by what the first operand lacks, then by the second's; operands
    # that are too many go before other symbols, which so stay wherever they can.
    place = _rank(np.where(np.isin(last, operands), key, 1 + key), free)
    others = np.array([symbol for symbol in range(num_symbols) if symbol not in operands] or operands[1:], texts.dtype)
    fill = others[rng.integers(0, len(others), last.shape)]
    edited = np.where(free & np.isin(last, operands), fill, last)
    edited = np.where(free & (place < missing[0]), operands[0], edited)
    edited = np.where(free & (place >= missing[0]) & (place < missing[0] + missing[1]), operands[1], edited)
    return np.concatenate([texts[:, : texts.shape[1] - window], edited], axis=1).astype(texts.dtype)


def tie_places(
    rng: np.random.Generator, texts: Texts, operands: tuple[int, ...], num_symbols: int, occurrence: int, offset: int
) -> Texts:
    """Edit half of the texts until the place of one operand follows from the other's, wherever that is possible.

    In long texts the places of two operands agree too seldom for texts with the correlation to be searched for. As few
    symbols as possible are replaced, at random places: the second operand is put where it shall stand, and after it, up
    to the end, it stands once less often than is looked for. Where the first operand stands does not change.

    Args:
        rng: of which texts, and of places.
        texts: terminal ids (B, T).
        operands: ids of the two symbols.
        num_symbols: of the grammar.
        occurrence: which one, counted from the end, is looked for.
        offset: how much farther from the end the second operand's stands than the first's.

    Returns:
        edited texts, same shape as ``texts``.
    """
    first, second = operands
    turned = texts[:, ::-1].copy()
    is_first, is_second = turned == first, turned == second
    at = np.argmax(is_first.cumsum(1) == occurrence, 1) + offset
    columns = np.arange(turned.shape[1])
    before = columns < at[:, None]
    lacking = occurrence - 1 - (is_second & before).sum(1)
    free = before & ~is_first & ~is_second
    inside = (is_first.sum(1) >= occurrence) & (at >= 0) & (at < turned.shape[1])
    stands = np.take_along_axis(turned, np.clip(at, 0, turned.shape[1] - 1)[:, None], 1)[:, 0]
    able = inside & (stands != first) & (lacking <= free.sum(1)) & ((lacking >= 0) | (num_symbols > 2))
    edited = (rng.random(len(texts)) < 0.5) & able
    key = rng.random(turned.shape)
    others = np.array([each for each in range(num_symbols) if each not in operands] or [second], texts.dtype)
    fill = others[rng.integers(0, len(others), turned.shape)]
    more = free & (_rank(key, free) < lacking[:, None])
    less = is_second & before & (_rank(key, is_second & before) < -lacking[:, None])
    made = np.where(more | (columns == at[:, None]), second, np.where(less, fill, turned))
    return np.where(edited[:, None], made, turned)[:, ::-1].astype(texts.dtype)


def _rank(key: NDArray[np.float64], among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of every True place its number among a row's True places, in the order of ``key``; (B, T)."""
    order = np.argsort(np.where(among, key, np.inf), axis=1)
    rank = np.empty(key.shape, np.int64)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(key.shape[1]), key.shape), axis=1)
    return rank
