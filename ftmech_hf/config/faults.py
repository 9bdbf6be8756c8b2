"""What a user is told when something goes wrong: one line, whose fault it is, and where the whole report lies."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator

from ftmech_hf.config.notices import notices_in_one_line

TRACEBACK = "FTMECH_TRACEBACK"
"""Environment variable that has errors end in their traceback."""

USER, INTERNAL = 2, 1
"""Exit codes: what a user gave or has cannot work; the fault is this package's."""

# Packages whose own errors tell of files, networks and machines, not of a bug here.
_OUTSIDE = ("datasets", "httpcore", "httpx", "huggingface_hub", "jinja2", "pyarrow", "requests", "safetensors", "yaml")


def in_one_line(error: BaseException) -> str:
    """What an error says, with its type where that is part of it."""
    text = " ".join(str(error).split())
    if text and (isinstance(error, ValueError | OSError) or _names_its_extra(error)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _names_its_extra(error: BaseException) -> bool:
    """Whether a missing package is told by this one, with what installs it: Python itself gives the module's name."""
    return isinstance(error, ModuleNotFoundError) and error.name is None


def is_internal(error: BaseException) -> bool:
    """Whether an error is a bug of this package, as far as its type tells."""
    if isinstance(error, ValueError | OSError | MemoryError | ModuleNotFoundError):
        return False
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, Exception)]
    # torch's, without importing torch; and a worker that was killed, for want of memory as a rule
    if any(kind.__name__ in ("OutOfMemoryError", "BrokenProcessPool") for kind in kinds):
        return False
    return not any(kind.__module__.partition(".")[0] in _OUTSIDE for kind in kinds)


def _said(error: BaseException) -> str:
    text = in_one_line(error)
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return f"out of memory: {text}; take fewer rows at once, such as a lower batch_size, or a smaller model"
    if isinstance(error, ModuleNotFoundError) and not _names_its_extra(error):
        return f"{text}; install it, or the extra of ftmech_hf that needs it"
    return text


def explain(error: BaseException) -> tuple[int, str]:
    """(the exit code, one line that says what went wrong); a bug's traceback is kept in a file that the line names."""
    if not is_internal(error):
        return USER, f"error: {_said(error)}"
    return INTERNAL, (
        f"error: internal: {in_one_line(error)}; this is a fault of ftmech_hf, not yours: please report it "
        f"with {keep_report(error)}"
    )


def keep_report(error: BaseException) -> str:
    """Write an error's traceback into a file of its own and return its name, or how to see it if that fails."""
    try:
        number, name = tempfile.mkstemp(prefix="ftmech_hf-error-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"what {TRACEBACK}=1 shows"
    return name


def shows_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Wrap a recipe's main: whatever goes wrong, users see one line, and an exit code that says whose fault it is.

    Exit codes: 2 where what was given cannot work, 1 for a bug of this package, whose traceback is kept in a file that
    the line names. With ``FTMECH_TRACEBACK=1`` in the environment errors are raised as they are.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # of a pipe it may know fewer letters than tables have
        sys.stdout.reconfigure(errors="replace")
    try:
        with notices_in_one_line():
            yield
    except KeyboardInterrupt:
        said = "interrupted: nothing finished was lost; run the same command, without --fresh, to go on"
        print(said, file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except Exception as error:
        if shows_traceback():
            raise
        code, line = explain(error)
        print(line, file=sys.stderr, flush=True)
        # the cause stays reachable for whoever calls a recipe's main from Python
        raise SystemExit(code) from error
