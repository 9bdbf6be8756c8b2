"""No recipe ends in a traceback, whatever it is given; and none can be written that would."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ftmech_hf import downloads
from tests.conftest import make_gpt2
from tests.recipes.conftest import RECIPES

NAMES = sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__")
FIRST = {"benchmark": ["train"], "study": ["reproduce"]}
"""Words that a recipe needs before its flags."""


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_recipe_does_is_within_clean_exit(name: str) -> None:
    module = ast.parse((RECIPES / f"{name}.py").read_text(encoding="utf-8"))
    main = next(each for each in module.body if isinstance(each, ast.FunctionDef) and each.name == "main")
    _, whole, *after = main.body
    assert isinstance(whole, ast.With)
    assert ast.unparse(whole.items[0]) == "clean_exit()"
    assert not after
    # nothing is read or computed while it is imported
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr, ast.If)
    imports = [each for each in module.body if isinstance(each, ast.With)]  # together, in a faster way
    assert all(isinstance(each, (ast.Import, ast.ImportFrom)) for whole in imports for each in whole.body)
    assert all(isinstance(each, (*allowed, ast.With)) for each in module.body)


def stopped(name: str, argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(f"recipes.{name}").main([*FIRST.get(name, []), *argv])
    return int(exit_.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_of_settings_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(
        [b"- a", b"a: [", b"\xff", b"a: 1\na: 2", b"output_dir: {a: 1}", b"nonsense: 1", b"a"]
    ):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(content)
        code, errors = stopped(name, ["--config", str(path)], capsys)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert errors.startswith("error: ")
    for argv in (["--config", "nowhere.yaml"], ["--config", str(tmp_path)], ["--nonsense", "1"], ["nonsense"]):
        code, errors = stopped(name, argv, capsys)
        assert (code, errors.count("\n")) == (2, 1), errors
    assert not (tmp_path / "runs").exists()


def damaged_models(folder: Path) -> dict[str, Path]:
    """Folders that look like models, each wrong in another way."""
    found = {name: folder / name for name in ("config", "kind", "weights", "shape", "empty", "list", "adapter")}
    for name, path in found.items():
        make_gpt2(40).save_pretrained(path)
        config = json.loads((path / "config.json").read_text())
        if name == "config":
            (path / "config.json").write_text("{")
        elif name == "kind":
            (path / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
        elif name == "weights":
            (path / "model.safetensors").write_bytes(b"nonsense" * 10)
        elif name == "shape":
            (path / "config.json").write_text(json.dumps({**config, "n_embd": "wide"}))
        elif name == "empty":
            (path / "model.safetensors").unlink()
        elif name == "list":
            (path / "config.json").write_text("[]")
        else:
            (path / "adapter_config.json").write_text("{}")
    return found


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("finetune", "--model {}"), ("reverse_finetune", "--model {}"), ("prune", "--model {}"),
        ("probe", "--models base={}"), ("attention", "--models base={}"), ("truth", "--models base={}"),
        ("interpolate", "--models base={0} finetuned={0}"), ("write_stories", "--model {} --output_dir out"),
        ("diagnose", "--base {0} --finetuned {0}"), ("diagnose", "--base {0} --finetuned {0} --dataset rows.csv"),
        ("publish", "--run {} --repo_id user/name --dry_run true"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_one_line(
    recipe: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"a{number} =,b\n" for number in range(200))
    (tmp_path / "rows.csv").write_text(f"prompt,answer\n{rows}")
    for name, folder in damaged_models(tmp_path / "models").items():
        code, errors = stopped(recipe, flags.format(folder).split(), capsys)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert code == 2, (name, errors)
        assert len(lines) == 1, (name, errors)
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "setting"),
    [("diagnose", "base"), ("finetune", "model"), ("prune", "model"), ("write_stories", "model"),
     ("probe", "models: finetuned")],
)  # fmt: skip
def test_a_folder_that_is_not_there_yet_is_not_asked_of_the_hub(
    name: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "pull", None)  # whoever asks the Hub fails in another way
    code, errors = stopped(name, [], capsys)
    assert code == 2
    assert errors.startswith(f"error: {setting}: no folder runs/")
    assert "train it first" in errors


def test_a_name_without_a_user_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []

    def pull(repo_id: str, **options: object) -> Path:
        asked.append(repo_id)
        raise ValueError("model: not there")

    monkeypatch.setattr(downloads, "pull", pull)
    said = "error: model: no folder gpt2; and as a model on the Hub: model: not there\n"
    assert stopped("finetune", ["--model", "gpt2"], capsys) == (2, said)
    assert stopped("finetune", ["--model", "gpt2.d/x/y"], capsys)[1].startswith("error: model: no folder gpt2.d/x/y")
    assert asked == ["gpt2"]


@pytest.mark.parametrize("name", ["finetune", "write_stories", "prune"])
def test_a_model_of_another_vocabulary_is_told_what_can_be_done_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_gpt2(8).save_pretrained("foreign")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    )
    tokenizer.save_pretrained("foreign")
    code, errors = stopped(name, ["--model", "foreign"], capsys)
    assert code == 2
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "model: foreign was trained on another vocabulary than this task's; this recipe needs a model of" in lines[0]
    assert "recipes/diagnose.py --dataset" in lines[0]
