"""Any model and any data sets, one after another: which methods keep the answers of earlier ones? A short example."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ftmech_hf.config import Notice
from ftmech_hf.jobs.asking import AskConfig, ask
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.study import Study, StudyConfig, StudyPlan
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.configs import model_positions
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.report.console import print_table
from ftmech_hf.report.page import render_page
from ftmech_hf.runs import RunDir, write_json, write_table, write_text
from ftmech_hf.statistics.clusters import share_right
from ftmech_hf.studies.continual.methods import METHODS, StrengthConfig
from ftmech_hf.tasks import TextConfig
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import OBJECTIVES
from ftmech_hf.training.settings import TrainConfig

BY_ADAPTER = ("lora", "olora", "replay", "ldifs-base")
"""Methods of the example: a LoRA adapter a task, alone and with what each adds."""

FIT = 64
"""Training rows, of which the answer is chosen that would be given to all."""


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(ModelJobConfig):
    """Which model answers questions of which data sets."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    datasets: list[str] = field(
        default_factory=list, metadata={"place": "input", "help": "what is asked: folders with prompt and answer"}
    )
    rows: int = field(default=256, metadata={"help": "test rows of each at most"})
    output_dir: str = field(default="runs/answers", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rows")
        dataset_labels(self.datasets)

    def inputs(self) -> dict[str, str]:
        """The data sets, by what is in them."""
        return {f"datasets/{number}": dataset_hash(name) for number, name in enumerate(self.datasets)}


def dataset_labels(datasets: Sequence[str]) -> list[str]:
    """What tables call data sets: the last part of each path, with as many before it as tell it from the others.

    Raises:
        ValueError: one stands there twice.
    """
    parts = [Path(name).parts for name in datasets]
    if twice := [name for name, each in zip(datasets, parts, strict=True) if parts.count(each) > 1]:
        raise ValueError(f"datasets: {twice[0]} stands there twice, expected each once")
    lengths = [1] * len(parts)
    while True:
        labels = ["/".join(each[-length:]) for each, length in zip(parts, lengths, strict=True)]
        if len(set(labels)) == len(labels):
            return labels
        lengths = [length + (labels.count(label) > 1) for label, length in zip(labels, lengths, strict=True)]


@torch.no_grad()
def measure_answers(config: AnswersConfig, *, progress: Progress | None = None) -> RunDir:
    """Ask a model for the test rows of data sets: accuracy with its 95 % interval, and what one answer for all gets."""
    with job("text_answers", config, models={"model": config.model}) as run:
        if run.finished:
            return run
        model = config.load(config.model)
        table: list[dict[str, Any]] = []
        labels = dataset_labels(config.datasets)
        for number, (name, label) in enumerate(zip(config.datasets, labels, strict=True), start=1):
            asked = ask(
                AskConfig(dataset=name), [config.model], seed=config.seed, train_rows=FIT, test_rows=config.rows
            )
            right = asked.score(model, asked.test)
            found = share_right(right.numpy(), asked.test.groups)
            table.append({"capability": label, "by": "behaviour", "value": found.value, "low": found.low,
                          "high": found.high, "floor": asked.chance, "rows": len(right)})  # fmt: skip
            if progress is not None:
                progress(number, len(config.datasets), f"{label} {found.value:.0%}")
        return finish_job(run, table, {row["capability"]: row["value"] for row in table})


@dataclass(frozen=True, kw_only=True)
class TextsConfig(StudyConfig, StrengthConfig):
    """Which model learns which data sets, and how long. The defaults are those of a small model."""

    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "independent repetitions"})
    base: str = field(default="", metadata={"place": "input", "help": "the model: a folder, or on the Hub"})
    datasets: list[str] = field(
        default_factory=list, metadata={"place": "input", "help": "in this order: folders with prompt and answer"}
    )
    methods: list[str] = field(
        default_factory=lambda: list(BY_ADAPTER), metadata={"help": f"of {', '.join(BY_ADAPTER)}, all by LoRA"}
    )
    task_lr: float = field(default=5e-4, metadata={"help": "peak rate of each task"})
    steps: int = field(default=40, metadata={"help": "of each task"})
    batch_size: int = field(default=8, metadata={"help": "rows of one of them"})
    rows: int = field(default=256, metadata={"help": "test rows of each data set at most"})
    output_dir: str = field(
        default="runs/continual-texts", metadata={"place": "output", "help": "folder of the results"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_unused(METHODS[name] for name in BY_ADAPTER)
        check_positive(self, "steps", "batch_size", "rows")
        if self.task_lr <= 0:
            raise ValueError(f"task_lr: {self.task_lr}, expected a number above 0")
        if "replay" in self.methods and self.replay and self.buffer_rows < 1:
            raise ValueError(f"buffer_rows: {self.buffer_rows}, expected at least 1, of which replay shows some")
        if unknown := [name for name in self.methods if name not in BY_ADAPTER]:
            raise ValueError(f"methods: {unknown[0]!r}, expected some of {', '.join(BY_ADAPTER)}")
        if not self.base or len(self.datasets) < 2 or not self.methods:
            raise ValueError("base and datasets: expected a model, and at least two data sets in their order")
        dataset_labels(self.datasets)

    def inputs(self) -> dict[str, str]:
        """What the model and the data sets are."""
        read = {f"datasets/{number}": dataset_hash(name) for number, name in enumerate(self.datasets)}
        return {"base": model_hash(self.base), **read}


class TextsPlan(StudyPlan):
    """The runs of the example.

    Attributes:
        asked: (seed, method, after how many tasks) -> the run that asked that model; the base is a method, after 0.
    """

    config: TextsConfig

    def __init__(self, config: TextsConfig) -> None:
        super().__init__(config)
        self._trained_on = {name: self._read(name) for name in config.datasets}
        self.asked: dict[tuple[int, str, int], str] = {}
        for seed in config.seeds:
            self.asked[seed, "base", 0] = self._ask("base", config.base, seed)
            for method in config.methods:
                before = config.base
                for number, dataset in enumerate(config.datasets, start=1):
                    before = self._tune(method, number, dataset, before, seed)
                    self.asked[seed, method, number] = self._ask(before, before, seed)

    def _ask(self, name: str, model: str, seed: int) -> str:
        place = AnswersConfig(seed=seed, datasets=self.config.datasets, rows=self.config.rows)
        return self.add(f"asked-{name}-seed{seed}", "text_answers", measure_answers, place, {}, {"model": model}, 20)

    def _tune(self, name: str, number: int, dataset: str, before: str, seed: int) -> str:
        c, method = self.config, METHODS[name]
        changes = {**method.settings(c, number - 1, []), "lr": c.task_lr}
        if changes.get("keep_rows"):
            changes["keep_rows"] = min(changes["keep_rows"], self._trained_on[dataset])
        settings = {
            "task": TextConfig(dataset=dataset),
            "train": TrainConfig(
                seed=seed, steps=c.steps, batch_size=c.batch_size, objective="answer_only", optimizer="adamw",
                num_evals=0, eval_rows=32, final_eval_rows=64, checkpoint_every=1000, **changes,
            ),
            "adapter": AdapterConfig(adapter="lora"), "objective": OBJECTIVES["answer_only"](),
        }  # fmt: skip
        inputs = {"model": before}
        if method.anchor == "base" and number > 1:  # in the first task the base is the start
            inputs["anchor_model"] = c.base
        label = f"{name}-{number}-{Path(dataset).name}-seed{seed}"
        place = FinetuneConfig(task="text")
        return self.add(label, place.kind, finetune, place, settings, inputs, 40)

    def _read(self, dataset: str) -> int:
        """How many rows of a data set are trained on: all that it has, or as many as the steps take.

        Raises:
            ValueError: it cannot be learned or asked, which is known before the first is.
        """
        config, positions = self.config, model_positions(self.config.base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # each run says what is odd about its rows
            task = TextConfig(dataset=dataset).in_tokens_of(load_tokenizer(config.base), positions=positions)
            for seed in config.seeds:
                ask(AskConfig(dataset=dataset), [config.base], seed=seed, train_rows=FIT, test_rows=config.rows)
        return min(task.num_rows("train"), config.steps * config.batch_size)


def write_results(plan: TextsPlan) -> pd.DataFrame:
    """What every model answers after every task: ``matrix.parquet``, and the same to read, ``report.html``.

    ``summary.json`` has the accuracies after the last task, of every method, means over seeds.

    Raises:
        ValueError: no model was asked yet.
    """
    parts = [
        found.table.assign(seed=seed, method=method, after_task=after)
        for (seed, method, after), run in plan.asked.items()
        if (found := plan.find(run))
    ]
    if not parts:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    matrix = pd.concat(parts, ignore_index=True)
    facts = plan.write_origin("continual_texts")
    write_table(plan.results / "matrix.parquet", matrix)
    columns, *rows = matrix_rows(matrix)
    last = matrix[matrix["after_task"] == matrix["after_task"].max()]
    answered = {
        str(method): {str(name): float(value) for name, value in each.groupby("capability")["value"].mean().items()}
        for method, each in last.groupby("method", sort=False)
    }
    write_json(plan.results / "summary.json", answered)
    page = render_page(__package__, "texts.html.j2", columns=columns, rows=rows, facts=facts)
    write_text(plan.results / "report.html", page)
    return matrix


def matrix_rows(matrix: pd.DataFrame) -> list[list[str]]:
    """The cells of a table: a line is a model after a task, a column what it is asked; means over seeds, in per cent.

    Of one seed with the 95 % interval of its rows; the first line names the columns, the second says what one answer
    for all would get.
    """
    names = list(matrix["capability"].unique())
    one = matrix["seed"].nunique() == 1
    floors = matrix.groupby("capability")["floor"].mean()
    lines = [
        ["method", "after task", *names],
        ["one answer for all", "", *(f"{100 * floors[name]:.0f}" for name in names)],
    ]
    for (method, after), each in matrix.groupby(["method", "after_task"], sort=False):
        cells = 100 * each.groupby("capability")[["value", "low", "high"]].mean()
        shown = (
            f"{value:.0f} ({low:.0f} to {high:.0f})" if one else f"{value:.0f}"
            for value, low, high in cells.loc[names].itertuples(index=False)
        )
        lines.append([str(method), str(after), *shown])
    return lines


def _print(matrix: pd.DataFrame) -> None:
    first, *lines = matrix_rows(matrix)
    print_table("What is answered after every task, %", pd.DataFrame(lines, columns=first))


TEXTS_STUDY = Study(
    name="continual_texts",
    paper="Mukhoti et al., arXiv 2308.13320",
    question="Which methods keep what a model answered before, over a sequence of data sets?",
    duration="10 minutes",
    configs=(TextsConfig,),
    plan=TextsPlan,
    write_results=write_results,
    print_results=_print,
)
