"""What do models answer that differ from the base without a meaning? Their accuracy stands beside the others'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.studies.diagnosis.case import Case, answers_right
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, TableRow
from ftmech_hf.studies.diagnosis.methods.behaviour import accuracy_row


@dataclass(frozen=True, kw_only=True)
class NullModelsMethodResult(MethodResult):
    """Which answers of the null models are right.

    Attributes:
        right: (model, kind of question) -> whether each test row is answered right, (B,).
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    right: Mapping[tuple[str, str], NDArray[np.bool_]]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy of every null model on every kind of question; drawn with the other models' behaviour."""
        return [accuracy_row(name, kind, right, self.groups[kind]) for (name, kind), right in self.right.items()]


def measure_null_models(case: Case) -> NullModelsMethodResult:
    """Ask the null models both kinds of questions."""
    return NullModelsMethodResult(
        right={
            (name, kind): answers_right(model, questions)
            for name, model in case.null_models.items() for kind, questions in case.both.items()
        },
        groups={kind: questions.test.groups for kind, questions in case.both.items()},
    )  # fmt: skip


NULL_MODELS = Method(measure=measure_null_models)
