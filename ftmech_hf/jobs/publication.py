"""What is published of a kind of run, as the job or the study declares it that makes such runs.

A module that makes runs has ``PUBLICATIONS``; which one makes which kind stands in :data:`ftmech_hf.jobs.JOBS`. A study
declares those of its own jobs in its :class:`ftmech_hf.jobs.study.Study`. :mod:`ftmech_hf.hub` reads both, and knows no
kind by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ftmech_hf.runs import FinishedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # jobs start without it

Holds = Literal["model", "rows", "table", "results"]


class Picture(NamedTuple):
    """A picture for a card: what its file is called, what it shows, and what draws it."""

    file: str
    caption: str
    draw: Callable[[Axes], None]


def _says_nothing(run: FinishedRun, label: str) -> Sequence[str]:
    return []


def _says_no_more(run: FinishedRun) -> str:
    return ""


def _shows_nothing(run: FinishedRun) -> Sequence[Picture]:
    return []


def read_summary(run: FinishedRun) -> Mapping[str, Any]:
    """What a run found, in short; empty if it left no summary."""
    return run.summary if run.has("summary.json") else {}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """How one kind of run is published.

    Attributes:
        kind: of the runs, as in :meth:`ftmech_hf.runs.RunDir.open`; of a study's results, the study's name.
        holds: a ``model`` with its card; ``rows`` of a data set with their card; a ``table`` of what was measured of
            models; or ``results`` of a study, whose runs are not published with them.
        question: what such a run asks, in a sentence; of a model, what was done to it.
        of_task: name of a task -> what was done to a model that was trained on it, where that is said otherwise.
        state: sentences for the card of a model. Called with a run and what it calls that model, which is empty for
            the model that the run itself made.
        pictures: for that card.
        numbers: what the run's own card says in numbers: name -> number, text, or such names again.
        data_file: the table that the Hub shows of it.
        judges: what it calls the models on which it gives a verdict, which then stands in their cards with the page.
        trust: in how far such a verdict is to be believed, in sentences.
        papers: numbers at arXiv of the papers whose question it asks, which become tags of its card.
    """

    kind: str
    holds: Holds
    question: str
    of_task: Mapping[str, str] = field(default_factory=dict)
    state: Callable[[FinishedRun, str], Sequence[str]] = _says_nothing
    pictures: Callable[[FinishedRun], Sequence[Picture]] = _shows_nothing
    numbers: Callable[[FinishedRun], Mapping[str, Any]] = read_summary
    data_file: str = "table.parquet"
    judges: tuple[str, ...] = ()
    trust: Callable[[FinishedRun], str] = _says_no_more
    papers: tuple[str, ...] = ("2311.12786",)

    def describe(self, run: FinishedRun) -> str:
        """The question of a run of this kind."""
        return self.of_task.get(run.config.get("task", ""), self.question)


def as_percent(share: float) -> str:
    """A share as cards print it."""
    return f"{100 * share:.1f} %"


def asked_name(run: FinishedRun) -> str:
    """What a job asked its models: the name of a data set or of a task, of the procedural task the capability."""
    if "dataset" in run.summary:
        return str(run.summary["dataset"]["name"])
    return str(run.config.get("task") or f"{run.config.get('operator')}_{run.config.get('base_operand')}")
