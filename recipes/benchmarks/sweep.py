"""Short runs side by side, one thread each, and the same runs one after the other with all threads.

Twice: as the commands that one would type, and in worker processes that were started and have imported everything
before the clock runs, as in a long sweep. The ways take turns; what is said is the median of the rounds, and of the
ratios within each.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from threadpoolctl import threadpool_limits

from ftmech_hf.jobs.local_pool import fork_context
from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.models.presets import find_preset
from ftmech_hf.runs import count_cores
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.settings import TrainConfig
from recipes.benchmarks.settings import JSON, SeedConfig

RECIPES = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """Which runs, and how many."""

    runs: int = field(default=8, metadata={"help": "runs that do not need each other"})
    steps: int = field(default=60, metadata={"help": "steps of each"})
    preset: str = field(default="nano", metadata={"help": "size of the model"})
    rounds: int = field(default=3, metadata={"help": "how often each way is timed"})
    commands: bool = field(default=True, metadata={"help": "also time the commands that one would type"})
    json: str = field(default="runs/benchmark-sweep.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        for name in ("runs", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")

    @property
    def seeds(self) -> list[int]:
        """One for each run."""
        return [*range(self.seed, self.seed + self.runs)]


def _set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _one_run(config: PretrainConfig, task: PcfgConfig, train: TrainConfig) -> None:
    pretrain(config, task, train, progress=lambda step, steps, text: None)


def _seconds(config: BenchmarkConfig, task: PcfgConfig, workers: int, threads: int) -> float:
    """Wall-clock seconds of all runs, in ``workers`` processes of ``threads`` threads."""
    train = TrainConfig(steps=config.steps, num_evals=0, checkpoint_every=10**9)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, mp_context=fork_context(), initializer=_set_threads, initargs=(threads,)) as pool,
    ):
        place = PretrainConfig(preset=config.preset, output_dir=str(Path(folder) / "warm"))
        short = dataclasses.replace(train, steps=1, final_eval_rows=1)
        warm = [
            pool.submit(_one_run, dataclasses.replace(place, output_dir=f"{folder}/warm{n}"), task, short)
            for n in range(workers)
        ]
        for each in warm:
            each.result()
        started = time.perf_counter()
        runs = [
            pool.submit(
                _one_run,
                dataclasses.replace(place, output_dir=f"{folder}/run{seed}"),
                task,
                dataclasses.replace(train, seed=seed),
            )
            for seed in config.seeds
        ]
        for run in runs:
            run.result()
        return time.perf_counter() - started


def _recipe(name: str, threads: int, *argv: str) -> None:
    command = [sys.executable, str(RECIPES / f"{name}.py"), *argv]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name}.py failed: {done.stderr[-500:]}")


def _command_seconds(config: BenchmarkConfig, folder: Path) -> dict[str, float]:
    """Wall-clock seconds of one ``sweep.py``, and of a ``pretrain.py`` per run."""
    settings = {"preset": config.preset, "steps": config.steps, "num_evals": 0, "checkpoint_every": 10**9}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"scale": "nano", "seeds": config.seeds, "pretrain": settings}))
    flags = [f"--{name}={value}" for name, value in settings.items()]
    started = time.perf_counter()
    _recipe("sweep", 1, "--config", str(folder / "sweep.yaml"), "--output_dir", str(folder / "sweep"))
    swept = time.perf_counter()
    for seed in config.seeds:
        _recipe("pretrain", count_cores(), *flags, f"--seed={seed}", "--output_dir", str(folder / f"run{seed}"))
    return {
        "one sweep.py": swept - started,
        f"a pretrain.py each, {count_cores()} threads": time.perf_counter() - swept,
    }


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row for each way to run them; the first of each pair is the unit of the second."""
    ways = {
        "side by side, one thread each": (count_cores(), 1),
        f"one after the other, {count_cores()} threads": (1, count_cores()),
    }
    typed, warm = [], []
    for _ in range(config.rounds):
        if config.commands:
            with tempfile.TemporaryDirectory() as folder:
                typed.append(_command_seconds(config, Path(folder)))
        warm.append({name: _seconds(config, task, *way) for name, way in ways.items()})
    for rounds in filter(None, (typed, warm)):
        ours = next(iter(rounds[0]))
        for name in rounds[0]:
            ratios = [seconds[name] / seconds[ours] for seconds in rounds]
            yield {
                "way": name,
                "runs": config.runs,
                "seconds": round(statistics.median(seconds[name] for seconds in rounds), 1),
                "ours_is_faster_by": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
