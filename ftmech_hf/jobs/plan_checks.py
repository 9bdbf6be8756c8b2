"""Settings of a plan's runs that only the run itself would refuse, which begins when those before it are through."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.activations import find_units
from ftmech_hf.config import to_dict
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.pruning import PruneConfig
from ftmech_hf.jobs.pruning_sweep import check_sizes
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.jobs.training_checks import PlannedModel, check_planned_finetuning, check_pretraining
from ftmech_hf.runs import run_identity
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.objectives import OBJECTIVES


class Checks:
    """What is known of the models of a plan, and whether each can be what later runs need."""

    def __init__(self) -> None:
        self._made: dict[str, PlannedModel] = {}
        self._seen: set[str] = set()

    def look_at(
        self, name: str, place: Any, rest: Mapping[str, Any], inputs: Mapping[str, str], *, is_made: bool = False
    ) -> None:
        """Look at a run, after those that it needs.

        Args:
            name: of the run.
            place: its config with an ``output_dir``.
            rest: its other configs, by the names of their parameters.
            inputs: label -> the run that makes the model it takes, or any other model.
            is_made: whether it is there already, and was refused nothing.

        Raises:
            ValueError: the run would refuse its settings; names the setting.
        """
        if name in self._seen:
            return
        self._seen.add(name)
        known = [made for run in inputs.values() if (made := self._made.get(run)) is not None]
        if isinstance(place, PretrainConfig):
            self._made[name] = PlannedModel(name, place.shape, tuple(rest["task"].vocabulary), rest["train"])
        elif isinstance(place, FinetuneConfig) and known:
            self._made[name] = known[0]._replace(name=name, train=rest["train"])
        if not is_made:
            _check(place, rest, known)


def check_plan(plan: Plan) -> None:
    """Look at the runs that a plan is still to make; of those that differ in their seed alone, at the first.

    Raises:
        ValueError: a run would refuse its settings once those before it are made; names the run and the setting.
    """
    checks, alike, seen = Checks(), dict[str, str](), set[str]()
    for name in plan.folders:
        settings = {**plan.called_with(name)}
        inputs, place = plan.taken_by(name), settings.pop("config")
        unseeded = [_without_seed(each) for each in (place, *settings.values())]
        taken = {label: alike.get(run, run) for label, run in inputs.items()}
        alike[name] = run_identity(plan.kind_of(name), to_dict(*unseeded), taken)
        try:
            is_made = alike[name] in seen or not plan.must_run(name)
            checks.look_at(name, place, settings, inputs, is_made=is_made)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        seen.add(alike[name])


def _without_seed(config: Any) -> Any:
    return dataclasses.replace(config, seed=0) if hasattr(config, "seed") else config


def _check(place: Any, rest: Mapping[str, Any], known: Sequence[PlannedModel]) -> None:
    if "train" in rest:
        task, train = rest["task"], rest["train"]
        objective = OBJECTIVES[train.objective]()
        if isinstance(place, PretrainConfig):
            check_pretraining(place, task, train, objective)
        elif known:
            adapter = rest.get("adapter", AdapterConfig())
            check_planned_finetuning(known[0], place, task, train, adapter, objective)
        return
    for made in known:
        for asked in rest.values():
            if isinstance(asked, PcfgShape) and getattr(place, "dataset", None) is None:  # then it is nobody's task
                made.knows(asked.vocabulary)
        if isinstance(place, PruneConfig):
            check_sizes(find_units(made.untrained(), place.unit), place.unit, place.sizes)
