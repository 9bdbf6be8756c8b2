"""How fast rows are made: beside a plain Python sampler, beside what training consumes, and beside the machine's limit.

All on one core, except for the training whose consumption is compared with.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, Task, for_capability, write_parquet
from ftmech_hf.tasks.grammar import load_grammar
from ftmech_hf.tasks.schema import BLOCK
from ftmech_hf.training.launch import compute_device, native_precision
from recipes.benchmarks import train
from recipes.benchmarks.limits import precision_name
from recipes.benchmarks.settings import JSON, SeedConfig

ROWS_AT_A_TIME = 20 * BLOCK


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """How long to measure."""

    seconds: float = field(default=1.0, metadata={"help": "of each measurement, of which the best pass counts"})
    parquet_rows: int = field(default=1_000_000, metadata={"help": "rows of the parquet file"})
    batch_size: int = field(default=64, metadata={"help": "rows of a training step"})
    json: str = field(default="runs/benchmark-data.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seconds", "parquet_rows", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected more than 0")


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per measurement: how many units a second, and how many times the rate of something else that is."""

    def line(what: str, unit: str, rate: float, against: str, other: float) -> dict[str, Any]:
        return {
            "what": what, "unit": unit, "per_second": round(rate), "against": against, "that_per_second": round(other),
            "ratio": float(f"{rate / other:.3g}"),
        }  # fmt: skip

    strings = _string_rate(config)
    yield line("strings of the paper's grammar", "symbols", strings, "recursive Python", _recursive_rate(config))
    consumed, beside = _consumed(config, task)
    rows = _row_rate(task, config)
    yield line("pretraining rows", "rows", rows, beside, consumed)
    for share in (0.0, 1.0):
        planted = for_capability(task, Capability("count", task.correlated_operand), share)
        rate = _row_rate(planted, config)
        yield line(f"fine-tuning rows, C_Tr {share:g}", "rows", rate, beside, consumed)
    yield line("pretraining rows", "rows", rows, "writing as many bytes", _write_rate(task, config))
    yield line("pretraining rows", "rows", rows, "drawing 8 random numbers a row", _random_rate(config))
    seconds, peak = _parquet(task, config.parquet_rows)
    yield line(f"rows to parquet, peak {peak / 1e6:.0f} MB", "rows", config.parquet_rows / seconds, beside, consumed)


def _consumed(config: BenchmarkConfig, task: PcfgConfig) -> tuple[float, str]:
    """Rows a second of training as it is done on this device, the best of three rounds, and its name."""
    training = train.BenchmarkConfig(batch_size=config.batch_size, seed=config.seed)
    precision = native_precision(compute_device())
    rounds = [train.step_seconds(train.our_loop, task, training, precision) for _ in range(training.rounds)]
    return config.batch_size / min(rounds), f"training, all cores, {precision_name(precision)}"


def _best(once: Callable[[], int], config: BenchmarkConfig) -> float:
    """The best rate of repeated passes; ``once`` returns how many units it made."""
    once()
    best, stop = 0.0, time.perf_counter() + config.seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        made = once()
        best = max(best, made / (time.perf_counter() - started))
    return best


def _string_rate(config: BenchmarkConfig) -> float:
    grammar, rng = load_grammar("jain"), np.random.default_rng(config.seed)
    return _best(lambda: len(grammar.sample(rng, BLOCK).symbols), config)


def _recursive_rate(config: BenchmarkConfig) -> float:
    """What anyone would write first."""
    grammar = load_grammar("jain")
    right_sides = {symbol: [rhs for rhs, _ in group] for symbol, group in grammar.rules.items()}
    choose = random.Random(config.seed).choice

    def expand(symbol: str, into: list[str]) -> None:
        if symbol not in right_sides:
            into.append(symbol)
            return
        for child in choose(right_sides[symbol]):
            expand(child, into)

    def once() -> int:
        made = 0
        for _ in range(50):
            into: list[str] = []
            expand(grammar.root, into)
            made += len(into)
        return made

    return _best(once, config)


def _row_rate(task: Task, config: BenchmarkConfig) -> float:
    stream = RowStream(task, seed=config.seed, split="train")
    start = 0

    def once() -> int:
        nonlocal start
        start += ROWS_AT_A_TIME
        return sum(len(rows) for rows in stream.blocks(start, start + ROWS_AT_A_TIME))

    return _best(once, config)


def _write_rate(task: Task, config: BenchmarkConfig) -> float:
    rows = np.empty((ROWS_AT_A_TIME, task.row_length), np.int64)

    def once() -> int:
        rows.fill(1)
        return len(rows)

    return _best(once, config)


def _random_rate(config: BenchmarkConfig) -> float:
    rng = np.random.Generator(np.random.Philox(config.seed))
    return _best(lambda: len(rng.random((ROWS_AT_A_TIME, 8))), config)


def _write_file(task: Task, rows: int, folder: str) -> tuple[float, int]:
    started = time.perf_counter()
    for _ in write_parquet(task, "train", rows, Path(folder) / "rows.parquet"):
        pass
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parquet(task: Task, rows: int) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of a fresh process, libraries included."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_write_file, (task, rows, folder))
