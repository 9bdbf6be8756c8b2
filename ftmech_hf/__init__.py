"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish.

The table of contents is ``__init__.pyi``: every name in it is imported from its file when it is first asked for, so
that importing the package costs nothing, and torch only whoever uses it. After ``import ftmech_hf`` transformers' auto
classes load compiled programs.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

from ftmech_hf.models.auto import know_compiled_programs

__version__ = "1.0.0"

_TABLE = ast.parse(Path(__file__).with_name("__init__.pyi").read_text(encoding="utf-8")).body
_FILES = {each.name: str(line.module) for line in _TABLE if isinstance(line, ast.ImportFrom) for each in line.names}
__all__ = sorted(_FILES)

know_compiled_programs()


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_FILES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
