"""Results of a study come into its folder together."""

from __future__ import annotations

from pathlib import Path

import pytest

import ftmech_hf.jobs.study
from ftmech_hf.jobs.study import Study, StudyConfig, StudyPlan, claim_numbers, run_study
from ftmech_hf.report.claims import Measurement, claims_json, judge
from ftmech_hf.report.readings import Reading
from ftmech_hf.runs import FinishedRun, write_json


def test_results_are_what_they_were_until_all_are_whole(tmp_path: Path) -> None:
    """A study of no runs, whose results are interrupted between two files."""
    said, interrupted = ["first"], [False]

    def write_results(plan: StudyPlan) -> str:
        plan.write_origin("nothing")
        (plan.results / "table.csv").write_text(said[0])
        if interrupted[0]:
            raise KeyboardInterrupt
        (plan.results / "report.html").write_text(said[0])
        return said[0]

    printed: list[str] = []
    study = Study(name="nothing", question="?", paper="", duration="", configs=(StudyConfig,), plan=StudyPlan,
                  write_results=write_results, print_results=printed.append)  # fmt: skip
    plan = StudyPlan(StudyConfig(output_dir=str(tmp_path)))
    files = {"table.csv", "report.html", "config.yaml", "env.json", "differences.json", ".results.json"}
    assert run_study(study, plan) == "first"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} <= files
    said[0], interrupted[0] = "second", True
    with pytest.raises(KeyboardInterrupt):
        run_study(study, plan)
    assert [(tmp_path / name).read_text() for name in ("table.csv", "report.html")] == ["first", "first"]
    assert plan.results == plan.output == tmp_path
    interrupted[0] = False
    assert run_study(study, plan) == "second"
    assert [(tmp_path / name).read_text() for name in ("table.csv", "report.html")] == ["second", "second"]
    assert printed == ["first", "second"]


def test_what_is_to_be_kept_is_kept_whoever_has_stopped_to_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of runs of hours the last lines are printed into a pipe that has been closed, say."""

    def print_results(results: str) -> None:
        raise BrokenPipeError

    study = Study(name="nothing", question="?", paper="", duration="", configs=(StudyConfig,), plan=StudyPlan,
                  write_results=lambda plan: plan.write_origin("nothing"), print_results=print_results)  # fmt: skip

    def keep(folders: object, file: Path) -> int:
        return file.write_text("kept")

    monkeypatch.setattr(ftmech_hf.jobs.study, "keep_measurements", keep)
    file = tmp_path / "kept.tar.xz"
    plan = StudyPlan(StudyConfig(output_dir=str(tmp_path / "out"), keep_measurements=str(file)))
    with pytest.raises(BrokenPipeError):
        run_study(study, plan)
    assert file.is_file()


def test_every_claim_of_results_stands_on_their_card(tmp_path: Path) -> None:
    """Two that state the same of different things are two; and controls are named by what they state."""
    same = "The same, at most"
    measured = [
        Measurement("first", "First", "%", bar=">= 50", controls=("first_most",)),
        Measurement("first_most", same, "%", bar="<= 10"),
        Measurement("second", "Second", "%", bar=">= 50"),
        Measurement("second_most", same, "%", bar="<= 10"),
    ]
    found = {"first": 90.0, "first_most": 9.0, "second": 90.0, "second_most": 1.0}
    claims = judge(measured, {0: {name: Reading(value, rows=100) for name, value in found.items()}})
    write_json(tmp_path / "claims.json", claims_json(claims))
    numbers = claim_numbers(FinishedRun(tmp_path))
    assert [*numbers] == ["First", f"First. {same}", "Second", f"Second. {same}"]
    assert numbers["First"].endswith(f"✓ holds; its control *First. {same}* is undecided)")
