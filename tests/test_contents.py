"""The package's table of contents: what it promises is there, and costs nothing before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ftmech_hf

ROOT = Path(ftmech_hf.__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.py") if not path.name.startswith(("_", "update_")))


def loaded_by(code: str, *argv: str) -> set[str]:
    """The packages and modules that a process has imported after some code."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("name", ftmech_hf.__all__)
def test_what_is_promised_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(ftmech_hf, name)
    assert isinstance(value, dict) or (value.__doc__ and not value.__doc__.startswith(f"{name}("))
    assert name in dir(ftmech_hf)


def test_editors_see_the_same_table() -> None:
    (block,) = (node for node in ast.parse(Path(ftmech_hf.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"ftmech_hf.{file}" for name, file in ftmech_hf._FILES.items()}


def test_what_is_not_there_is_missed_by_its_name() -> None:
    with pytest.raises(AttributeError, match="'ftmech_hf' has no attribute 'diagnoze'"):
        ftmech_hf.diagnoze  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = loaded_by("import ftmech_hf")
    assert "ftmech_hf" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "datasets", "huggingface_hub", "yaml"}
