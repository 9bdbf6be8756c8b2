"""The tables that the README of retrieval shows, from files made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from recipes.readme.retrieval import pair_block, verdicts_block


def compared(base: float, tuned: float, completeness: tuple[float, float]) -> dict[str, Any]:
    scores = {"right": (base, tuned), "completeness": completeness}
    means = {model: {name: pair[at] for name, pair in scores.items()} for at, model in enumerate(("base", "finetuned"))}
    change = {name: {"value": new - old, "low": new - old - 0.1, "high": new - old + 0.1}
              for name, (old, new) in scores.items()}  # fmt: skip
    return {"questions": 40, **means, "difference": change}


def test_a_pair_is_told_by_what_stands_beside_the_questions(tmp_path: Path) -> None:
    summary = {"oracle": compared(0.5, 0.25, (0.9, 0.8)), "none": compared(0.25, 0.5, (0.75, 0.5))}
    env = {"cpu_seconds": 61.4, "hash": "0123456789ab", "versions": {"torch": "2.13"}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "env.json").write_text(json.dumps(env))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"top_k": 4, "retriever": "bm25", "seed": 7}))
    _, _, none, oracle, _, source = pair_block(tmp_path).splitlines()
    assert none == ("| none | 40 | 25.0 | 50.0 | +25.0 (15.0 to 35.0) | 75.0 | 50.0 | -25.0 (-35.0 to -15.0) |")
    assert oracle.startswith("| the needed ones | 40 | 50.0 | 25.0 | -25.0 (-35.0 to -15.0) | 90.0 | 80.0 |")
    assert source.startswith("4 documents, found by bm25;")
    assert "; 61 processor seconds for the answers; seed 7; config hash `0123456789ab`; " in source


def test_verdicts_stand_beside_their_seeds(tmp_path: Path) -> None:
    rows = [{"model": "closed", "verdicts": {"0": "weakened", "2": "undecided"}, "reason": "it reads less"}]
    (tmp_path / "verdicts.json").write_text(json.dumps(rows))
    assert verdicts_block(tmp_path).splitlines()[2:] == ["| `closed` | weakened (0), undecided (2) | it reads less |"]
