"""Write the filled cards of the released models into model_cards/, from the run folders of a reproduction.

python recipes/write_cards.py --namespace USER --models "medium=runs/nano/pretrain-medium-seed0-*"
"""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.cards import read_run
from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.downloads import check_repo_id
from ftmech_hf.hub import Origin, save
from ftmech_hf.hub.claims import claims_of
from ftmech_hf.report.console import make_console
from ftmech_hf.studies import parse_models

RELEASED = {
    "base-low": "low",
    "base-high": "high",
    "base-control": "control",
    "finetuned-low": "low-finetuned",
    "finetuned-high": "high-finetuned",
    "reversed-low": "low-reversed",
    "reversed-control": "control-reversed",
}
"""Name of a run in a reproduction -> what its model is called on the Hub."""


@dataclass(frozen=True, kw_only=True)
class WriteCardsConfig:
    """Which models are released, and where their cards go."""

    reproduction: str | None = field(
        default="runs/reproduce-nano", metadata={"help": "folder of a reproduction; none for no such models"}
    )
    seed: int = field(default=0, metadata={"help": "which seed of the reproduction is released"})
    models: list[str] = field(
        default_factory=list, metadata={"help": "more of them, name=folder of the run; a pattern that fits one will do"}
    )
    analyses: list[str] = field(default_factory=list, metadata={"help": "more analyses, name of the model=folder"})
    namespace: str = field(default="ftmech-hf", metadata={"help": "user or organisation on the Hub"})
    prefix: str = field(default="ftmech-nano-", metadata={"help": "put before every model's name"})
    datasets: list[str] = field(default_factory=list, metadata={"help": "repositories of the rows"})
    output_dir: str = field(default="model_cards", metadata={"help": "gets a folder for each model"})


def find_released(config: WriteCardsConfig) -> dict[str, Path]:
    """Name of a released model -> folder of its run.

    Raises:
        ValueError: the reproduction has no such run, or not of that seed.
    """
    released = {}
    if config.reproduction is not None:
        for run, name in RELEASED.items():
            places = sorted(Path(config.reproduction, "runs").glob(f"{run}-seed{config.seed}-*/manifest.json"))
            if not places:
                raise ValueError(f"reproduction: {config.reproduction} has no finished {run} of seed {config.seed}")
            released[name] = places[-1].parent
    if config.models:
        released |= {name: _find_one("models", place) for name, place in parse_models(config.models).items()}
    return released


def _find_one(field_name: str, pattern: str) -> Path:
    """A folder, by its name or by a pattern with ``*`` that fits no other."""
    found = [Path(pattern)] if Path(pattern).is_dir() else [Path(p) for p in glob.glob(pattern) if Path(p).is_dir()]
    if len(found) != 1:
        raise ValueError(f"{field_name}: {pattern!r} fits {len(found)} folders, expected one")
    return found[0]


def write_cards(config: WriteCardsConfig) -> dict[str, Path]:
    """Write a card and its pictures for every released model; name on the Hub -> folder."""
    released = find_released(config)
    names = {name: f"{config.namespace}/{config.prefix}{name}" for name in released}
    for repo_id in names.values():
        check_repo_id("namespace, prefix", repo_id)
    by_hash = {read_run(run)[0]["hash"]: name for name, run in released.items()}
    written = {}
    for name, run in released.items():
        env, _ = read_run(run)
        base = by_hash.get(env.get("inputs", {}).get("model"))
        origin = Origin(
            base_model=names[base] if base else None,
            datasets=config.datasets,
            analyses=[
                str(_find_one("analyses", entry.split("=", 1)[1]))
                for entry in config.analyses
                if entry.startswith(f"{name}=")
            ],
            claims=claims_of(Path(config.reproduction), _run_name(run)) if config.reproduction else (),
        )
        place = Path(config.output_dir) / names[name].split("/")[1]
        with tempfile.TemporaryDirectory() as temporary:
            tree = save(run, Path(temporary) / "published", names[name], origin)["main"]
            place.mkdir(parents=True, exist_ok=True)
            for old in place.glob("*.png"):
                old.unlink()
            for file in (tree / "README.md", *tree.glob("*.png")):
                shutil.copyfile(file, place / file.name)
        written[names[name]] = place
    return written


def _run_name(run: Path) -> str:
    """What a reproduction calls a run, from its folder's name."""
    return re.sub(r"-seed\d+-[0-9a-f]+$", "", run.name)


def main(argv: list[str] | None = None) -> None:
    """Parse, write, say where."""
    with clean_exit():
        (config,) = parse_config(WriteCardsConfig, argv=argv, description=__doc__)
        for repo_id, place in write_cards(config).items():
            make_console().print(f"{repo_id}: {place / 'README.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
