"""What a run was made from beside its settings: its inputs' bytes, the versions and the code. And what is said of it.

None of this is in a run's hash, which a plan must know before anything is there and which is the same on every machine.
It is kept in ``env.json`` and compared when the run is found again: other inputs are refused, other code is told.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ftmech_hf.config.files import ConfigError
from ftmech_hf.config.settings import RUNS_OWN, Settings, config_hash
from ftmech_hf.runs.files import file_sha256


class Identity(str):
    """What an input of a run is: the name that enters hashes, which is all it compares by, and the bytes behind it.

    The name of a finished run's model is the run's hash, under which other bytes can lie later: see
    :mod:`ftmech_hf.models.identity`. ``content`` is a sha256 of what was found; empty if the name says it all.
    """

    content: str

    def __new__(cls, name: str, content: str = "") -> Identity:
        """Like ``str``."""
        made = super().__new__(cls, name)
        made.content = content
        return made

    def __reduce__(self) -> tuple[type[Identity], tuple[str, str]]:
        return Identity, (str(self), self.content)

    @staticmethod
    def content_of(name: str) -> str:
        """The bytes behind a name, where they are known."""
        return name.content if isinstance(name, Identity) else ""

    def differs(self, other: Identity) -> bool:
        """Whether these cannot be the same: another name, or other bytes where both are known."""
        return self != other or bool(self.content and other.content and self.content != other.content)


def read_places(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Setting -> files and folders of this machine that it says a run reads, as they are spelled there.

    A setting may have several, ``name=folder`` entries among them, and a data set the name of its config behind a
    colon. Whether a name is a place is only known while it is there, so that it is noted when a run begins.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(config.reads if isinstance(config, Settings) else ()):
        values = config[name] if isinstance(config[name], list | tuple) else [config[name]]
        places = [_behind_name(value) for value in values if isinstance(value, str) and value]
        if there := [place for place in places if place_of(place) is not None]:
            found[name] = there
    return found


def place_of(value: str) -> Path | None:
    """The file or folder that a setting names, which may have the name of a data set's config behind it."""
    for text in (value, value.rpartition(":")[0]):
        with contextlib.suppress(OSError, ValueError):  # what is no place at all may be too long, or hold anything
            if text and Path(text).expanduser().exists():
                return Path(text).expanduser()
    return None


def _behind_name(value: str) -> str:
    name, equals, place = value.partition("=")
    return place if equals and "/" not in name else value


def run_identity(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The hash of what a run computes: its kind, its settings without places, and the hashes of its inputs."""
    named = {"run:kind": kind, **{f"input:{name}": value for name, value in inputs.items()}}
    return config_hash(config | named if isinstance(config, Settings) else {**config, **named})


class InputsChanged(ValueError):
    """A run's inputs have the names that they had, and other bytes."""


def contents(inputs: Mapping[str, str]) -> dict[str, str]:
    """Label -> sha256 of the bytes of those inputs whose name does not fix them."""
    return {label: content for label, each in inputs.items() if (content := Identity.content_of(each))}


def changed_inputs(env: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """Labels of inputs whose bytes are not those that a run's ``env.json`` tells of; older runs tell of none."""
    recorded = env.get("contents", {})
    return [label for label, found in contents(inputs).items() if recorded.get(label, found) != found]


def refuse_another(folder: Path, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> NoReturn:
    """Say how the run in a folder is another than that which is asked for.

    Args:
        folder: of the run that is there, finished or not.
        kind, config, inputs: of the one that is asked for.

    Raises:
        ValueError: always.
    """
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    places = RUNS_OWN | (config.places if isinstance(config, Settings) else frozenset())
    names = [name for name in {**found, **config} if name not in places]
    differing = [n for n in names if found.get(n) != config.get(n)]
    there = env.get("inputs", {})
    others = ", ".join(label for label in {**there, **inputs} if there.get(label) != inputs.get(label))
    shown = ", ".join(f"{n}: {found.get(n)!r} there, {config.get(n)!r} asked" for n in differing[:3])
    if env.get("kind") != kind:
        shown = f"kind: {env.get('kind')} there, {kind} asked"
    raise ValueError(
        f"output_dir: {folder} holds a run of another config ({shown or f'its input {others} differs'}); "
        "choose another --output_dir, or --fresh to replace it"
    )


def check_inputs_named(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Make sure that the content of every place that is read is among a run's inputs.

    Args:
        settings: of the run. Nothing is known of the fields of a mapping that is no :class:`Settings`.
        inputs: its inputs. Their labels are the field's name, NAME/NUMBER, a file's name, or LABEL of LABEL=FOLDER.

    Raises:
        ConfigError: it is not; names the field.
    """
    left = set(inputs)
    for name in sorted(settings.reads) if isinstance(settings, Settings) else ():
        value = settings[name]
        for number, entry in enumerate(value if isinstance(value, list) else [value] if value else []):
            file = Path(entry).name
            labels = (f"{name}/{number}", name, f"{number}/{file}", entry.split("=")[0], file)
            found = next((label for label in labels if label in left), None)
            if found is None:
                raise ConfigError(f"{name}: {entry} is read, but its content is not among the run's inputs")
            left.remove(found)


def hash_files(names: list[str]) -> dict[str, str]:
    """Label -> sha256 of files that are inputs: how each is called, with its number where two are called the same.

    Their order is one of them where it is not that of their names: hashes of inputs have none.
    """
    labels = [Path(name).name for name in names]
    found = {
        f"{number}/{label}" if label in labels[:number] else label: file_sha256(Path(name))
        for number, (label, name) in enumerate(zip(labels, names, strict=True))
    }
    return found if labels == sorted(labels) else {**found, "order of files": "/".join(labels)}
