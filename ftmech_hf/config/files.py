"""YAML files of settings: read once, nothing guessed, and turned into the flags that they save."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line naming the field, its value and what was expected."""


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values, only decimal numbers are numbers, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or mapping, which can be no key: said below
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads no, off, yes and on as truth values too: `mixed_precision: no` would be the setting false. And it reads
# 010 as 8, 1:40 as 100, 1_0 as 10 and days as dates, of which a revision or an answer may be one.
_BOOL, _INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    (_INT, r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+][0-9]+)?$", "-+.0123456789"),
    (_FLOAT, r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


class _Written(float):
    """A number that knows how it was written: 1.10 may be a version."""

    written: str

    def __str__(self) -> str:
        return self.written


class _WrittenLoader(_Loader):
    """The same with numbers that know how they were written."""


def _construct_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    if "inf" in node.value.lower() or "nan" in node.value.lower():
        return float(loader.construct_yaml_float(node))
    number = _Written(node.value)
    number.written = node.value
    return number


_WrittenLoader.add_constructor(_FLOAT, _construct_written)


def parse_yaml(text: str, name: str, *, as_written: bool = False) -> Any:
    """What a text of YAML says; with ``as_written`` its numbers say with ``str`` how they were written.

    Raises:
        ConfigError: it is none; ``name`` says which.
    """
    try:
        return yaml.load(text, _WrittenLoader if as_written else _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: str, *, as_written: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file, with numbers as :func:`parse_yaml` has them; empty for an empty file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        text = _find_config(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"config: cannot read {path!r}: {error.strerror or error}") from error
    except ValueError as error:  # bytes that are no text, or a path that can be none
        raise ConfigError(f"config: {path!r} is not valid YAML: {' '.join(str(error).split())}") from error
    content = parse_yaml(text, f"config: {path!r}", as_written=as_written)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"config: {path!r} must hold 'key: value' lines, found {type(content).__name__}")
    return content


def _find_config(path: str) -> Path:
    """A file by its path, or one that comes with the recipes by its short name, such as ``nano/pretrain.yaml``."""
    package = Path(__file__).resolve().parents[1]
    short = path.removeprefix("recipes/configs/")
    with_recipes = [each / "recipes" / "configs" / short for each in (package, package.parent)]
    found = [each for each in with_recipes if not Path(short).is_absolute() and each.is_file()]
    return found[0] if found and not Path(path).exists() else Path(path)


def to_argv(values: Mapping[str, Any]) -> list[str]:
    """Settings as flags; what is None or an empty list is left out."""
    argv: list[str] = []
    for key, value in values.items():
        if value is None or value == []:  # leaving a flag out is how to say None, or an empty list
            continue
        if isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected a value or a list, found a mapping")
        for each in value if isinstance(value, list) else []:
            if each is None or isinstance(each, list | Mapping):
                raise ConfigError(f"{key}: {each!r} in its list, expected a value; what YAML reads so needs quotes")
        # with = a value that begins with a hyphen is still a value
        argv += [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]
    return argv
