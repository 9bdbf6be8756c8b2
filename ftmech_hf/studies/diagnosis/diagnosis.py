"""Is a capability of a base model still there in what it was fine-tuned into? All methods on one pair of models."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.jobs.job import finish_job
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.studies.diagnosis.case import BASE, Case, CaseConfig
from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, open_case
from ftmech_hf.studies.diagnosis.method import MethodResult, TableRow, plain
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.page import render_diagnosis
from ftmech_hf.studies.diagnosis.verdict import judge_behaviour, judge_capability
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True)
class DiagnosisResult:
    """A finished diagnosis.

    Attributes:
        verdict: the word.
        reason: one sentence on how the rule came to it.
        signs: the ways in which the capability may show that it is still there: ``name``, ``holds`` (None if it could
            not be measured), ``measured``, ``control`` and ``bar``.
        page: the page with one picture per method.
        table: all numbers, one a row.
        folder: of the run.
    """

    verdict: str
    reason: str
    signs: list[dict[str, Any]]
    page: Path
    table: pd.DataFrame
    folder: Path


def diagnose(
    base: str | Path,
    finetuned: str | Path,
    dataset: str | Path | None = None,
    *,
    control: str | Path | None = None,
    output_dir: str | Path = "runs/diagnose",
    thoroughness: CaseConfig | None = None,
    shape: PcfgShape | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> DiagnosisResult:
    """Say whether a capability of a base model is still there in what it was fine-tuned into, and why.

    Args:
        base: folder of the base model, or its name on the Hub.
        finetuned: what it was fine-tuned into; may be an adapter.
        dataset: questions about the capability, with columns ``prompt`` and ``answer``: a file, a folder, or a name on
            the Hub; see :mod:`ftmech_hf.jobs.prompts`. Without it the procedural task asks.
        control: a model of the same shape that never had the capability; else one of random weights.
        output_dir: where the page, the table and the summary go. A finished diagnosis there is only opened.
        thoroughness: how many questions, layers, steps.
        shape: of the procedural task, where no data set is given.
        progress: called after every method.
        settings: further fields of :class:`~ftmech_hf.studies.diagnosis.inputs.DiagnoseConfig`, such as
            ``other_dataset`` or ``twin``.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.

    Example:
        Two models and questions of your own::

            from ftmech_hf import diagnose

            found = diagnose(
                "models/base",  # a folder, or a name on the Hub
                "models/finetuned",
                "questions.parquet",  # columns prompt and answer
                control="models/other",  # of the same shape, without the ability; else one of random weights
                output_dir="runs/diagnosis",
            )
            print(found.verdict, found.reason, sep=": ")
            print(found.page)
    """
    given = {"base": base, "finetuned": finetuned, "dataset": dataset, "control": control, "output_dir": output_dir}
    settings |= {name: str(value) for name, value in given.items() if value is not None}
    config = DiagnoseConfig(**settings)
    run = run_diagnosis(config, thoroughness or CaseConfig(), shape or PcfgShape(), progress=progress)
    found = FinishedRun(run.path)
    return DiagnosisResult(
        verdict=found.summary["verdict"],
        reason=found.summary["reason"],
        signs=found.summary["signs"],
        page=run.path / "report.html",
        table=found.table,
        folder=run.path,
    )


def run_diagnosis(
    config: DiagnoseConfig, case_config: CaseConfig, shape: PcfgShape, *, progress: Progress | None = None
) -> RunDir:
    """Measure a pair of models and give a verdict; see :mod:`ftmech_hf.studies.diagnosis.verdict` for the rule.

    Args:
        config: which models, which questions.
        case_config: how thoroughly.
        shape: of the procedural task, where no data set is given.
        progress: called after every method.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.
    """
    started = time.monotonic()
    with open_case(config, case_config, shape) as (run, case_of):
        if run.finished:
            return run
        case = case_of()
        found = measure_case(case, progress)
        result = judge_capability(found.evidence(), case.rule)
        facts = {**_describe(config, case), "seconds": round(time.monotonic() - started, 1), "hash": run.hash}
        summary = {**result.summary(), "evidence": found.summary(), "rule": vars(case.rule), "facts": facts}
        floors = {kind: next(iter(questions.floors.values())) for kind, questions in case.both.items()}
        return finish_job(run, found.rows(), summary, render_diagnosis, floors=floors)


def _describe(config: DiagnoseConfig, case: Case) -> dict[str, Any]:
    base = case.models[BASE]
    return {
        "base": config.base,
        "finetuned": config.finetuned,
        "reference": config.control or RANDOM_INIT,
        "twin": config.twin,
        "null_steps": case.config.null_steps,
        "capability": case.capability.name,
        "other": case.other.name if case.other else None,
        "rows": len(case.capability.test),
        "parameters": base.num_parameters(),
        "architecture": type(base).__name__,
        "layers": case.num_layers,
        "longest_answer_tokens": int(case.capability.test.lengths.max()),
        "notes": [note for each in case.both.values() for note in each.notes],
        "other_tokens": case.difference,
        "prompt_kind": case.prompt_kind,
        "left_out": left_out(case),
    }


@dataclass(frozen=True)
class MeasuredResult:
    """What the methods found that were run.

    Attributes:
        by_method: name of a method -> its result.
        seconds: name of a method -> how long it took.
    """

    by_method: Mapping[str, MethodResult]
    seconds: Mapping[str, float]

    def rows(self) -> list[TableRow]:
        """The tidy table."""
        table = [each for result in self.by_method.values() for each in result.rows()]
        unknown = {each["analysis"] for each in table} - METHODS.keys()
        assert not unknown, f"rows of {', '.join(unknown)}: no method has that name"
        return table

    def evidence(self) -> Evidence:
        """What the rule of the verdict reads."""
        return Evidence.gather(each for result in self.by_method.values() if (each := result.evidence()) is not None)

    def summary(self) -> dict[str, Any]:
        """The evidence and what else the methods tell, as JSON can hold it."""
        found = [result.summary() for result in self.by_method.values()]
        found += [vars(each) for result in self.by_method.values() if (each := result.evidence()) is not None]
        twice = [key for key, number in Counter(key for each in found for key in each).items() if number > 1]
        assert not twice, f"{', '.join(twice)}: in the summaries of two methods"
        return plain({key: value for each in found for key, value in each.items()} | {"seconds": self.seconds})


def measure_case(case: Case, progress: Progress | None = None) -> MeasuredResult:
    """Run all methods, in their order.

    Where the answers alone decide that nothing is lost, or that there was nothing to lose, the others could not change
    the verdict, and are run only if the diagnosis is to be thorough. Where the models read the questions as different
    tokens, they are not run. Where the fine-tuned model is its base with tokens in front, those are left out that look
    at weights.
    """
    found: dict[str, MethodResult] = {}
    seconds: dict[str, float] = {}
    for number, (name, method) in enumerate(METHODS.items()):
        if name in left_out(case):
            continue
        started = time.monotonic()
        found[name] = method.measure(case, *(found[each] for each in method.needs))
        seconds[name] = round(time.monotonic() - started, 2)
        if progress is not None:
            progress(number + 1, len(METHODS), name)
        if name == "behaviour" and _ends_with_answers(case, MeasuredResult(found, seconds).evidence()):
            break
    return MeasuredResult(found, seconds)


def left_out(case: Case) -> list[str]:
    """The methods that cannot be run on a fine-tuned model that is no change of weights."""
    return [name for name, method in METHODS.items() if method.needs_weights and case.prompt_kind]


def _ends_with_answers(case: Case, evidence: Evidence) -> bool:
    """Whether the other methods could say no more: they need the same tokens, and a capability that is lost."""
    if case.own is not None:
        return True
    answers = judge_behaviour(evidence, case.rule)
    return not case.config.thorough and answers is not None and answers.verdict != "weakened"
