"""Write the filled cards of the released models into model_cards/, from the runs of the studies that made them.

python recipes/write_cards.py --namespace USER --studies runs/reproduce-nano runs/safety-nano
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.downloads import check_repo_id
from ftmech_hf.hub import Origin, save
from ftmech_hf.hub.claims import claims_of
from ftmech_hf.hub.publications import find_publication
from ftmech_hf.hub.redaction import Redaction
from ftmech_hf.jobs.job import parse_models
from ftmech_hf.jobs.study import Study, StudyPlan
from ftmech_hf.report.console import make_console
from ftmech_hf.report.differences import NOT_READ, NOT_SAID, differences_of
from ftmech_hf.runs import FinishedRun, copy_file, is_finished
from ftmech_hf.studies import load_study
from recipes.readme.released import RELEASED, Released


@dataclass(frozen=True, kw_only=True)
class WriteCardsConfig:
    """Which models are released, and where their cards go."""

    studies: list[str] = field(
        default_factory=lambda: ["runs/reproduce-nano"],
        metadata={"help": f"folders of results; of {', '.join(RELEASED)} some models are released"},
    )
    seed: int = field(default=0, metadata={"help": "which seed of a study is released"})
    models: list[str] = field(
        default_factory=list, metadata={"help": "more runs, name=folder; a pattern that fits one will do"}
    )
    namespace: str = field(default="ftmech-hf", metadata={"help": "user or organisation on the Hub"})
    prefix: str = field(default="ftmech-nano-", metadata={"help": "put before every model's name"})
    datasets: list[str] = field(default_factory=list, metadata={"help": "repositories of the rows"})
    output_dir: str = field(default="model_cards", metadata={"help": "gets a folder for each model"})


class Made(NamedTuple):
    """A run that gets a card.

    Attributes:
        run: its folder.
        results: of its study; None of a run that was named by itself.
        released: what the card says of it beside its files.
        others: the study's other runs of the same seed.
    """

    run: Path
    results: Path | None = None
    released: Released | None = None
    others: tuple[Path, ...] = ()


def find_released(results: Path, seed: int) -> dict[str, Made]:
    """Name of each model that a study releases -> its run, wherever that lies.

    Raises:
        ValueError: it is no folder of a study's results, the study releases nothing, or a run is not finished.
    """
    kind = FinishedRun(results).env["kind"] if (results / "env.json").is_file() else ""
    if kind not in RELEASED:
        raise ValueError(f"studies: {results} holds {kind or 'no results'}, expected those of {', '.join(RELEASED)}")
    study = load_study(kind)
    assert isinstance(study, Study)
    plan: StudyPlan = study.read_plan(["--config", str(results / "config.yaml"), "--seeds", str(seed)])
    of_seed = {name.removesuffix(f"-seed{seed}"): folder for name, folder in plan.folders.items()}
    for name in RELEASED[kind]:
        if name not in of_seed or not is_finished(of_seed[name]):
            raise ValueError(f"studies: {results} has no finished {name} of seed {seed} (no {of_seed.get(name)})")
    others = tuple(folder for folder in of_seed.values() if is_finished(folder))
    return {each.name: Made(of_seed[run], results, each, others) for run, each in RELEASED[kind].items()}


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
            copy_file(file, place / file.name)


def write_cards(config: WriteCardsConfig) -> dict[str, Path]:
    """Write a card for every released model: name on the Hub -> its folder."""
    made = {name: each for study in config.studies for name, each in find_released(Path(study), config.seed).items()}
    if config.models:
        made |= {name: Made(_find_one(place)) for name, place in parse_models(config.models).items()}
    repo_ids = {name: f"{config.namespace}/{config.prefix}{name}" for name in made}
    for repo_id in repo_ids.values():
        check_repo_id("namespace, prefix", repo_id)
    by_hash = {FinishedRun(each.run).hash: repo_ids[name] for name, each in made.items()}
    written = {}
    for name, each in made.items():
        opened = FinishedRun(each.run)
        origin = Origin(
            **_started_from(opened, each.others, by_hash),
            beside=_beside(name, made, repo_ids),
            datasets=config.datasets,
            analyses=None if each.results is None else _analyses_of(opened.hash, each.others),
            differences=_said_otherwise(each.results, opened.kind),
            **_said_by_study(each),
        )
        written[repo_ids[name]] = Path(config.output_dir) / repo_ids[name].split("/")[1]
        write_card(each.run, repo_ids[name], origin, written[repo_ids[name]])
    return written


def _started_from(run: FinishedRun, others: Sequence[Path], released: Mapping[str, str]) -> dict[str, Any]:
    """What a card says of the model that a run started from: itself if it is released, or the last before it that is.

    Args:
        run: of the card.
        others: the study's other runs; none where nothing is known of what is released.
        released: hash of a run -> repository of its model.
    """
    first = run.inputs.get("model", "")
    if first in released or not first or not others:
        return {"base_model": released.get(first)}
    starts = {each.hash: each.inputs.get("model", "") for each in map(FinishedRun, others)}
    earlier, start = 0, first
    while start and start not in released:
        earlier, start = earlier + 1, starts.get(start, "")
    if not start:
        return {"start": ", which is not released"}
    between = "fine-tuning, whose model is" if earlier == 1 else "fine-tunings, whose models are"
    return {
        "ancestor": released[start],
        "start": f", which is `{released[start]}` after {earlier} earlier {between} not released",
    }


def _beside(name: str, made: Mapping[str, Made], repo_ids: Mapping[str, str]) -> str:
    """That a model is the control of another, or what its control is, where that is released."""
    controls = {each: of.released.control for each, of in made.items() if of.released and of.released.control}
    if name in controls:
        control = repo_ids[controls[name]]
        return f"Its control, the same fine-tuning of a model that never had the capability, is `{control}`."
    of = next((each for each, control in controls.items() if control == name), None)
    return f"It is the control of `{repo_ids[of]}`, whose steps say something only beside these." if of else ""


def _said_by_study(made: Made) -> dict[str, Any]:
    """What a card says of a released model beside what its files say."""
    if made.results is None or made.released is None:
        return {}
    results = FinishedRun(made.results)
    return {
        "what": made.released.what,
        "claims": claims_of(made.results, made.released.claims),
        "papers": load_study(results.kind).papers,
        "command": f"python recipes/{as_published(results.env['command'])}",
    }


def as_published(command: str) -> str:
    """A command as anybody can give it: places of this machine are taken out, but for those below ``runs/``."""
    kept = [word for word in command.split() if word.startswith("runs/")]
    return Redaction(dict(zip(kept, kept, strict=True))).command(command)


def _said_otherwise(results: Path | None, kind: str) -> list[Mapping[str, str]]:
    """How a model was made otherwise than the paper says; what it leaves open stands on the study's page."""
    found = [] if results is None else differences_of(FinishedRun(results), kind)
    return [row for row in found if row["paper"] not in (NOT_SAID, NOT_READ)]


def _analyses_of(model: str, runs: Sequence[Path]) -> list[str]:
    """The runs that measured the model with this hash; of diagnoses those that ask what it was tuned into."""
    found = []
    for run in map(FinishedRun, runs):
        roles = {role for role, of in run.inputs.items() if of == model}
        asked = "finetuned" in roles if run.kind == "diagnose" else bool(roles)
        declared = find_publication(run.kind)
        if asked and declared is not None and declared.holds == "table":
            found.append(str(run.path))
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse, write, say where."""
    with clean_exit():
        (config,) = parse_config(WriteCardsConfig, argv=argv, description=__doc__)
        for repo_id, place in write_cards(config).items():
            make_console().print(f"{repo_id}: {place / 'README.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
