"""A sweep as a user runs it, small: models of a few thousand parameters."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ftmech_hf.runs import FinishedRun, is_finished
from ftmech_hf.studies.sweep.results import stage_rows
from recipes import sweep
from tests.browser import check_page
from tests.processes import forked, run_forked, wait_until

ROOT = Path(__file__).parents[2]
SWEEP = str(ROOT / "recipes" / "sweep.py")

STUDY = """
# A tiny sweep.
title: A tiny sweep
seeds: [0, 1]
common:
  {text_length: 12, count_window: 8, min_labels: 4, index_occurrence: 2, token_at_position: 6, batch_size: 8,
   eval_rows: 16, final_eval_rows: 32, steps: 4, eval_at: [2]}
pretrain: {n_layer: 1, n_embd: 16, n_head: 2, operand_prior: low}
finetune: {operators: count, operand_prior: b, correlation: 1.0, objective: answer_only, optimizer: adamw}
prune: {sizes: [0, 2], score_rows: 32, eval_rows: 32, num_random_at_best: 1}
probe: {fit_rows: 64, test_rows: 32}
interpolate: {operators: count, correlation: 1.0, eval_rows: 32, alphas: [0.0, 0.5, 1.0]}
reverse: {operators: count, operand_prior: a, objective: answer_only, optimizer: adamw}
grid:
  finetune.lr: {large: 1.0e-3, small: 1.0e-5}
figures:
  - {title: curves, metrics: [count_a, count_b_cte0], x: step, color: finetune.lr, style: metric}
  - {title: frontier, kind: frontier, metrics: [count_b_cte0, count_a], color: finetune.lr}
  - {title: revival, stage: reverse, metrics: [steps_to_revival], x: finetune.lr}
  - {title: reading, stage: probe, metrics: [read/base, read/finetuned], x: step, columns: finetune.lr}
"""


def write(tmp_path: Path, study: str = STUDY) -> list[str]:
    (tmp_path / "study.yaml").write_text(study)
    return ["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--workers", "2"]


def without_places(file: Path) -> list[str]:
    """What a file of results says, but for where it is and by which command it was written."""
    if file.suffix == ".parquet":
        return [pd.read_parquet(file).to_csv()]
    own = ("command", "output_dir", "runs_dir", "_measurements")
    return [line for line in file.read_text().splitlines() if not any(word in line for word in own)]


def test_a_study_is_a_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = write(tmp_path)
    sweep.main(argv)
    out = tmp_path / "out"
    table = pd.read_parquet(out / "table.parquet")
    named = ["rows", "bound", "floor", "lead", "low", "high"]
    assert list(table.columns) == ["finetune.lr", "seed", "stage", "step", "metric", "value", *named]
    with_floor = table[table["floor"].notna()]
    assert {"count_a", "pruned/count_a", "probe/base/accuracy", "read/base"} <= set(with_floor["metric"])
    assert set(with_floor["stage"]) == set(table["stage"])
    assert with_floor["lead"].isna().tolist() == (with_floor["floor"] == 1).tolist()
    with_floor = with_floor[with_floor["floor"] < 1]
    assert np.allclose(with_floor["lead"], (with_floor["value"] - with_floor["floor"]) / (1 - with_floor["floor"]))
    assert set(table["stage"]) == {"pretrain", "finetune", "prune", "probe", "interpolate", "reverse"}
    assert not table.duplicated(["finetune.lr", "seed", "stage", "step", "metric"]).any()
    summary = pd.read_csv(out / "summary.csv")
    assert (summary["n"] == 2).all()
    assert {"change/count_a", "change/probe", "pruned/count_a", "steps_to_revival"} <= set(summary["metric"])
    page = (out / "report.html").read_text()
    assert "A tiny sweep" in page
    assert page.count("Always giving the one answer that is right most often") == table["stage"].nunique()
    assert page.count("data:image/svg+xml") == 4
    assert {f"figure-{number}.png" for number in range(4)} <= {path.name for path in out.iterdir()}
    assert "12 runs, 0 of them" in capsys.readouterr().out.replace("22 runs", "12 runs")
    made = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    # its own config makes it again, and finds all of it
    kept, again = tmp_path / "kept.tar.xz", tmp_path / "again"
    sweep.main(["--config", str(out / "config.yaml"), "--keep_measurements", str(kept)])
    assert {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == made
    check_page(out / "report.html")
    # and where none of its runs is, its results are the same
    (out / "runs").rename(tmp_path / "elsewhere")
    sweep.main([*argv, "--output_dir", str(again), "--from_measurements", str(kept),
                "--runs_dir", str(tmp_path / "nothing")])  # fmt: skip
    assert not (again / "runs").exists()
    for name in ("table.parquet", "summary.csv", "env.json", "config.yaml"):
        assert without_places(again / name) == without_places(out / name)
    assert (out / "report.html").read_text().count("measurements-") == 0
    with pytest.raises(SystemExit):
        sweep.main([*argv, "--set", "finetune.steps=5", "pretrain.steps=5", "--output_dir", str(again),
                    "--from_measurements", str(kept)])  # fmt: skip
    assert "kept.tar.xz holds no run of these settings, expected those of sweep" in capsys.readouterr().err


def test_a_failed_run_stops_no_other_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = yaml.safe_load(STUDY)
    for stage in ("prune", "probe", "interpolate", "figures"):
        del study[stage]
    study["seeds"] = [0]
    study["grid"] = {"finetune.lr": {"good": 1e-3, "bad": 1e9}}
    with pytest.raises(SystemExit):
        sweep.main(write(tmp_path, yaml.safe_dump(study)))
    shown = capsys.readouterr()
    assert "1 of 5 runs failed; 1 that need them were not begun; first finetune-bad-seed0: loss: became" in shown.err
    assert "missing: 2 runs" in shown.out
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    assert set(table[table["finetune.lr"] == "good"]["stage"]) == {"pretrain", "finetune", "reverse"}
    assert set(table[table["finetune.lr"] == "bad"]["stage"]) == {"pretrain"}
    assert "2 runs are missing" in (tmp_path / "out" / "report.html").read_text()


def finished_runs(runs: Path) -> set[str]:
    """Those that have appeared: a manifest is written some time before its folder is renamed."""
    return {path.name for path in runs.iterdir() if path.suffix != ".partial" and is_finished(path)}


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals")
def test_ctrl_c_leaves_a_sweep_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = yaml.safe_load(STUDY)
    for stage in ("prune", "probe", "interpolate", "figures", "reverse"):
        del study[stage]
    argv = [*write(tmp_path, yaml.safe_dump(study)), "--set", "finetune.steps=100"]
    runs = tmp_path / "out" / "runs"
    with forked([SWEEP, *argv], tmp_path / "errors") as process:
        wait_until(lambda: runs.is_dir() and bool(finished_runs(runs)), process)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None)
    assert process.returncode == 130
    errors = (tmp_path / "errors").read_text()
    assert "interrupted: nothing finished was lost" in errors
    assert "Traceback" not in errors
    finished = finished_runs(runs)
    sweep.main(argv)
    assert f"6 runs, {len(finished)} of them finished before" in capsys.readouterr().out


def test_ray_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = yaml.safe_load(STUDY)
    for stage in ("prune", "probe", "interpolate", "figures", "reverse"):
        del study[stage]
    study["seeds"] = [0]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    argv = ["--config", "study.yaml", "--workers", "2"]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray's workers give way to all others, here to the tests beside them: for minutes
    }  # fmt: skip
    done = run_forked([SWEEP, *argv, "--output_dir", "ray", "--backend", "ray"], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    sweep.main([*argv, "--output_dir", "local", "--backend", "local"])
    local, ray = (pd.read_parquet(tmp_path / name / "table.parquet") for name in ("local", "ray"))
    pd.testing.assert_frame_equal(local, ray)


def test_probing_is_gathered_at_every_site(chain: Path) -> None:
    rows = stage_rows("probe", FinishedRun(chain / "probe"))
    table = pd.read_parquet(chain / "probe" / "table.parquet")
    for model in ("base", "finetuned", "random init"):
        found = {row["step"]: row["value"] for row in rows if row["metric"] == f"read/{model}"}
        of_model = table[(table["model"] == model) & (table["label"] == "a")]
        assert list(of_model["site"]) == ["embedding", "block 0", "block 1", "block 2"]
        assert found == dict(enumerate(of_model["accuracy"]))
    assert len({row["value"] for row in rows if row["metric"] == "read/finetuned"}) > 1
