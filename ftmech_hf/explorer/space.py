"""A folder that is a Space of the Hub: the page, the models of a pair, and this package, so that it needs no run."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ftmech_hf.config import leave_garbage
from ftmech_hf.explorer.edits import FoundUnits
from ftmech_hf.explorer.explorer import ExplorerConfig
from ftmech_hf.explorer.page import serve
from ftmech_hf.explorer.pairs import Pair, load_models, open_explorer
from ftmech_hf.jobs.card import FOREIGN, license_of
from ftmech_hf.models.identity import find_model
from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.tokenization import save_tokenizer
from ftmech_hf.runs import FinishedRun, disk_errors, making, write_json, write_text

FACTS = "explorer.json"
PACKAGE = Path(__file__).parents[1]

README = """---
title: What did fine-tuning change?
emoji: 🔎
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{licence}
tags: [interpretability, fine-tuning]
---

# What did fine-tuning change?

Type a prompt and see what {names} answer, side by side; then scale the change of the weights, keep its first
directions, zero the rows that pruning found, or patch one layer, and see the answer change. The button makes the same
edit at random.

`models/` holds the models, `{facts}` what else the page knows; `ftmech_hf/` is the package that computes all of it.
On another machine: `pip install -r requirements.txt`, then `python app.py`.
"""

APP = '''"""The page of this Space."""

from pathlib import Path

from ftmech_hf.config import leave_garbage

with leave_garbage():
    from ftmech_hf.explorer.space import serve_folder

if __name__ == "__main__":
    serve_folder(Path(__file__).parent)
'''


def write_space(folder: Path, pair: Pair, config: ExplorerConfig) -> Path:
    """Write a Space's folder, which must not be there: README with its metadata, requirements, page and models.

    Adapters are merged, so that the models are ordinary ones.

    Raises:
        ValueError: the folder is there, or a model cannot be loaded.
    """
    if folder.exists():
        raise ValueError(f"space: {folder} is there already, expected a new folder")
    with making(folder, "space") as working:
        _write_models(working / "models", pair, config)
        found = None if pair.found is None else {"unit": pair.found.unit, "names": list(pair.found.names)}
        settings = {each.name: getattr(config, each.name) for each in fields(ExplorerConfig)}
        settings["device"] = "auto"  # of a Space's machine
        facts = {"models": list(pair.models), "found": found, "examples": list(pair.examples), **settings}
        write_json(working / FACTS, facts)
        write_text(working / "app.py", APP)
        names = ", ".join(f"`{role}`" for role in pair.models)
        card = {"gradio": _version("gradio"), "names": names, "facts": FACTS, "licence": _licence(pair)}
        write_text(working / "README.md", README.format(**card))
        write_text(working / "requirements.txt", "\n".join(needed_packages()) + "\n")
        left_out = shutil.ignore_patterns("__pycache__", "artefacts", "recipes", "*.pyc")
        shutil.copytree(PACKAGE, working / PACKAGE.name, ignore=left_out)
        working.rename(folder)
    return folder


def _licence(pair: Pair) -> str:
    """The lines of a card's header: our own where all models are of runs whose card says so."""
    runs = [FinishedRun.find(find_model(name)) for name in pair.models.values()]
    found = [FOREIGN if run is None else license_of(run.config, run.env) for run in runs]
    return "\n".join(f"{key}: {value}" for key, value in (FOREIGN if FOREIGN in found else found[0]).items())


def _write_models(folder: Path, pair: Pair, config: ExplorerConfig) -> None:
    models, tokenizer = load_models(pair, config)
    for role, model in models.items():
        with quiet_transformers(), disk_errors(folder):
            model.save_pretrained(folder / role)
            save_tokenizer(tokenizer, folder / role)


def needed_packages() -> list[str]:
    """What a Space installs: what this package needs, and its extra ``explorer``."""
    needs = []
    for each in metadata.requires("ftmech_hf") or []:
        name, _, marker = each.partition(";")
        if not marker or re.fullmatch(r"\s*extra == ['\"]explorer['\"]", marker):
            needs.append(name.strip())
    return needs


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "6.0.0"


def read_space(folder: Path) -> tuple[Pair, ExplorerConfig]:
    """What :func:`write_space` wrote."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    settings = {name: facts.get(name, usual) for name, usual in asdict(ExplorerConfig()).items()}
    found = None if facts["found"] is None else FoundUnits(facts["found"]["unit"], facts["found"]["names"])
    models = {role: str(folder / "models" / role) for role in facts["models"]}
    return Pair(models=models, found=found, examples=facts["examples"]), ExplorerConfig(**settings)


def serve_folder(folder: Path) -> None:
    """Serve a Space's page; the Hub says in GRADIO_SERVER_NAME that other machines may come in."""
    pair, config = read_space(folder)
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    with leave_garbage(for_good=True):
        page = serve(open_explorer(pair, config), host=host, port=port)
    page.block_thread()
