"""What a number depends on beside its settings and inputs: versions of packages, the code, the machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.config.credentials import without_secrets

VERSIONED_PACKAGES = ("ftmech_hf", "torch", "transformers", "accelerate", "datasets", "nnsight", "numpy", "peft",
                      "scipy", "scikit-learn")  # fmt: skip
WHERE_INSTALLED = ("bm25s",)
"""Of an extra: said where they are there."""

_DESCRIBES = ("report", "hub")
_SHOWS = ("card.py", "claims.py", "console.py", "credentials.py", "examples.py", "figures.py", "finished_run.py",
          "page.py", "results.py", "study.py")  # fmt: skip
"""Parts of the package that show and publish what others computed, and files of jobs and studies that do."""


def count_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES}
    for name in WHERE_INSTALLED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def environment() -> dict[str, Any]:
    """What a number depends on beside the config: package versions, Python, machine and command."""
    return {
        "versions": dict(_versions()),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": count_cores(),
        "command": without_secrets(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def cpu_seconds() -> float:
    """What this process and those that it started and that have ended have computed, in seconds of one core."""
    return sum(os.times()[:4])


def forget_peak_memory() -> None:
    """Let :func:`peak_memory_gb` begin anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_gb() -> float | None:
    """The most memory this process had at once since it was forgotten, or began, in 10^9 bytes; None if not known."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:")), None)


def describe_versions(env: Mapping[str, Any]) -> str:
    """The package versions of an ``env.json`` in one line, with this package's code and the precision, if it says them.

    Results say ``other_code``, too: how many of the versions of the code that their runs were made by are not theirs.
    """
    words = [f"{name} {version}" for name, version in env["versions"].items()]
    if code := env.get("code"):
        others = env.get("other_code", 0)
        older = f", with runs of {others} other version{'s' * (others > 1)} of it" if others else ""
        words[0] += f" (code {code}{older})"
    if env.get("mixed_precision"):
        words.append(f"mixed precision {env['mixed_precision']}")
    return ", ".join(words)


@functools.cache
def code_version(more: tuple[str, ...] = ()) -> str:
    """A hash of the source that computes: this package's, without what only shows results, and of other files."""
    package = Path(__file__).parents[1]
    paths = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".yaml")]
    computes = [
        path for path in paths if path.relative_to(package).parts[0] not in _DESCRIBES and path.name not in _SHOWS
    ]
    digest = hashlib.sha256()
    for path in [*computes, *(Path(each) for each in more if Path(each).is_file())]:
        name = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def describe_differences(env: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which versions and code a run's ``env.json`` differs from the present, in words; empty if in none."""
    there, here = env.get("versions", {}), now.get("versions", {})
    names = [name for name in here if there.get(name, here[name]) != here[name]]
    found = [f"{name} {there[name]} (now {here[name]})" for name in names]
    if env.get("code", now["code"]) != now["code"]:
        found.append("other code of this package or of its task")
    return ", ".join(found)
