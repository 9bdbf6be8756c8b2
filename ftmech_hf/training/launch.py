"""How the process was started: nothing that changes what is computed may come from there unnoticed.

accelerate reads its settings from the environment, where ``accelerate launch`` and its config file put them. What would
change a step is refused by name, or must agree with the run's config; what rounds otherwise is written down.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's own parallelism",
}
"""What training would have to be written for: who owns the optimizer, and which rows are whose."""

_WRITTEN_DOWN = (
    "ACCELERATE_DOWNCAST_BF16", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP",
    "FSDP_ACTIVATION_CHECKPOINTING", "FSDP_AUTO_WRAP_POLICY", "FSDP_OFFLOAD_PARAMS", "FSDP_RESHARD_AFTER_FORWARD",
    "FSDP_VERSION", "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip
"""Variables that change how numbers are rounded, or on what they are computed, and nothing else."""


def check_environment(gradient_accumulation_steps: int) -> None:
    """Refuse what the environment asks of accelerate beside, or against, the run's config.

    Its mixed precision is not read: ``accelerate launch`` always sets one, and the run's own is passed instead.

    Args:
        gradient_accumulation_steps: of the run's config.

    Raises:
        ValueError: names the variable, its value and what was expected.
    """
    for name, what in _REFUSED.items():
        if parse_flag_from_env(name):
            raise ValueError(
                f"{name}: {os.environ[name]}, expected it unset or false; {what} is not supported, use one process, "
                "recipes/accelerate/ddp.yaml or fsdp2.yaml"
            )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            f"FSDP_VERSION: {os.environ.get('FSDP_VERSION', '1 (the default)')}, expected 2; its first version hides "
            "the matrices from the optimizer, see recipes/accelerate/fsdp2.yaml"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise ValueError(
            f"ACCELERATE_DYNAMO_BACKEND: {backend}, expected it unset or no; whether a run is compiled is its "
            "setting compile"
        )
    accumulated = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", str(gradient_accumulation_steps))
    if accumulated != str(gradient_accumulation_steps):
        raise ValueError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS: {accumulated}, expected it unset or as in the run's config "
            f"(gradient_accumulation_steps: {gradient_accumulation_steps})"
        )


def check_tracker(name: str) -> None:
    """Make sure that what a run is logged with is installed.

    Raises:
        ValueError: it is not; says how to install it.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ValueError(f"log_with: {name} is not installed; pip install 'ftmech_hf[{name}]'")


def check_batch(batch_size: int, gradient_accumulation_steps: int, processes: int = 1) -> None:
    """Make sure that processes, and the parts in which each does its rows, can share the rows of a step.

    Raises:
        ValueError: they cannot.
    """
    if batch_size % (processes * gradient_accumulation_steps):
        raise ValueError(
            f"batch_size: {batch_size} rows cannot be shared equally by {processes} processes "
            f"with gradient_accumulation_steps: {gradient_accumulation_steps}"
        )


def noted_environment() -> dict[str, str]:
    """The variables that are set of those that change how numbers are rounded, for the run's ``env.json``."""
    return {name: os.environ[name] for name in _WRITTEN_DOWN if os.environ.get(name)}


def compute_device() -> torch.device:
    """The device this process trains on: accelerate's choice, with ACCELERATE_USE_CPU=1 the CPU."""
    device: torch.device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    return device


def native_precision(device: torch.device) -> Literal["no", "bf16"]:
    """``bf16`` where the device multiplies bfloat16, else ``no``: a CPU that must emulate it is four times slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if device.type != "cpu":
        return "no"
    capable: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if any(capable.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "no"


def asked_processes(command: Sequence[str]) -> int | None:
    """The number of processes that an ``accelerate launch`` command line asks for; None if it does not say.

    Args:
        command: the words of any process.
    """
    words = list(command)
    if "launch" not in words or not any(Path(word).name.startswith("accelerate") for word in words):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--config_file", "--config-file")
    try:
        # what follows the script is the script's own
        script = next((n for n, word in enumerate(words) if word.endswith(".py")), len(words))
        found, _ = parser.parse_known_args(words[words.index("launch") + 1 : script])
        if found.num_processes is None and found.config_file:
            content = yaml.safe_load(Path(found.config_file).read_text(encoding="utf-8"))
            return int(content["num_processes"])
    except (argparse.ArgumentError, OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return None
    return found.num_processes if found.num_processes else None


def check_num_processes(started: int) -> None:
    """Compare the number of processes of this run with what its launcher was asked for.

    On a machine without GPUs ``accelerate launch --num_processes 2`` starts one process and does not say so.

    Raises:
        ValueError: fewer were started; says how to start them.
    """
    for parent in psutil.Process().parents()[:3]:
        try:
            asked = asked_processes(parent.cmdline())
        except psutil.Error:
            continue
        if asked is not None and asked > started:
            raise ValueError(
                f"num_processes: accelerate launch was asked for {asked} processes and started {started}; on a machine "
                f"without GPUs use ACCELERATE_USE_CPU=1 torchrun --nproc_per_node {asked} in its place"
            )
