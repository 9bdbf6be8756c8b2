"""Checkpoints: written beside, renamed, and the old one goes only after the new one is safe."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim import Optimizer

from ftmech_hf.runs import commit_folder, damaged_files, disk_errors


def _checkpoints(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if path.suffix == "")


def save_checkpoint(root: Path, step: int, model: nn.Module, optimizers: list[Optimizer]) -> Path:
    """Save the state after ``step`` optimizer steps as ``root/step-NNNNNNNN``; earlier checkpoints are then removed."""
    final = root / f"step-{step:08d}"
    working = root / f"step-{step:08d}.partial"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    with disk_errors(working):
        save_model(model, str(working / "model.safetensors"))
        torch.save([each.state_dict() for each in optimizers], working / "optimizers.pt")
    shutil.rmtree(final, ignore_errors=True)  # only a damaged one of the same step can be here
    commit_folder(working, final)
    for old in _checkpoints(root):
        if old != final:
            shutil.rmtree(old)
    return final


def load_checkpoint(root: Path, model: nn.Module, optimizers: list[Optimizer]) -> int:
    """Load the newest whole checkpoint in place. Returns its step, or 0 if there is none."""
    for folder in reversed(_checkpoints(root)):
        if damaged_files(folder):
            continue
        load_model(model, str(folder / "model.safetensors"))
        states = torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu")
        for each, state in zip(optimizers, states, strict=True):
            each.load_state_dict(state)
        return int(folder.name.removeprefix("step-"))
    return 0
