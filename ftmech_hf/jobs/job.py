"""What all jobs share: settings in, one run folder out.

A job is a function ``f(config, task, *, progress=None) -> RunDir`` that reads downward: find the run finished, else
measure, then finish it with its rows and its summary.

.. code-block:: python

    def measure_something(config, task, *, progress=None):
        with job("something", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
            if run.finished:
                return run
            ...
            return finish_job(run, rows, summary)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import pandas as pd
import torch
from transformers import PreTrainedModel

from ftmech_hf.config import to_dict
from ftmech_hf.models.file_states import FileStates, check_unchanged, file_states
from ftmech_hf.models.identity import base_for, model_hash
from ftmech_hf.models.loading import RANDOM_INIT, Dtype, check_vocabulary, find_device, load_model, random_twin
from ftmech_hf.models.naming import said_of, setting_of
from ftmech_hf.runs import RunDir, is_finished, write_json, write_text
from ftmech_hf.runs.lock import refuse_in_use
from ftmech_hf.statistics.floors import FloorResult
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.training.memory import release_freed_memory

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The settings of every job that measures or makes something, but for training, whose seed is the trainer's."""

    seed: int = field(default=0, metadata={"help": "of the rows, and of all that a job draws by chance"})
    output_dir: str = field(default="runs/job", metadata={"place": "output", "help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"manner": True, "help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative, expected 0 or more")
        operator = getattr(self, "operator", "count")
        able = [name for name, known in OPERATORS.items() if known.operands in ("symbols", "pairs")]
        if operator not in able:
            raise ValueError(f"operator: {operator!r}, expected one of {', '.join(able)}")


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """Where models compute, and in which type of number."""

    device: str = field(
        default="auto",
        metadata={"manner": True, "help": "where models compute: cpu, cuda, cuda:N, mps; auto: cuda if there is one"},
    )  # fmt: skip
    dtype: Dtype = field(
        default="float32",
        metadata={"unsaid": True, "help": "type of number of the models' weights: as they were saved if auto"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        find_device(self.device)
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype: {self.dtype!r}, expected one of {', '.join(get_args(Dtype))}")

    def kept_as(self, config: Any) -> torch.dtype:
        """The type of number that the weights of a model of this config are loaded in."""
        saved: torch.dtype = getattr(config, "dtype", None) or torch.float32
        return saved if self.dtype == "auto" else getattr(torch, self.dtype)

    def load(self, name: str, **options: Any) -> PreTrainedModel:
        """:func:`ftmech_hf.models.loading.load_model` with these settings.

        Raises:
            ValueError: the model is not that of which an open job says that it was taken.
        """
        model = load_model(name, device=self.device, dtype=self.dtype, **options)
        _check_as_hashed(name)
        return model


@dataclass(frozen=True, kw_only=True)
class ModelJobConfig(LoadingConfig, JobConfig):
    """The settings of a job that looks into models: it computes where they are, in their type of number."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        LoadingConfig.__post_init__(self)


def check_positive(config: Any, *names: str) -> None:
    """Raise a ValueError that names the first of these settings that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)}, expected at least 1")


def parse_models(entries: Sequence[str]) -> dict[str, str]:
    """Read ``name=folder`` entries."""
    models = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    if len(models) != len(entries) or not entries:
        raise ValueError(f"models: {' '.join(entries)!r}, expected entries like finetuned=runs/finetune, no name twice")
    return models


def first_of(entries: Sequence[str]) -> dict[str, str]:
    """What a job's inputs say of the order of ``name=folder`` entries, the first of which is not as the others.

    Nothing where that is ``base``, or without one the first by its name: the hashes of inputs have no order.
    """
    names = [*parse_models(entries)]
    usual = "base" if "base" in names else min(names)
    return {} if names[0] == usual else {"first of models": names[0]}


_HASHED: ContextVar[tuple[Mapping[str, str], FileStates]] = ContextVar("hashed", default=({}, {}))
"""Models of the job that is open, and how their files were when their hashes were taken."""


def _check_as_hashed(name: str) -> None:
    """Make sure that what was loaded is what the open job's hash is of, if it is one of its models."""
    models, states = _HASHED.get()
    check_unchanged(models, {each: states[each] for each, place in models.items() if place == name})


def read_inputs(*settings: Any) -> dict[str, str]:
    """Label -> hash of all that some settings read, such as a task whose rows come from files."""
    return {label: found for each in settings for label, found in getattr(each, "inputs", dict)().items()}


@contextlib.contextmanager
def job(
    kind: str,
    config: JobConfig,
    *settings: Any,
    models: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Iterator[RunDir]:
    """Open a job's run, finished or to be made, and let go of it at the end, however that comes.

    Args:
        kind: what the job makes, such as ``prune``; a part of the run's hash.
        config: the job's settings, with the place of its run.
        settings: the other settings of the run: its task first, if it has one. Those of them and of ``config`` that
            read files have a method ``inputs``, which gives label -> hash of each.
        models: label -> folder or name of each model that the job takes; the run's hash covers what they are.
        inputs: label -> hash of what else it takes.
        vocabulary: the words by whose numbers the job asks; the models must know them by the same.

    Raises:
        ValueError: a model is not there or has other words, or the folder holds something else.
    """
    models = models or {}
    states = file_states(models)
    found: dict[str, str] = {}
    for name, folder in models.items():
        with said_of(setting_of(name, config)):
            found[name] = model_hash(folder, **base_for(name, models))
    found |= read_inputs(config, *settings)
    if vocabulary is not None:
        for name, folder in models.items():
            with said_of(setting_of(name, config)):
                check_vocabulary(folder, vocabulary, **base_for(name, models))
    run = RunDir.open(
        config.output_dir, kind, to_dict(config, *settings), inputs={**found, **(inputs or {})}, fresh=config.fresh
    )
    with contextlib.closing(run):
        outer = _HASHED.set((models, states))
        try:
            yield run
        finally:
            _HASHED.reset(outer)


@contextlib.contextmanager
def prepared_job(
    prepare: Callable[[], T],
    kind: str,
    config: JobConfig,
    *settings: Any,
    models: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Iterator[tuple[RunDir, Callable[[], T]]]:
    """:func:`job` with what it needs, made before its run is opened: a fault in it shows before anything is written.

    Args:
        prepare: makes it, once; never for a run that is found finished.
        kind, config, settings, models, inputs, vocabulary: of :func:`job`.

    Returns:
        the run, and what gives what was made.

    Raises:
        FolderInUse: another process is making this run, which is said before models are loaded beside its own.
        ValueError: a file or a model changed while it was read for that; or as :func:`job`.
    """
    prepared = functools.cache(prepare)
    models = models or {}
    before: FileStates = {}
    if config.fresh or not is_finished(Path(config.output_dir)):
        refuse_in_use(Path(config.output_dir))
        read = read_inputs(config, *settings)
        before = file_states(models)
        prepared()
        if changed := dict(read_inputs(config, *settings).items() - read.items()):
            raise ValueError(f"{min(changed)}: it changed while it was read; try again when nothing writes it")
        inputs = {**read, **(inputs or {})}  # what lies there later is another
    with job(kind, config, *settings, models=models, inputs=inputs, vocabulary=vocabulary) as run:
        check_unchanged(models, before)
        yield run, prepared


def finish_job(
    run: RunDir,
    rows: list[dict[str, Any]],
    summary: Mapping[str, Any],
    write_page: Callable[[Path], str] | None = None,
    *,
    floors: Mapping[str, FloorResult] | None = None,
) -> RunDir:
    """Write the tidy table, the summary, and the page that is made of the folder with both; and let the run appear.

    ``floors`` says what is right on each test set without reading its texts; see :attr:`FinishedRun.floors`.
    """
    if floors:
        run.note(floors=[found.row(name) for name, found in floors.items()])
    pd.DataFrame(rows).to_parquet(run.working / "table.parquet", index=False)
    write_json(run.working / "summary.json", summary)
    if write_page is not None:
        write_text(run.working / "report.html", write_page(run.working))
    run.finish()
    return run


def load_named(config: ModelJobConfig, models: Mapping[str, str], name: str, **options: Any) -> PreTrainedModel:
    """One of a job's models; of the name :data:`RANDOM_INIT`, the first one's architecture with random weights.

    An adapter is put on what its run's hash says, by :func:`~ftmech_hf.models.identity.base_for`.

    Args:
        config: of the job, with the seed of random weights.
        models: name -> folder.
        name: of the one that is wanted.
        options: of :meth:`LoadingConfig.load`.
    """
    if name == RANDOM_INIT:
        first = next(iter(models))
        return random_twin(load_named(config, models, first, **options), config.seed)
    return config.load(models[name], **options, **base_for(name, models))


def one_by_one(names: Iterable[T]) -> Iterator[tuple[int, T]]:
    """(how many there have been, name) of models, of which one at a time is in memory: they may be gigabytes each.

    Whoever goes through them keeps none in a variable of the loop, where it would be while the next one is loaded. What
    has read a model's activations holds it in a circle, which is only found if it is looked for.
    """
    for number, name in enumerate(names, start=1):
        yield number, name
        release_freed_memory()
