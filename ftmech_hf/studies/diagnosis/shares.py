"""How a diagnosis says a share and its interval in words, beside the bar that decides what it means."""

from __future__ import annotations

from ftmech_hf.statistics.intervals import Share

NOT_MEASURED = "not measurable"
MOST_DIGITS = 6
"""Behind the point of a percentage; by then an end is no longer told from its bar by what is printed."""


def say_share(share: Share | None, bar: float | None = None) -> str:
    """A share and its interval in words; an end that is rounded stays on its side of a bar, if there is one."""
    if share is None:
        return NOT_MEASURED
    low, high = (_say_end(end, bar) for end in (share.low, share.high))
    return f"{share.value:.0%} ({low} to {high})"


def say_bar(bar: float) -> str:
    """A bar in words: in whole per cent if it is so many, else with a tenth."""
    return f"{bar:.0%}" if abs(100 * bar - round(100 * bar)) < 1e-9 else f"{bar:.1%}"


def _say_end(end: float, bar: float | None) -> str:
    for digits in range(MOST_DIGITS):
        said = f"{end:.{digits}%}"
        if bar is None or (_percent(said) >= _percent(say_bar(bar))) == (end >= bar):
            break
    return said


def _percent(said: str) -> float:
    return float(said.removesuffix("%"))
