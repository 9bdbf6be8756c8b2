"""What a method of diagnosis is: it measures a pair of models, draws what it found, and says what the picture shows.

``methods/`` has one file per method, and ``methods/__init__.py`` one line for each.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.evidence import Contribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ftmech_hf.studies.diagnosis.case import Case

TableRow = dict[str, Any]
Summary = Mapping[str, Any]
"""``summary.json`` of a diagnosis: verdict, reason, signs, evidence, rule and facts."""
Picture = Callable[["Axes", pd.DataFrame, str], None]
"""Draws into axes the method's rows of the table; the last argument is what the reference is called in a legend."""


class MethodResult(abc.ABC):
    """What one method found on a pair of models."""

    @abc.abstractmethod
    def rows(self) -> list[TableRow]:
        """Its rows of the tidy table, made by :func:`row`."""

    def evidence(self) -> Contribution | None:
        """What it says to the rule of the verdict; None if nothing."""
        return None

    def summary(self) -> dict[str, Any]:
        """What the summary tells beside that: keys that no other method uses, values that :func:`plain` takes."""
        return {}


class Apart(NamedTuple):
    """How a result comes from the process that found it into another one.

    Attributes:
        packed: the result -> something that can be pickled.
        unpacked: that and the case -> the result.
    """

    packed: Callable[[Any], Any]
    unpacked: Callable[[Any, Case], MethodResult]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        measure: makes its result of the case and of the results of ``needs``, in their order.
        needs: names of methods that come before it.
        title: above its pictures on the page.
        pictures: drawn from its rows of the table; without any, the page does not show it.
        needs_weights: whether it needs a fine-tuned model that is a change of weights, and no tokens in front of rows.
        mixes_weights: whether it puts weights of one model into another, so that both must compute alike with them.
        asked_by: the setting of :class:`~ftmech_hf.studies.diagnosis.case.CaseConfig` that asks for it; none if it is
            always measured.
        apart: how it may be measured in another process, beside the others; None if it is not. Then it needs no other
            method, and leaves nothing in the case that others read.
        explain: says in plain words and with the summary's numbers what the pictures show.
    """

    measure: Callable[..., MethodResult]
    needs: tuple[str, ...] = ()
    title: str = ""
    pictures: tuple[Picture, ...] = ()
    explain: Callable[[Summary], str] = lambda summary: ""
    needs_weights: bool = False
    mixes_weights: bool = False
    asked_by: str = ""
    apart: Apart | None = None


def row(analysis: str, quantity: str, value: float, low: float | None = None, high: float | None = None,
        *, model: str = "", questions: str = "", site: str = "", layer: int | None = None, x: float | None = None,
        reference: bool = False) -> TableRow:  # fmt: skip
    """One number of the tidy table.

    Args:
        analysis: name of the method on whose pictures it is.
        quantity: what was measured.
        value, low, high: the number, and its interval if there is one.
        model, questions, site, layer, x: of what, as far as it applies; ``x`` is a step, a number of rows or a place.
        reference: whether it is there for the others to be compared with.
    """
    return {"analysis": analysis, "quantity": quantity, "model": model, "questions": questions, "site": site,
            "layer": layer, "x": x, "value": value, "low": low, "high": high, "reference": reference}  # fmt: skip


def read_of_answers(summary: Summary) -> str:
    """What a method reads that knows answers of one token alone; nothing where all answers are."""
    longest = summary["facts"].get("longest_answer_tokens", 1)
    return "" if longest == 1 else f" Of answers of up to {longest} tokens it is the first that is read."


def plain(value: Any) -> Any:
    """Evidence as JSON can hold it."""
    if isinstance(value, Share):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
