"""Transformers' auto classes know compiled programs after ``import ftmech_hf``, which does not import them for that.

Transformers looks a model's type up in a table that it makes when its auto classes are first imported, which takes
seconds. So the type is entered right then, and not before. What is entered is the config's class; the model's, which
needs more of transformers than is there by then, is imported when a config is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TABLE = "transformers.models.auto.configuration_auto"


def _enter() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from ftmech_hf.models.compiled_config import CompiledConfig

    AutoConfig.register(CompiledConfig.model_type, CompiledConfig, exist_ok=True)
    CompiledConfig.brings.append(_bring_model)


def _bring_model() -> None:
    importlib.import_module("ftmech_hf.models.compiled")  # enters itself where models are looked up


class _AtFirstImport(MetaPathFinder):
    """Finds the module with the table as Python would, and has :func:`_enter` run after it; then it is gone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_enter(module: ModuleType) -> None:
            execute(module)
            _enter()

        spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec


def know_compiled_programs() -> None:
    """Enter compiled programs into transformers' table, now or as soon as it is there."""
    if _TABLE in sys.modules:
        _enter()
    elif not any(isinstance(finder, _AtFirstImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AtFirstImport())
