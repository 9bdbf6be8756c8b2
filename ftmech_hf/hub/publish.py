"""Publish a finished run: its folder becomes a repository, its snapshots become revisions."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi

from ftmech_hf.downloads import check_repo_id, hub_errors, list_files
from ftmech_hf.hub.bases import base_revision, hub_name, refuse_stacked
from ftmech_hf.hub.findings import split_analyses
from ftmech_hf.hub.push import Pushed, Target
from ftmech_hf.hub.repo_folder import Origin, open_run, repo_kind, save
from ftmech_hf.jobs.job import parse_models
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.models.identity import ADAPTER
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """What to publish, and where. The token is the one of HF_TOKEN or of ``hf auth login``."""

    run: str = field(
        metadata={"place": "input", "help": "folder of a finished run: a model, an adapter, a dataset or an analysis"}
    )
    repo_id: str = field(metadata={"place": "output", "help": "USER/NAME on the Hub"})
    private: bool = field(default=False, metadata={"help": "make a new repository private"})
    force: bool = field(default=False, metadata={"help": "replace what the repository holds, whatever it is"})
    collection: str | None = field(
        default=None, metadata={"help": "title of a collection of the same user that it is put into, made if need be"}
    )
    dry_run: bool = field(default=False, metadata={"help": "write what would be pushed into output_dir, push nothing"})
    output_dir: str | None = field(
        default=None,
        metadata={
            "place": "output",
            "help": "where a dry run writes, a folder per revision; RUN-published if not given",
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={"place": "output", "help": "repository of the model that the run started from; an adapter needs it"},
    )
    base_revision: str | None = field(default=None, metadata={"help": "revision of that model"})
    datasets: list[str] = field(
        default_factory=list, metadata={"place": "output", "help": "repositories of the rows it was trained on"}
    )
    models: list[str] = field(
        default_factory=list,
        metadata={
            "place": "output",
            "help": "repositories of the models that an analysis took, such as finetuned=USER/NAME",
        },
    )
    analyses: list[str] = field(
        default_factory=list,
        metadata={
            "place": "input",
            "help": "folders of analyses for the card, or FOLDER=USER/NAME where one is published, too; those beside "
            "the run if not given",
        },
    )

    def __post_init__(self) -> None:
        check_repo_id("repo_id", self.repo_id)
        for name in (self.base_model, *self.datasets):
            if name is not None:
                check_repo_id("base_model" if name == self.base_model else "datasets", name)
        for repo_id in parse_models(self.models).values() if self.models else ():
            check_repo_id("models", repo_id)
        for repo_id in split_analyses(self.analyses)[1].values():
            check_repo_id("analyses", repo_id)
        if self.collection is not None and not self.collection.strip():
            raise ValueError(f"collection: {self.collection!r}, expected a title")
        if self.base_revision is not None and self.base_model is None:
            raise ValueError(f"base_revision: {self.base_revision}, but no base_model is given")
        if self.output_dir is not None and not self.dry_run:
            raise ValueError(f"output_dir: {self.output_dir}, but only a dry run (--dry_run true) writes there")

    @property
    def origin(self) -> Origin:
        """What the card says beyond the run's files."""
        return Origin(
            base_model=self.base_model,
            base_revision=self.base_revision,
            models=parse_models(self.models) if self.models else {},
            datasets=self.datasets,
            analyses=self.analyses or None,
        )


def publish(config: PublishConfig, *, target: Target | None = None) -> dict[str, Pushed | Path]:
    """Push a run: its snapshots as revisions ``step-N``, and then itself, one commit each.

    ``main`` comes last, and a collection only gets what is there. So as long as a push is not through, nobody finds the
    run; what is missing is added by the same command.

    Args:
        config: what and where.
        target: another way to reach the repository; tests have one.

    Returns:
        revision -> what came of it; of a dry run, the folder that it wrote.

    Raises:
        ValueError: the run or a setting cannot be published, or the repository holds something else.
        OSError: the Hub cannot be reached.
    """
    run = open_run(Path(config.run))
    if config.dry_run:
        folder = Path(config.output_dir or f"{run.path}-published")
        return dict(save(run, folder, config.repo_id, config.origin))
    with tempfile.TemporaryDirectory() as temporary:
        trees = save(run, Path(temporary) / "published", config.repo_id, config.origin)
        target = target or Target(config.repo_id, repo_kind(run))
        target.open(private=config.private)
        if config.base_model is not None and "model" in run.inputs:
            _check_base(config, run.inputs["model"], target.api)
        same = not config.force and target.check_same(run.kind, run.hash)
        message = f"{run.kind} {run.hash}"
        pushed = {name: target.push(tree, message=message, revision=name) for name, tree in trees.items()}
        if not same and repo_kind(run) == "model":  # of another run, whose push was perhaps never through
            target.forget(pushed)
        if config.collection is not None:
            target.collect(config.collection, private=config.private)
        return dict(pushed)


def _check_base(config: PublishConfig, expected: str, api: HfApi) -> None:
    """A card must not name a base model that is not the one the run started from."""
    assert config.base_model is not None
    base = Target(config.base_model, "model", api=api)
    there = base.identity("base_model")
    if there is None:
        raise ValueError(f"base_model: {config.base_model} holds nothing yet; publish what {config.run} started from")
    revision = base_revision(FinishedRun(config.run).config, config.base_revision)
    with hub_errors("base_model", f"look into {config.base_model}@{revision or 'main'}"):
        _, names = list_files(api, config.base_model, "model", revision)
    if ADAPTER in names and (Path(config.run) / ADAPTER).is_file():
        refuse_stacked(config.base_model)
    if there.get("hash") not in (None, expected.partition("-step-")[0]):  # a snapshot belongs to its run
        raise ValueError(
            f"base_model: {config.base_model} holds a run with config hash {there['hash']}, and {config.run} started "
            f"from {expected}; name the right one"
        )


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Whether a recipe pushes its run when it is finished; the names are those of transformers' TrainingArguments."""

    push_to_hub: bool = field(default=False, metadata={"help": "publish the finished run on the Hub"})
    hub_model_id: str | None = field(
        default=None,
        metadata={
            "place": "output",
            "help": "USER/NAME on the Hub; the token's user and the run folder's name if not given",
        },
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "make a new repository private"})
    hub_base_model: str | None = field(
        default=None,
        metadata={"place": "output", "help": "repository of the model that the run starts from; an adapter needs it"},
    )

    def __post_init__(self) -> None:
        for name in ("hub_model_id", "hub_base_model"):
            if (value := getattr(self, name)) is not None:
                check_repo_id(name, value)
                if not self.push_to_hub:
                    raise ValueError(f"{name}: {value}, but push_to_hub is not set")
        if self.hub_private_repo and not self.push_to_hub:
            raise ValueError("hub_private_repo: true, but push_to_hub is not set")


def plan_push(
    hub: HubConfig, config: PretrainConfig | FinetuneConfig, train: TrainConfig, adapter: AdapterConfig | None = None
) -> str | None:
    """Before a model is trained: make sure that it can be pushed after it.

    Args:
        hub: what is asked for.
        config, train, adapter: of the run. A dry run, of ``max_steps``, is not pushed.

    Returns:
        the repository's name, or None if nothing is to be pushed, or not by this process.

    Raises:
        ValueError: there is no token, or the Hub does not accept it; or an adapter would belong to no model there.
    """
    if not hub.push_to_hub or train.max_steps is not None or os.environ.get("RANK", "0") != "0":
        return None
    start = getattr(config, "model", None)
    if hub.hub_base_model is not None and start is None:
        raise ValueError(f"hub_base_model: {hub.hub_base_model}, but a model that is pretrained starts from none")
    if adapter and adapter.adapter != "none" and (Path(str(start)) / ADAPTER).is_file():
        refuse_stacked(str(start))
    if adapter and adapter.adapter != "none" and hub.hub_base_model is None and hub_name(start) is None:
        raise ValueError(
            f"hub_base_model: not given, and an adapter belongs to a model on the Hub; publish {start} first, and name "
            "its repository"
        )
    api = HfApi()
    with hub_errors("push_to_hub", "ask the Hub who we are"):
        user = api.whoami()["name"]
    repo_id = hub.hub_model_id or f"{user}/{Path(config.output_dir).name}"
    check_repo_id("hub_model_id", repo_id)
    Target(repo_id, "model", api=api).open(private=hub.hub_private_repo)
    return repo_id


def push_run(run: RunDir, hub: HubConfig, repo_id: str | None) -> dict[str, Pushed | Path]:
    """After a run: publish it, from the main process, if that was planned; a dry run of a recipe is not published."""
    if repo_id is None or not run.is_main or run.config.get("max_steps") is not None:
        return {}
    return publish(
        PublishConfig(run=str(run.path), repo_id=repo_id, private=hub.hub_private_repo, base_model=hub.hub_base_model)
    )
