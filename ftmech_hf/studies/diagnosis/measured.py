"""What the methods of a diagnosis found together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.method import MethodResult, TableRow, plain
from ftmech_hf.studies.diagnosis.methods import METHODS


@dataclass(frozen=True)
class MeasuredResult:
    """What the methods found that were run.

    Attributes:
        by_method: name of a method -> its result.
        seconds: name of a method -> how long it took.
        refused: name of a method that these models cannot be measured by -> why.
    """

    by_method: Mapping[str, MethodResult]
    seconds: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[TableRow]:
        """The tidy table."""
        table = [each for result in self.by_method.values() for each in result.rows()]
        unknown = {each["analysis"] for each in table} - METHODS.keys()
        assert not unknown, f"rows of {', '.join(unknown)}: no method has that name"
        return table

    def evidence(self) -> Evidence:
        """What the rule of the verdict reads."""
        return Evidence.gather(each for result in self.by_method.values() if (each := result.evidence()) is not None)

    def summary(self) -> dict[str, Any]:
        """The evidence and what else the methods tell, as JSON can hold it."""
        found = [result.summary() for result in self.by_method.values()]
        found += [vars(each) for result in self.by_method.values() if (each := result.evidence()) is not None]
        twice = [key for key, number in Counter(key for each in found for key in each).items() if number > 1]
        assert not twice, f"{', '.join(twice)}: in the summaries of two methods"
        return plain({key: value for each in found for key, value in each.items()} | {"seconds": self.seconds})
