from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
import torch

from ftmech_hf.config import to_dict
from ftmech_hf.config.settings import config_hash
from ftmech_hf.runs import RunDir, noted
from ftmech_hf.training.loop import start_accelerator
from ftmech_hf.training.numerics import computing_as, note_numerics
from ftmech_hf.training.settings import TrainConfig


def state() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()


def test_what_is_asked_for_lasts_as_long_as_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = state()
    with computing_as(TrainConfig()):
        assert state() == before
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    asked = computing_as(TrainConfig(tf32=True, deterministic=True))
    with asked:
        assert state() == ("high", True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert state() == before
    with contextlib.suppress(KeyError), computing_as(TrainConfig(tf32=True, deterministic=True)):
        raise KeyError
    assert state() == before


def test_a_run_writes_down_how_it_computes(tmp_path: Path) -> None:
    config = TrainConfig(mixed_precision="no", tf32=True)
    opened = RunDir.open(tmp_path / "run", "pretrain", to_dict(config))
    with contextlib.closing(opened) as run, computing_as(config):
        note_numerics(run, config, start_accelerator(config), "captured")
        facts = [noted(run.working, fact) for fact in ("float32_products", "deterministic", "steps_computed")]
    assert facts == ["high", False, "captured"]


def test_only_products_of_fewer_digits_make_a_run_another() -> None:
    usual = TrainConfig()
    names = {change: config_hash(to_dict(dataclasses.replace(usual, **{change: value})))  # type: ignore[arg-type]
             for change, value in {"tf32": True, "compile": "on", "deterministic": True}.items()}  # fmt: skip
    assert names["compile"] == names["deterministic"] == config_hash(to_dict(usual)) != names["tf32"]
