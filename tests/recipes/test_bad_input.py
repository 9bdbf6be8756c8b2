"""Bad input is one clear line, before anything is written."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.tasks import PcfgShape
from tests.conftest import make_gpt2
from tests.recipes.conftest import run_recipe


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a recipe runs in."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "empty").mkdir()
    make_gpt2(len(PcfgShape().vocabulary)).save_pretrained(tmp_path / "model")
    save_tokenizer(build_tokenizer(PcfgShape().vocabulary), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "argv", "message"),
    [
        ("pretrain", ["--setps", "5"], "error: unknown argument '--setps'; did you mean 'steps'?"),
        ("pretrain", ["--text_length", "60"], "error: n_positions: 64 of preset 'nano' are too few for"),
        ("finetune", ["--model", "runs/nowhere"], "error: model: no folder runs/nowhere; train it first"),
        ("pretrain", ["--operators", "count", "--correlation=1", "--correlation_offset=14"],
         "error: min_labels: 8, but only 0 labels of count b, correlation_offset: 14, occur often"),
        ("finetune", ["--split", "test"], "error: argument --split: invalid choice: 'test'"),
        ("prune", ["--sizes", "-1"], "error: sizes: [-1], expected numbers of 0 or more"),
        ("prune", ["--unit", "weight", "--exact_rows", "8"], "error: unit: weight has too many units to ablate each"),
        ("prune", ["--sizes", "0", "30"], "error: sizes: [0, 30], expected at least one from 1 to max_best_k: 15"),
        ("probe", ["--label_operands", "d"], "error: label_operands: 'd', expected some of a, b, c"),
        ("probe", ["--models", "base"], "error: models: 'base', expected entries like finetuned=runs/finetune"),
        ("pretrain", ["--task", "pcgf"], "error: task: unknown 'pcgf', expected one of pcfg"),
        ("make_dataset", ["--rows", "train=x"], "error: rows: 'train=x', expected entries like train=100000"),
        ("make_dataset", ["--variants", "count_d"], "error: variants: 'count_d', expected default, pretrain-PRIOR"),
        ("truth", ["--operators", "count", "--correlation", "1"], "error: truth: known for untouched rows only"),
        ("compile_program", ["--write_to", "x"], "error: write_to: x, but only --artefacts true writes there"),
        ("import_qa", ["--format", "csv"], "error: format: unknown 'csv', expected one of plain, beir, squad"),
        ("import_qa", ["--source", "nowhere.json"], "error: source: there is no nowhere.json"),
        ("diagnose", ["--base", "runs/nowhere"], "error: base: no folder runs/nowhere; train it first"),
        ("diagnose", ["--base", "model", "--finetuned", "runs/nowhere"], "error: finetuned: no folder runs/nowhere"),
        ("diagnose", ["--base", "model", "--finetuned", "model", "--control", "empty"],
         "error: control: empty holds no model (no config.json, no adapter_config.json)"),
        ("compare", ["--base", "runs/nowhere"], "error: base: no folder runs/nowhere; train it first"),
        ("compare", ["--base", "model", "--finetuned", "runs/nowhere"], "error: finetuned: no folder runs/nowhere"),
        ("probe", ["--models", "base=model", "mine=runs/nowhere"], "error: models: mine: no folder runs/nowhere"),
        ("interpolate", ["--models", "base=model", "mine=empty"], "error: models: mine: empty holds no model"),
        ("retrieval", ["--base", "model", "--data", "empty"],
         "error: data: there is no empty/questions.parquet; expected a folder that recipes/import_qa.py wrote"),
        ("reproduce", ["--seeds", "0", "0"], "error: seeds: [0, 0], expected at least one, none negative, none twice"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_an_exit_code(
    recipe: str, argv: list[str], message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"recipes.{recipe}").main(argv)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert list((work / "runs").iterdir()) == []


def test_so_it_is_in_a_process_of_its_own(work: Path) -> None:
    done = run_recipe("pretrain", "--setps", "5", cwd=work)
    assert done.returncode == 2
    assert done.stderr == "error: unknown argument '--setps'; did you mean 'steps'?\n"
