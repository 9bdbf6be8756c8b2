from __future__ import annotations

import json
from pathlib import Path

from recipes import benchmark


def test_every_contender_is_measured_and_ours_is_the_unit(tmp_path: Path) -> None:
    """What it measures is never asserted: a loaded machine must not fail a test."""
    path = tmp_path / "benchmark.json"
    benchmark.main(["train", "--steps", "2", "--rounds", "1", "--batch_size", "4", "--json", str(path)])
    result = json.loads(path.read_text())
    assert {(row["contender"], row["precision"]) for row in result["rows"]} == {
        (name, precision) for name in benchmark.CONTENDERS for precision in ("fp32", "bf16")
    }
    assert all(row["ours_over_this"] == 1 for row in result["rows"] if row["contender"] == "ours")
    assert all(row["tokens_per_second"] > 0 for row in result["rows"])
    assert result["versions"]["torch"]
