"""What a number depends on beside its settings, in words."""

from __future__ import annotations

import os
import platform
import sys

import pytest
import torch
import transformers

import ftmech_hf
from ftmech_hf.runs import environment
from ftmech_hf.runs.environment import count_cores, describe_differences, describe_versions

NOW = {"versions": {"torch": "2.9", "numpy": "2.1"}, "code": "a"}


def test_the_environment_says_what_computes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/place/train.py", "--steps", "3"])
    found = environment()
    assert list(found) == ["versions", "python", "machine", "cores", "command"]
    assert found["versions"]["ftmech_hf"] == ftmech_hf.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == transformers.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["machine"] == f"{platform.system()} {platform.machine()}"
    assert found["cores"] == count_cores()
    assert 1 <= count_cores() <= (os.cpu_count() or 1)
    assert found["command"] == "train.py --steps 3"


def test_versions_are_said_in_one_line() -> None:
    assert describe_versions({"versions": {"torch": "2.9", "numpy": "2.1"}}) == "torch 2.9, numpy 2.1"
    said = describe_versions({"versions": {"torch": "2.9"}, "mixed_precision": "bf16"})
    assert said == "torch 2.9, mixed precision bf16"


@pytest.mark.parametrize(("other", "said"), [
    ({}, "(code 3f2a)"),
    ({"other_code": 0}, "(code 3f2a)"),
    ({"other_code": 1}, "(code 3f2a, with runs of 1 other version of it)"),
    ({"other_code": 4}, "(code 3f2a, with runs of 4 other versions of it)"),
])  # fmt: skip
def test_the_code_is_said_beside_its_version(other: dict[str, int], said: str) -> None:
    env = {"versions": {"ftmech_hf": "1.0", "torch": "2.9"}, "code": "3f2a", **other}
    assert describe_versions(env) == f"ftmech_hf 1.0 {said}, torch 2.9"


@pytest.mark.parametrize(("then", "said"), [
    (NOW, ""),
    ({}, ""),  # from before this was kept
    ({"versions": {"numpy": "2.1", "jax": "1"}}, ""),  # a package that is not looked at, and one that was not
    ({"versions": {"torch": "2.8", "numpy": "2.0"}, "code": "a"}, "torch 2.8 (now 2.9), numpy 2.0 (now 2.1)"),
    ({"versions": {"torch": "2.8"}, "code": "b"}, "torch 2.8 (now 2.9), other code of this package or of its task"),
])  # fmt: skip
def test_differences_are_said_of_what_both_know(then: dict[str, object], said: str) -> None:
    assert describe_differences(then, NOW) == said


def test_where_nothing_is_known_now_no_version_differs() -> None:
    assert describe_differences(NOW, {"code": "a"}) == ""


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6} if pid == 0 else set(), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on a Mac
    assert count_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1
