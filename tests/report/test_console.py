"""What recipes say stands as it is, whatever brackets and colons names and answers hold."""

from __future__ import annotations

import pandas as pd
import pytest

from ftmech_hf.report.claims import Claim
from ftmech_hf.report.console import make_console, print_claims, print_table

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
