"""Processes of their own to test: they are waited for by what they do, not by the clock, and none outlives its test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

GUARD = 1200.0
"""Seconds after which a wait is given up, for a machine that hangs. No machine is too slow for it."""


def listen_to_ctrl_c() -> None:
    """For ``preexec_fn``: a shell starts background jobs deaf to SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(command: Sequence[str], errors: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens to Ctrl-C; on leaving, it and all it has started are killed.

    Args:
        command: its words.
        errors: the file its stderr goes to; a pipe that nobody reads would stop it when full.
        options: of ``Popen``.
    """
    with errors.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=file, preexec_fn=listen_to_ctrl_c, start_new_session=True,
            **options,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # its session is its process group
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_in_time(command: Sequence[str], errors: Path, **options: Any) -> None:
    """A process that must succeed, with all it starts; see :func:`started`."""
    with started(command, errors, **options) as process:
        wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0, errors.read_text()


def wait_until(
    happened: Callable[[], Any], process: subprocess.Popen[bytes] | None = None, *, seconds: float = GUARD
) -> Any:
    """Wait until something is so, and return it.

    Args:
        happened: asked again and again.
        process: what should bring it about; if it ends without, the test fails at once.
        seconds: less than the guard only for what takes no work, so that no load delays it by as much.
    """
    given_up = time.monotonic() + seconds
    while True:
        ended = process is not None and process.poll() is not None  # before the look: its last deed counts
        if found := happened():
            return found
        assert not ended, "the process ended before"
        assert time.monotonic() < given_up, f"nothing happened for {seconds:.0f} seconds"
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is gone; one that nobody has asked for its exit code yet is."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
