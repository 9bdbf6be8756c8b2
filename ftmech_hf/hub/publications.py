"""What jobs and studies declare of the runs that they make, by the kind of a run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ftmech_hf.jobs import JOBS
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies import STUDIES, load_study


def _studies_publications() -> Sequence[Publication]:
    return [each for name in STUDIES for each in load_study(name).publications]


def find_publication(kind: str) -> Publication | None:
    """What is declared of a kind of run; None if nothing is, so that it cannot be published."""
    declared = importlib.import_module(JOBS[kind]).PUBLICATIONS if kind in JOBS else _studies_publications()
    return next((each for each in declared if each.kind == kind), None)


def known_kinds() -> list[str]:
    """All kinds of runs and of results that can be published."""
    return [*JOBS, *(each.kind for each in _studies_publications())]


def publication_of(run: FinishedRun) -> Publication:
    """What the job or the study that made a run declares of it.

    Raises:
        ValueError: nothing; names the kinds of which something is.
    """
    if (found := find_publication(run.kind)) is None:
        raise ValueError(f"run: {run.path} is a {run.kind}, expected one of {', '.join(known_kinds())}")
    return found
