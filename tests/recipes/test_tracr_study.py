"""The Tracr study and the compiler as a user runs them, small."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModel

from ftmech_hf.models.compiled import CompiledModel
from recipes import compile_program, tracr_study

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
TINY = [
    "--seeds", "0", "1", "--programs", "max_identifier", "--lrs", "1e-2", "1e-4", "--steps", "4", "--batch_size", "4",
    "--reverse_lrs", "1e-2", "--reverse_steps", "3", "--workers", "1", "--instrument_rows", "32",
]  # fmt: skip


def test_the_study_ends_in_a_report_and_finds_its_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "tracr.yaml"), "--output_dir", str(tmp_path / "out")]
    argv += ["--runs_dir", str(tmp_path / "runs"), *TINY]
    tracr_study.main(argv)
    out = tmp_path / "out"
    cells = pd.read_csv(out / "cells.csv")
    assert len(cells) == 2 * 2 * 4
    assert {"paper", "ours", "low", "high", "difference", "agrees"} <= set(cells.columns)
    assert (cells["difference"] == cells["ours"] - cells["paper"]).all()
    assert set(pd.read_csv(out / "weights.csv")["metric"]) == {"before", "one_weight", "best", "random", "weights"}
    assert set(pd.read_csv(out / "reversals.csv")["origin"]) == {"C_Tr 0, from 0.01", "C_Tr 1, from 0.01", "control"}
    instruments = pd.read_csv(out / "instruments.csv")
    assert set(instruments["noise"]) == {0.0, 1e-4}
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "max_identifier: Table 3, cell by cell" in page
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    capsys.readouterr()
    tracr_study.main(argv)
    assert "to make" not in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == made


def test_a_compiled_program_is_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "counter"
    argv = ["--config", str(CONFIGS / "nano" / "compile_program.yaml"), "--output_dir", str(where)]
    compile_program.main([*argv, "--with_code", "true"])
    assert isinstance(AutoModel.from_pretrained(where), CompiledModel)
    assert (where / "compiled.py").is_file()
    assert "o_pt_cte0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        compile_program.main(["--task", "pcfg"])
    assert "task: 'pcfg', expected one of counter, max_identifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--programs", "sort"], "programs: unknown 'sort', expected some of counter, max_identifier"),
        (["--reverse_from", "0.5"], "reverse_from: 0.5 is none of lrs"),
        (["--seeds", "1", "1"], "seeds: [1, 1], expected at least one, none negative, none twice"),
    ],
)
def test_impossible_settings_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tracr_study.main(argv)
    assert message in capsys.readouterr().err
