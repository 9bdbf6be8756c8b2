"""Whatever a setting is given, it is taken or refused in a line that says why; no setting ends in another error."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import ftmech_hf
import recipes.benchmarks
from ftmech_hf.config import parse_config

JUNK = ("", "nan", "-1", "1e400", "{", "é=", "../..")
GIVEN = {"repo_id": "user/name", "run": "runs/x"}


def find_config_types() -> Iterator[type]:
    """Every dataclass that is called a config, wherever it stands."""
    seen = set()
    for package in (ftmech_hf, recipes.benchmarks):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith((".ray", ".conversion")):  # extras
                continue
            for kind in vars(importlib.import_module(found.name)).values():
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in seen:
                    seen.add(kind)
                    ours = kind.__module__.startswith((ftmech_hf.__name__, recipes.__name__))
                    settings = kind.__dataclass_params__.frozen and kind.__name__.endswith(("Config", "Shape"))  # type: ignore[attr-defined]
                    if ours and settings and not getattr(kind, "__abstractmethods__", None):
                        yield kind


@pytest.mark.parametrize(
    "kind", sorted(find_config_types(), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_a_setting_is_taken_or_refused_in_a_line(kind: type) -> None:
    names = [each.name for each in dataclasses.fields(kind) if each.init]
    needed = {name: value for name, value in GIVEN.items() if name in names}
    for name in names:
        for junk in JUNK:
            argv = [f"--{key}={value}" for key, value in {**needed, name: junk}.items()]
            message = "taken"
            try:
                parse_config(kind, argv=argv)
            except ValueError as error:
                message = str(error)
            assert message
            assert "\n" not in message, (name, junk)
