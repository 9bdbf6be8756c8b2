"""What the files of a run and of its analyses show: sentences and pictures for its card, each beside its control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.config import tell
from ftmech_hf.hub.publications import find_publication
from ftmech_hf.jobs.training_card import ALONE
from ftmech_hf.models.identity import run_model
from ftmech_hf.report import charts
from ftmech_hf.runs import FinishedRun, changed_inputs


def split_analyses(given: Sequence[str] | None) -> tuple[list[str] | None, dict[str, str]]:
    """Entries like ``folder`` or ``folder=USER/NAME``: (the folders, folder -> repository of those that name one)."""
    if given is None:
        return None, {}
    entries = [(entry, "") if Path(entry).exists() else entry.rpartition("=")[::2] for entry in given]
    entries = [(folder or repository, repository if folder else "") for folder, repository in entries]
    return [folder for folder, _ in entries], {str(Path(f)): repository for f, repository in entries if repository}


def find_analyses(run: FinishedRun, given: Sequence[str] | None = None) -> list[FinishedRun]:
    """Finished analyses that took the model of a run, each once.

    Args:
        run: as it lies here.
        given: folders of analyses; those that lie beside the run if None.

    Raises:
        ValueError: one of them is damaged, or one that was given is none or of another model.
    """
    found: dict[Path, FinishedRun] = {}
    beside = sorted(path.parent for path in run.path.parent.glob("*/env.json")) if given is None else []
    for folder in [*map(Path, given or ()), *beside]:
        analysis = FinishedRun.find(folder)
        if analysis is None:
            if given is not None:
                raise ValueError(f"analyses: {folder} is no finished run")
            continue
        if run.hash not in analysis.inputs.values() or not analysis.has("summary.json"):
            if given is not None:
                raise ValueError(f"analyses: {folder} is no analysis of {run.path} (its models are {analysis.inputs})")
            continue
        if _is_of_other_weights(run, analysis):
            if given is not None:
                raise ValueError(f"analyses: {folder} is of other weights of the settings of {run.path}; make it again")
            tell(f"{folder} is of other weights of the settings of {run.path}, and is left out")
            continue
        if damaged := analysis.damaged_files:
            raise ValueError(f"analyses: {folder} is damaged: {', '.join(damaged)}")
        found[folder] = analysis
    return list(found.values())


def _is_of_other_weights(run: FinishedRun, analysis: FinishedRun) -> bool:
    """Whether the model was made again since, with other code or on another machine: settings do not fix weights."""
    if not run.has("config.json"):
        return False
    labels = [label for label, found in analysis.inputs.items() if found == run.hash]
    return bool(changed_inputs(analysis.env, dict.fromkeys(labels, run_model(run.path))))


def state_findings(run: FinishedRun, analyses: Sequence[FinishedRun], beside: str = "") -> list[str]:
    """What the files of a run and of its analyses say of its model, a sentence each.

    Args:
        run: that made the model.
        analyses: of it.
        beside: what stands in place of :data:`~ftmech_hf.jobs.training_card.ALONE`, where more is known.
    """
    sentences: list[str] = []
    for made, label in ((run, ""), *((each, _called(run, each)) for each in analyses)):
        if publication := find_publication(made.kind):
            sentences += (said.replace(ALONE, beside or ALONE) for said in publication.state(made, label))
    return list(dict.fromkeys(sentences))


def _called(run: FinishedRun, analysis: FinishedRun) -> str:
    """What an analysis calls the model of a run."""
    return next(label for label, value in analysis.inputs.items() if value == run.hash)


def draw_findings(run: FinishedRun, analyses: Sequence[FinishedRun], folder: Path) -> dict[str, str]:
    """Save the pictures of a run and of its analyses into ``folder``: file -> what it shows.

    Of several analyses of a kind the first is drawn.
    """
    pictures: dict[str, str] = {}
    for made in (run, *analyses):
        publication = find_publication(made.kind)
        for picture in publication.pictures(made) if publication else ():
            if picture.file not in pictures:
                figure = charts.panel(picture.draw)
                figure.savefig(folder / picture.file, dpi=100, metadata={"Software": None})
                pictures[picture.file] = picture.caption
    return pictures


def plain_numbers(numbers: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The numbers of a summary by their path in it; lists are left to the file."""
    found = []
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            found += plain_numbers(value, f"{prefix}{name}, ")
        elif isinstance(value, str | int | float):
            found.append((f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return found
