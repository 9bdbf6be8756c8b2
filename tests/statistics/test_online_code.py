from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ftmech_hf.statistics.control_labels import ControlledLabels
from ftmech_hf.statistics.linear_classifiers import LinearFit
from ftmech_hf.statistics.online_code import CODE_FRACTIONS, code_lengths

ROWS, CLASSES = 400, 4
LABELS = torch.randint(CLASSES, (1, ROWS), generator=torch.Generator().manual_seed(0))
GROUP = ControlledLabels(torch.arange(CLASSES), LABELS, LABELS, 0, 0.25)


def classifier(scale: float) -> LinearFit:
    """Reads one-hot features: sure of the class that they say, the surer the larger the scale."""
    done = torch.ones(1)
    return LinearFit(scale * torch.eye(CLASSES)[None], torch.zeros(1, CLASSES), done, done.bool())


def bits(features: Tensor, scale: float) -> float:
    (found,) = code_lengths(features, [GROUP], lambda *_: [classifier(scale)], seed=0)
    return float(found[0])


def test_a_classifier_that_knows_nothing_costs_the_uniform_code() -> None:
    assert bits(torch.eye(CLASSES)[LABELS[0]], 0.0) == pytest.approx(math.log2(CLASSES))


def test_a_sure_classifier_costs_the_first_block_and_what_is_mixed_in() -> None:
    right = bits(torch.eye(CLASSES)[LABELS[0]], 100.0)
    ends = sorted({max(1, round(share * ROWS)) for share in CODE_FRACTIONS})
    expected = ends[0] * math.log2(CLASSES)
    for start, stop in itertools.pairwise(ends):
        expected -= (stop - start) * math.log2(1 - (1 - 1 / CLASSES) / (start + 1))
    assert right == pytest.approx(expected / ROWS, rel=1e-4)
    # one that is as sure of another class costs more than to know nothing, and not infinitely many bits
    wrong = bits(torch.eye(CLASSES)[(LABELS[0] + 1) % CLASSES], 100.0)
    assert math.log2(CLASSES) < wrong < math.log2(CLASSES * (ROWS + 1))


def test_each_block_is_sent_by_what_was_fitted_before_it() -> None:
    asked: list[int] = []

    def fit(shown: Tensor, groups: Sequence[ControlledLabels], rows: int) -> list[LinearFit]:
        asked.append(rows)
        for each in groups:  # features and labels are in one order, by chance
            assert torch.equal(shown.argmax(1), each.train[0])
        assert not torch.equal(shown, features)
        return [classifier(1.0), classifier(2.0)]

    features = torch.eye(CLASSES)[LABELS[0]]
    one, other = code_lengths(features, [GROUP, GROUP], fit, seed=0)
    assert asked == sorted({max(1, round(share * ROWS)) for share in CODE_FRACTIONS})[:-1]
    assert float(other[0]) < float(one[0])
