"""The command, and what a wheel has in it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import ftmech_hf
from ftmech_hf.__main__ import describe, describe_recipes, main
from ftmech_hf.config import read_yaml
from ftmech_hf.studies import STUDIES, load_study
from tests.processes import run_forked

ROOT = Path(__file__).parents[1]
OF_THE_REPOSITORY = ("results", "update_readme", "write_cards")
"""Recipes that write its own files, and are in no wheel."""
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))
MODULES = sorted(
    path
    for folder in ("ftmech_hf", "recipes")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith("_") and part not in ("__init__.py", "__main__.py") for part in path.parts)
)


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=cwd, check=False)


def test_help_names_every_recipe_with_a_line_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("-X", "importtime", "-m", "ftmech_hf", "--help")
    assert done.returncode == 0
    assert not re.search(r"\| +(torch|transformers|numpy|recipes)\b", done.stderr)
    listed = done.stdout.split("recipes:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == RECIPES
    for line, name in zip(listed, RECIPES, strict=True):
        what = line.split(maxsplit=1)[1]
        assert what.endswith(".")
        assert what == (ROOT / "recipes" / f"{name}.py").read_text().splitlines()[0].removeprefix('"""')
    main([])
    assert capsys.readouterr().out.strip() == describe().strip()


def test_it_runs_a_recipe_from_anywhere_with_settings_by_their_short_name(tmp_path: Path) -> None:
    argv = ["--steps", "1", "--batch_size", "2", "--eval_rows", "2", "--final_eval_rows", "2", "--n_layer", "1"]
    argv += ["--n_embd", "16", "--n_head", "1", "--output_dir", "made"]
    done = run_forked(["-m", "ftmech_hf", "pretrain", "--config", "nano/pretrain.yaml", *argv], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "manifest.json").is_file()
    assert read_yaml(str(tmp_path / "made" / "config.yaml"))["operand_prior"] == ["low"]


def test_an_unknown_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for word, hint in (("diagnoze", "did you mean 'diagnose'?"), ("zzz", "`ftmech-hf --help` lists them")):
        with pytest.raises(SystemExit) as caught:
            main([word])
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"error: recipe: unknown {word!r}; {hint}\n"


def test_a_file_of_ones_own_goes_before_one_that_comes_with_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_yaml("nano/probe.yaml") == read_yaml(str(ROOT / "recipes" / "configs" / "nano" / "probe.yaml"))
    assert read_yaml("recipes/configs/nano/probe.yaml") == read_yaml("nano/probe.yaml")
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "probe.yaml").write_text("seed: 5\n")
    assert read_yaml("nano/probe.yaml") == {"seed": 5}
    with pytest.raises(ValueError, match=r"config: cannot read 'nano/nothing\.yaml'"):
        read_yaml("nano/nothing.yaml")


def test_every_module_says_what_it_is() -> None:
    """The API's pages begin with it."""
    silent = [path for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []
    assert set(describe_recipes().values()).isdisjoint({""})


def test_the_wheel_is_told_to_have_recipes_types_and_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"ftmech-hf": "ftmech_hf.__main__:main"}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["ftmech_hf", "recipes"]
    assert wheel["sources"] == {"recipes": "ftmech_hf/recipes"}
    assert (ROOT / "ftmech_hf" / "py.typed").is_file()


@pytest.mark.slow
def test_a_wheel_works_without_the_repository(tmp_path: Path) -> None:
    """Built, unpacked elsewhere, and asked for a recipe that has parts in other files."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert wheel.name.startswith(f"ftmech_hf-{ftmech_hf.__version__}-")
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {f"ftmech_hf/{name}" for name in kept} <= names
    assert {f"ftmech_hf/recipes/{name}.py" for name in RECIPES if name not in OF_THE_REPOSITORY} <= names
    assert not {f"ftmech_hf/recipes/{name}.py" for name in OF_THE_REPOSITORY} & names
    templates = {f"ftmech_hf/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "model_cards").glob("*.j2")}
    assert templates | {"ftmech_hf/py.typed", "ftmech_hf/__main__.py"} <= names
    (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "ftmech-hf = ftmech_hf.__main__:main" in (tmp_path / "site" / scripts).read_text()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    for words in (["--help"], ["benchmark", "train", "--help"], ["publish", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "ftmech_hf", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_what_one_cites_has_this_version_and_the_papers_that_studies_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (ftmech_hf.__version__, project["license"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"version = {{{ftmech_hf.__version__}}}" in readme
    _, _, changes = readme.partition("\n## Changes\n\n")
    assert changes.startswith(f"**{ftmech_hf.__version__}**")
    papers = {each["value"].removeprefix("arXiv:") for work in cited["references"] for each in work["identifiers"]}
    named = {number for name in STUDIES for number in load_study(name).papers}
    assert papers < named  # studies also name whose form a table has
    assert len(papers) == 4
