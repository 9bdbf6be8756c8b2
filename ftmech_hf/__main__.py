"""The command: ``ftmech-hf RECIPE ...`` and ``python -m ftmech_hf RECIPE ...`` run a recipe, wherever it is installed.

What lists the recipes imports none of them, nor torch.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import ftmech_hf

USAGE = """usage: ftmech-hf RECIPE [--config FILE] [--SETTING VALUE ...]
       accelerate launch -m ftmech_hf RECIPE ...

To begin: `ftmech-hf reproduce --config nano/reproduce.yaml` makes small models and shows the effects on them;
`ftmech-hf diagnose --base BASE --finetuned TUNED --dataset QUESTIONS` asks two models of your own.

A recipe takes a YAML file of settings, and settings; `ftmech-hf RECIPE --help` lists them. The files that come with
the package are found by their short names, such as --config nano/pretrain.yaml.
"""


def recipes_folder() -> Path:
    """Where the recipes are: in the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def describe_recipes() -> dict[str, str]:
    """Recipe -> the first line of what it says of itself."""
    described = {}
    for path in sorted(recipes_folder().glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        described[path.stem] = text.partition("\n")[0]
    return described


def describe() -> str:
    """What ``--help`` says."""
    recipes = describe_recipes()
    width = max(map(len, recipes), default=0)
    configs = sorted(
        path.relative_to(recipes_folder() / "configs").as_posix()
        for path in (recipes_folder() / "configs").glob("nano/*.yaml")
    )
    lines = [f"  {name:{width}}  {what}" for name, what in recipes.items()]
    return "\n".join(
        [USAGE, "recipes:", *lines, "", "settings files (and those of micro and paper):", *_wrapped(configs)]
    )


def _wrapped(names: Sequence[str]) -> list[str]:
    return textwrap.wrap(", ".join(names), 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def main(argv: list[str] | None = None) -> None:
    """Run the recipe that is named first, with the other words as its command line."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(describe())
        return
    if words[0] == "--version":
        print(f"ftmech_hf {ftmech_hf.__version__}")
        return
    name = words[0].removesuffix(".py").replace("-", "_")
    recipe = recipes_folder() / f"{name}.py"
    if name not in describe_recipes():
        near = difflib.get_close_matches(name, describe_recipes(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; `ftmech-hf --help` lists them"
        print(f"error: recipe: unknown {words[0]!r}{hint}", file=sys.stderr)
        raise SystemExit(2)
    if str(recipe.parents[1]) not in sys.path:  # some recipes take others' parts from the package `recipes`
        sys.path.append(str(recipe.parents[1]))
    sys.argv = [str(recipe), *words[1:]]
    runpy.run_path(str(recipe), run_name="__main__")


if __name__ == "__main__":
    main()
