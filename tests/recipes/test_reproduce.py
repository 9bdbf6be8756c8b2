"""The reproduction as a user runs it, small."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ftmech_hf.runs import damaged_files
from tests.recipes.conftest import run_recipe


def test_reproduce_runs_reports_and_is_found_again(tmp_path: Path) -> None:
    output, made = tmp_path / "reproduce", tmp_path / "shared"
    argv = [
        "--seeds",
        "0",
        "1",
        f"--output_dir={output}",
        f"--runs_dir={made}",
        "--workers=2",
        "--batch_size=8",
        "--eval_rows=16",
    ]
    argv += [f"--{name}_steps=3" for name in ("low", "high", "finetune", "reverse")]
    argv += ["--final_eval_rows=32", "--prune_eval_rows=8", "--probe_fit_rows=60"]
    first = run_recipe("reproduce", *argv, env={**os.environ, "COLUMNS": "150"})
    assert first.returncode == 0, first.stderr
    assert f"report: {output / 'report.html'}" in first.stdout
    claims = json.loads((output / "claims.json").read_text())
    assert len(claims) == 14
    assert not all(claim["holds"] for claim in claims)  # three steps teach nothing
    assert all(claim["seeds"] == [0, 1] and len(claim["values"]) == 2 for claim in claims)
    page = (output / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 7
    assert "does not hold" in page
    assert not any(word in page for word in ('src="http', "<script", "<link"))
    runs = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert len(runs) == 24
    assert all(damaged_files(made / name) == [] for name in runs)

    started = time.monotonic()
    again = run_recipe("reproduce", *argv)
    assert again.returncode == 0
    assert time.monotonic() - started < 60
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == runs
    assert json.loads((output / "claims.json").read_text()) == claims
