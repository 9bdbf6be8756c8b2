"""Settings as a run keeps them: flat, with what their dataclasses say of them, and the name of what they compute.

Fields that say where or how to run are never what is computed: two runs that differ only there are the same run. A
field says so itself, in its ``metadata``. ``"place": "input"``: it names a model, file or data set, whose content is
in a run's hash as one of its inputs. ``"place": "output"``: where to write. ``"manner": True``: how to go about it.
``"unsaid": True``: what is computed, but no part of a run's name while it has its default, so that runs which were made
before there was such a setting keep theirs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from ftmech_hf.config.files import ConfigError


class Settings(dict[str, Any]):
    """Flat settings that remember what their dataclasses say of them.

    Attributes:
        places: names of those that are no part of what is computed: places, and the manner of it.
        unsaid: those that are no part of a run's name while they have this value.
        reads: the places among them whose content must be among a run's inputs.
        sources: the files that define the dataclasses that are not this package's.
    """

    places: frozenset[str] = frozenset()
    unsaid: Mapping[str, Any] = MappingProxyType({})
    reads: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()

    def __or__(self, other: Mapping[str, Any]) -> Settings:  # type: ignore[override]
        joined = Settings({**self, **other})
        joined.places, joined.reads, joined.sources = self.places, self.reads, self.sources
        joined.unsaid = self.unsaid
        return joined


yaml.SafeDumper.add_representer(Settings, yaml.SafeDumper.represent_dict)


def to_dict(*configs: Any) -> Settings:
    """Flatten dataclass instances into one dict, in field order; writing it as YAML gives a usable ``--config``.

    Raises:
        ValueError: two of them have a field of one name, of which one would be lost.
    """
    settings = Settings()
    fields = [(config, field) for config in configs for field in dataclasses.fields(config)]
    for config, values in ((each, dataclasses.asdict(each)) for each in configs):
        if twice := [name for name in values if name in settings]:
            others = ", ".join(type(each).__name__ for each in configs if each is not config)
            raise ValueError(f"{twice[0]}: is a field of {type(config).__name__} and of {others}; rename one of them")
        settings.update(values)
    settings.places = frozenset(field.name for _, field in fields if is_place(field))
    settings.unsaid = {field.name: _default(field) for _, field in fields if field.metadata.get("unsaid")}
    settings.reads = frozenset(field.name for _, field in fields if field.metadata.get("place") == "input")
    settings.sources = tuple(sorted(set(filter(None, map(_foreign_source, configs)))))
    return settings


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def changed_settings(config: Any, kind: type | None = None) -> dict[str, Any]:
    """Fields of a dataclass that are not their default -> what they are; of one that it extends, if ``kind`` is it."""
    each = {field.name: (getattr(config, field.name), _default(field)) for field in dataclasses.fields(kind or config)}
    return {name: value for name, (value, usual) in each.items() if value != usual}


def is_place(field: dataclasses.Field[Any]) -> bool:
    """Whether a field says where or how to run, and not what is computed."""
    return bool(field.metadata.get("place") or field.metadata.get("manner"))


def _foreign_source(config: Any) -> str | None:
    module = sys.modules.get(type(config).__module__)
    if module is None or module.__name__.split(".")[0] == __name__.split(".")[0]:
        return None
    return getattr(module, "__file__", None)


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse what cannot be the seeds of an experiment's repetitions.

    Raises:
        ValueError: there is none, one is negative, or one stands there twice.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds: {seeds}, expected at least one, none negative, none twice")


RUNS_OWN = frozenset(("output_dir", "fresh"))
"""Where a run lies and whether it is made again: never a part of what it computes, whoever says it."""


def config_hash(values: Mapping[str, Any]) -> str:
    """Name of what a run computes: sha256 over the settings without places, first 12 hex digits.

    Args:
        values: of :func:`to_dict`, which knows the places; in another mapping everything but :data:`RUNS_OWN` counts.
    """
    left_out = RUNS_OWN
    if isinstance(values, Settings):
        left_out |= values.places | {name for name, usual in values.unsaid.items() if values[name] == usual}
    science = {key: value for key, value in values.items() if key not in left_out}
    try:
        text = json.dumps(science, sort_keys=True, allow_nan=False)
    except ValueError as error:
        wrong = [name for name, value in science.items() if "nan" in repr(value) or "inf" in repr(value)]
        raise ConfigError(f"{', '.join(wrong) or 'settings'}: expected finite numbers") from error
    return hashlib.sha256(text.encode()).hexdigest()[:12]
