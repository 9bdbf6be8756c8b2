"""Our training loop against what a user would pick instead, in one run, as ratios.

Same model, rows, batch and optimizer (AdamW) for all; a rate is the best of several rounds, each the median step. The
bare loop and the HF Trainer keep transformers' default attention, as a user would.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.launch import compute_device
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.settings import TrainConfig

WARMUP_STEPS = 5
Clock = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to train and how long."""

    preset: str = field(default="nano", metadata={"help": "size of the model"})
    batch_size: int = field(default=64, metadata={"help": "rows of a step"})
    steps: int = field(default=25, metadata={"help": "steps of a round, after five to warm up"})
    rounds: int = field(default=3, metadata={"help": "rounds, in which all contenders take turns"})
    compiled: bool = field(
        default=False, metadata={"help": "a bare loop with torch.compile too, which needs a C++ compiler"}
    )
    json: str = field(default="runs/benchmark-train.json", metadata={"help": "where the numbers go"})

    def __post_init__(self) -> None:
        find_preset(self.preset)
        for name in ("batch_size", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")


def our_loop(model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock) -> None:
    """Pretraining as ``recipes/pretrain.py`` does it, without evaluations."""
    train = TrainConfig(
        steps=config.steps + WARMUP_STEPS, batch_size=config.batch_size, optimizer="adamw", num_evals=0,
        mixed_precision=precision, checkpoint_every=10**9,
    )  # fmt: skip
    accelerator = start_accelerator(train)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.open(Path(folder) / "run", "benchmark", {})
        stream = RowStream(task, seed=0, split="train")
        fit(model, stream, {}, train, run, accelerator, lambda step, steps, text: tick())
        run.close()


def bare_loop(model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock) -> None:
    """The shortest PyTorch loop."""
    device = compute_device()
    torch.nn.Module.to(model, device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    stream = RowStream(task, seed=0, split="train")
    for step in range(config.steps + WARMUP_STEPS):
        rows = stream.rows(step * config.batch_size, (step + 1) * config.batch_size)
        token_ids = torch.from_numpy(rows.token_ids).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(token_ids[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tick()


def compiled_loop(
    model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock
) -> None:
    """The same with ``torch.compile``, whose compiling is over before the clock runs."""
    model.compile(dynamic=False)
    bare_loop(model, task, config, precision, tick)


class _TokenRows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, token_ids: torch.Tensor) -> None:
        self.token_ids = token_ids

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.token_ids[number], "labels": self.token_ids[number]}


class _Tick(TrainerCallback):
    def __init__(self, tick: Clock) -> None:
        self.tick = tick

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.tick()


def hf_trainer(model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock) -> None:
    """``transformers.Trainer`` on the same rows, made beforehand."""
    steps = config.steps + WARMUP_STEPS
    rows = RowStream(task, seed=0, split="train").rows(0, steps * config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=config.batch_size, learning_rate=1e-3,
            weight_decay=0.01, bf16=precision == "bf16", use_cpu=compute_device().type == "cpu", report_to="none",
            disable_tqdm=True, save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        dataset = _TokenRows(torch.from_numpy(rows.token_ids))
        Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[_Tick(tick)]).train()


CONTENDERS = {"ours": our_loop, "bare PyTorch": bare_loop, "HF Trainer": hf_trainer}
COMPILED = {"bare PyTorch, torch.compile": compiled_loop}


def matmul_peak(precision: str, size: int = 2048) -> float:
    """The best of ten square matrix products, in FLOP/s."""
    device = str(compute_device())
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def step_seconds(contender: Callable[..., None], task: PcfgConfig, config: BenchmarkConfig, precision: str) -> float:
    """Median seconds of a step after the warm-up."""
    times: list[float] = []
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=0)

    def tick() -> None:
        if compute_device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    contender(model, task, config, precision, tick)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return statistics.median(gaps[-config.steps :])


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per contender and precision."""
    tokens = config.batch_size * (task.row_length - 1)
    parameters = build_model(find_preset(config.preset), len(task.vocabulary), seed=0).num_parameters(
        exclude_embeddings=True
    )
    contenders = CONTENDERS | (COMPILED if config.compiled else {})
    for precision in ("no", "bf16"):
        peak = matmul_peak(precision)
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(config.rounds):
            for name, contender in contenders.items():
                best[name] = min(best[name], step_seconds(contender, task, config, precision))
        for name, seconds in best.items():
            yield {
                "contender": name,
                "precision": "fp32" if precision == "no" else precision,
                "tokens_per_second": round(tokens / seconds),
                "ours_over_this": round(seconds / best["ours"], 3),
                # six floating-point operations per weight and token, forward and backward
                "share_of_matmul_peak": round(6 * parameters * tokens / seconds / peak, 3),
                "matmul_peak_gflops": round(peak / 1e9),
            }
