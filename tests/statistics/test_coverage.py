"""How often every interval of the package covers the truth: nominal 95 %, accepted 93 to 97.

Where it can be counted it is counted: over all outcomes, each as often as it comes. Else it is simulated, and a single
situation may then be below 93 % by what chance does to a simulation of its size (two in a thousand), and no more.
Counts are whole numbers and shares end at 0 and 1, so that no interval of a share has 95 % everywhere: there 93 % is
the least in every situation, and 97 % the most on average over all of them. The controls are intervals that are in use
elsewhere, and miss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ftmech_hf.statistics import seeds as over_seeds
from ftmech_hf.statistics.clusters import times_as_wide, widened_by_clusters
from ftmech_hf.statistics.draws import _half_of_crossed, difference_over_draws, mean_over_draws
from ftmech_hf.statistics.intervals import (
    Share,
    difference_of_shares,
    geometric_mean_interval,
    mean_interval,
    mean_of_gains,
    mean_of_shares,
    paired_difference,
    share_bounds,
    share_interval,
)
from ftmech_hf.statistics.seeds import share_over_seeds

LEAST, MOST = 0.93, 0.97


def least(draws: int) -> float:
    """What a situation of 93 % shows at least, in all but one of a thousand simulations of this size."""
    return float(stats.binom.ppf(0.001, draws, LEAST)) / draws


def check(found: Sequence[float], draws: int) -> None:
    """Every situation is covered often enough, and all of them not too often."""
    assert min(found) >= least(draws), found
    assert float(np.mean(found)) <= MOST + 2 * math.sqrt(MOST * (1 - MOST) / draws / len(found)), found


Numbers = NDArray[np.float64]


def share_covers(low: Numbers, high: Numbers, truth: Numbers) -> Numbers:
    """How often each true share is covered by the intervals of 0, 1, 2 ... right rows, counted over all outcomes."""
    right = np.arange(len(low))
    within = (low[:, None] <= truth) & (truth <= high[:, None])
    found: Numbers = (stats.binom.pmf(right[:, None], len(low) - 1, truth) * within).sum(0)
    return found


@pytest.mark.parametrize("number", [40, 64, 128, 512, 2048])
def test_a_share(number: int) -> None:
    """Counted, for shares from a hundredth of a row to half of all; the other half is the mirror image."""
    ends = share_bounds(np.arange(number + 1), number)
    assert share_covers(*ends, np.exp(np.linspace(math.log(0.01 / number), math.log(0.5), 600))).min() >= LEAST
    usual = np.array([0.5, 0.4, 0.3, 0.2, 0.1])
    assert share_covers(*ends, usual).mean() <= MOST
    assert share_covers(*ends, 1 - usual) == pytest.approx(share_covers(*ends, usual))


def test_wilsons_own_interval_misses_where_few_are_right() -> None:
    """A control: a share of which a row is right in one of six tests is covered in 84 of 100."""
    ends = [stats.binomtest(right, 512).proportion_ci(method="wilson") for right in range(513)]
    low, high = (np.array([getattr(end, side) for end in ends]) for side in ("low", "high"))
    assert share_covers(low, high, np.array([0.17 / 512]))[0] < 0.85


Pair = tuple[int, float]
"""(rows, true share)"""


def simulate(draws: int, truth: float, draw: Callable[..., Share], *given: Any) -> float:
    """How often a truth is covered by ``draw(rng, *given)``."""
    rng = np.random.default_rng(0)
    shares = [draw(rng, *given) for _ in range(draws)]
    return float(np.mean([share.low - 1e-12 <= truth <= share.high + 1e-12 for share in shares]))


def draw_mean(rng: np.random.Generator, *shares: Pair) -> Share:
    return mean_of_shares(*((int(rng.binomial(*each)), each[0]) for each in shares))


def draw_difference(rng: np.random.Generator, first: Pair, second: Pair) -> Share:
    return difference_of_shares((int(rng.binomial(*first)), first[0]), (int(rng.binomial(*second)), second[0]))


SHARES: list[tuple[Pair, Pair]] = [
    ((40, 0.95), (160, 0.7)), ((100, 0.99), (100, 0.9)), ((64, 0.5), (64, 0.6)), ((500, 0.98), (500, 0.97)),
    ((512, 0.95), (512, 0.9)), ((64, 0.9), (64, 0.2)),
]  # fmt: skip


def test_a_mean_of_shares() -> None:
    """Balanced accuracies, also where one share is near 1."""
    check([simulate(1000, (one[1] + other[1]) / 2, draw_mean, one, other) for one, other in SHARES], 1000)


def test_a_difference_of_shares() -> None:
    check([simulate(1000, one[1] - other[1], draw_difference, one, other) for one, other in SHARES], 1000)


def draw_paired(rng: np.random.Generator, both: float, first: float, second: float) -> Share:
    kinds = np.searchsorted(np.cumsum([both, first, second]), rng.random(256))
    return paired_difference(kinds <= 1, (kinds == 0) | (kinds == 2))


def test_a_paired_difference() -> None:
    """(both right, the first alone, the second alone) of 256 rows; also where few rows differ."""
    chances = ((0.78, 0.12, 0.02), (0.5, 0.1, 0.1), (0.95, 0.03, 0.01), (0.9, 0.05, 0.05))
    check([simulate(1000, each[1] - each[2], draw_paired, *each) for each in chances], 1000)


def draw_students(rng: np.random.Generator, number: int, shape: str) -> Share:
    return mean_interval(getattr(rng, shape)(size=number).tolist())


def draw_normal_quantile(rng: np.random.Generator, number: int) -> Share:
    values = rng.normal(size=number)
    half = 1.96 * values.std(ddof=1) / number**0.5
    return Share(values.mean(), values.mean() - half, values.mean() + half)


def test_a_mean_over_values() -> None:
    """Student's, of 3, 5 and 10 values; its control is the normal quantile, which so few values do not allow."""
    kinds = itertools.product((3, 5, 10), (("normal", 0.0), ("uniform", 0.5), ("logistic", 0.0)))
    check([simulate(1000, mean, draw_students, number, shape) for number, (shape, mean) in kinds], 1000)
    assert simulate(1000, 0.0, draw_normal_quantile, 3) < 0.85


def draw_geometric(rng: np.random.Generator, number: int, spread: float) -> Share:
    return geometric_mean_interval(np.exp(rng.normal(math.log(8), spread, number)).tolist())


def draw_arithmetic(rng: np.random.Generator, number: int, spread: float) -> Share:
    return mean_interval(np.exp(rng.normal(math.log(8), spread, number)).tolist())


def test_a_geometric_mean() -> None:
    """Ratios whose logarithm is normal; the control is Student's on the ratios themselves, for their mean."""
    kinds = [*itertools.product((3, 5), (0.2, 1.0))]
    check([simulate(1000, 8.0, draw_geometric, *each) for each in kinds], 1000)
    assert simulate(1000, 8 * math.exp(0.5), draw_arithmetic, 5, 1.0) < 0.9


def draw_choices(rng: np.random.Generator, choices: int, alpha: float, beta: float) -> NDArray[np.bool_]:
    """Random choices that differ, on rows of which some are harder, bool (choices, 1024)."""
    ease = 1 + rng.uniform(-0.2, 0.2, 1024)
    right: NDArray[np.bool_] = rng.random((choices, 1024)) < rng.beta(alpha, beta, (choices, 1)) * ease
    return right


def draw_over_choices(rng: np.random.Generator, *given: float) -> Share:
    return mean_over_draws(draw_choices(rng, *given))  # type: ignore[arg-type]


def draw_over_rows(rng: np.random.Generator, *given: float) -> Share:
    return share_interval(round(float(draw_choices(rng, *given).mean()) * 1024), 1024)  # type: ignore[arg-type]


def test_a_mean_over_random_choices_on_the_same_rows() -> None:
    """Choices that differ much or rarely; the control is the interval of the rows."""
    kinds = [(number, *each) for number in (10, 30) for each in ((2, 6), (1, 19), (0.5, 40), (6, 2))]
    check([simulate(400, each[1] / (each[1] + each[2]), draw_over_choices, *each) for each in kinds], 400)
    assert simulate(400, 0.25, draw_over_rows, 10, 2, 6) < 0.5


def draw_changed(
    rng: np.random.Generator, choices: int, part: float, alpha: float, beta: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Random choices that change a part of 256 rows, a third of which are right: as many of it become right as the
    choice has luck, bool (choices, 256) and (256,)."""
    before = rng.random(256) < 1 / 3
    luck = rng.beta(alpha, beta, (choices, 1))
    changed = rng.random((choices, 256)) < part
    return np.where(changed, rng.random((choices, 256)) < luck, before), before


def draw_gain(rng: np.random.Generator, *given: float) -> Share:
    return difference_over_draws(*draw_changed(rng, *given))  # type: ignore[arg-type]


def draw_gain_of_rows(rng: np.random.Generator, *given: float) -> Share:
    right, before = draw_changed(rng, *given)  # type: ignore[arg-type]
    return paired_difference(right.ravel(), np.tile(before, len(right)))


def test_a_difference_over_random_choices_on_the_same_rows() -> None:
    """Choices that differ much or little, change few rows or many; the control takes them for rows of their own."""
    kinds = [(number, part, *each) for number in (8, 30) for part in (0.1, 0.6) for each in ((2, 2), (30, 60), (1, 9))]
    check([simulate(400, part * (alpha / (alpha + beta) - 1 / 3), draw_gain, number, part, alpha, beta)
           for number, part, alpha, beta in kinds], 400)  # fmt: skip
    assert simulate(400, 0.6 * (1 / 2 - 1 / 3), draw_gain_of_rows, 8, 0.6, 2, 2) < 0.6


Situation = tuple[int, int, float, float]
"""(seeds, rows of each, true mean, correlation of two rows of one seed)"""


def draw_counts(situation: Situation, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """How many rows are right in each seed, (draws, seeds)."""
    seeds, rows, mean, correlation = situation
    rng = np.random.default_rng([seed, *(int(1e6 * each) for each in situation)])
    size = 1 / correlation - 1 if correlation else 0.0
    chances = rng.beta(mean * size, (1 - mean) * size, (draws, seeds)) if size else np.full((draws, seeds), mean)
    return rng.binomial(rows, chances)


def old_interval(counts: NDArray[np.int64], rows: int) -> Share:
    """What claims had: Student's t over the accuracies of seeds, cut to what is possible."""
    share = mean_interval((counts / rows).tolist())
    return Share(share.value, max(0.0, share.low), min(1.0, share.high))


def pooled_interval(counts: NDArray[np.int64], rows: int) -> Share:
    """What knows of rows alone."""
    return share_interval(int(counts.sum()), rows * len(counts))


def two_levels(counts: NDArray[np.int64], rows: int) -> Share:
    return share_over_seeds([(int(each), rows) for each in counts])


def covered_by(interval: Callable[[NDArray[np.int64], int], Share], situation: Situation, draws: int) -> float:
    """How often the true mean is covered."""
    shares = [interval(counts, situation[1]) for counts in draw_counts(situation, draws)]
    return float(np.mean([share.low <= situation[2] <= share.high for share in shares]))


def situations(rows: Sequence[int]) -> Iterator[Situation]:
    return itertools.product((3, 5), rows, (0.5, 0.9, 0.99, 0.999), (0.0, 0.001, 0.01, 0.05))


def test_a_share_over_seeds() -> None:
    """Means of 50 to 99.9 %, seeds alike or different, 3 and 5 of them; below 50 % is the mirror image, see below."""
    draws = 150
    found = [covered_by(two_levels, situation, draws) for situation in situations([1024])]
    check(found, draws)


@pytest.mark.slow
def test_a_share_over_seeds_in_every_situation() -> None:
    """The same with ten times as many draws, and more numbers of rows."""
    draws = 1500
    found = [covered_by(two_levels, situation, draws) for situation in situations([512, 2048])]
    check(found, draws)


@pytest.mark.slow
def test_a_share_over_seeds_that_differ_by_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior expects less; Student's t over the seeds makes up for most of it."""
    worst = (3, 512, 0.9, 0.3)
    for situation, bar in ((worst, 0.77), ((3, 512, 0.9, 0.2), 0.87), ((3, 512, 0.7, 0.15), 0.89)):
        assert covered_by(two_levels, situation, 3000) > bar, situation
    monkeypatch.setattr(over_seeds, "APART", 9.0)
    assert covered_by(two_levels, worst, 3000) < 0.75


def test_what_was_used_before_misses() -> None:
    """Student's over accuracies near 1, and rows alone where seeds differ: what shares over seeds are here for."""
    edge, differ = (3, 1024, 0.99, 0.05), (3, 1024, 0.9, 0.05)
    assert covered_by(old_interval, edge, 400) < 0.75
    assert covered_by(old_interval, (3, 512, 0.999, 0.0), 400) < 0.85
    assert covered_by(pooled_interval, differ, 400) < 0.4
    assert covered_by(pooled_interval, (5, 1024, 0.9, 0.01), 400) < 0.6


def test_a_share_over_seeds_near_0_is_the_mirror_image_of_one_near_1() -> None:
    for counts in ([0, 3, 1], [12, 40, 5, 9, 300]):
        low = share_over_seeds([(each, 512) for each in counts])
        high = share_over_seeds([(512 - each, 512) for each in counts])
        assert list(low) == pytest.approx([1 - high.value, 1 - high.high, 1 - high.low], abs=2e-4)


def test_a_share_over_seeds_is_never_narrower_than_that_of_its_rows_together() -> None:
    rng = np.random.default_rng(0)
    for rows, share in itertools.product((1, 20, 500), (0.0, 0.01, 0.5, 1.0)):
        counts = [(int(rng.binomial(rows, share)), rows) for _ in range(3)]
        found, rows_alone = share_over_seeds(counts), share_interval(sum(right for right, _ in counts), 3 * rows)
        assert found.low <= rows_alone.low <= rows_alone.high <= found.high
    assert share_over_seeds([(20, 20)] * 3).high == 1


def test_each_seed_counts_the_same_however_many_rows_it_has() -> None:
    """It is the seeds whose mean is asked for: one that was evaluated on ten times as many rows is still one of two."""
    few, many = (9, 10), (500, 1000)
    found = share_over_seeds([few, many])
    assert found.value == pytest.approx((0.9 + 0.5) / 2)
    assert found.low <= share_interval(509, 1010).low < share_interval(509, 1010).value < found.value <= found.high
    assert share_over_seeds([many, few]) == found


def test_a_share_of_which_all_or_none_counts_knows_of_few_clusters() -> None:
    """By hand, and beside one more that counts: a share of nothing is not known better than one of a little."""
    clusters = np.repeat(np.arange(5), 16).tolist()
    none = widened_by_clusters(share_interval(0, 80), [False] * 80, clusters)
    known = 80 * float(stats.t.ppf(0.975, 79) / stats.t.ppf(0.975, 4)) ** 2
    assert (none.low, none.high) == pytest.approx((0, share_bounds(0, known)[1]))
    one = widened_by_clusters(share_interval(1, 80), [True] + [False] * 79, clusters)
    assert share_interval(0, 80).high < 0.6 * none.high < none.high < one.high
    every = widened_by_clusters(share_interval(80, 80), [True] * 80, clusters)
    assert (every.low, every.high) == pytest.approx((1 - none.high, 1))
    apart = widened_by_clusters(share_interval(0, 80), [False] * 80, list(range(80)))
    assert apart == share_interval(0, 80), "the control: where each is a cluster nothing changes"
    assert widened_by_clusters(share_interval(0, 80), [False] * 80, [0] * 80) == share_interval(0, 80)


def test_a_share_over_few_clusters_covers_where_they_differ_a_little() -> None:
    """Rare events in 4 clusters of 20, a correlation of 0.05; and the control, the interval of rows alone."""
    draws, rows = 400, 20
    situation = (4, rows, 0.05, 0.05)
    clusters = np.repeat(np.arange(4), rows).tolist()

    def wider(counts: NDArray[np.int64], rows: int) -> Share:
        counted = [number < each for each in counts for number in range(rows)]
        return widened_by_clusters(pooled_interval(counts, rows), counted, clusters)

    assert covered_by(wider, situation, draws) > 0.93
    assert covered_by(pooled_interval, (4, rows, 0.2, 0.15), draws) < 0.85


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_mean_of_values_of_which_those_of_a_cluster_are_alike(size: int) -> None:
    """And a control: the interval that takes them for independent, which misses."""
    draws, groups, rng = 2000, 14, np.random.default_rng(0)
    of_groups = rng.normal(size=(draws, groups, 1)) + rng.normal(size=(draws, groups, size))
    clusters = np.repeat(np.arange(groups), size).tolist()
    inside = []
    for values in of_groups.reshape(draws, -1):
        found = mean_interval(values.tolist())
        half = found.high - found.value
        inside.append([abs(found.value) <= factor * half for factor in (times_as_wide(values, clusters), 1.0)])
    covered, naive = np.mean(inside, 0)
    check([covered], draws)
    assert naive < 0.9 or size == 1


@pytest.mark.parametrize("sizes", [(80, *[1] * 20), (40, *[1] * 60), (60, 20, 10, 5, 5)])
def test_one_large_cluster_is_not_taken_for_many(sizes: tuple[int, ...]) -> None:
    """As of questions that are all connected by documents which they share."""
    draws, rng, clusters = 1000, np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    inside = []
    for _ in range(draws):
        values = rng.normal(size=len(sizes))[clusters] + rng.normal(size=len(clusters))
        found = mean_interval(values.tolist())
        wider = times_as_wide(values, clusters)
        inside.append([abs(found.value) <= factor * (found.high - found.value) for factor in (wider, 1.0)])
    covered, naive = np.mean(inside, 0)
    assert covered > 0.94
    assert naive < 0.6


def test_seeds_that_differ_by_more_than_expected_have_an_interval_that_knows_it() -> None:
    """Coverage, and never narrower than Student's t over the seeds; where they hardly differ it is as it was."""
    rng, draws = np.random.default_rng(0), 300
    inside = 0
    for shares in rng.beta(0.5 * (1 / 0.3 - 1), 0.5 * (1 / 0.3 - 1), (draws, 3)):
        found = share_over_seeds([(int(rng.binomial(512, each)), 512) for each in shares])
        inside += found.low <= 0.5 <= found.high
    assert inside / draws > 0.88  # 0.75 without
    apart = [(50, 500), (250, 500), (450, 500)]
    by_seed = mean_interval([right / rows for right, rows in apart])
    found = share_over_seeds(apart)
    assert (found.low, found.high) == (max(0.0, by_seed.low), min(1.0, by_seed.high))
    alike = share_over_seeds([(450, 500), (455, 500), (460, 500)])
    by_seed = mean_interval([0.9, 0.91, 0.92])
    assert alike.low > by_seed.low - 0.05


def test_of_random_choices_that_do_nothing_the_rows_noise_counts_once() -> None:
    """Each choice answers each row by a coin of its own: what is left of it is in both means, and counted in one."""
    rng, draws, widths = np.random.default_rng(0), 200, []
    for _ in range(draws):
        found = difference_over_draws(rng.random((12, 12)) < 0.5, np.zeros(12, bool))
        widths.append(_half_of_crossed((rng.random((12, 12)) < 0.5).astype(float), None))
        assert -1 <= found.low <= found.value <= found.high <= 1
    assert np.mean(widths) < 1.25 * 2.1 * 0.5 / 12  # of 144 coins; counted twice it is 1.4 times as wide


def test_what_rows_gain_stays_between_all_and_nothing() -> None:
    lost = paired_difference([False] * 10, [True] * 10)
    assert (lost.value, lost.low) == (-1, -1)
    assert -0.7 < lost.high < -0.5
    same = mean_of_gains(np.zeros(20))
    assert same.low < 0 < same.high, "never without a width"


def test_how_alike_values_are_by_hand() -> None:
    """Two clusters of two: the variance between them has one degree of freedom, that of the four values three."""
    between, within = stats.t.ppf(0.975, 1), stats.t.ppf(0.975, 3)
    alone = (4 * 0.25) / 12  # of 0, 0, 1, 1 around a half
    together = 2 * (1.0**2) * 2 / 16
    expected = math.sqrt(together / alone) * between / within
    assert times_as_wide([0, 1, 0, 1], ["x", "y", "x", "y"]) == pytest.approx(expected)
    assert times_as_wide([0, 1, 0, 1], ["x", "x", "y", "y"]) == 1  # less than apart: never narrower
    assert times_as_wide([1, 1, 1, 1], [1, 1, 2, 2]) == pytest.approx(math.sqrt(2))
    assert times_as_wide([0, 1], ["x", "x"]) == math.inf
    assert times_as_wide([0, 1], ["x", "y"]) == 1
