"""The instruments find what the compiler put there; where one does not, that is written down here too."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.analysis.recovery import recovery
from ftmech_hf.studies.tracr.ground_truth import KnownConfig, try_instruments
from ftmech_hf.tasks import CounterConfig, MaxIdentifierConfig
from ftmech_hf.tasks.letters import LettersConfig


@pytest.mark.parametrize("task", [CounterConfig(length=20), MaxIdentifierConfig()], ids=["counter", "max"])
def test_instruments_on_the_program_as_it_was_compiled(task: LettersConfig, tmp_path: Path) -> None:
    config = KnownConfig(task=task.program_name, noise=[0.0], fit_rows=300, rows=48, output_dir=str(tmp_path / "known"))
    table = pd.read_parquet(try_instruments(config, task).path / "table.parquet").set_index("instrument")
    for name in ("probing", "patching", "weight change"):
        assert table.loc[name, "precision"] == table.loc[name, "recall"] == 1, name
        assert table.loc[name, "chance"] < 0.7
    assert table.loc["ablation of rows", "precision"] == 1
    assert table.loc["gradient x weight", "precision"] > 0.9


def test_recovery_counts_what_is_right() -> None:
    scores = {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.0}
    above = recovery(scores, {"a", "c"}, above=0.2)
    assert (above.found, above.known, above.right, above.candidates) == (2, 2, 1, 4)
    assert (above.precision, above.recall, above.chance) == (0.5, 0.5, 0.5)
    top = recovery(scores, {"a", "d"})
    assert (top.precision, top.recall) == (0.5, 0.5)
    nothing = recovery({"a": 0.0, "d": 0.0}, {"a"})
    assert (nothing.found, nothing.recall) == (0, 0)
    with pytest.raises(ValueError, match="known: z has no score"):
        recovery(scores, {"z"})


@pytest.mark.parametrize("order", ["abcd", "dcba"])
def test_parts_that_tie_are_found_whatever_their_order(order: str) -> None:
    """Of b and c one would complete the two that are known; which stands first says nothing of either."""
    scores = {part: {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.2}[part] for part in order}
    for known in ({"a", "b"}, {"a", "c"}):
        found = recovery(scores, known)
        assert (found.found, found.right, found.recall) == (3, 2, 1)
    assert recovery(scores, {"d"}).found == 1
    assert recovery(scores, set()).found == 0
