"""Settings of a sweep's runs that only the run itself would refuse, which begins when those before it are through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.activations import find_units
from ftmech_hf.jobs.pruning import PruneConfig
from ftmech_hf.jobs.pruning_sweep import check_sizes
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.jobs.training_checks import PlannedModel, check_planned_finetuning, check_pretraining
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.objectives import OBJECTIVES


class Checks:
    """What is known of the models of a sweep, and whether each can be what later runs need."""

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


def _check(place: Any, rest: Mapping[str, Any], known: Sequence[PlannedModel]) -> None:
    if "train" in rest:
        task, train = rest["task"], rest["train"]
        objective = OBJECTIVES[train.objective]()
        if isinstance(place, PretrainConfig):
            check_pretraining(place, task, train, objective)
        elif known:
            check_planned_finetuning(known[0], place, task, train, rest["adapter"], objective)
        return
    for made in known:
        for asked in rest.values():
            if isinstance(asked, PcfgShape):
                made.knows(asked.vocabulary)
        if isinstance(place, PruneConfig):
            check_sizes(find_units(made.untrained(), place.unit), place.unit, place.sizes)
