"""Make every published result again, the cheapest first, and write READMEs and cards from them; goes on where it stops.

python recipes/results.py --dry_run true    # what it would run, and about how long that takes
python recipes/results.py                   # a night on two cores
python recipes/results.py --measured true   # minutes: tables and pages again, from what was measured then
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.measurements import ENDING, keep_measurements, unpacked
from ftmech_hf.report.console import make_console
from ftmech_hf.runs import copy_file, copy_folder
from recipes.update_readme import BLOCKS, ROOT, UpdateReadmeConfig

NANO = "--config recipes/configs/nano"
MEASUREMENTS = "recipes/measurements"
"""Where it is kept what the runs of published tables measured; without weights, which are a thousand times larger."""


@dataclass(frozen=True)
class Step:
    """One command, and what is written from what it leaves.

    Attributes:
        source: the setting of ``update_readme.py`` that names what it leaves, if that has a table in a README.
        command: what runs, without Python and ``recipes/``.
        minutes: about what it takes on two cores.
        file: what it leaves, if it does not look for it itself: it is not run where that is there.
        folder: of the run that it leaves, if it is not a study of many.
        after: the step whose runs it takes, if any; it comes behind that one.
    """

    source: str
    command: str
    minutes: int
    file: str | None = None
    folder: str | None = None
    after: str = ""

    @property
    def kept(self) -> str:
        """The file of what it measured."""
        return f"{MEASUREMENTS}/{Path(self.file).name if self.file else self.source + ENDING}"


def _example(name: str, minutes: int, folder: str) -> Step:
    return Step(name, f"real_examples.py --only {name}", minutes, folder=folder, after="real")


def _benchmark(name: str, minutes: int) -> Step:
    file = f"runs/benchmark-{name}.json"
    return Step("benchmark" if name == "train" else f"{name}_benchmark", f"benchmark.py {name} --json {file}", minutes,
                file)  # fmt: skip


STEPS: tuple[Step, ...] = (
    Step("instruments", f"instruments.py {NANO}/instruments.yaml", 15, folder="runs/instruments-nano"),
    Step("reproduction", f"reproduce.py {NANO}/reproduce.yaml --seeds 0 1 2 3 4", 9),
    Step("architectures", "architectures.py --json runs/architectures.json", 5, "runs/architectures.json"),
    _benchmark("explorer", 1),
    _benchmark("data", 4),
    _benchmark("sweep", 12),
    _benchmark("train", 7),
    _benchmark("analysis", 8),
    _benchmark("accuracy", 30),
    Step("tracr", f"tracr_study.py {NANO}/tracr_grid.yaml --output_dir runs/tracr-nano", 15),
    Step("lora", f"sweep.py {NANO}/sweep_lora.yaml", 10),
    Step("forgetting", f"sweep.py {NANO}/sweep_forgetting.yaml", 10),
    Step("grid", f"sweep.py {NANO}/sweep_grid.yaml", 70),
    Step("stories", f"stories.py {NANO}/stories.yaml --seeds 0 1 2 3 4", 80),
    Step("safety", f"safety.py {NANO}/safety.yaml", 60),
    Step("continual_strengths",
         f"continual.py {NANO}/continual.yaml --develop true --seeds 99 --output_dir runs/continual-strengths", 10),
    Step("continual", f"continual.py {NANO}/continual.yaml --diagnosed plain ldifs-previous", 55),
    Step("continual_stories_strengths",
         f"continual_stories.py {NANO}/continual_stories.yaml --develop true --seeds 99 --base_steps 1200 "
         "--output_dir runs/continual-stories-strengths", 10),
    Step("continual_stories", f"continual_stories.py {NANO}/continual_stories.yaml", 20),
    Step("retrieval", f"retrieval.py {NANO}/retrieval.yaml", 50),
    Step("organisms",
         f"organisms.py {NANO}/organisms.yaml --score_file ftmech_hf/studies/diagnosis/verdict_score.json", 150),
    Step("compare_organisms", f"compare_organisms.py {NANO}/compare_organisms.yaml", 60),
    Step("real", f"real.py {NANO}/real.yaml", 35),
    _example("safety_texts", 10, "runs/safety-texts"),
    _example("continual_texts", 10, "runs/continual-texts"),
    _example("retrieval_pair", 10, "runs/retrieval-countries"),
)  # fmt: skip
"""All that a package of the registry and a machine without a GPU can make; ``real``, and what comes after it, needs the
extra of that name."""

RELEASED = ("reproduction", "stories", "safety", "continual", "retrieval")
"""Of these some models are released, whose cards are written."""


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Which results to make."""

    only: list[str] = field(default_factory=list, metadata={"help": f"of {', '.join(s.source for s in STEPS)}"})
    dry_run: bool = field(default=False, metadata={"help": "say what would run, and do nothing"})
    measured: bool = field(
        default=False,
        metadata={"help": f"run nothing: write tables and pages from what was measured, which is in {MEASUREMENTS}"},
    )
    logs: str = field(default="runs/results", metadata={"help": "folder of what each command prints"})

    def __post_init__(self) -> None:
        known = [step.source for step in STEPS]
        if unknown := [name for name in self.only if name not in known]:
            raise ValueError(f"only: unknown {unknown[0]!r}, expected some of {', '.join(known)}")
        if self.measured and self.dry_run:
            raise ValueError("dry_run: nothing is run with measured, expected one of the two")


def chosen_steps(only: Sequence[str]) -> list[Step]:
    """Those that are named, or all; the cheapest first, but for those that take another's runs."""

    def turn(step: Step) -> int:
        return step.minutes + sum(each.minutes for each in STEPS if each.source == step.after)

    return sorted((step for step in STEPS if not only or step.source in only), key=turn)


def is_there(step: Step) -> bool:
    """Whether a command need not run. Studies find their own runs, and write their results again in seconds."""
    return step.file is not None and (ROOT / step.file).is_file()


def run_step(step: Step, log: Path) -> int:
    """Run a command in the repository, with its own code and with what it prints in a file; its exit status."""
    recipe, *words = shlex.split(step.command)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        return subprocess.run(
            [sys.executable, str(ROOT / "recipes" / recipe), *words],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        ).returncode


def keep(step: Step) -> None:
    """Keep what a step measured that is no study; of studies their own command does."""
    if step.file:
        (ROOT / step.kept).parent.mkdir(parents=True, exist_ok=True)
        copy_file(ROOT / step.file, ROOT / step.kept)
    elif step.folder:
        keep_measurements([ROOT / step.folder], ROOT / step.kept)


def with_measurements(step: Step, flag: str) -> Step:
    """The step with a file of its study's measurements, which it writes or is written from."""
    return step if step.file or step.folder else replace(step, command=f"{step.command} --{flag} {step.kept}")


def restore(step: Step, log: Path) -> str | None:
    """Put back what :func:`keep` kept, or write a study's results from it.

    A file or a run that is there stays: it may be of something newer.

    Returns:
        what results are then written from; None if that went wrong.
    """
    if (there := step.file or step.folder) is not None and (ROOT / there).exists():
        return f"{there}, which is there and stays"
    if step.file:
        (ROOT / step.file).parent.mkdir(parents=True, exist_ok=True)
        copy_file(ROOT / step.kept, ROOT / step.file)
    elif step.folder:
        with unpacked(ROOT / step.kept) as runs:
            (ROOT / step.folder).parent.mkdir(parents=True, exist_ok=True)
            copy_folder(runs / Path(step.folder).name, ROOT / step.folder)
    elif run_step(with_measurements(step, "from_measurements"), log):
        return None
    return step.kept


def read_again(config: ResultsConfig) -> list[str]:
    """Write results, and then READMEs, from what was measured; the steps that failed.

    Cards are not written, since they say what is in files that only a run has.
    """
    console, made, failed = make_console(), [], []
    for step in chosen_steps(config.only):
        log = ROOT / config.logs / f"{step.source}.log"
        if not (ROOT / step.kept).is_file():
            said = f"no {step.kept}; its tables stay as they are"
        elif (source := restore(step, log)) is not None:
            made.append(step.source)
            said = f"written from {source}"
        else:
            failed.append(step.source)
            said = f"failed; see {log}"
        console.print(f"{step.source}: {said}", soft_wrap=True)
    for step in _written_of(made)[:1]:
        if run_step(step, ROOT / config.logs / f"{step.source}.log"):
            failed.append(step.source)
    return failed


def make_results(config: ResultsConfig) -> list[str]:
    """Run what is asked for, then write READMEs and cards from what came out; the steps that failed.

    A command that fails keeps no other from running, and what it would have made stays in the READMEs as it was.
    """
    if config.measured:
        return read_again(config)
    console = make_console()
    steps = chosen_steps(config.only)
    left = [step for step in steps if not is_there(step)]
    console.print(f"{len(steps)} results, about {sum(step.minutes for step in left) / 60:.1f} hours on two cores")
    failed: list[str] = []
    for step in steps:
        note = "is there" if is_there(step) else f"about {step.minutes} min"
        console.print(f"{step.source}: python recipes/{step.command} ({note})", soft_wrap=True)
        if config.dry_run or is_there(step):
            continue
        started, log = time.monotonic(), ROOT / config.logs / f"{step.source}.log"
        if run_step(with_measurements(step, "keep_measurements"), log):
            failed.append(step.source)
            console.print(f"{step.source}: failed; see {log}", soft_wrap=True)
        else:
            keep(step)
            console.print(f"{step.source}: made in {(time.monotonic() - started) / 60:.0f} minutes")
    tables = {block.source for block in BLOCKS.values()} - set(failed)
    made = [step.source for step in steps if step.source in tables]
    for step in [] if config.dry_run else _written_of(made):
        if run_step(step, ROOT / config.logs / f"{step.source}.log"):
            failed.append(step.source)
    return failed


def _written_of(made: Sequence[str]) -> list[Step]:
    """What is written of results that are there: the tables of the READMEs, and the cards of released models."""
    folders = {each.name: each.default for each in fields(UpdateReadmeConfig)}
    released = [str(folders[source]) for source in made if source in RELEASED]
    steps = [Step("readme", f"update_readme.py --only {' '.join(made)} code", 1)] if made else []
    return [*steps, *([Step("cards", f"write_cards.py --studies {' '.join(released)}", 1)] if released else [])]


def main(argv: list[str] | None = None) -> None:
    """Parse, run, name what failed."""
    with clean_exit():
        (config,) = parse_config(ResultsConfig, argv=argv, description=__doc__)
        if failed := make_results(config):
            raise ValueError(f"results: {', '.join(failed)} failed, the rest is made; the same command goes on")


if __name__ == "__main__":
    main()
