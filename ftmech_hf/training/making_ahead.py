"""What coming steps need, made by a thread while a GPU computes the step before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class MadeAhead(Generic[Made]):
    """Makes what steps need one after another, at most ``depth`` of them before they are asked for.

    What is made is a function of the step alone, so nothing has to be saved to go on: another one begins at any step.
    An exception of the thread is raised where its step is asked for.

    Args:
        make: makes what a step needs; only the thread calls it.
        first: the step to begin with.
        last: the step after the last one.
        depth: how many lie ready at a time.
    """

    def __init__(self, make: Callable[[int], Made], first: int, last: int, *, depth: int) -> None:
        self._make, self._steps, self.next = make, range(first, last), first
        self._ready: queue.Queue[Made | BaseException] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="made ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for step in self._steps:
                if not self._put(self._make(step)):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, made: Made | BaseException) -> bool:
        """Whether there was somebody to take it."""
        while not self._stopped.is_set():
            try:
                self._ready.put(made, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def take(self) -> Made:
        """What the next step needs."""
        assert self.next in self._steps, f"step {self.next} was not to be made"
        made = self._ready.get()
        if isinstance(made, BaseException):
            self.stop()
            raise made
        self.next += 1
        return made

    def stop(self) -> None:
        """End the thread, which finishes what it is making; nothing can be taken any more."""
        self._stopped.set()
        while True:  # whoever waits to put something
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        self._thread.join()
