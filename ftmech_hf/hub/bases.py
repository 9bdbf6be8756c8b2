"""What a published adapter says of the model that it belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.downloads import check_repo_id
from ftmech_hf.models.identity import ADAPTER, may_be_on_the_hub
from ftmech_hf.runs import write_json


def hub_name(value: Any, places: Collection[str] = ()) -> str | None:
    """The ``USER/NAME`` that a setting names on the Hub, without a revision or a config; None if it names a place.

    Args:
        value: of the setting.
        places: what it said that were places when the run was made.
    """
    name = re.split("[@:]", value)[0] if isinstance(value, str) else ""
    if name.count("/") != 1 or value in places or not may_be_on_the_hub(name) or Path(str(value)).exists():
        return None
    try:
        check_repo_id("model", name)
    except ValueError:
        return None
    return name


def base_revision(config: Mapping[str, Any], given: str | None) -> str | None:
    """The revision of a base that a run started from: as given, or its snapshot, or the one that its name has."""
    if given is not None:
        return given
    if config.get("snapshot") is not None:
        return f"step-{config['snapshot']}"
    model = str(config.get("model") or "")
    return model.partition("@")[2] or None if not Path(model).exists() else None


def name_base(working: Path, config: Mapping[str, Any], base_model: str | None, revision: str | None) -> None:
    """Let an adapter, if there is one, name the repository of the model that it belongs to.

    Args:
        working: the folder that is published.
        config: of the run.
        base_model: the repository.
        revision: of :func:`base_revision`.

    Raises:
        ValueError: no repository is given; or the adapter belongs to another adapter.
    """
    adapter = working / ADAPTER
    if not adapter.is_file():
        return
    settings = json.loads(adapter.read_text(encoding="utf-8"))
    if (Path(str(config.get("model") or "")) / ADAPTER).is_file():
        refuse_stacked(str(config["model"]))
    if base_model is None:  # what peft recorded may be a folder of ours that looks like USER/NAME
        raise ValueError(
            f"base_model: not given, and the adapter belongs to {settings['base_model_name_or_path']}; "
            "publish that first if it is a folder, and name its repository"
        )
    write_json(adapter, {**settings, "base_model_name_or_path": base_model, "revision": revision})


def made_of(bases: Sequence[str]) -> dict[str, Any]:
    """What a header says of the models that an analysis made another one of: of one a change, of two a mixture."""
    if not bases:
        return {}
    return {"base_model": [*bases], "base_model_relation": "merge" if len(bases) > 1 else "finetune"}


def refuse_stacked(base: str) -> None:
    """Refuse an adapter on an adapter: peft and transformers would put it on the lowest model, without a word.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"run: its adapter was trained on {base}, which is an adapter, too, and whoever loads both from the Hub gets "
        "the upper one alone; expected a whole model: publish what ftmech_hf.load_model(RUN) gives"
    )
