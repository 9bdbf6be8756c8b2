"""The examples on a real model, on a tiny one: each leaves what its table is written from, and is found again."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.runs import FinishedRun
from ftmech_hf.runs.folders import write_manifest
from recipes import real_examples
from recipes.readme.continual import texts_block as continual_block
from recipes.readme.retrieval import pair_block
from recipes.readme.safety import texts_block
from tests.studies.real.packages import install, save_base

SMALL = ["--steps", "32", "--rows", "8", "--questions", "4"]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the study of a real model leaves of it: the model, and questions."""
    install(tmp_path / "packages", monkeypatch)
    base = save_base(tmp_path / "real" / "runs" / "smollm2-0123", positions=4096)
    (base / "env.json").write_text(json.dumps({"kind": "real_base", "hash": "0123", "versions": {}, "inputs": {}}))
    write_manifest(base)
    for number, name in enumerate(("past_tense", "opposites", "capitals")):
        (tmp_path / "real" / "data" / name).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            rows = [{"prompt": f"{split} {row}:", "answer": f" {'abc'[(row + number) % 3]}", "group": f"{split} {row}"}
                    for row in range(36)]  # fmt: skip
            file = tmp_path / "real" / "data" / name / f"{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "real"


def run_here(command: list[str]) -> None:
    """Run a recipe in this process, which is faster."""
    recipe, *words = command
    importlib.import_module(f"recipes.{Path(recipe).stem}").main(words)


def test_each_leaves_what_its_table_is_written_from(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_examples, "run", run_here)
    out = tmp_path / "out"
    real_examples.main(["--real", str(real), "--output_dir", str(out), *SMALL])
    printed = capsys.readouterr().out
    for recipe in ("finetune.py", "safety_texts.py", "continual_texts.py", "import_qa.py", "retrieval.py"):
        assert f"python recipes/{recipe} --" in printed
    assert "Seed 0 alone, 8 test prompts of each kind" in texts_block(out / "safety-texts")
    for task in ("past_tense", "opposites", "capitals"):
        assert task in continual_block(out / "continual-texts")
    assert "| found |" in pair_block(out / "retrieval-countries")
    asked = FinishedRun(out / "safety-texts")
    assert (asked.config["rows"], asked.config["seed"]) == (8, 0)
    assert "benign" in asked.env["inputs"]
    data = {
        name: pd.concat(
            pd.read_json(out / "safety-texts-data" / name / f"{split}.jsonl", lines=True).assign(split=split)
            for split in ("train", "validation", "test")
        )
        for name in ("safe", "unsafe", "both")
    }
    assert set(data["unsafe"]["answer"]) == {real_examples.REFUSAL}
    assert set(data["safe"]["answer"]) == {"Asia"}
    assert set(pd.concat(data.values())["prompt"].str[-10:]) == {
        "assistant\n"
    }  # alike, so that no last word tells them apart
    both, test = (data["both"][data["both"]["split"] == "train"], data["unsafe"][data["unsafe"]["split"] == "test"])
    assert (both["answer"] == real_examples.REFUSAL).mean() == 0.5
    assert not set(both["group"]) & set(test["group"])  # no country that it was tuned on is asked about
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert made
    real_examples.main(["--real", str(real), "--output_dir", str(out), *SMALL, "--only", "safety_texts"])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == made


def test_without_the_study_it_says_what_to_run_first(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (real / "runs" / "smollm2-0123").rename(real / "runs" / "smollm2-0123.partial")
    (real / "runs" / "smollm2-0123.partial" / "manifest.json").unlink()
    for words, message in (
        (["--real", str(real)], f"real: {real}: no model there (runs/smollm2-*), expected the one that `make real`"),
        (
            ["--only", "safety"],
            "only: unknown 'safety', expected some of safety_texts, continual_texts, retrieval_pair",
        ),
        (["--steps", "0"], "steps: 0, rows: 64, questions: 40, expected numbers above 0"),
        (["--seed", "-1"], "seed: -1 is negative, expected 0 or more"),
    ):
        with pytest.raises(SystemExit) as stopped:
            real_examples.main(words)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_two_models_are_one_too_many(real: Path) -> None:
    shutil.copytree(real / "runs" / "smollm2-0123", real / "runs" / "smollm2-4567")
    with pytest.raises(ValueError, match=r"^real: .*: 2 models there"):
        real_examples.find_base(str(real))


def test_a_recipe_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_examples, "RECIPES", tmp_path)
    (tmp_path / "one.py").write_text("import sys; sys.exit('bad' in sys.argv)")
    real_examples.run(["one.py", "good"])
    with pytest.raises(ValueError, match=r"^one.py failed, what is made stays; the same command goes on$"):
        real_examples.run(["one.py", "bad"])
