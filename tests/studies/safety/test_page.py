"""The page of the study of safety fine-tuning, of runs that were never made."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.studies.safety import results
from ftmech_hf.studies.safety.plan import SafetyPlan
from ftmech_hf.studies.safety.sections import SHOWN
from ftmech_hf.studies.safety.study import STUDY
from tests.browser import check_page, figures_of_claims
from tests.studies.safety.made_up import inside
from tests.studies.safety.test_claims import made_up


class MadeUpPlan(SafetyPlan):
    """A plan all of whose runs are finished, but for the diagnoses."""

    def finished(self, runs: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, Any]]:
        found: dict[str, Any] = {id(self.answers): made_up()}  # type: ignore[dict-item]
        found |= {id(each): inside()[name] for name, each in self.analyses.items()}  # type: ignore[misc]
        return {seed: dict(found.get(id(runs), {})) for seed in (0, 1)}  # type: ignore[call-overload]


def test_nobody_is_kept_out_of_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "linear_baselines", functools.partial(results.linear_baselines, num_rows=64))
    plan = STUDY.read_plan(["--output_dir", str(tmp_path), "--seeds", "0", "1"])
    plan.__class__ = MadeUpPlan
    claims = results.write_results(plan)
    assert len(json.loads((tmp_path / "claims.json").read_text())) == sum(bool(each.bar) for each in claims)
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml") == len(SHOWN)
    drawn = figures_of_claims(tmp_path / "report.html")
    assert [claim for claim in drawn if not drawn[claim]] == []
    assert drawn["tau"] == ["figure-where-they-lie-in-the-stream"]
    check_page(tmp_path / "report.html")
