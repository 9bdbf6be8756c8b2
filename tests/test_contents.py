"""The package's table of contents: what it promises is there, and costs nothing before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ftmech_hf

ROOT = Path(ftmech_hf.__file__).parents[1]
OTHERS = ("__init__", "benchmark", "study", "update_readme")
"""What is not a command with settings, or asks which one of several first."""
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.py") if path.stem not in OTHERS)
PRINT_LOADED = "print('LOADED', *sys.modules)"
HELP = """
import contextlib, runpy, sys
for recipe in sys.argv[1:]:
    sys.argv = [recipe, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_path(recipe, run_name="__main__")
"""


def loaded_by(code: str, *argv: str) -> tuple[str, set[str]]:
    """(what some code prints, the packages and modules that its process has imported after it)."""
    command = [sys.executable, "-c", f"import sys\n{code}\n{PRINT_LOADED}", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    printed, _, names = done.stdout.rpartition("LOADED ")
    return printed, set(names.split())


@pytest.mark.parametrize("name", ftmech_hf.__all__)
def test_what_is_promised_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(ftmech_hf, name)
    assert isinstance(value, dict) or (value.__doc__ and not value.__doc__.startswith(f"{name}("))
    assert name in dir(ftmech_hf)


def test_what_is_not_there_is_missed_by_its_name() -> None:
    with pytest.raises(AttributeError, match="'ftmech_hf' has no attribute 'diagnoze'"):
        ftmech_hf.diagnoze  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    _, loaded = loaded_by("import ftmech_hf")
    assert "ftmech_hf" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "datasets", "huggingface_hub", "yaml"}


def test_help_and_wrong_settings_wait_for_nothing_that_only_some_commands_use() -> None:
    """What takes long to import beside torch and transformers; the linter keeps it out of the tops of files."""
    printed, loaded = loaded_by(HELP, *map(str, RECIPES))
    assert printed.count("usage: ") == len(RECIPES) > 15
    assert "torch" in loaded
    assert not loaded & {"evaluate", "peft", "scipy.stats", "sklearn"}
