"""Work beside other work: in a copy of this process, with one thread, on another core.

The copy is a fork: models are not loaded or sent again, and take memory again only where they are changed. What the
work returns is sent back. A fork with threads of its own may hang where its parent has computed with several, so that
both have one while it runs; and where there is a GPU there are no copies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")


def can_work_beside() -> bool:
    """Whether this system can copy a process that has loaded torch, and there is no GPU.

    A copy cannot use a GPU that was asked anything before, such as whether it is there; and torch turns to it for the
    first gradient, wherever the weights are. Where CUDA_VISIBLE_DEVICES names none there is none.
    """
    return sys.platform == "linux" and not torch.cuda.device_count()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """What torch computes while it is open is computed by so many threads; takes no time, unlike :func:`one_thread`."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread while it is open, so that numbers do not depend on how many cores there are."""
    with threadpool_limits(1), torch_threads(1):
        yield


def exit_with_parent() -> None:
    """End this process when its parent ends: one that was killed cannot stop it, and it would keep a core."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def beside(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Do ``work`` beside what is done while it is open; both with one thread.

    Args:
        work: changes nothing that is looked at afterwards, for it does so in a copy; what it returns can be pickled.

    Returns:
        what waits for the result and returns it. An error in the work is raised there.

    Raises:
        RuntimeError: when the result is asked for, if the copy died.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with one_thread():
        process = context.Process(target=_work, args=(work, sender), daemon=True)
        process.start()
        sender.close()

        def result() -> T:
            try:
                error, found = pickle.loads(receiver.recv_bytes())
            except EOFError:
                process.join()
                raise RuntimeError(
                    f"a process beside this one died with exit code {process.exitcode}, for want of memory perhaps; "
                    "run with --workers 1"
                ) from None
            if error is not None:
                raise error
            value: T = found
            return value

        try:
            yield result
        finally:
            receiver.close()
            process.kill()
            process.join()


def _work(work: Callable[[], Any], sender: connection.Connection) -> None:
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who interrupts the parent ends this one, too
    torch.set_num_threads(1)
    threadpool_limits(1)
    try:
        message = pickle.dumps((None, work()))
    except BaseException as error:
        error.add_note("".join(traceback.format_exception(error)))
        message = _sent(error)
    sender.send_bytes(message)
    sender.close()


def _sent(error: BaseException) -> bytes:
    """An error as it can be sent; in words, if it cannot itself."""
    try:
        message = pickle.dumps((error, None))
        pickle.loads(message)
    except Exception:
        message = pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), None))
    return message
