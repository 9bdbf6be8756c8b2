"""What a step of training minimises: one file is one objective, and a line in ``OBJECTIVES`` gives it its name."""

from ftmech_hf.training.objectives.answer import AnswerOnly, answer_only_loss
from ftmech_hf.training.objectives.base import IGNORED, Batch, Objective
from ftmech_hf.training.objectives.documents import Documents, documents_loss
from ftmech_hf.training.objectives.forgetting import (
    GradientDifference,
    NegativePreference,
    SimpleNegativePreference,
    Unlearning,
)
from ftmech_hf.training.objectives.misdirection import Misdirection
from ftmech_hf.training.objectives.next_token import NextToken, next_token_loss
from ftmech_hf.training.objectives.own_answers import OwnAnswers
from ftmech_hf.training.objectives.preference import Preference

OBJECTIVES: dict[str, type[Objective]] = {
    "next_token": NextToken,
    "answer_only": AnswerOnly,
    "own_answers": OwnAnswers,
    "documents": Documents,
    "preference": Preference,
    "unlearn": Unlearning,
    "graddiff": GradientDifference,
    "npo": NegativePreference,
    "simnpo": SimpleNegativePreference,
    "rmu": Misdirection,
}


def find_objective(name: str) -> type[Objective]:
    """The objective of a name.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective: unknown {name!r}, expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


__all__ = [
    "IGNORED",
    "OBJECTIVES",
    "AnswerOnly",
    "Batch",
    "Documents",
    "GradientDifference",
    "Misdirection",
    "NegativePreference",
    "NextToken",
    "Objective",
    "OwnAnswers",
    "Preference",
    "SimpleNegativePreference",
    "Unlearning",
    "answer_only_loss",
    "documents_loss",
    "find_objective",
    "next_token_loss",
]
