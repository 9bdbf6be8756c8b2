"""Processes of their own to test: they are waited for by what they do, not by the clock, and none outlives its test."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from filelock import FileLock

from ftmech_hf.jobs.local_pool import fork_context

GUARD = 1200.0
"""Seconds after which a wait is given up, for a machine that hangs. No machine is too slow for it."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process to need it makes, for all that test side by side; nobody changes it.

    Args:
        factory: of the session.
        name: of the folder.
        make: fills it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    place = factory.getbasetemp().parent
    folder, done = place / name, place / f"{name}.made"
    with FileLock(place / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that did not get to its end
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def listen_to_ctrl_c() -> None:
    """A shell starts background jobs deaf to SIGINT, and children inherit that; what is executed next does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _kill_session(pid: int) -> None:
    """Kill a process that leads a session, which is its process group, and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


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
        _kill_session(process.pid)
        process.wait()


class Ended(Protocol):
    """What is asked whether it has ended."""

    def poll(self) -> int | None: ...


class Forked:
    """A script in a copy of the process that has loaded what workers need: it begins at once, not after five seconds.

    What a fresh interpreter does otherwise, or what it imports under another environment, is not to be tested so.

    Args:
        words: those after ``python``: a script and its arguments, or ``-m`` and a module and its.
        output, errors: the files that they are written to.
        cwd, env: as of ``Popen``.
        before: called in the copy, before the script.
    """

    def __init__(
        self,
        words: Sequence[str],
        output: Path,
        errors: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        environment = dict(os.environ if env is None else env)
        given = (list(words), str(output), str(errors), str(cwd or Path.cwd()), environment, before)
        self._process = fork_context().Process(target=_become, args=given)
        self._process.start()

    def poll(self) -> int | None:
        return self.returncode

    @property
    def returncode(self) -> int | None:
        """As of ``Popen``: minus the signal that ended it, or what it exited with."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """Kill it and all that it has started."""
        self._process.kill()
        _kill_session(self._process.pid)
        self._process.join()


def _become(
    words: list[str], output: str, errors: str, cwd: str, env: dict[str, str], before: Callable[[], None] | None
) -> None:
    os.setsid()
    listen_to_ctrl_c()
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if before is not None:
        before()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


@contextlib.contextmanager
def forked(words: Sequence[str], errors: Path, **options: Any) -> Iterator[Forked]:
    """As :func:`started`, of a :class:`Forked` process."""
    process = Forked(words, Path(os.devnull), errors, **options)
    try:
        yield process
    finally:
        process.end()


def run_forked(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """What a :class:`Forked` process exits with and says."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = Forked(words, output, errors, **options)
        try:
            code = wait_until(lambda: None if process.poll() is None else str(process.poll()))
        finally:
            process.end()
        return subprocess.CompletedProcess(list(words), int(code), output.read_text(), errors.read_text())


@functools.cache
def _bare() -> subprocess.Popen[str]:
    """The process of :mod:`tests.bare`, which ends with this one."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HOME")}
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("bare.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**environment, "OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip


def run_fresh(
    words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``python WORDS`` exits with and says, of a script or ``-c`` and code: a copy of :mod:`tests.bare`.

    To it, all that reads the environment when it is imported, this package too, is new. It has no standard input.
    """
    server = _bare()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        output.touch()
        errors.touch()
        asked = {"words": list(words), "output": str(output), "errors": str(errors), "cwd": str(cwd or Path.cwd())}
        server.stdin.write(json.dumps({**asked, "env": dict(os.environ if env is None else env)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(list(words), code, output.read_text(), errors.read_text())


def wait_until(happened: Callable[[], Any], process: Ended | None = None, *, seconds: float = GUARD) -> Any:
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
