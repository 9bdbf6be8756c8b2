"""What results say of where they are from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftmech_hf.report.page import write_origin
from ftmech_hf.runs import code_version, write_json


@pytest.mark.parametrize(
    ("found", "said"), [(["no", "no"], "no"), (["bf16", None, "no"], "bf16 and no"), ([None], None), ([], None)]
)
def test_results_say_in_which_precision_their_runs_were_computed(
    tmp_path: Path, found: list[str | None], said: str | None
) -> None:
    """Their name says what was asked for, which may be auto."""
    folders = []
    for number, precision in enumerate(found):
        folders.append(tmp_path / f"run-{number}")
        folders[-1].mkdir()
        write_json(folders[-1] / "env.json", {} if precision is None else {"mixed_precision": precision})
    folders.append(tmp_path / "never made")
    settings = {"mixed_precision": "auto"}
    facts = write_origin(tmp_path / "out", "sweep", settings, runs=folders)
    assert json.loads((tmp_path / "out" / "env.json").read_text()).get("mixed_precision") == said
    assert facts["versions"].endswith(f", mixed precision {said}") == (said is not None)
    assert facts["hash"] == write_origin(tmp_path / "other", "sweep", settings)["hash"]


def test_results_say_of_which_code_they_are_and_how_many_others_made_their_runs(tmp_path: Path) -> None:
    for name, code in (
        ("same", code_version()),
        ("old", "0123"),
        ("copy", "0123"),
        ("older", "4567"),
        ("unknown", None),
    ):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "env.json", {} if code is None else {"code": code})
    said = []
    for names in (("same", "unknown"), ("same", "old", "copy", "older")):
        write_origin(tmp_path / "out", "sweep", {}, runs=(tmp_path / name for name in names))
        env = json.loads((tmp_path / "out" / "env.json").read_text())
        assert env["code"] == code_version()
        said.append(env["other_code"])
    assert said == [0, 2]
