"""Questions: a study is a folder with a plan of jobs, claims, tables and one page, and knows no other study.

:data:`STUDIES` is the only list that knows them. Listing them imports none of them; :func:`load_study` imports one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftmech_hf.jobs.study import StudyFacts

STUDIES = {
    "compare": "ftmech_hf.studies.compare",
    "compare_organisms": "ftmech_hf.studies.compare_organisms",
    "continual": "ftmech_hf.studies.continual",
    "diagnose": "ftmech_hf.studies.diagnosis",
    "organisms": "ftmech_hf.studies.organisms",
    "real": "ftmech_hf.studies.real",
    "reproduce": "ftmech_hf.studies.pcfg",
    "retrieval": "ftmech_hf.studies.retrieval",
    "safety": "ftmech_hf.studies.safety",
    "sweep": "ftmech_hf.studies.sweep",
    "tinystories": "ftmech_hf.studies.tinystories",
    "tracr": "ftmech_hf.studies.tracr",
}
"""Name of a study -> its folder, in whose ``study.py`` it is declared as ``STUDY``."""


def load_study(name: str) -> StudyFacts:
    """What a study's folder declares.

    Raises:
        ValueError: there is no such study; names those there are.
    """
    if name not in STUDIES:
        raise ValueError(f"study: {name!r}, expected one of {', '.join(STUDIES)}")
    study: StudyFacts = importlib.import_module(f"{STUDIES[name]}.study").STUDY
    return study
