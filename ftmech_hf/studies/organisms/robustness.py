"""Does a method say the same of an organism that was rounded, or that has relearned a little? As Lee et al. ask.

For a score m of a pair before and m' after (arXiv 2605.24614)::

    quantisation  Q = 1 - |m' - m| / (|m'| + |m|)
    relearning    R = 1 - |d - d_never| / (|d| + |d_never|)     d = m' - m

where d_never is of the model that never had the ability, after as many steps. Robustness is the harmonic mean of both,
each a mean over pairs. Deviations: scores are from 0 to 1, and of a pair whose ability is gone m is what is missing,
as a ratio of two numbers near nothing says nothing; changes below :data:`UNCHANGED` count as none, as those of a score
that is sure already are as small in the one model as in the other, and R without that is shown beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.studies.diagnosis.signs import VerdictRule

Values = NDArray[np.float64]

TAMPERED = ("rounded", "relearned", "never", "never_relearned")
"""Diagnoses beside that of the pair, as in :class:`~ftmech_hf.studies.organisms.pairs.Tampered`."""
UNCHANGED = 0.05
"""Change of a score that counts as none; set before any pair was tampered with."""
RESAMPLES = 2000
WHOLE = {"revival": math.log(VerdictRule().speed)}
"""Method -> its score where all is there, if that is not 1: what comes back so many times as fast counts as there."""


def quantisation_stability(before: Values, after: Values) -> Values:
    """Q of every pair: 1 where its score stays, 0 where one of the two is nothing."""
    return _alike(before, after)


def relearning_stability(change: Values, never: Values, *, unchanged: float = UNCHANGED) -> Values:
    """R of every pair: 1 where its score changes as that of the model that never had the ability.

    Args:
        change: m' - m of each pair.
        never: the same of the other model.
        unchanged: below which a change counts as none.
    """
    own, others = (np.where(np.abs(each) < unchanged, 0.0, each) for each in (change, never))
    return _alike(own, others)


def _alike(first: Values, second: Values) -> Values:
    sizes = np.abs(first) + np.abs(second)
    return np.where(sizes > 0, 1 - np.abs(first - second) / np.where(sizes > 0, sizes, 1.0), 1.0)


def harmonic_mean(first: float, second: float) -> float:
    """Of two numbers from 0 on; 0 if both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def measure_robustness(pairs: pd.DataFrame, method: str, *, seed: int = 0) -> dict[str, Any] | None:
    """How robust a method is over pairs that were tampered with; None where it measured none of them.

    Args:
        pairs: with ``truth``, the method's column, and one more for each of :data:`TAMPERED`, such as
            ``rounded_probe``.
        method: the column.
        seed: of the interval.

    Returns:
        ``pairs``, ``seeds`` (that they are of), ``quantisation``, ``relearning``, ``relearning_exact`` (with no change
        taken for none),
        ``robustness`` (with its 95 % interval).
    """
    columns = [method, *(f"{name}_{method}" for name in TAMPERED)]
    if not set(columns) <= set(pairs):
        return None
    measured = pairs.dropna(subset=columns)
    if not len(measured):
        return None
    scale = WHOLE.get(method, 1.0)
    before, *others = (np.clip(measured[name].to_numpy(dtype=float) / scale, 0, 1) for name in columns)
    rounded, relearned, never, never_relearned = others
    gone = (measured["truth"] == "gone").to_numpy()
    kept = quantisation_stability(np.where(gone, 1 - before, before), np.where(gone, 1 - rounded, rounded))
    changes = relearned - before, never_relearned - never
    alike, exact = (relearning_stability(*changes, unchanged=each) for each in (UNCHANGED, 0.0))
    share = _interval(kept, alike, seed)
    return {
        "pairs": len(measured), "seeds": sorted({int(each) for each in measured["seed"]}),
        "quantisation": float(kept.mean()), "relearning": float(alike.mean()),
        "relearning_exact": float(exact.mean()), "robustness": share._asdict(),
    }  # fmt: skip


def _interval(kept: Values, alike: Values, seed: int) -> Share:
    """A bootstrap over pairs, which has no width where all are alike: never narrower than that of a share of them.

    Pairs of one seed share the model that never had the ability, of which neither knows.
    """
    drawn = np.random.default_rng(seed).integers(len(kept), size=(RESAMPLES, len(kept)))
    found = [harmonic_mean(float(kept[each].mean()), float(alike[each].mean())) for each in drawn]
    value = harmonic_mean(float(kept.mean()), float(alike.mean()))
    low, high = (float(end) for end in np.quantile(found, [0.025, 0.975]))
    least, most = area_interval(value, len(kept))
    return Share(value, min(low, least), max(high, most))


def area_interval(area: float, number: int) -> tuple[float, float]:
    """A 95 % interval of an area under the curve: Wilson's, of a share of as many pairs as the rarer kind has.

    Wider than the usual ones, which have no width where two kinds are kept apart wholly.

    Args:
        area: 0 to 1.
        number: pairs of the rarer kind.
    """
    around = [share_interval(right, number) for right in (int(area * number), min(int(area * number) + 1, number))]
    part = area * number - int(area * number)
    low, high = ((1 - part) * getattr(around[0], end) + part * getattr(around[1], end) for end in ("low", "high"))
    return low, high
