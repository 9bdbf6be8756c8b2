"""Sweeps: a grid of settings in a YAML file, and the runs that it stands for.

The file has a section of settings for every stage that a cell of the grid goes through (the stages are those of
:data:`~ftmech_hf.studies.sweep.stages.STAGES`, the settings those of their recipes), and a section ``grid``:

.. code-block:: yaml

    scale: nano
    seeds: [0, 1, 2]
    common: {batch_size: 64}                         # settings of every stage that has them
    pretrain: {steps: 500}
    finetune: {config: recipes/configs/nano/finetune.yaml, steps: 300}
    grid:
      pretrain.operand_prior: [low, high]            # an axis that is one setting
      finetune.lr: {large: 1.0e-3, small: 1.0e-5}    # the same, with names for its values
      method:                                        # an axis of any settings
        full: {}
        LoRA: {finetune.adapter: lora}
        from scratch: {pretrain.steps: 0}            # random weights
        untuned: {finetune: false}                   # without this stage

Every stage takes the model of the one before it, or the ``model`` that its section names. Stages that several cells
have in common are run once.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import yaml

from ftmech_hf.config import (
    ConfigError,
    config_hash,
    field_names,
    parse_config,
    to_argv,
    unknown_key,
)
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.plan_checks import Checks
from ftmech_hf.jobs.stacked_cells import kind_to_stack, stack_cells
from ftmech_hf.jobs.study import StudyConfig, StudyPlan
from ftmech_hf.jobs.training import PretrainConfig
from ftmech_hf.models.presets import Preset
from ftmech_hf.report.differences import Difference
from ftmech_hf.report.pcfg_settings import pcfg_rows
from ftmech_hf.studies.sweep.sections import check_claims, read_shown
from ftmech_hf.studies.sweep.stages import READ_SETTINGS, STAGES, Stage
from ftmech_hf.tasks import TASKS, parse_task
from ftmech_hf.training.launch import compute_device
from ftmech_hf.training.settings import TrainConfig

GPU_STACK = 18
"""Runs that one GPU trains at once: as many of the paper's size take 19 GB, and more were not tried."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(StudyConfig):
    """Where a sweep runs; what it runs stands in the sections of its YAML file."""

    set: list[str] = field(
        default_factory=list,
        metadata={"help": "changes to sections, such as finetune.steps=20 common.eval_rows=64"},
    )
    backend: Literal["local", "ray"] = field(
        default="local", metadata={"help": "processes of this machine, or Ray's here or on a cluster"}
    )
    stack: int = field(
        default=0,
        metadata={
            "manner": True,
            "help": "runs of one shape that are trained at once in one process; 0 for as many as suit a GPU, where "
            f"there is one ({GPU_STACK}), and for one at a time on a CPU",
        },
    )
    output_dir: str = field(default="runs/sweep", metadata={"place": "output", "help": "folder of the results"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stack < 0:
            raise ValueError(f"stack: {self.stack}, expected 0 or more")


SECTIONS = (*STAGES, "common", "grid", "figures", "compare", "claims", "title", "notes")


class PointRuns(NamedTuple):
    """One point of the grid with one seed: the value of every axis, and the run of every stage."""

    labels: dict[str, str]
    seed: int
    runs: dict[str, str]


class Sweep(StudyPlan):
    """A grid, as the runs it stands for.

    Args:
        config: where it runs.
        sections: the sections of its file.
        scale: nano, micro or paper.

    Attributes:
        axes: name of an axis -> label of a point -> settings, by their names with the stage's before it.
        title: what it shows.
        stage_axes: stage -> the axes that make a difference to its runs.
        points: every point of the grid with every seed.
        shown: pictures, claims and comparison that its file asks for.

    Raises:
        ValueError: a section, a setting or a value that cannot be; names it and the stage.
    """

    config: SweepConfig

    def __init__(self, config: SweepConfig, sections: Mapping[str, Any], scale: str) -> None:
        super().__init__(config)
        self.scale, self.title = scale, str(sections.get("title", "Sweep"))
        self.sections = _with_changes(sections, config.set)
        self.stages = [name for name in STAGES if name in self.sections]
        if not self.stages:
            raise ConfigError(f"config: a sweep needs a section for at least one of {', '.join(STAGES)}")
        self.axes = _read_axes(self.sections.get("grid") or {}, [*self.stages, "common"])
        _check_common(self.sections.get("common") or {}, self.stages)
        self._checks = Checks()
        self.stage_axes: dict[str, list[str]] = {stage: [] for stage in self.stages}
        values = itertools.product(*(self.axes[axis].items() for axis in self.axes))
        combinations = [dict(zip(self.axes, each, strict=True)) for each in values]
        # Seed after seed: a sweep that is stopped has whole grids of the first ones.
        self.points = [self._add_point(chosen, seed) for seed in config.seeds for chosen in combinations]
        self.shown = read_shown(self.sections, self.stages, self.axes)
        check_claims(self.shown.claims, [(each.labels, each.runs) for each in self.points[: len(combinations)]])

    def settings(self) -> Mapping[str, Any]:
        """All of its settings, with the sections of its file."""
        return {**super().settings(), "scale": self.scale, **self.sections}

    @property
    def hash(self) -> str:
        """The name of its results. Of text, since the labels of an axis may be numbers.

        Where its sections do not say all, at another scale or of what files hold, also of the hashes of its runs.
        """
        text = yaml.safe_dump({**self.sections, "seeds": self.config.seeds}, sort_keys=False)
        said = [values for name in (*self.stages, "common") if (values := self.sections.get(name))]
        said += [values for points in self.axes.values() for values in points.values()]
        reads = {key.rpartition(".")[2] for values in said for key in values} & READ_SETTINGS
        runs = {"runs": sorted(self._hashes.values())} if reads or self.scale != "nano" else {}
        return config_hash({"sweep": text, **runs})

    def differences(self) -> list[Difference]:
        """From the paper, in the settings of the runs."""
        return pcfg_rows(self.by_kind(), self.config.seeds)

    def cells(self) -> list[Cell]:
        """The runs still to make, on a GPU those of one shape in stacks."""
        size = self.config.stack or (GPU_STACK if compute_device().type == "cuda" else 1)
        if size == 1:
            return self.unfinished()

        def shape_of(cell: Cell) -> Preset | None:
            configs = [self.called_with(name)["config"] for name in (cell.name, *self.needs_of(cell.name))]
            made = [config for config in configs if isinstance(config, PretrainConfig)]
            return made[0].shape if made and made[0].shape.architecture == "gpt2" and not made[0].dropout else None

        return stack_cells(self.unfinished(), size, lambda cell: kind_to_stack(cell, shape_of))

    def _add_point(self, chosen: Mapping[str, tuple[str, Mapping[str, Any]]], seed: int) -> PointRuns:
        changes = {key: value for _, settings in chosen.values() for key, value in settings.items()}
        stages = [name for name in self.stages if changes.get(name) is not False]
        runs: dict[str, str] = {}
        touched: dict[str, dict[str, str]] = {}  # the axes that a stage or one below it depends on
        for name in stages:
            stage = STAGES[name]
            settings = self._settings(name, changes, seed)
            sources = {label: next((s for s in options if s in runs), "") for label, options in stage.takes.items()}
            inputs = {label: runs[source] for label, source in sources.items() if source}
            origins = [name, *(origin for options in stage.takes.values() for origin in options)]
            own = {
                axis
                for axis, (_, values) in chosen.items()
                if any(_is_of(key, name) or (key in origins and values[key] is False) for key in values)
            }
            below = [touched[source] for source in sources.values() if source]
            touched[name] = {axis: chosen[axis][0] for axis in chosen if axis in own or any(axis in b for b in below)}
            self.stage_axes[name] = [a for a in self.axes if a in touched[name] or a in self.stage_axes[name]]
            runs[name] = self._add_run(name, stage, settings, inputs, [*touched[name].values(), f"seed{seed}"])
            if seed == self.config.seeds[0] and not self.config.from_measurements:  # the others differ in no more
                self._look_at(name, runs[name], inputs)
        return PointRuns({axis: label for axis, (label, _) in chosen.items()}, seed, runs)

    def _look_at(self, name: str, run: str, inputs: Mapping[str, str]) -> None:
        settings = {**self.called_with(run)}
        try:
            self._checks.look_at(run, settings.pop("config"), settings, inputs, is_made=not self.must_run(run))
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None

    def _settings(self, name: str, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
        stage = STAGES[name]
        known = [*field_names(*stage.configs, *TASKS.values()), "config"]
        common = {**(self.sections.get("common") or {}), **_changes_of("common", changes)}
        settings = {key: value for key, value in common.items() if key in known}
        settings |= {**(self.sections[name] or {}), **_changes_of(name, changes), **stage.preset}
        if "seed" in settings:
            raise ConfigError(f"{name}: seed: {settings['seed']}, expected none: it would be that of all repetitions, "
                              "whose seeds stand in seeds")  # fmt: skip
        return {"seed": seed, **settings} if "seed" in field_names(*stage.configs) else settings

    def _add_run(
        self, name: str, stage: Stage, settings: Mapping[str, Any], inputs: dict[str, str], labels: Sequence[str]
    ) -> str:
        # None and an empty list take back what a config file of the stage says
        said = {key: "none" if value is None or value == [] else value for key, value in settings.items()}
        argv = ["--scale", self.scale, *to_argv(said)]
        try:
            parse = parse_task if TrainConfig in stage.configs else parse_config
            configs = parse(*stage.configs, argv=argv)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        place, *others = configs
        if not inputs and stage.takes:
            if "model" not in settings:
                raise ConfigError(f"{name}: no stage before it makes a model, expected model in its section; random "
                                  "weights are those of pretrain.steps: 0")  # fmt: skip
            inputs = {"model": place.model}
        words = re.sub(r"[^\w.+-]+", "_", "-".join([name, *labels]))
        parameters = [*inspect.signature(stage.function).parameters][1:]
        rest = dict(zip(parameters, others, strict=False))
        cost = float(rest["train"].steps * rest["train"].batch_size if "train" in rest else 64 * 100)
        return self.add(words, stage.kind, stage.function, place, rest, inputs, cost)


def _check_common(common: Mapping[str, Any], stages: Sequence[str]) -> None:
    known = [name for stage in stages for name in field_names(*STAGES[stage].configs, *TASKS.values())]
    for key in common:
        if key not in known:
            raise unknown_key(key, "common", known)


def _is_of(key: str, stage: str) -> bool:
    return key == stage or key.startswith((f"{stage}.", "common."))


def _changes_of(stage: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{stage}."
    return {key.removeprefix(prefix): value for key, value in changes.items() if key.startswith(prefix)}


def _with_changes(sections: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    changed = {name: dict(value) if isinstance(value, Mapping) else value for name, value in sections.items()}
    for change in changes:
        key, found, value = change.partition("=")
        section, dot, setting = key.partition(".")
        if not found or not dot or section not in (*STAGES, "common"):
            raise ConfigError(f"set: {change!r}, expected entries like finetune.steps=20 or common.eval_rows=64")
        changed[section] = {**(changed.get(section) or {}), setting: value.split()}
    return changed


def _read_axes(grid: Mapping[str, Any], stages: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, points in grid.items():
        if not isinstance(points, list | Mapping) or not points:
            raise ConfigError(f"grid: {axis}: {points!r}, expected a list of values, or label: settings")
        named = points if isinstance(points, Mapping) else {str(value): value for value in points}
        axes[axis] = {
            str(label): dict(value) if isinstance(value, Mapping) else {axis: value} for label, value in named.items()
        }
        for label, settings in axes[axis].items():
            for key in settings:
                if key.partition(".")[0] not in stages or ("." not in key and settings[key] is not False):
                    where = f"grid: {axis}: {label}"
                    raise unknown_key(key, f"{where}, expected STAGE.SETTING or STAGE: false", stages)
    return axes
