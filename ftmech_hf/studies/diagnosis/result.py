"""A diagnosis as a function: models and questions in whatever form they are, a verdict and what it rests on back."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.runs import FinishedRun, environment
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import measure_case, run_diagnosis, summarise
from ftmech_hf.studies.diagnosis.in_memory import InMemory, plain_model
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, prepare_case
from ftmech_hf.studies.diagnosis.page import render_page_of
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.tasks.text.reading import Table, read_table
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True)
class DiagnosisResult:
    """A finished diagnosis.

    Attributes:
        verdict: the word.
        reason: one sentence on how the rule came to it.
        signs: the ways in which the capability may show that it is still there: ``name``, ``holds`` (None if it could
            not be measured), ``measured``, ``control`` and ``bar``.
        table: all numbers, one a row.
        summary: all else: the verdict, what it rests on, and what was compared.
        folder: of the run; None if nothing was written.
        env: versions, machine and command.
    """

    verdict: str
    reason: str
    signs: list[dict[str, Any]]
    table: pd.DataFrame
    summary: Mapping[str, Any] = field(repr=False)
    folder: Path | None
    env: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls, summary: Mapping[str, Any], table: pd.DataFrame, env: Mapping[str, Any], folder: Path | None = None
    ) -> DiagnosisResult:
        """From the summary and the table of a diagnosis."""
        return cls(summary["verdict"], summary["reason"], summary["signs"], table, summary, folder, env)

    @property
    def page(self) -> Path | None:
        """The page with one picture per method; None if nothing was written."""
        return None if self.folder is None else self.folder / "report.html"

    @functools.cached_property
    def html(self) -> str:
        """The page as text; it is drawn when it is first asked for, unless it was written."""
        if self.page is not None:
            return self.page.read_text(encoding="utf-8")
        return render_page_of(self.summary, self.table, self.env)


def diagnose(
    base: str | Path | PreTrainedModel,
    finetuned: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    rows: Any = None,
    *,
    control: str | Path | PreTrainedModel | None = None,
    other_rows: Any = None,
    output_dir: str | Path | None = None,
    thoroughness: CaseConfig | None = None,
    shape: PcfgShape | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> DiagnosisResult:
    """Say whether a capability of a base model is still there in what it was fine-tuned into, and why.

    Args:
        base: the base model, its folder, or its name on the Hub. A model in memory is left as it was.
        finetuned: what it was fine-tuned into; may be an adapter, in a folder or as a model of peft.
        tokenizer: of the base, or where it is; the one beside the base if not given.
        rows: questions about the capability (see :mod:`ftmech_hf.jobs.prompts`): a list of dicts, a dict of lists, a
            pandas frame, a ``datasets.Dataset``, a dict of splits of these, a file, a folder, or a name on the Hub.
            Without them the procedural task asks.
        control: a model of the same shape that never had the capability; else one of random weights.
        other_rows: questions that fine-tuning taught, in any of these forms.
        output_dir: where the page, the table and the summary go; a finished diagnosis there is only opened. Without it
            nothing is written.
        thoroughness: how many questions, layers, steps.
        shape: of the procedural task, where no rows are given.
        progress: called after every method.
        settings: further fields of :class:`~ftmech_hf.studies.diagnosis.inputs.DiagnoseConfig`, such as ``twin`` or
            ``skip_unusable``.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.

    Example:
        Two models and questions of your own::

            from ftmech_hf import diagnose

            found = diagnose(  # models, their folders, or names on the Hub; rows in memory or in a file
                "models/base", "models/finetuned", rows="questions.parquet",
                control="models/other",  # of the same shape, without the ability; else one of random weights
                output_dir="runs/diagnosis",  # leave it out to write nothing
            )
            print(found.verdict, found.reason, sep=": ")
            print(found.page)
    """
    models = {"base": base, "finetuned": finetuned, "control": control}
    if output_dir is not None:
        settings["output_dir"] = str(output_dir)
    given, config = _given(models, tokenizer, _tables(rows, other_rows), settings)
    how = thoroughness or CaseConfig(), shape or PcfgShape()
    with given.borrowed():
        if output_dir is None:
            return _measured(config, *how, given, progress)
        run = FinishedRun(run_diagnosis(config, *how, given=given, progress=progress).path)
    return DiagnosisResult.of(run.summary, run.table, run.env, run.path)


def _measured(
    config: DiagnoseConfig, case_config: CaseConfig, shape: PcfgShape, given: InMemory, progress: Progress | None
) -> DiagnosisResult:
    """A diagnosis of which nothing is written."""
    started = time.monotonic()
    case = prepare_case(config, case_config, shape, given)
    found = measure_case(case, progress, workers=config.workers)
    summary = summarise(config, case, found, seconds=time.monotonic() - started, run_hash="")
    return DiagnosisResult.of(summary, pd.DataFrame(found.rows()), environment())


def _given(
    models: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    tables: tuple[dict[str, Table], dict[str, str]],
    settings: dict[str, Any],
) -> tuple[InMemory, DiagnoseConfig]:
    """(what is in memory, the settings that name all else)"""
    in_memory, names = tables
    settings = {**settings, **names}
    objects: dict[str, PreTrainedModel] = {}
    for role in ("base", "finetuned", "control", "twin", "reversed"):
        model = models.get(role, settings.get(role))
        if isinstance(model, str | Path):
            settings[role] = str(model)
        elif model is not None:
            objects[role] = plain_model(model, role)
            settings[role] = f"{type(objects[role]).__name__} in memory"
    own = load_tokenizer(str(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer
    return InMemory(models=objects, tables=in_memory, tokenizer=own), DiagnoseConfig(**settings)


def _tables(rows: Any, other_rows: Any) -> tuple[dict[str, Table], dict[str, str]]:
    """(rows that are in memory, names of those that are not) by the settings that they stand for."""
    given = {name: each for name, each in (("dataset", rows), ("other_dataset", other_rows)) if each is not None}
    if other_rows is not None and rows is None:
        raise ValueError("other_rows: given, but no rows with the capability's questions")
    if all(isinstance(each, str | Path) for each in given.values()):
        return {}, {name: str(each) for name, each in given.items()}
    called = {"dataset": "rows", "other_dataset": "other_rows"}
    return {
        name: Table(str(each), read_table(str(each))) if isinstance(each, str | Path) else Table.of(each, called[name])
        for name, each in given.items()
    }, {}
