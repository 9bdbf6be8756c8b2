"""What recipes say stands as it is, whatever brackets and colons names and answers hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.jobs.job import finish_job
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.console import make_console, print_claims, print_job, print_table
from ftmech_hf.runs import RunDir

NAMES = ["runs/[/x]", "runs/[bold]y", ":smile:", r"a\[b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print(f"run: {name}", soft_wrap=True)
    print_table(f"of {name}", pd.DataFrame({name: [name]}))
    assert capsys.readouterr().out.count(name) == 4


def test_a_verdict_is_printed_beside_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    claim = Claim(id="a", statement="answers [/x]", paper="", measured=90.0, interval=(85.0, 95.0), bar=">= 80",
                  verdict="holds", seeds=[0], floor=None, values=[90.0], unit="%")  # fmt: skip
    print_claims([claim])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "answers [/x]" in line]
    assert "holds" in row
    assert "[green]" not in row


def test_little_is_not_printed_as_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.open(tmp_path / "run", "truth", {})
    finish_job(run, [{"kl": 0.00032, "none": 0.0, "much": 12.3456, "back": -0.0004}], {"kl": 0.00032, "none": 0.0})
    run.close()
    print_job(run)
    printed = capsys.readouterr().out
    for said in ("0.00032", "12.346", "-0.0004", "kl: 0.00032", "none: 0.000"):
        assert said in printed


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_pipe_that_knows_few_letters_is_written_to(encoding: str) -> None:
    """As a redirect on Windows: marks that it has not are question marks, and nothing fails."""
    script = "from ftmech_hf.config import clean_exit\nwith clean_exit():\n    print('\u2713 holds')\n"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, b"? holds")
