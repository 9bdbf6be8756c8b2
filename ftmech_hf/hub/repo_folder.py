"""The folder that is published for a run: the run's files, made right for a place where nobody has our disks."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from ftmech_hf.config import field_names
from ftmech_hf.downloads import RepoKind, check_folder
from ftmech_hf.hub.bases import base_revision, hub_name, made_of, name_base
from ftmech_hf.hub.copying import INHERITANCE, copy_run
from ftmech_hf.hub.diagnoses import diagnoses_of
from ftmech_hf.hub.findings import draw_findings, find_analyses, plain_numbers, split_analyses, state_findings
from ftmech_hf.hub.names import publish_config, redaction_of
from ftmech_hf.hub.publications import publication_of
from ftmech_hf.hub.redaction import Redaction, check_no_secrets
from ftmech_hf.jobs.card import Published, check_card, library_of, license_of, render_card, write_model_card
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.trained_model import snapshot_folder
from ftmech_hf.models.identity import ADAPTER
from ftmech_hf.runs import (
    FinishedRun,
    accuracy_of,
    commit_folder,
    describe_versions,
    loss_of,
    making,
    write_text,
)
from ftmech_hf.runs.results import recover_results
from ftmech_hf.tasks import TASKS, example_row


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the Hub can be told about where a run came from.

    Attributes:
        base_model: repository of the model it started from.
        base_revision: branch, tag or commit of that.
        models: what an analysis calls a model that it took -> repository of that.
        datasets: repositories of the rows it was trained on.
        analyses: folders of analyses of it, or ``folder=USER/NAME`` of those that are published; those that lie beside
            the run if None.
        what: what was done to the model and what it is for, a sentence; that of its kind of run if empty.
        beside: what stands on its card in place of :data:`~ftmech_hf.jobs.training_card.ALONE`, where that is known.
        ancestor, start, claims, differences, papers, command: see :class:`ftmech_hf.jobs.card.Published`.
    """

    base_model: str | None = None
    base_revision: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    analyses: Sequence[str] | None = None
    what: str = ""
    beside: str = ""
    ancestor: str | None = None
    start: str = ""
    claims: Sequence[Mapping[str, str]] = ()
    differences: Sequence[Mapping[str, str]] = ()
    papers: Sequence[str] = ()
    command: str = ""


def repo_kind(run: FinishedRun) -> RepoKind:
    """Whether a run is published as a model, or as a dataset; the table of an analysis is one too."""
    return "model" if publication_of(run).holds == "model" or _holds_model(run) else "dataset"


def _holds_model(run: FinishedRun) -> bool:
    """Whether a run holds a model of its own; of the analyses, interpolation may."""
    return run.has("config.json")


def open_run(folder: Path) -> FinishedRun:
    """Open what is to be published.

    Raises:
        ValueError: it is no finished run, its files are damaged, or nothing is known of its kind.
    """
    recover_results(folder)
    run = FinishedRun(folder)
    if not run.has("env.json"):
        raise ValueError(f"run: {folder} is no finished run (no env.json); expected the folder that a recipe left")
    if publication_of(run).holds != "results":
        if not run.is_whole:
            raise ValueError(f"run: {folder} is not finished; run its recipe again to go on with it")
        if damaged := run.damaged_files:
            raise ValueError(f"run: {folder} is damaged: {', '.join(damaged)}")
    return run


def save(run: FinishedRun | Path, folder: Path, repo_id: str, origin: Origin | None = None) -> dict[str, Path]:
    """Write exactly what a push of ``run`` to ``repo_id`` would send.

    Args:
        run: of :func:`open_run`, or where it lies.
        folder: gets a folder for every revision; must not exist.
        repo_id: ``USER/NAME``.
        origin: what is known beyond the run's files.

    Returns:
        revision -> its folder; ``main`` last, as it refers to the others.

    Raises:
        ValueError: the run is damaged, or an adapter's base model is not said to be on the Hub.
    """
    run = run if isinstance(run, FinishedRun) else open_run(run)
    origin = _named_by(run, origin or Origin())
    if folder.exists():
        raise ValueError(f"output_dir: {folder} exists; choose another folder, or remove it")
    if origin.base_model is not None and "model" not in run.inputs:
        raise ValueError(f"base_model: {origin.base_model}, but {run.path} is a {run.kind} and started from no model")
    with making(folder, "output_dir") as whole:
        names = _write_revisions(run, whole, repo_id, origin)
        whole.rename(folder)
    return {name: folder / name for name in names}


def _named_by(run: FinishedRun, origin: Origin) -> Origin:
    """What is known of where a run came from, with what its own settings name on the Hub."""
    places = run.env.get("places", {})
    base, rows = (hub_name(run.config.get(name), places.get(name, ())) for name in ("model", "dataset"))
    if origin.base_model is None and base is not None and "model" in run.inputs:
        origin = dataclasses.replace(origin, base_model=base)
    if not origin.datasets and rows is not None:
        origin = dataclasses.replace(origin, datasets=[rows])
    return origin


def _write_revisions(run: FinishedRun, folder: Path, repo_id: str, origin: Origin) -> list[str]:
    """Write every revision's folder; returns their names."""
    names, publication = [], publication_of(run)
    repositories = {**({"model": origin.base_model} if origin.base_model else {}), **origin.models}
    redaction = redaction_of(run, repo_id, repositories)
    if publication.holds == "model":
        steps = sorted(
            int(path.name.removeprefix("step-")) for path in snapshot_folder(run.path, 0).parent.glob("step-*")
        )
        for step in steps:
            names.append(f"step-{step}")
            working = _begin(folder / names[-1])
            _save_snapshot(run, working, repo_id, step, origin)
            _end(working, "model", redaction)
    working = _begin(folder / "main")
    if publication.holds == "model":
        _save_model(run, working, repo_id, origin, names, redaction)
    elif publication.holds == "rows":
        _save_dataset(run, working, repo_id, redaction)
    else:
        _save_analysis(run, publication, working, repo_id, redaction, repositories)
    _end(working, repo_kind(run), redaction, rows=publication.holds == "rows")
    return [*names, "main"]


def _begin(final: Path) -> Path:
    working = final.with_name(final.name + ".partial")
    working.mkdir(parents=True)
    return working


def _end(working: Path, kind: RepoKind, redaction: Redaction, *, rows: bool = False) -> None:
    """Look through everything that would leave this machine, and let it appear under its name."""
    redaction.folder(working, rows=rows)
    for path in sorted(path for path in working.rglob("*") if path.is_file()):
        check_no_secrets(path, path.relative_to(working).as_posix())
    check_card((working / "README.md").read_text(encoding="utf-8"), kind)
    # Whoever owns a repository may write on in its card, and the model is no other one for that.
    commit_folder(working, working.with_name(working.name.removesuffix(".partial")), leave_out="README.md")


def _save_model(
    run: FinishedRun, working: Path, repo_id: str, origin: Origin, revisions: Sequence[str], redaction: Redaction
) -> None:
    # metrics.jsonl says the same as table.parquet, which belongs in a dataset.
    copy_run(run.path, working, ["README.md", "table.parquet", "snapshots", INHERITANCE])
    revision = base_revision(run.config, origin.base_revision)
    # A snapshot is a setting of its own, which is added to the name.
    pinned = f"@{revision}" if revision and run.config.get("snapshot") is None else ""
    publish_config(working, repo_id, redaction, {"model": origin.base_model and f"{origin.base_model}{pinned}"})
    name_base(working, run.config, origin.base_model, revision)
    check_folder(working)
    folders, repositories = split_analyses(origin.analyses)
    analyses = find_analyses(run, folders)
    repositories |= {"own": repo_id, **({"base": origin.base_model} if origin.base_model else {})}
    published = Published(
        repo_id=repo_id,
        base_model=origin.base_model,
        ancestor=origin.ancestor,
        start=origin.start,
        base_revision=revision,
        datasets=origin.datasets,
        statements=state_findings(run, analyses, origin.beside),
        diagnoses=diagnoses_of(run.hash, analyses, working, repositories, run.inputs.get("model")),
        claims=origin.claims,
        differences=origin.differences,
        pictures=draw_findings(run, analyses, working),
        revisions=revisions,
        papers=origin.papers,
        command=origin.command,
    )
    what = origin.what or publication_of(run).describe(run)
    write_model_card(working, what=what, example=_example(run), published=published)


def _example(run: FinishedRun) -> Mapping[str, Any]:
    """A test row of the task that a run was trained on."""
    config = run.config
    if "example" in run.env:
        return dict(run.env["example"])
    kind = TASKS.get(config["task"])
    if kind is None:
        raise ValueError(f"run: its task {config['task']!r} is not known here, expected one of {', '.join(TASKS)}")
    task = kind(**{name: config[name] for name in field_names(kind) if name in config})
    return example_row(task, config["seed"])


def _save_snapshot(run: FinishedRun, working: Path, repo_id: str, step: int, origin: Origin) -> None:
    copy_run(run.path, working, part=snapshot_folder(run.path, step).relative_to(run.path).as_posix())
    revision, licence = base_revision(run.config, origin.base_revision), license_of(run.config, run.env)
    name_base(working, run.config, origin.base_model, revision)
    lines = [line for line in run.metrics if line["step"] == step]
    adapted = (working / ADAPTER).is_file()
    base = origin.base_model or origin.ancestor
    relation = {"base_model": base, "base_model_relation": "adapter" if adapted else "finetune"}
    header = yaml.safe_dump(
        {**licence, **library_of(compiled=False, adapted=adapted),
         "tags": ["ftmech_hf", "interpretability", "snapshot"],
         **(relation if base else {})}, sort_keys=False,
    ).strip()  # fmt: skip
    hub = Published(repo_id=repo_id, base_model=origin.base_model, base_revision=revision)
    text = render_card(
        "snapshot.md.j2", metadata=header, title=repo_id.split("/")[-1], hub=hub, step=step, adapted=adapted,
        config=run.config, env=run.env, accuracy=accuracy_of(lines[-1], run.floors) if lines else [],
        loss=loss_of(lines[-1], run.env.get("bytes_per_token", {})) if lines else [],
        versions=describe_versions(run.env), licence=licence["license"],
    )  # fmt: skip
    write_text(working / "README.md", text)


def _save_dataset(run: FinishedRun, working: Path, repo_id: str, redaction: Redaction) -> None:
    # The statistics of make_dataset are no rows of the dataset.
    copy_run(run.path, working, ["table.parquet"])
    publish_config(working, repo_id, redaction, {})
    card = DatasetCard((working / "README.md").read_text(encoding="utf-8"))
    here, name = str(run.config["output_dir"]), repo_id.split("/")[-1]
    card.data["pretty_name"] = name
    text = card.content.replace(f'load_dataset("{here}"', f'load_dataset("{repo_id}"')
    # transformers looks for a tokenizer among models, and finds one beside rows when it is here.
    loaded = "tokenizer = AutoTokenizer.from_pretrained("
    downloaded = f'folder = snapshot_download("{repo_id}", repo_type="dataset")\n{loaded}f"{{folder}}/tokenizer")'
    text = text.replace(f'{loaded}"{here}/tokenizer")', downloaded)
    if downloaded in text:
        text = text.replace("from datasets", "from huggingface_hub import snapshot_download\nfrom datasets", 1)
    write_text(working / "README.md", re.sub("^# .*$", f"# {name}", text, count=1, flags=re.MULTILINE))


def _save_analysis(
    run: FinishedRun, publication: Publication, working: Path, repo_id: str, redaction: Redaction,
    repositories: Mapping[str, str],
) -> None:  # fmt: skip
    is_model, bases = _holds_model(run), [*dict.fromkeys(repositories.values())]
    left_out = ["README.md", *(path.name for path in run.path.glob("*.parquet") if is_model)]
    # Of a folder of many runs the results go, and not the runs; and a model that an analysis made is no part of it.
    inside = [path for path in run.path.iterdir() if path.is_dir()]
    folders = [path.name for path in inside if publication.holds == "results" or (path / "config.json").is_file()]
    copy_run(run.path, working, [*left_out, *folders])
    if (beside := run.path.with_name(run.path.name + ".png")).is_file():
        shutil.copyfile(beside, working / "picture.png")
    pictures = dict.fromkeys((path.name for path in sorted(working.glob("*.png"))), publication.question)
    publish_config(working, repo_id, redaction, {})
    redaction.folder(working)  # the card is written from what is left
    left = FinishedRun(working)
    header = {
        **license_of(run.config, run.env),
        "pretty_name": repo_id.split("/")[-1],
        "tags": ["ftmech_hf", "interpretability", run.kind, *(f"arxiv:{each}" for each in publication.papers)],
        **(
            {**library_of(compiled=False, adapted=False), **made_of(bases)}
            if is_model
            else {"configs": [{"config_name": "default", "data_files": publication.data_file}]}
        ),
    }
    text = render_card(
        "analysis.md.j2", metadata=yaml.safe_dump(header, sort_keys=False).strip(), title=repo_id.split("/")[-1],
        what=publication.question, where=repo_id, summary=dict(plain_numbers(publication.numbers(left))),
        pictures=pictures, data_file=publication.data_file, holds=publication.holds,
        is_model=is_model, models=left.inputs, env=left.env, versions=describe_versions(left.env),
        licence=header["license"],
    )  # fmt: skip
    write_text(working / "README.md", text)
