"""The stages that a cell of a sweep goes through: what each makes, of which settings, and from which model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.jobs.probing import ProbeConfig, probe
from ftmech_hf.jobs.pruning import PruneConfig, prune
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.tasks import TASKS, PcfgConfig, PcfgShape
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig


class Stage(NamedTuple):
    """A step on the way of a cell.

    Attributes:
        kind: of its runs.
        function: makes one; its first parameters are its settings.
        configs: the dataclasses of its settings; a task stands second if it trains.
        takes: label of a model -> the stages it may come from, the first that the cell has.
        preset: settings it always has.
    """

    kind: str
    function: Callable[..., Any]
    configs: tuple[type, ...]
    takes: Mapping[str, tuple[str, ...]]
    preset: Mapping[str, Any]


_TUNED = (FinetuneConfig, TrainConfig, AdapterConfig)

STAGES: dict[str, Stage] = {
    "pretrain": Stage("pretrain", pretrain, (PretrainConfig, TrainConfig), {}, {}),
    "head": Stage("finetune", finetune, _TUNED, {"model": ("pretrain",)}, {"trainable": "head"}),
    "finetune": Stage("finetune", finetune, _TUNED, {"model": ("head", "pretrain")}, {}),
    "reverse": Stage(
        "reverse_finetune", finetune, _TUNED, {"model": ("finetune", "head", "pretrain")}, {"split": "reverse"}
    ),
    "prune": Stage(
        "prune", prune, (PruneConfig, PcfgShape), {"model": ("finetune", "head", "pretrain")}, {}
    ),
    "probe": Stage(
        "probe", probe, (ProbeConfig, PcfgShape),
        {"base": ("pretrain",), "finetuned": ("finetune", "head")}, {"models": ["any=."]},
    ),
    "interpolate": Stage(
        "interpolate", interpolate, (InterpolateConfig, PcfgConfig),
        {"base": ("pretrain",), "finetuned": ("finetune", "head")}, {"models": ["base=.", "finetuned=."]},
    ),
}  # fmt: skip
"""In the order in which a cell goes through them."""

READ_SETTINGS = {"config"} | {
    each.name
    for kind in (*(kind for stage in STAGES.values() for kind in stage.configs), *TASKS.values())
    for each in dataclasses.fields(kind)
    if each.metadata.get("place") == "input"
}
"""Settings that name a file or a model, whose content no section says."""
