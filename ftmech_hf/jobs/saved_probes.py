"""Probes on disk. A probe belongs to one model, and is not loaded for another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ftmech_hf.analysis.probing import LinearProbe
from ftmech_hf.models.identity import model_hash
from ftmech_hf.runs import Identity, write_json

WEIGHTS, FACTS = ".safetensors", ".json"


def _file(path: Path, suffix: str) -> Path:
    """A path with one more suffix: a name may hold a dot of its own, as that of a version does."""
    return path.with_name(path.name + suffix)


def save_probes(
    path: Path, probes: Mapping[tuple[str, str], LinearProbe], model: str, facts: Mapping[str, Any]
) -> None:
    """Write probes as ``PATH.safetensors`` and ``PATH.json``.

    Args:
        path: without suffix.
        probes: (site, label) -> probe.
        model: hash of the model they belong to, by :func:`ftmech_hf.models.identity.model_hash`.
        facts: what else to keep, such as how they were fitted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number}.{part}": tensor.clone()  # safetensors takes no tensors that share memory, as classes do
        for number, probe in enumerate(probes.values())
        for part, tensor in probe._asdict().items()
    }
    save_file(tensors, str(_file(path, WEIGHTS)))
    named = [{"site": site, "label": label} for site, label in probes]
    whose = {"model": model, "content": Identity.content_of(model)}
    write_json(_file(path, FACTS), {**whose, **facts, "probes": named})


def load_probes(
    path: str | Path,
    model: str,
    *,
    positions: Sequence[int] | None = None,
    base: str | None = None,
    onto: str | None = None,
) -> dict[tuple[str, str], LinearProbe]:
    """Load the probes of a model: (site, label) -> probe.

    Args:
        path: of the probes, with either suffix or none.
        model: folder of the model they are to be applied to, or its name on the Hub.
        positions: of a prompt at which they are to be applied, if it matters.
        base, onto: what an adapter stands on, as for :func:`ftmech_hf.models.identity.model_hash`.

    Raises:
        ValueError: there are none, they belong to another model, or were fitted at other positions.
    """
    path = Path(path)
    if not _file(path, FACTS).is_file() and path.suffix in (WEIGHTS, FACTS):
        path = path.with_name(path.stem)
    if not _file(path, FACTS).is_file():
        raise ValueError(f"probes: no {_file(path, FACTS)}")
    facts = json.loads(_file(path, FACTS).read_text(encoding="utf-8"))
    fitted_to, found = Identity(facts["model"], facts.get("content", "")), model_hash(model, base=base, onto=onto)
    if found.differs(fitted_to):
        other = "has other weights now, of a run that was made again" if found == fitted_to else f"is {found}"
        raise ValueError(f"probes: {path} belong to the model {fitted_to}, but {model} {other}; fit them again")
    if positions is not None and facts.get("positions") != list(positions):
        fitted = facts.get("positions", "others")
        raise ValueError(f"probes: {path} were fitted at positions {fitted} of prompts, expected {list(positions)}")
    tensors = load_file(str(_file(path, WEIGHTS)))
    return {
        (named["site"], named["label"]): LinearProbe(*(tensors[f"{number}.{part}"] for part in LinearProbe._fields))
        for number, named in enumerate(facts["probes"])
    }
