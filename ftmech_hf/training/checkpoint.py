"""Checkpoints: written beside, renamed, and an old one goes only after two newer ones are safe.

So a run survives being killed at any moment, and the loss or damage of its newest checkpoint. What is damaged is not
newer than anything: it goes as soon as a good one is saved.

A checkpoint holds what training changes: the trainable parameters (an adapter's alone, if there is one) and the state
of the optimizers, all of it finite. That of the last step has no optimizers: it is the trained model. Sharded training
gathers both, so a checkpoint does not depend on how many processes wrote it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from ftmech_hf.runs import commit_folder, damaged_files, disk_errors

KEPT = 2

_WHOLE: dict[Path, tuple[tuple[str, int, int], ...]] = {}
"""Checkpoints that this process wrote, or read and found whole -> name, size and time of change of their files.

Whoever saves a checkpoint must know which of the others are whole; reading them for that would take as long as writing.
"""


class NotFinite(ValueError):
    """Weights, or what an optimizer remembers, have become infinite or not a number."""


def find_checkpoints(root: Path) -> list[Path]:
    """The checkpoints in a folder, the newest last."""
    return sorted(path for path in root.glob("step-*") if path.suffix == "")


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor in full; all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_model(model: PreTrainedModel) -> PreTrainedModel:
    """A model with its weights in full, on the CPU if they were sharded; all processes must call this together."""
    if any(isinstance(p, DTensor) for p in model.parameters()):
        weights = {name: whole_tensor(value).cpu() for name, value in model.state_dict().items()}
        model = AutoModelForCausalLM.from_config(model.config)
        model.load_state_dict(weights)
    return model


def _map_tensors(value: Any, change: Any) -> Any:
    """Apply ``change`` to every tensor in nested dicts and lists."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_tensors(each, change) for key, each in value.items()}
    return [_map_tensors(each, change) for each in value] if isinstance(value, list) else value


class _Gathering:
    """Takes tensors of a run in full, one at a time: of what is sharded, no device holds two in full at once.

    Args:
        keep: give them, on the CPU; else nothing, where another process writes.
        check: raise NotFinite for one that is not, in all processes.
    """

    def __init__(self, *, keep: bool, check: bool) -> None:
        self.keep, self.check = keep, check

    def __call__(self, tensor: Tensor, name: str = "what the optimizer remembers") -> Tensor:
        whole = whole_tensor(tensor.detach())
        if self.check and whole.is_floating_point() and not bool(torch.isfinite(whole).all()):
            raise NotFinite(f"{name} is not finite")
        return whole.contiguous().cpu() if self.keep else torch.empty(0)


def save_checkpoint(
    root: Path,
    step: int,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    is_main: bool = True,
    check_finite: bool = True,
) -> Path:
    """Save the state after ``step`` optimizer steps as ``root/step-NNNNNNNN``; the newest :data:`KEPT` whole remain.

    All processes of a run call this, since shards must be gathered; the main one writes.

    Args:
        root: folder of the checkpoints.
        step: the number of steps done.
        model: its trainable parameters are saved.
        optimizers: their states are saved; none if no step is to follow.
        is_main: whether this process writes.
        check_finite: refuse what nothing can go on from. Of models trained together, one that is lost is no reason
            not to keep the others.

    Raises:
        NotFinite: a weight or a state is infinite or no number. Then nothing is written, and older ones stay.
    """
    final = root / f"step-{step:08d}"
    gather = _Gathering(keep=is_main, check=check_finite)
    weights = {name: gather(p, name) for name, p in model.named_parameters() if p.requires_grad}
    states = [_map_tensors(each.state_dict(), gather) for each in optimizers]
    if not is_main:
        return final
    working = root / f"step-{step:08d}.partial"
    for left_over in root.glob("*.partial"):
        shutil.rmtree(left_over)
    working.mkdir(parents=True)
    with disk_errors(working):
        save_file(weights, working / "weights.safetensors")
        torch.save(states, working / "optimizers.pt")
    # a damaged one of the same step, or that of a run which goes on from an earlier one, together with others
    shutil.rmtree(final, ignore_errors=True)
    commit_folder(working, final)
    _remember(final)
    _remove_old(root, step)
    return final


def remove_later(root: Path, step: int) -> None:
    """Remove checkpoints of steps after one from which a run goes on, though it had got farther."""
    for folder in find_checkpoints(root):
        if _step_of(folder) > step:
            shutil.rmtree(folder)
            _WHOLE.pop(folder.absolute(), None)


def _remove_old(root: Path, step: int) -> None:
    """Remove what is damaged, and what is older than :data:`KEPT` whole checkpoints up to the ``step`` just saved.

    A whole one of a later step stays: a run can go on from an earlier one, together with others.
    """
    newer = 0
    for folder in reversed(find_checkpoints(root)):
        if newer == KEPT or not _is_whole(folder):
            shutil.rmtree(folder)
            _WHOLE.pop(folder.absolute(), None)
        elif _step_of(folder) <= step:
            newer += 1


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint is undamaged; it is read only if this process does not know."""
    if _WHOLE.get(folder.absolute()) != _files(folder):
        if damaged_files(folder):
            return False
        _remember(folder)
    return True


def _remember(folder: Path) -> None:
    _WHOLE[folder.absolute()] = _files(folder)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path.name, path.stat()) for path in folder.iterdir())
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def load_checkpoint(root: Path, model: nn.Module, optimizers: list[Optimizer], *, at: int | None = None) -> int:
    """Load the newest whole checkpoint in place, or that of step ``at``. Returns its step, or 0 if there is none.

    A damaged checkpoint is passed over with a warning that names its files.
    """
    for folder in reversed(find_checkpoints(root)):
        if at is not None and folder.name != f"step-{at:08d}":
            continue
        if damaged := damaged_files(folder):
            warnings.warn(f"checkpoint {folder.name} is damaged ({', '.join(damaged)}) and passed over", stacklevel=2)
            continue
        _remember(folder)
        weights = load_file(folder / "weights.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(_like(weights.pop(name), parameter))
        if weights:
            raise ValueError(f"checkpoint: {folder} holds {', '.join(weights)}, which the model does not train")
        states = torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu")
        for each, state in zip(optimizers, states, strict=bool(states)):  # none of the last step
            parameters = [p for group in each.param_groups for p in group["params"]]
            state["state"] = {
                number: {key: _like_if_sharded(value, parameters[number]) for key, value in entry.items()}
                for number, entry in state["state"].items()
            }
            each.load_state_dict(state)
        return _step_of(folder)
    return 0


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)


def _like_if_sharded(value: Any, parameter: Tensor) -> Any:
    """Moments have the shape of their parameter and are sharded with it; step counts are not."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and isinstance(parameter, DTensor):
        return _like(value, parameter)
    return value
