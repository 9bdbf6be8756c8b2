from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ftmech_hf.analysis.revival import (
    RevivalRatio,
    RevivalResult,
    area_over_log_steps,
    revival_ratio,
    steps_to_revival,
)
from ftmech_hf.statistics import crossing
from ftmech_hf.training.settings import TrainConfig

VALUES = ((0, 0.1), (2, 0.96), (3, 0.94), (5, 0.95), (6, 0.97), (9, 0.2))
CURVE = [{"step": step, "accuracy/count_a": value} for step, value in VALUES]


def test_the_first_of_two_evaluations_in_a_row_at_the_threshold_counts() -> None:
    result = steps_to_revival(CURVE, "count_a", threshold=0.95)
    assert (result.steps, result.last_step, result.at_least) == (5, 9, 5)
    assert steps_to_revival(CURVE, "count_a", threshold=0.94).steps == 2
    assert steps_to_revival(CURVE, "count_a", threshold=0.1).steps == 0
    assert result.summary()["steps_to_revival"] == 5


def test_a_capability_that_never_comes_back_is_a_lower_bound() -> None:
    for metrics, threshold in ((CURVE, 0.96), (CURVE[:2], 0.95), (CURVE[:1], 0.05)):  # reached once, or at the end
        result = steps_to_revival(metrics, "count_a", threshold=threshold)
        assert result.steps is None
        assert result.at_least == metrics[-1]["step"]
    with pytest.raises(ValueError, match="holds no evaluation"):
        steps_to_revival([], "count_a")


def test_the_area_is_the_mean_accuracy_over_the_logarithm_of_the_step() -> None:
    steps = [0, 1, 2, 5, 11, 30, 600]
    assert area_over_log_steps([(step, 1.0) for step in steps]) == pytest.approx(1)
    assert area_over_log_steps([(step, 0.25) for step in steps]) == pytest.approx(0.25)
    rising = [(step, math.log1p(step) / math.log1p(600)) for step in steps]  # a straight line on that axis
    assert area_over_log_steps(rising) == pytest.approx(0.5)
    # at step 24 from 0 to 1, halfway to 624 on the axis; halfway on the axis of steps is elsewhere
    assert area_over_log_steps([(0, 0.0), (24, 0.0), (24, 1.0), (624, 1.0)]) == pytest.approx(0.5)
    assert area_over_log_steps([(0, 0.7)]) == 0.7
    assert steps_to_revival(CURVE, "count_a").area == area_over_log_steps(VALUES)


def result(steps: int | None, last: int = 600, before: int | None = None) -> RevivalResult:
    return RevivalResult(steps, last, 0.95, 0.5, before)


def test_ratios_say_which_bound_they_are() -> None:
    assert revival_ratio(result(10), result(200)) == RevivalRatio(20)
    assert revival_ratio(result(10), result(None)) == RevivalRatio(60, at_least=True)
    assert revival_ratio(result(None), result(200)) == RevivalRatio(1 / 3, at_most=True)
    assert revival_ratio(result(None), result(None)) == RevivalRatio(1, at_least=True, at_most=True, ends=(1, 1))
    assert revival_ratio(result(0), result(30)) == RevivalRatio(30)


def test_it_came_back_between_two_evaluations() -> None:
    found = steps_to_revival(CURVE, "count_a", threshold=0.94)
    assert (found.before, found.steps, found.ends) == (0, 2, (0, 2))
    at_once = steps_to_revival(CURVE, "count_a", threshold=0.1)
    assert (at_once.before, at_once.ends) == (0, (0, 0)), "before anything was trained"
    assert result(None).ends == (600, 600)
    ratio = revival_ratio(result(10, before=8), result(200, before=150))
    assert ratio == RevivalRatio(20, ends=(150 / 10, 200 / 8))
    assert revival_ratio(result(1, before=0), result(30, before=20)).ends == (20, 30), "less than a step is one"
    assert revival_ratio(result(10, before=8), result(None)).ends == (60, 75)


REVERSED = TrainConfig(steps=600, eval_rows=64, final_eval_rows=512, evals_per_decade=12, eval_near=0.95)
RightOf = Callable[[slice], int]


def fresh_rows(accuracy: float, rng: np.random.Generator) -> Callable[[], RightOf]:
    return lambda: lambda at: int(rng.binomial(at.stop - at.start, accuracy))


def same_rows(accuracy: float, rng: np.random.Generator) -> Callable[[], RightOf]:
    """Each row is right with a probability of its own, at every evaluation anew."""
    each: NDArray[np.float64] = rng.beta(4 * accuracy, 4 * (1 - accuracy), 1024)
    return lambda: lambda at: int((rng.random(at.stop - at.start) < each[at]).sum())


def same_answers(accuracy: float, rng: np.random.Generator) -> Callable[[], RightOf]:
    right: NDArray[np.bool_] = rng.random(1024) < accuracy
    return lambda: lambda at: int(right[at].sum())


def share_revived(
    kind: Callable[..., Callable[[], RightOf]], accuracy: float, is_revived: Callable[..., bool], runs: int = 500
) -> float:
    """How often a model that stays where it is is called revived."""
    streams = np.random.default_rng(0).spawn(runs)
    return float(np.mean([is_revived(kind(accuracy, rng)) for rng in streams]))


def is_revived(look: Callable[[], RightOf]) -> bool:
    """As a run that reverses is evaluated and read."""
    lines = []
    for step in sorted(REVERSED.eval_steps()):
        right, number = crossing.count_right(look(), REVERSED.eval_sizes(step), REVERSED.eval_near)
        lines.append({"step": step, "accuracy/a": right / number})
    return steps_to_revival(lines, "a").steps is not None


def is_revived_at_once(look: Callable[[], RightOf]) -> bool:
    """Ten evaluations of 64 rows, one of which is enough."""
    return any(look()(slice(0, 64)) / 64 >= 0.95 for _ in range(10))


@pytest.mark.parametrize("kind", [fresh_rows, same_rows, same_answers])
def test_a_model_that_stays_below_the_threshold_is_not_revived(
    kind: Callable[..., Callable[[], RightOf]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossing, "is_clear", functools.cache(crossing.is_clear))
    assert share_revived(kind, 0.90, is_revived) == 0
    assert share_revived(kind, 0.93, is_revived, runs=3000) < 0.01
    assert share_revived(kind, 0.97, is_revived) > 0.99  # what is above is found


def test_one_evaluation_on_few_rows_finds_revivals_that_are_none() -> None:
    assert share_revived(fresh_rows, 0.90, is_revived_at_once, runs=3000) == pytest.approx(0.68, abs=0.03)
    assert share_revived(fresh_rows, 0.93, is_revived_at_once) > 0.9
