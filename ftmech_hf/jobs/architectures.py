"""What of each class of causal language models can be read, written and taken out, tried on a small model of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from logging import CRITICAL
from typing import Any, get_args

from transformers import PreTrainedModel
from transformers.utils import logging

from ftmech_hf.activations import SITES, TracedModel, Unit, find_units
from ftmech_hf.models.small import causal_classes, small_model
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True)
class ArchitectureResult:
    """What works for one class.

    Attributes:
        name: of the class.
        kind: ``model_type`` of the config that it was built from; of several the first that can be built.
        opens: whether its stream can be read and written.
        sites: those that were shown in every layer.
        some_layers: site -> the layers that have it, of those that only some have.
        units: kind of unit -> how many there are.
        refused: site or kind of unit -> why it cannot be had, or not in every layer.
        reason: why the model does not open, or cannot be built; empty if it opens.
    """

    name: str
    kind: str
    opens: bool
    sites: list[str] = field(default_factory=list)
    some_layers: dict[str, list[int]] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """As a table in a file has it."""
        said = asdict(self)
        return {"class": said.pop("name"), "opens": said.pop("opens"), "sites_proven": said.pop("sites"), **said}


def survey_classes(names: Sequence[str] = (), progress: Progress | None = None) -> list[ArchitectureResult]:
    """What works for every class of causal language models in transformers, or for some of them.

    Args:
        names: of classes; all if there are none.
        progress: called after every class.

    Raises:
        ValueError: there is no such class.
    """
    classes = causal_classes()
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(f"classes: no {unknown[0]} among transformers' causal language models")
    chosen, found = list(names or classes), []
    for number, name in enumerate(chosen, 1):
        with _in_silence():
            found.append(look_at_class(name, classes[name]))
        if progress is not None:
            progress(number, len(chosen), name)
    return found


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Without what transformers and models' own code say about configs of such sizes."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def look_at_class(name: str, kinds: Sequence[str]) -> ArchitectureResult:
    """Build a small model of a class, from the first of some kinds of configs that does, and open it."""
    reasons = []
    for kind in kinds:
        try:
            model = small_model(kind)
        except LookupError as error:
            reasons.append(str(error))
            continue
        try:
            opened = TracedModel(model)
        except ValueError as error:
            return ArchitectureResult(name, kind, opens=False, reason=str(error))
        units, refused = _count_units(model)
        layers = {site: opened.layers_of(site) for site in SITES}
        return ArchitectureResult(
            name, kind, opens=True, sites=list(opened.sites),
            some_layers={site: of for site, of in layers.items() if of and site not in opened.sites},
            units=units, refused=opened.refused | refused,
        )  # fmt: skip
    return ArchitectureResult(name, kinds[0], opens=False, reason=reasons[0])


def _count_units(model: PreTrainedModel) -> tuple[dict[str, int], dict[str, str]]:
    found, refused = {}, {}
    for unit in get_args(Unit):
        try:
            found[unit] = sum(group.num_units for group in find_units(model, unit).values())
        except ValueError as error:
            refused[unit] = str(error)
    return found, refused
