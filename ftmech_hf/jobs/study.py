"""A study: a question, the plan of the jobs that answer it, and what is written of their results.

A study is one folder of :mod:`ftmech_hf.studies`, which declares a :class:`Study`. :func:`run_study` takes every study
through the same steps: make the runs that are not there, say which failed, write the results, print them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ftmech_hf.config import check_seeds, config_hash, parse_config, peek_setting, read_sections, to_dict
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.job import read_inputs
from ftmech_hf.jobs.measurements import ENDING, keep_measurements, unpacked
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.plan_checks import check_plan
from ftmech_hf.jobs.plan_sizes import dry_run
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.report.claims import name_claims, read_claims
from ftmech_hf.report.console import describe_error, make_console, print_failures
from ftmech_hf.report.differences import Difference, write_differences
from ftmech_hf.report.page import format_interval, format_measured, format_verdict, write_origin
from ftmech_hf.runs import FinishedRun, is_finished, refuse_files
from ftmech_hf.runs.results import replacing_results


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The settings of every study."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "independent repetitions"})
    workers: int = field(default=0, metadata={"manner": True, "help": "processes side by side; 0 for one per core"})
    output_dir: str = field(default="runs/study", metadata={"place": "output", "help": "folder of the results"})
    runs_dir: str | None = field(default=None, metadata={
        "place": "output", "help": "folder of the runs, shared with other studies; output_dir/runs if not given"
    })  # fmt: skip
    fresh: bool = field(default=False, metadata={"manner": True, "help": "run everything again"})
    keep_measurements: str | None = field(
        default=None,
        metadata={"place": "output", "help": f"file (*{ENDING}) that all their numbers are written into at the end"},
    )
    from_measurements: str | None = field(
        default=None, metadata={"manner": True, "help": "what was kept so: results are written from it, nothing is run"}
    )

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        for name in ("keep_measurements", "from_measurements"):
            if (file := getattr(self, name)) and not file.endswith(ENDING):
                raise ValueError(f"{name}: {file!r}, expected a file that ends in {ENDING}")
        if self.from_measurements and self.keep_measurements:
            raise ValueError("keep_measurements: nothing is measured with from_measurements, expected one of the two")
        if self.workers < 0:
            raise ValueError(f"workers: {self.workers}, expected 0 or more")


class StudyPlan(Plan):
    """The runs of a study; a study's own plan adds them when it is made.

    Args:
        config: of the study.
        more: its other settings, such as those of its task.

    Raises:
        ValueError: a finished run lies where the results are to be.

    Attributes:
        config: of the study.
        failed: run -> why it failed, once they were run.
        results: where the files of the results are written to: :attr:`output`, or until all are whole a folder in it.
    """

    def __init__(self, config: StudyConfig, *more: Any) -> None:
        if is_finished(Path(config.output_dir)):
            raise ValueError(f"output_dir: {config.output_dir} is a finished run, which the results of a study would "
                             "overwrite; expected another folder")  # fmt: skip
        kept = None if config.keep_measurements is None else Path(config.keep_measurements).parent
        refuse_files({"output_dir": config.output_dir, "runs_dir": config.runs_dir, "keep_measurements": kept})
        super().__init__(config.runs_dir or Path(config.output_dir) / "runs", fresh=config.fresh)
        self.config = config
        self._configs = (config, *more)
        self.failed: dict[str, str] = {}
        self.results = self.output
        self.runs_dir_asked = config.runs_dir

    def settings(self) -> Mapping[str, Any]:
        """All of its settings, as they stand beside its results."""
        first, *more = self._configs
        return to_dict(dataclasses.replace(first, runs_dir=self.runs_dir_asked), *more)

    @property
    def hash(self) -> str:
        """The name of its results: of its settings, and of what they read, if they read anything."""
        identity, inputs = config_hash(self.settings()), read_inputs(*self._configs)
        read = {f"input:{label}": found for label, found in inputs.items()}
        return config_hash({"settings": identity, **read}) if read else identity

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return Path(self.config.output_dir)

    def page_of(self, run: FinishedRun) -> str | None:
        """Where a run's page lies as seen from the results'; None where it has none, as in kept measurements."""
        return os.path.relpath(run.path / "report.html", self.output) if run.has("report.html") else None

    def cells(self) -> list[Cell]:
        """The runs still to make, as they are handed to workers."""
        return self.unfinished()

    def differences(self) -> Sequence[Difference]:
        """What the paper says beside what the runs have, read from their settings; equal rows are left out later."""
        return ()

    def write_origin(self, kind: str) -> dict[str, Any]:
        """Write ``config.yaml`` and ``env.json`` into the folder of the results, which is made if need be.

        Args:
            kind: the study's name.

        Returns:
            what a page says of its runs and where it is from: ``seeds``, ``runs`` (how many are there), ``missing``,
            ``failed``, ``differences`` (from the paper), ``command``, ``hash``, ``versions``, ``seconds``.
        """
        missing = self.missing
        origin = write_origin(
            self.results, kind, self.settings(), self.hash, seconds=self.seconds(), runs=self.folders.values()
        )
        differences = write_differences(self.results, self.differences())
        runs = {"runs": len(self.folders) - len(missing), "missing": missing, "failed": self.failed}
        return {"seeds": self.config.seeds, **runs, "differences": differences, **origin}


def claim_numbers(results: FinishedRun) -> dict[str, str]:
    """The claims in a folder of results: what is claimed -> number, interval, bar, verdict; none if it makes none."""
    claims = read_claims(results.path) if results.has("claims.json") else []
    names = name_claims(claims)  # two may state "The same, at most"
    return {
        names[each.id]: f"{format_measured(each)} ({format_interval(each)}; bar {each.bar}; "
        f"{format_verdict(each, claims)})"
        for each in claims
    }


P = TypeVar("P", bound=StudyPlan)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What is known of every study, also of one that is a single job.

    Attributes:
        name: in :data:`ftmech_hf.studies.STUDIES`.
        question: in a sentence.
        paper: whose question it is, and where.
        duration: roughly, of its nano scale.
        jobs: what is published of the runs that only this study makes.
    """

    name: str
    question: str
    paper: str
    duration: str
    jobs: tuple[Publication, ...] = ()

    @property
    def publications(self) -> tuple[Publication, ...]:
        """What can be published of it."""
        return tuple(dataclasses.replace(each, papers=self.papers) for each in self.jobs)

    @property
    def papers(self) -> tuple[str, ...]:
        """Numbers at arXiv of the papers whose question it asks; none of a question of our own."""
        return tuple(re.findall(r"\d{4}\.\d{5}", self.paper))


@dataclass(frozen=True, kw_only=True)
class Study(StudyFacts, Generic[P, R]):
    """What the folder of a study declares that has a plan; its name is the kind of its results.

    Attributes:
        configs: the dataclasses of its settings, a :class:`StudyConfig` first.
        plan: makes the plan of the settings; nothing is run yet.
        write_results: reads the runs that are there and writes tables and ``report.html``; raises a ValueError if
            there is nothing to write of.
        print_results: shows what came out in the terminal.
        sections: keys of its YAML file that are no settings; then ``plan`` also gets ``sections`` and ``scale``.
        numbers: what the card of its published results says in numbers.
        data_file: the table of the results that the Hub shows.
    """

    configs: tuple[type, ...]
    plan: Callable[..., P]
    write_results: Callable[[P], R]
    print_results: Callable[[R], None]
    sections: tuple[str, ...] = ()
    numbers: Callable[[FinishedRun], Mapping[str, Any]] = claim_numbers
    data_file: str = "table.parquet"

    @property
    def publications(self) -> tuple[Publication, ...]:
        """What can be published of its own runs, and its results."""
        results = Publication(
            kind=self.name, holds="results", question=self.question, numbers=self.numbers, data_file=self.data_file,
            papers=self.papers,
        )  # fmt: skip
        return (*super().publications, results)

    def read_settings(self, argv: Sequence[str] | None = None, description: str | None = None) -> tuple[Any, ...]:
        """What a command line asks for, with its ``--config`` file: one of each of :attr:`configs`."""
        return parse_config(*self.configs, argv=argv, description=description, sections=self.sections)

    def read_plan(self, argv: Sequence[str] | None = None, runs_dir: Path | None = None, read: Sequence[Any] = ()) -> P:
        """The plan that a command line asks for, whose settings may have been read; of runs elsewhere, if said."""
        configs = tuple(read) or self.read_settings(argv)
        asked = configs[0].runs_dir
        if runs_dir is not None:
            configs = (dataclasses.replace(configs[0], runs_dir=str(runs_dir)), *configs[1:])
        more: dict[str, Any] = {}
        if self.sections:
            scale = peek_setting("scale", default="nano", argv=argv)
            more = {"sections": read_sections(self.sections, argv), "scale": scale}
        plan = self.plan(*configs, **more)
        plan.runs_dir_asked = asked  # where runs lie that are unpacked for a moment is nobody's setting
        return plan


def run_study(study: Study[P, R], plan: P) -> R:
    """Make what is not there of a study's runs, write its results, and say what came out.

    A run that fails keeps nothing else out of the results.

    Raises:
        ValueError: a run failed, after all the rest is done; or there is nothing to write of.
    """
    failures = _make_runs(study.name, plan)
    try:
        with replacing_results(plan.output) as plan.results:
            results = study.write_results(plan)
    except ValueError as error:
        raise ValueError(failures or str(error)) from error
    finally:
        plan.results = plan.output
    if (file := plan.config.keep_measurements) and not failures:  # before anybody who stopped to listen is told of it
        print(f"{file}: what {keep_measurements(plan.folders.values(), Path(file))} runs measured")
    study.print_results(results)
    make_console().print(f"report: {plan.output / 'report.html'}", soft_wrap=True)
    if failures:
        raise ValueError(failures)
    return results


def _make_runs(name: str, plan: StudyPlan) -> str:
    """Make the runs that are not there; returns what failed, in words."""
    if file := plan.config.from_measurements:
        if len(plan.missing) == len(plan.folders):
            raise ValueError(f"from_measurements: {file} holds no run of these settings, expected those of {name}")
        return ""
    if not (cells := plan.cells()):
        return ""
    check_plan(plan)
    number, left = len(plan.folders), len(plan.unfinished())
    print(f"{number} runs, {number - left} of them finished before, {left} to make", flush=True)
    backend = getattr(plan.config, "backend", "local")
    outcome = run_cells(cells, workers=plan.config.workers, backend=backend, description=name)
    print_failures(outcome.failed)
    runs = {cell.name: plan.made_by(cell) for cell in cells}
    plan.failed = {run: describe_error(error) for cell, error in outcome.failed.items() for run in runs[cell]}
    plan.not_made = {*plan.failed, *(run for cell in outcome.not_begun for run in runs[cell] if plan.must_run(run))}
    return outcome.describe()


def run_command(study: StudyFacts, argv: Sequence[str] | None, description: str | None) -> None:
    """A study as a command: parse, run what is not finished, report; with ``max_steps`` set, a dry run alone.

    With ``from_measurements`` nothing is run: its results are written from what earlier runs measured.
    """
    if not isinstance(study, Study):
        raise ValueError(f"study: {study.name} is one job and has no plan; run recipes/{study.name}.py")
    configs = study.read_settings(argv, description)
    if file := configs[0].from_measurements:
        with unpacked(Path(file)) as runs:
            run_study(study, study.read_plan(argv, runs, configs))
        return
    plan = study.read_plan(argv, read=configs)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"num_processes: {study.name} starts its own workers; launch it with --num_processes 1")
    if (steps := getattr(plan.config, "max_steps", None)) is not None:
        dry_run(plan, steps)
    else:
        run_study(study, plan)
