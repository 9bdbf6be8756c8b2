"""Reading activations beside the bare forward pass, and its memory; probing and ablation beside what one would do."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel, model_blocks
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.launch import compute_device
from recipes.benchmarks.instruments import measure_ablation, measure_probing
from recipes.benchmarks.limits import wait
from recipes.benchmarks.settings import JSON, SeedConfig

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """How much to collect."""

    preset: str = field(default="nano", metadata={"help": "size of the model"})
    model: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "folder of a model to take instead; random weights of the preset if not given",
        },
    )
    repeats: int = field(
        default=20, metadata={"help": "passes, of which the median counts, and that of ratios within a round"}
    )
    stored_rows: int = field(default=100_000, metadata={"help": "rows whose activations go to disk"})
    traces: int = field(default=200, metadata={"help": "traces over which memory must not grow"})
    probe_rows: int = field(default=2000, metadata={"help": "rows that probes are fitted on"})
    probe_seeds: int = field(default=5, metadata={"help": "shuffles of the labels"})
    ablation_rows: int = field(default=64, metadata={"help": "rows that every neuron is ablated on"})
    json: str = field(default="runs/benchmark-analysis.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        for name in ("repeats", "stored_rows", "traces", "probe_rows", "probe_seeds", "ablation_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")


def _open(config: BenchmarkConfig, task: PcfgConfig) -> TracedModel:
    if config.model is not None:
        return TracedModel(load_model(config.model))
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=config.seed)
    torch.nn.Module.to(model, compute_device())
    return TracedModel(model)


def _rows(traced: TracedModel, task: PcfgConfig, seed: int, number: int) -> Tensor:
    rows = RowStream(task, seed=seed, split="test").rows(0, number).token_ids[:, :-2]
    return torch.from_numpy(rows.copy()).to(traced.model.device)


def _ways(traced: TracedModel, token_ids: Tensor) -> dict[str, Callable[[], Any]]:
    """The ways to get the stream after every block at the last position, and the first block's alone."""
    model = traced.model

    def bare() -> Any:
        return model(token_ids, use_cache=False)

    def hidden_states() -> Any:
        states = model(token_ids, use_cache=False, output_hidden_states=True).hidden_states
        return [state[:, -1].clone() for state in states[1:]]

    def hooks() -> Any:
        found: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda module, args, output: found.append(output[:, -1].clone()))
            for _, block in model_blocks(model)
        ]
        model(token_ids, use_cache=False)
        for handle in handles:
            handle.remove()
        return found

    return {
        "bare forward pass": bare,
        "the door: all layers": lambda: traced.collect(token_ids, ["resid_post"], batch_size=BATCH),
        "the door: first layer alone": lambda: traced.collect(token_ids, ["resid_post"], layers=[0], batch_size=BATCH),
        "forward hooks": hooks,
        "output_hidden_states": hidden_states,
    }


@torch.no_grad()
def _seconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Of each every round, in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wait()
            started = time.perf_counter()
            way()
            wait()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _store(config: BenchmarkConfig, task: PcfgConfig) -> tuple[float, float, float]:
    """(rows per second, MB before, peak MB) of collecting onto disk, the last in use by this process alone."""
    traced = _open(config, task)
    token_ids = _rows(traced, task, config.seed, config.stored_rows)
    process = psutil.Process()
    before = process.memory_info().rss / 1e6
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        traced.collect_to(Path(folder) / "store", token_ids, ["resid_post"])
        seconds = time.perf_counter() - started
    return config.stored_rows / seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _growth(config: BenchmarkConfig, task: PcfgConfig) -> float:
    """MB that memory grows by over many traces, after the first tenth of them."""
    traced = _open(config, task)
    token_ids = _rows(traced, task, config.seed, BATCH)
    process, after_some = psutil.Process(), 0.0
    for number in range(config.traces):
        traced.collect(token_ids, ["resid_post", "mlp_act"], batch_size=BATCH)
        if number == config.traces // 10:
            after_some = process.memory_info().rss / 1e6
    return process.memory_info().rss / 1e6 - after_some


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """Ways to read activations, memory, probing and ablation."""
    traced = _open(config, task)
    seconds = _seconds(_ways(traced, _rows(traced, task, config.seed, BATCH)), config.repeats)
    in_turn, of_bare = seconds["bare forward pass"], "of a bare forward pass"
    for name, values in seconds.items():
        ratio = statistics.median(value / bare for value, bare in zip(values, in_turn, strict=True))
        yield {"what": name, "value": round(1000 * statistics.median(values), 1), "unit": f"ms for {BATCH} rows",
               "ratio": round(ratio, 2), "ratio_of": of_bare}  # fmt: skip
    bare = statistics.median(in_turn)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rate, before, peak = pool.apply(_store, (config, task))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        growth = pool.apply(_growth, (config, task))
    stored = f"{config.stored_rows:,} rows onto disk"
    yield {"what": stored, "value": round(rate), "unit": "rows/s", "ratio": round(BATCH / bare / rate, 2),
           "ratio_of": of_bare}  # fmt: skip
    for what, megabytes in (
        (f"{stored}: peak memory", round(peak)),
        ("of which there before the first row: torch, transformers, the model", round(before)),
        (f"growth of memory over {config.traces} traces", round(growth, 1)),
    ):
        yield {"what": what, "value": megabytes, "unit": "MB", "ratio": None, "ratio_of": ""}
    yield from measure_probing(traced, task, config.seed, config.probe_rows, config.probe_seeds)
    yield from measure_ablation(traced, task, config.seed, config.ablation_rows)
