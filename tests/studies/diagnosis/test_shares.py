"""A share in words: what is printed lies on the side of its bar that decided."""

from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.shares import say_bar, say_share


@pytest.mark.parametrize(
    ("share", "bar", "said"),
    [
        (Share(0.7, 0.6249, 0.8), None, "70% (62% to 80%)"),
        (Share(0.7, 0.6249, 0.8), 0.625, "70% (62% to 80%)"),
        (Share(0.7, 0.6251, 0.8), 0.625, "70% (63% to 80%)"),
        (Share(0.7, 0.625, 0.8), 0.625, "70% (62.5% to 80%)"),  # Python rounds it to the even one
        (Share(0.5, 0.4, 0.5449), 0.545, "50% (40% to 54%)"),
        (Share(0.5, 0.4, 0.54501), 0.545, "50% (40% to 55%)"),
        (Share(0.5, 0.4, 0.4996), 0.5, "50% (40% to 49.96%)"),
        (Share(0.5, 0.4, 0.5), 0.5, "50% (40% to 50%)"),
        (Share(0.5, 0.544999, 0.6), 0.545, "50% (54% to 60%)"),
        (None, 0.5, "not measurable"),
    ],
)
def test_an_end_stays_on_its_side_of_the_bar(share: Share | None, bar: float | None, said: str) -> None:
    assert say_share(share, bar) == said


@pytest.mark.parametrize(
    ("bar", "said"), [(0.5, "50%"), (0.575, "57.5%"), (0.29, "29%"), (0.6349, "63.5%"), (1, "100%")]
)
def test_a_bar_has_a_tenth_where_it_is_no_whole_per_cent(bar: float, said: str) -> None:
    assert say_bar(bar) == said


def test_whatever_is_printed_decides_as_what_was_measured() -> None:
    """A reader who compares what is printed comes to the verdict; the control rounds both to whole per cents."""
    rng = np.random.default_rng(0)
    rounded = 0
    for _ in range(2000):
        bar = float(rng.uniform(0.2, 0.8)) if rng.random() < 0.5 else float(rng.integers(20, 80)) / 200
        end, printed = bar + float(rng.normal(0, 0.004)), float(say_bar(bar).rstrip("%")) / 100
        if min(bar, printed) <= end <= max(bar, printed):  # within half a tenth of a per cent, which no digits tell
            continue
        ends = say_share(Share(end, end, end), bar).partition("(")[2].rstrip(")").split(" to ")
        for each in ends:
            assert (float(each.rstrip("%")) >= 100 * printed - 1e-9) == (end >= bar), (end, bar)
        rounded += (float(f"{end:.0%}"[:-1]) >= float(f"{bar:.0%}"[:-1])) != (end >= bar)
    assert rounded > 300
