"""Write the filled cards of the released models into model_cards/, from the runs of a reproduction.

python recipes/write_cards.py --namespace USER --models "medium=runs/nano/pretrain-medium-seed0-*"
"""

from __future__ import annotations

import dataclasses
import glob
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.downloads import check_repo_id
from ftmech_hf.hub import Origin, save
from ftmech_hf.hub.claims import claims_of
from ftmech_hf.jobs.job import parse_models
from ftmech_hf.report.console import make_console
from ftmech_hf.report.differences import NOT_SAID, differences_of
from ftmech_hf.runs import FinishedRun, is_finished
from ftmech_hf.studies.pcfg.claims import CLAIMS_OF_MODELS
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.tasks import PcfgShape

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

STUDIES = ("prune-rows", "prune-activations", "prune-control", "probe")
"""The reproduction's studies that a card shows."""


@dataclass(frozen=True, kw_only=True)
class WriteCardsConfig:
    """Which models are released, and where their cards go."""

    reproduction: str | None = field(
        default="runs/reproduce-nano", metadata={"help": "folder of a reproduction; none for no such models"}
    )
    seed: int = field(default=0, metadata={"help": "which seed of the reproduction is released"})
    models: list[str] = field(
        default_factory=list, metadata={"help": "more models, name=folder of the run; a pattern that fits one will do"}
    )
    namespace: str = field(default="ftmech-hf", metadata={"help": "user or organisation on the Hub"})
    prefix: str = field(default="ftmech-nano-", metadata={"help": "put before every model's name"})
    datasets: list[str] = field(default_factory=list, metadata={"help": "repositories of the rows"})
    output_dir: str = field(default="model_cards", metadata={"help": "gets a folder for each model"})


def find_reproduced(folder: Path, seed: int) -> dict[str, Path]:
    """Name of a run in a reproduction -> its folder, wherever it lies.

    Raises:
        ValueError: it is no reproduction, or a run of that seed is not finished.
    """
    argv = ["--config", str(folder / "config.yaml")]
    config, shape = parse_config(ReproduceConfig, PcfgShape, argv=argv)
    folders = ReproducePlan(dataclasses.replace(config, seeds=[seed]), shape).of_seed(seed)
    for name in (*RELEASED, *STUDIES):
        if not is_finished(folders[name]):
            raise ValueError(f"reproduction: {folder} has no finished {name} of seed {seed} (no {folders[name]})")
    return folders


def _find_one(pattern: str) -> Path:
    """A folder, by its name or by a pattern with ``*`` that fits no other."""
    found = [Path(pattern)] if Path(pattern).is_dir() else [Path(p) for p in glob.glob(pattern) if Path(p).is_dir()]
    if len(found) != 1:
        raise ValueError(f"models: {pattern!r} fits {len(found)} folders, expected one")
    return found[0]


def write_card(run: Path, repo_id: str, origin: Origin, place: Path) -> None:
    """Write the card that ``run`` would be published with, pictures and pages of diagnoses too, into ``place``."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = save(run, Path(temporary) / "published", repo_id, origin)["main"]
        place.mkdir(parents=True, exist_ok=True)
        for old in (*place.glob("*.png"), *place.glob("*.html")):
            old.unlink()
        for file in (tree / "README.md", *tree.glob("*.png"), *tree.glob("*.html")):
            shutil.copyfile(file, place / file.name)


def write_cards(config: WriteCardsConfig) -> dict[str, Path]:
    """Write a card for every released model: name on the Hub -> its folder."""
    reproduction = None if config.reproduction is None else Path(config.reproduction)
    reproduced = find_reproduced(reproduction, config.seed) if reproduction is not None else {}
    runs = {RELEASED[name]: reproduced[name] for name in RELEASED if name in reproduced}
    if config.models:
        runs |= {name: _find_one(place) for name, place in parse_models(config.models).items()}
    repo_ids = {name: f"{config.namespace}/{config.prefix}{name}" for name in runs}
    for repo_id in repo_ids.values():
        check_repo_id("namespace, prefix", repo_id)
    by_hash = {FinishedRun(run).hash: name for name, run in runs.items()}
    called = {released: name for name, released in RELEASED.items()}
    written = {}
    for name, run in runs.items():
        opened = FinishedRun(run)
        base = by_hash.get(opened.inputs.get("model", ""))
        own = called.get(name) if reproduction is not None else None
        origin = Origin(
            base_model=repo_ids[base] if base else None,
            datasets=config.datasets,
            analyses=None if own is None else _studies_of(opened.hash, reproduced),
            claims=claims_of(reproduction, CLAIMS_OF_MODELS[own])
            if reproduction is not None and own is not None
            else (),
            differences=_said_otherwise(reproduction, opened.kind) if own is not None else (),
        )
        written[repo_ids[name]] = Path(config.output_dir) / repo_ids[name].split("/")[1]
        write_card(run, repo_ids[name], origin, written[repo_ids[name]])
    return written


def _said_otherwise(reproduction: Path | None, kind: str) -> list[Mapping[str, str]]:
    """How a model was made otherwise than the paper says; what it leaves open stands on the study's page."""
    found = [] if reproduction is None else differences_of(FinishedRun(reproduction), kind)
    return [row for row in found if row["paper"] != NOT_SAID]


def _studies_of(model: str, reproduced: dict[str, Path]) -> Sequence[str]:
    """The reproduction's studies of the model with this hash."""
    folders = [reproduced[name] for name in STUDIES]
    return [str(folder) for folder in folders if model in FinishedRun(folder).inputs.values()]


def main(argv: list[str] | None = None) -> None:
    """Parse, write, say where."""
    with clean_exit():
        (config,) = parse_config(WriteCardsConfig, argv=argv, description=__doc__)
        for repo_id, place in write_cards(config).items():
            make_console().print(f"{repo_id}: {place / 'README.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
