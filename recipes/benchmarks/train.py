"""Our training loop against what a user would pick instead, in one run, as ratios.

Same model, rows, batch and optimizer (AdamW) for all, and rows are part of what is timed. On a CPU all take turns,
and a rate is the best of several rounds, each the median step and each in a process of its own, since what one sets
for its process (as ours does, so that freed memory is kept) would be there for the next. On a GPU, which runs behind
the host, a rate is the best of several blocks of steps of one training, with one wait at the end of each; what is
compiled there is compiled before. The bare loop and the HF Trainer keep transformers' default attention, as a user
would, and the Trainer reads a row's last token, after which nothing is predicted, too (a fortieth); nanoGPT's way has
rows that lie ready and the attention kernel without a mask.

python recipes/benchmark.py train --scale paper --batch_size 96 --steps 200 --precisions bf16    # on a GPU
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import AttentionInterface, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ftmech_hf.jobs.local_pool import fork_context
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.launch import compute_device
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.settings import TrainConfig
from recipes.benchmarks.limits import bandwidth, device_name, least_bytes, matmul_peak, wait
from recipes.benchmarks.settings import JSON, SeedConfig

WARMUP_STEPS = 5
Clock = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """What to train and how long."""

    preset: str = field(default="nano", metadata={"help": "size of the model"})
    batch_size: int = field(default=64, metadata={"help": "rows of a step"})
    steps: int = field(default=25, metadata={"help": "steps of a round, after five to warm up"})
    rounds: int = field(default=3, metadata={"help": "rounds, in which all contenders take turns; on a GPU blocks"})
    precisions: list[str] = field(
        default_factory=lambda: ["fp32", "bf16"], metadata={"help": "of products: fp32, bf16 or both"}
    )
    contenders: list[str] = field(
        default_factory=list, metadata={"help": "beside ours, by their names; all that suit the device without it"}
    )
    json: str = field(default="runs/benchmark-train.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        for name in ("batch_size", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name, known in (("precisions", ("fp32", "bf16")), ("contenders", (*CONTENDERS, *COMPILED))):
            if unknown := [each for each in getattr(self, name) if each not in known]:
                raise ValueError(f"{name}: unknown {unknown[0]!r}, expected some of {', '.join(known)}")

    @property
    def last_step(self) -> int:
        """How many steps a contender takes in one training."""
        return WARMUP_STEPS + self.steps * self.blocks

    @property
    def blocks(self) -> int:
        """How many blocks of steps of one training are timed."""
        return self.rounds if compute_device().type == "cuda" else 1


def our_loop(model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock) -> None:
    """Pretraining as ``recipes/pretrain.py`` does it, without evaluations."""
    _fit(model, task, config, precision, tick, "auto")


def our_compiled_loop(
    model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock
) -> None:
    """The same with ``--compile on``."""
    _fit(model, task, config, precision, tick, "on")


def _fit(
    model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock, way: Any
) -> None:
    train = TrainConfig(
        seed=config.seed, steps=config.last_step, batch_size=config.batch_size, optimizer="adamw", num_evals=0,
        mixed_precision=precision, checkpoint_every=10**9, compile=way,
    )  # fmt: skip
    accelerator = start_accelerator(train)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.open(Path(folder) / "run", "benchmark", {})
        stream = RowStream(task, seed=config.seed, split="train")
        fit(model, stream, {}, train, run, accelerator, lambda step, steps, text: tick() if step else None)
        run.close()


def bare_loop(
    model: PreTrainedModel,
    task: PcfgConfig,
    config: BenchmarkConfig,
    precision: Any,
    tick: Clock,
    rows: torch.Tensor | None = None,
    answers_alone: bool = False,
    **optimizer_options: Any,
) -> None:
    """The shortest PyTorch loop; rows may lie ready, and only their answers may count."""
    device = compute_device()
    torch.nn.Module.to(model, device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, **optimizer_options)
    stream = RowStream(task, seed=config.seed, split="train")
    for step in range(config.last_step):
        place = slice(step * config.batch_size, (step + 1) * config.batch_size)
        here = torch.from_numpy(stream.rows(place.start, place.stop).token_ids) if rows is None else rows[place]
        token_ids = here.to(device, non_blocking=rows is not None)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if answers_alone:
                logits, right = model(token_ids[:, :-2], logits_to_keep=1).logits, token_ids[:, -2]
            else:
                logits, right = model(token_ids[:, :-1]).logits, token_ids[:, 1:]
        F.cross_entropy(logits.flatten(0, 1).float(), right.flatten()).backward()
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


def nanogpt_loop(
    model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock
) -> None:
    """The way of nanoGPT: compiled, one kernel for AdamW, attention without a mask, rows ready in pinned memory."""
    AttentionInterface.register("without_mask", sdpa_attention_forward)
    model.set_attn_implementation("without_mask")
    model.compile(dynamic=False)
    bare_loop(model, task, config, precision, tick, _rows_of(task, config).pin_memory(), fused=True)


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


def _rows_of(task: PcfgConfig, config: BenchmarkConfig) -> torch.Tensor:
    """All rows of a training."""
    rows = RowStream(task, seed=config.seed, split="train").rows(0, config.last_step * config.batch_size)
    return torch.from_numpy(rows.token_ids)


def hf_trainer(
    model: PreTrainedModel,
    task: PcfgConfig,
    config: BenchmarkConfig,
    precision: Any,
    tick: Clock,
    compiled: bool = False,
) -> None:
    """``transformers.Trainer`` on the same rows, made beforehand."""
    device = compute_device().type
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=config.last_step, per_device_train_batch_size=config.batch_size,
            learning_rate=1e-3, weight_decay=0.01, bf16=precision == "bf16", use_cpu=device == "cpu",
            report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
            dataloader_pin_memory=device == "cuda", torch_compile=compiled,
        )  # fmt: skip
        dataset = _TokenRows(_rows_of(task, config))
        Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[_Tick(tick)]).train()


def compiled_trainer(
    model: PreTrainedModel, task: PcfgConfig, config: BenchmarkConfig, precision: Any, tick: Clock
) -> None:
    """The same with ``torch_compile``."""
    hf_trainer(model, task, config, precision, tick, compiled=True)


CONTENDERS = {"ours": our_loop, "bare PyTorch": bare_loop, "HF Trainer": hf_trainer}
COMPILED = {
    "ours, compiled": our_compiled_loop,
    "bare PyTorch, torch.compile": compiled_loop,
    "nanoGPT's way": nanogpt_loop,
    "HF Trainer, torch_compile": compiled_trainer,
}
"""On a GPU; or where they are asked for, with a C++ compiler."""


def contenders_of(config: BenchmarkConfig) -> dict[str, Callable[..., None]]:
    """Those that take part, ours first."""
    everything: dict[str, Callable[..., None]] = {**CONTENDERS, **COMPILED}
    asked = config.contenders or [*CONTENDERS, *(COMPILED if compute_device().type == "cuda" else ())]
    return {name: each for name, each in everything.items() if name == "ours" or name in asked}


def step_seconds(contender: Callable[..., None], task: PcfgConfig, config: BenchmarkConfig, precision: str) -> float:
    """Seconds of a step after the warm-up: the median, or on a GPU the mean of the best block."""
    times: list[float] = []
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=config.seed)
    ticks, on_gpu = itertools.count(1), compute_device().type == "cuda"

    def tick() -> None:
        done = next(ticks)
        if done < WARMUP_STEPS or (on_gpu and (done - WARMUP_STEPS) % config.steps):
            return
        wait()
        times.append(time.perf_counter())

    contender(model, task, config, precision, tick)
    if on_gpu:
        torch.compiler.reset()  # the next is compiled for itself
        return min(after - before for before, after in itertools.pairwise(times)) / config.steps
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def _seconds_apart(name: str, task: PcfgConfig, config: BenchmarkConfig, precision: str) -> float:
    """:func:`step_seconds` of a contender in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=fork_context()) as pool:
        return pool.submit(step_seconds, {**CONTENDERS, **COMPILED}[name], task, config, precision).result()


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per contender and precision."""
    tokens = config.batch_size * (task.row_length - 1)
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=config.seed)
    # six floating-point operations per weight and token, forward and backward
    operations = 6 * model.num_parameters(exclude_embeddings=True) * tokens
    token_ids = torch.from_numpy(RowStream(task, seed=config.seed, split="train").rows(0, config.batch_size).token_ids)
    contenders, copied = contenders_of(config), bandwidth()
    for name in config.precisions:
        precision = "no" if name == "fp32" else name
        peak, least = matmul_peak(precision), least_bytes(model, token_ids, precision)
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(1 if config.blocks > 1 else config.rounds):
            for contender in contenders:
                best[contender] = min(best[contender], _seconds_apart(contender, task, config, precision))
        for contender, seconds in best.items():
            yield {
                "contender": contender,
                "precision": name,
                "ms_per_step": round(1000 * seconds, 3),
                "tokens_per_second": round(tokens / seconds),
                "ours_over_this": round(seconds / best["ours"], 3),
                "share_of_matmul_peak": round(operations / seconds / peak, 3),
                "share_of_bandwidth": round(least / seconds / copied, 3),
                "matmul_peak_gflops": round(peak / 1e9),
                "bandwidth_gb_per_second": round(copied / 1e9),
                "device": device_name(),
            }
