"""Configuration: a YAML file is saved command-line flags, and the command line wins.

Settings are frozen keyword-only dataclasses that live beside the code that reads them. :func:`parse_config` turns a
YAML file into flags, puts the real command line after them and parses the whole once with ``HfArgumentParser``, so a
wrong type, a wrong choice or an unknown key dies here, with its name, before any compute.

Precedence, lowest first: dataclass defaults, the scale (:data:`SCALES`), the ``--config`` file, the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import math
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, get_type_hints

from ftmech_hf.config.files import ConfigError, read_yaml, to_argv
from ftmech_hf.config.garbage import leave_garbage
from ftmech_hf.config.help import HelpFormatter, help_sections, write_help
from ftmech_hf.config.usual_names import our_name, usual_advice

with leave_garbage():
    from transformers import HfArgumentParser

# A scale is one word that fixes the task and the model together. Nothing else in the code knows about scales; a
# recipe takes from its entry the fields it has. ``nano`` is what the dataclass defaults say.
SCALES: dict[str, dict[str, Any]] = {
    "nano": {},
    "micro": {
        "root": "p",
        "text_length": 96,
        "count_window": 32,
        "index_occurrence": 5,
        "index_pair_occurrence": 3,
        "token_at_position": 32,
        "preset": "micro",
        "row_tokens": 512,
    },
    "paper": {
        "root": "s",
        "text_length": 250,
        "count_window": 40,
        "index_occurrence": 6,
        "index_pair_occurrence": 6,
        "token_at_position": 40,
        "spread_counts": False,  # pretraining on the grammar's own texts, fine-tuning on edited ones, as in the paper
        "correlation_method": "insert",
        "preset": "paper",
        "vocab_size": 8192,
        "row_tokens": 1024,
        "relations": 6,
    },
}

_OURS = ("place", "manner", "unsaid")
"""What a field's ``metadata`` says that is for :mod:`ftmech_hf.config.settings`."""


class _Parser(HfArgumentParser):
    """``HfArgumentParser`` that raises :class:`ConfigError` where argparse would print usage and exit."""

    sections: Mapping[str, Sequence[str]]
    """What some settings are of -> their names."""

    def format_help(self) -> str:
        """The settings of each dataclass under what these are."""
        return write_help(self, self.sections)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(re.sub(r"(argument --\w+)(/--[\w-]+)+", r"\1", message))  # not what it is called as well

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Without what a field's ``metadata`` says that is no business of a parser."""
        return super().add_argument(*names, **{key: each for key, each in settings.items() if key not in _OURS})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """With lists of its own: argparse gives every namespace the one list that is the default."""
        if namespace is None:
            defaults = ((action.dest, action.default) for action in self._actions)
            namespace = argparse.Namespace(**{name: [*each] for name, each in defaults if isinstance(each, list)})
        return super().parse_known_args(args, namespace)


@functools.cache
def _make_parser(config_types: tuple[type, ...], description: str | None) -> _Parser:
    """A parser of some settings, once: a sweep parses the settings of a thousand runs."""
    parser = _Parser(config_types, description=description, allow_abbrev=False, formatter_class=HelpFormatter)  # type: ignore[arg-type]
    parser.sections = help_sections(config_types)
    parser.add_argument("--config", help="YAML file of flags; the command line wins")
    parser.add_argument("--scale", choices=list(SCALES), help="nano (default), micro or paper")
    return parser


def _empty_list_names(config_types: Sequence[type]) -> set[str]:
    """Fields whose default is an empty list."""
    fields = (field for kind in config_types for field in dataclasses.fields(kind))
    return {field.name for field in fields if field.default_factory is list}


def _optional_names(config_types: Sequence[type]) -> set[str]:
    return {field.name for kind in config_types for field in dataclasses.fields(kind) if field.default is None}


def _drop_none(words: list[str], optional: set[str]) -> list[str]:
    """Drop ``--name none`` and ``--name=none``: leaving a flag out is how to say None, or a list that is empty."""
    kept: list[str] = []
    for word in words:
        if word == "none" and kept and kept[-1].removeprefix("--") in optional:
            kept.pop()
        elif word.removeprefix("--").removesuffix("=none") not in optional or not word.endswith("=none"):
            kept.append(word)
    return kept


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    if advice := usual_advice(name, known):
        return f"; {advice}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _ours(words: Sequence[str], known: Sequence[str], lists: Collection[str]) -> list[str]:
    """Flags by their names here, as :data:`~ftmech_hf.config.usual_names.SAME` says; given twice, the last counts.

    Raises:
        ConfigError: a list is given twice, of which argparse would forget the first without a word.
    """
    named, seen = [], set()
    for word in words:
        if not word.startswith("--") or not word[2:3].isalpha():
            named.append(word)
            continue
        flag, equals, value = word[2:].partition("=")
        name = our_name(flag, known)
        if name in seen and name in lists:
            raise ConfigError(f"{name}: given twice on the command line, expected once with all its values")
        seen.add(name)
        named.append(f"--{name}{equals}{value}" if name in known else word)
    return named


def _check_values(configs: Sequence[Any]) -> None:
    """Refuse numbers that are none or that no machine holds, and text that is empty, whatever the setting."""
    for config in configs:
        for each in dataclasses.fields(config):
            value = getattr(config, each.name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, float) and not math.isfinite(item):
                    raise ConfigError(f"{each.name}: {item}, expected a finite number")
                if isinstance(item, int) and abs(item) >= 2**63:
                    raise ConfigError(f"{each.name}: {item}, expected a number below 2^63")
                if isinstance(item, str) and not item.strip() and value != each.default:
                    raise ConfigError(f"{each.name}: {item!r}, expected text")


def _list_names(config_types: Sequence[type]) -> set[str]:
    return {name for name, hint in _hints(tuple(config_types)).items() if "list" in hint.lower()}


@functools.cache
def _hints(config_types: tuple[type, ...]) -> Mapping[str, str]:
    """Setting -> its type, in words."""
    return {name: str(hint) for kind in config_types for name, hint in get_type_hints(kind).items()}


def _check_file(values: Mapping[str, Any], config_types: Sequence[type], where: str | None) -> None:
    """Refuse a list where one value belongs."""
    single = _hints(tuple(config_types)).keys() - _list_names(config_types)
    for name, value in values.items():
        if isinstance(value, list) and name in single:
            raise ConfigError(f"{name}: {value} in {where}, expected one value")


def _without(argv: Sequence[str], names: set[str]) -> list[str]:
    """Drop ``--name value ...`` groups, so that a list given on the command line replaces the file's, not joins it."""
    kept: list[str] = []
    skipping = False
    for word in argv:
        if word.startswith("--"):
            skipping = word[2:].split("=")[0] in names
        if not skipping:
            kept.append(word)
    return kept


def parse_config(
    *config_types: type,
    argv: Sequence[str] | None = None,
    description: str | None = None,
    sections: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Parse ``--config FILE`` and flags into one instance of each dataclass in ``config_types``.

    Args:
        config_types: frozen dataclasses with disjoint field names.
        argv: the command line without the program's name; ``sys.argv[1:]`` if None.
        description: first lines of ``--help``.
        sections: keys of the file that are read by :func:`read_sections` and left aside here.

    Raises:
        ConfigError: unknown key (with the nearest right one), wrong type or choice, unreadable file, or whatever a
            dataclass's ``__post_init__`` finds impossible.
    """
    known, optional = [*field_names(*config_types), "config", "scale"], _optional_names(config_types)
    chosen, from_file, words = _read_early(["scale"], argv, as_written=True)
    words, known = _ours(words, known, _list_names(config_types)), [*known, *sections]
    from_file = _ours_in_file({key: value for key, value in from_file.items() if key not in sections}, known)
    for key in from_file:
        if key not in known or key == "config":
            raise unknown_key(key, chosen.config, known)
        if from_file[key] is None and key not in optional:
            raise ConfigError(f"{key}: has no value in {chosen.config}")
        if from_file[key] == [] and key not in _empty_list_names(config_types):
            raise ConfigError(f"{key}: is an empty list in {chosen.config}, expected at least one value")
    _check_file(from_file, config_types, chosen.config)
    file_scale = from_file.pop("scale", None)
    scale = chosen.scale or file_scale or "nano"
    if not isinstance(scale, str):
        raise ConfigError(f"scale: {scale!r} in {chosen.config}, expected one of {', '.join(SCALES)}")
    if scale not in SCALES:
        raise ConfigError(
            f"scale: unknown {scale!r}, expected one of {', '.join(SCALES)}{_did_you_mean(scale, [*SCALES])}"
        )
    from_scale = {key: value for key, value in SCALES[scale].items() if key in known and key not in from_file}
    given = {word[2:].split("=")[0] for word in words if word.startswith("--")}
    may_be_left_out = optional | _empty_list_names(config_types)
    saved = _drop_none(_without(to_argv(from_scale | from_file), given), may_be_left_out)
    words = _drop_none(words, may_be_left_out)

    parser = _make_parser(config_types, description)
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        saved + words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise ConfigError(f"unknown argument {flag!r}{_did_you_mean(flag.lstrip('-'), known)}")
    _check_values(parsed)
    return tuple(parsed)


def _ours_in_file(values: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = our_name(key, known)
        if name in named:
            raise ConfigError(f"{name}: given twice in the file, once as {key}, expected once")
        named[name if name in known else key] = value
    return named


def peek_setting(name: str, *, default: str, argv: Sequence[str] | None = None) -> str:
    """One setting ahead of the rest, for those that decide which dataclasses to parse the rest into."""
    chosen, from_file, _ = _read_early([name], argv)
    said = getattr(chosen, name) or from_file.get(name)
    return default if said is None else str(said)  # false and 0 are said, too


def read_sections(names: Sequence[str], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Those of the named keys that the ``--config`` file has, whatever they hold."""
    _, from_file, _ = _read_early([], argv)
    return {name: from_file[name] for name in names if name in from_file}


def field_names(*config_types: type) -> list[str]:
    """The settings of some dataclasses."""
    return [field.name for kind in config_types for field in dataclasses.fields(kind) if field.init]


def unknown_key(key: str, where: str, known: Sequence[str]) -> ConfigError:
    """The error for a key that is not known, with the nearest that is."""
    return ConfigError(f"unknown key {key!r} in {where}{_did_you_mean(key, known)}")


def _read_early(
    names: Sequence[str], argv: Sequence[str] | None, *, as_written: bool = False
) -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
    """(``--config`` and the named flags, the config file, the other words)."""
    pre = _PreParser(add_help=False, allow_abbrev=False)
    for name in ("config", *names):
        pre.add_argument(f"--{name}")
    chosen, words = pre.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    return chosen, {} if chosen.config is None else read_yaml(chosen.config, as_written=as_written), words


class _PreParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
