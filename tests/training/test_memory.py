"""Freed memory goes back: to the system, and to the other processes of a GPU."""

from __future__ import annotations

import pytest
import torch

from ftmech_hf.training.memory import release_freed_memory


def test_memory_of_a_gpu_goes_back_to_those_who_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    release_freed_memory()
    assert given_back == [True] * torch.cuda.is_initialized(), "a GPU is not begun to be used for it"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    release_freed_memory()
    assert given_back[-1]
