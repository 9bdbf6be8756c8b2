"""What is said of a probe names what it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.jobs.probing import PUBLICATIONS
from ftmech_hf.runs import FinishedRun, RunDir

MEASURED = {"accuracy": 0.5, "shuffled": 0.1, "majority": 0.1}


@pytest.mark.parametrize(
    ("config", "more", "name"),
    [
        ({"task": None, "operator": "index"}, {"label": "b"}, "index_b"),
        ({"task": "library", "operator": "index"}, {"label": "answer"}, "library"),
        ({"task": None, "operator": "count", "base_operand": "a"}, {}, "count_a"),
    ],
    ids=["another operand's answer", "another task", "a run of before"],
)
def test_a_card_names_what_a_probe_reads(
    tmp_path: Path, config: dict[str, Any], more: dict[str, Any], name: str
) -> None:
    run = RunDir.open(tmp_path / "run", "probe", config)
    (run.working / "summary.json").write_text(json.dumps({"base": {**MEASURED, **more}}))
    run.finish()
    (publication,) = PUBLICATIONS
    (line,) = publication.state(FinishedRun(run.path), "base")
    assert line.startswith(f"A linear probe reads `{name}` from its stream in 50.0 % of the prompts; ")
