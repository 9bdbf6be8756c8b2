"""How the process was started: fewer processes than asked for must not go unnoticed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml


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
