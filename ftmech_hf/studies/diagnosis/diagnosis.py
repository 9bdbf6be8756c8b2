"""Is a capability of a base model still there in what it was fine-tuned into? All methods on one pair of models."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.jobs.beside import beside, can_work_beside, one_thread
from ftmech_hf.jobs.job import finish_job
from ftmech_hf.models.computation import differing_setting
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.runs import RunDir, count_cores
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case, CaseConfig
from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.in_memory import InMemory
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, open_case
from ftmech_hf.studies.diagnosis.measured import MeasuredResult
from ftmech_hf.studies.diagnosis.method import Apart, MethodResult
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.behaviour import BehaviourMethodResult
from ftmech_hf.studies.diagnosis.methods.pruning import check_prune_sizes
from ftmech_hf.studies.diagnosis.methods.revival import RevivalMethodResult
from ftmech_hf.studies.diagnosis.page import render_diagnosis
from ftmech_hf.studies.diagnosis.repaired import save_repaired
from ftmech_hf.studies.diagnosis.score import DECIDES
from ftmech_hf.studies.diagnosis.verdict import judge_behaviour, judge_capability
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.memory import keep_freed_memory, release_freed_memory

SMALL = 4_000_000
"""Parameters up to which two processes of one thread each are faster than one of many threads."""


def run_diagnosis(
    config: DiagnoseConfig,
    case_config: CaseConfig,
    shape: PcfgShape,
    *,
    given: InMemory | None = None,
    progress: Progress | None = None,
    around: contextlib.AbstractContextManager[object] | None = None,
) -> RunDir:
    """Measure a pair of models and give a verdict; see :mod:`ftmech_hf.studies.diagnosis.verdict` for the rule.

    Args:
        config: which models, which questions.
        case_config: how thoroughly.
        shape: of the procedural task, where no data set is given.
        given: models and rows that are in memory, in place of those that are named.
        progress: called after every method.
        around: entered while models are measured, not while they are loaded and merged; such as an autocast.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.
    """
    started = time.monotonic()
    with open_case(config, case_config, shape, given or InMemory()) as (run, case_of):
        if run.finished:
            return run
        case = case_of()
        with around or contextlib.nullcontext():
            found = measure_case(case, progress, workers=config.workers)
        repaired = save_repaired(run, case, found.by_method.get("change"), config, given or InMemory())
        seconds = time.monotonic() - started
        summary = summarise(config, case, found, seconds=seconds, run_hash=run.hash, repaired=repaired)
        floors = {kind: next(iter(questions.floors.values())) for kind, questions in case.both.items()}
        return finish_job(run, found.rows(), summary, render_diagnosis, floors=floors)


def summarise(
    config: DiagnoseConfig, case: Case, found: MeasuredResult, *, seconds: float, run_hash: str, repaired: str = ""
) -> dict[str, Any]:
    """The verdict, what it rests on, and what was compared.

    Args:
        config: of the diagnosis.
        case: what was looked into.
        found: what the methods found.
        seconds: that it took.
        run_hash: of the run that it is for; empty if none is written.
        repaired: folder of the repaired model in that run; empty if there is none.
    """
    result = judge_capability(found.evidence(), case.rule)
    facts = {**_describe(config, case), "seconds": round(seconds, 1), "hash": run_hash, "repaired": repaired,
             "refused": found.refused}  # fmt: skip
    return {**result.summary(), "evidence": found.summary(), "rule": vars(case.rule), "facts": facts}


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
        "settings": {name: getattr(case.config, name) for name in DECIDES},
        "right_if": case.capability.right_if,
        "parameters": base.num_parameters(),
        "architecture": type(base).__name__,
        "layers": case.num_layers,
        "longest_answer_tokens": int(case.capability.test.lengths.max()),
        "notes": [note for each in case.both.values() for note in each.notes],
        "other_tokens": case.difference,
        "prompt_kind": case.prompt_kind,
        "left_out": left_out(case),
        "computed_otherwise": computed_otherwise(case),
    }


def measure_case(case: Case, progress: Progress | None = None, *, workers: int = 0) -> MeasuredResult:
    """Run all methods, in their order.

    Where the answers alone decide that nothing is lost, or that there was nothing to lose, the others could not change
    the verdict, and are run only if the diagnosis is to be thorough. Where the models read the questions as different
    tokens, they are not run. Where the fine-tuned model is its base with tokens in front, those are left out that look
    at weights.

    Args:
        case: the models and questions.
        progress: called after every method.
        workers: see :class:`~ftmech_hf.studies.diagnosis.inputs.DiagnoseConfig`. The numbers are the same with 1 and 2.

    Raises:
        ValueError: the models are where two processes cannot use them.
    """
    keep_freed_memory()  # batches of hundreds of rows come and go
    number, single = _processes(case, workers)
    measuring = _Measuring(case, progress)
    if "pruning" in measuring.names and case.own is None:
        check_prune_sizes(case)
    with one_thread() if single else contextlib.nullcontext():
        if number > 1 and case.own is None:
            measuring.run_side_by_side()
        else:
            measuring.run_all()
        found = measuring.result
        return dataclasses.replace(found, by_method=_with_reversed(case, found.by_method))


def _processes(case: Case, workers: int) -> tuple[int, bool]:
    """(how many processes, whether each has one thread alone)"""
    kinds = {model.device.type for model in case.models.values()}
    if workers > 1 and kinds != {"cpu"}:
        raise ValueError(f"workers: {workers}, but models are on {', '.join(sorted(kinds))}; expected 0 or 1")
    if workers or kinds != {"cpu"}:
        return max(workers, 1), bool(workers) and kinds == {"cpu"}
    small = case.models[BASE].num_parameters() <= SMALL
    return 2 if small and can_work_beside() and count_cores() > 1 else 1, small


class _Measuring:
    """What was found so far."""

    def __init__(self, case: Case, progress: Progress | None) -> None:
        self.case, self.progress = case, progress
        self.names = [name for name in asked_methods(case.config) if name not in left_out(case)]
        self._found: dict[str, MethodResult] = {}
        self._seconds: dict[str, float] = {}
        self._refused: dict[str, str] = {}

    @property
    def result(self) -> MeasuredResult:
        """All of it, in the order of the methods, whichever was measured first."""
        there = [name for name in METHODS if name in self._found]
        seconds = {name: self._seconds[name] for name in there}
        return MeasuredResult({name: self._found[name] for name in there}, seconds, self._refused)

    def run_all(self) -> None:
        """Measure all methods, as far as they are needed."""
        first, *names = self.names
        self.run(first)
        if not _ends_with_answers(self.case, self.result.evidence()):
            self.run(*names)

    def run_side_by_side(self) -> None:
        """The same with those that may be apart in another process, from the start; what needs those comes last."""
        first, *names = self.names
        apart = {name: each for name in names if (each := METHODS[name].apart)}
        after = [name for name in names if apart.keys() & set(METHODS[name].needs)]
        with beside(lambda: self._packed(apart)) as finished:
            self.run(first)
            if _ends_with_answers(self.case, self.result.evidence()):
                return
            self.run(*(name for name in names if name not in {*apart, *after}))
            for name, (found, seconds) in finished().items():
                self._take(name, apart[name].unpacked(found, self.case), seconds)
        self.run(*after)

    def run(self, *names: str) -> None:
        """Measure some methods."""
        for name in names:
            started = time.monotonic()
            method = METHODS[name]
            try:
                found = method.measure(self.case, *(self._found[each] for each in method.needs))
            except NoLensError as error:  # says nothing of what the other methods measure
                self._refused[name] = str(error)
                continue
            if self.case.in_place:  # what a large model's method has freed is not kept beside what the next one takes
                release_freed_memory()
            self._take(name, found, round(time.monotonic() - started, 2))

    def _packed(self, apart: Mapping[str, Apart]) -> dict[str, tuple[Any, float]]:
        self.progress = None  # the bar is the other process's
        self.run(*apart)
        return {name: (each.packed(self._found[name]), self._seconds[name]) for name, each in apart.items()}

    def _take(self, name: str, found: MethodResult, seconds: float) -> None:
        self._found[name], self._seconds[name] = found, seconds
        if self.progress is not None:
            self.progress(len(self._found), len(self.names), name)


def _with_reversed(case: Case, found: Mapping[str, MethodResult]) -> Mapping[str, MethodResult]:
    """The same, with what the model that was trained back answers to the questions that are shown, if there is one."""
    behaviour, revival = found["behaviour"], found.get("revival")
    model = case.reversed_model
    if model is None and isinstance(revival, RevivalMethodResult):
        model = revival.reversed_model(case.models[FINETUNED])
    if model is None or not isinstance(behaviour, BehaviourMethodResult):
        return found
    return {**found, "behaviour": behaviour.with_reversed(case, model)}


def asked_methods(config: CaseConfig) -> list[str]:
    """The methods that are measured with some settings, in their order."""
    return [name for name, method in METHODS.items() if not method.asked_by or getattr(config, method.asked_by)]


def left_out(case: Case) -> list[str]:
    """Methods that are not wanted or need what is not there, and those that need one of them.

    Not there may be a change of weights, or one computation into which the weights of several models may be put.
    """
    gone: list[str] = []
    apart = computed_otherwise(case)
    for name in asked_methods(case.config):
        method = METHODS[name]
        impossible = (method.needs_weights and case.prompt_kind is not None) or (method.mixes_weights and apart)
        if name in case.leave_out or impossible or set(method.needs) & set(gone):
            gone.append(name)
    return gone


def computed_otherwise(case: Case) -> str:
    """What a model's config has otherwise than the base's, so that weights of the two are not mixed; or nothing."""
    for name, model in case.models.items():
        if (found := differing_setting(case.models[BASE], model)) is not None:
            setting, base, other = found
            return f"{setting} is {other!r} in the config of the {name} model and {base!r} in that of the base"
    return ""


def _ends_with_answers(case: Case, evidence: Evidence) -> bool:
    """Whether the other methods could say no more: they need the same tokens, and a capability that is lost."""
    if case.own is not None:
        return True
    answers = judge_behaviour(evidence, case.rule)
    return not case.config.thorough and answers is not None and answers.verdict != "weakened"
