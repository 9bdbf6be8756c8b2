"""What a run's places are called where it is published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ftmech_hf.hub.redaction import LOCAL, Redaction, is_place, spellings
from ftmech_hf.runs import FinishedRun, write_json, write_text


def redaction_of(run: FinishedRun, repo_id: str, repositories: Mapping[str, str]) -> Redaction:
    """What takes the places out of a run's files, and says what it is published as instead.

    Which settings named places was noted when the run began; what looks like one, or is one now, is one as well.

    Args:
        run: as it lies here.
        repo_id: where it goes.
        repositories: what the run calls a model that it took -> repository of that; others are named by the hash of the
            run that made them.
    """
    config, inputs = run.config, run.inputs
    names: dict[str, str] = {}
    words: dict[str, dict[str, str]] = {}
    noted = run.env.get("places", {})
    for key, setting in config.items():
        for value in setting if isinstance(setting, list) else [setting]:
            if not isinstance(value, str) or not value:
                continue
            label, equals, place = value.partition("=")
            label, place = (label, place) if equals else (key, value)
            was_there = place in noted.get(key, ()) or value in noted.get(key, ())
            if not (was_there or is_place(place) or (label in inputs and Path(place).is_dir())):
                continue
            made = f"run-{inputs[label]}" if label in inputs else LOCAL
            known = repositories.get(label) or (Path(place).name if key == "files" else made)
            names |= dict.fromkeys(spellings(place) - {place}, known)
            if re.search(r"[/\\]", place):
                names[place] = known
            else:  # may be any word elsewhere
                words.setdefault(key, {})[place] = known
    for place in (str(run.path), str(config.get("output_dir", run.path))):
        names |= dict.fromkeys(spellings(place), _own_name(repo_id))
    return Redaction({**names, _own_name(repo_id): _own_name(repo_id)}, words)


def _own_name(repo_id: str) -> str:
    """What a published run calls its folder."""
    return f"runs/{repo_id.split('/')[-1]}"


def publish_config(working: Path, repo_id: str, redaction: Redaction, changes: Mapping[str, Any]) -> None:
    """Places of this machine are replaced by such that mean something elsewhere; the run's hash knows none of them."""
    path = working / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {key: value for key, value in changes.items() if key in config and value is not None}
    config = {name: _without_place(value, name, redaction) for name, value in config.items()}
    config = {name: value for name, value in config.items() if value != LOCAL}  # its default is as good
    config |= {"output_dir": _own_name(repo_id), **known}
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    env = json.loads((working / "env.json").read_text(encoding="utf-8"))
    env["command"] = redaction.command(env["command"])
    env.pop("places", None)
    write_json(working / "env.json", env)


def _without_place(value: Any, key: str, redaction: Redaction) -> Any:
    if isinstance(value, list):
        return [_without_place(each, key, redaction) for each in value]
    if not isinstance(value, str):
        return value
    name, equals, place = value.rpartition("=")
    return f"{name}{equals}{redaction.setting(place, key)}"
