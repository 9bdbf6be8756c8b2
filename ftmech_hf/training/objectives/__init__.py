"""What a step of training minimises: one file is one objective, and a line in ``OBJECTIVES`` gives it its name."""

from ftmech_hf.training.objectives.answer import AnswerOnly, answer_only_loss
from ftmech_hf.training.objectives.base import IGNORED, Batch, Objective
from ftmech_hf.training.objectives.documents import Documents, documents_loss
from ftmech_hf.training.objectives.next_token import NextToken, next_token_loss

OBJECTIVES: dict[str, type[Objective]] = {
    "next_token": NextToken,
    "answer_only": AnswerOnly,
    "documents": Documents,
}

__all__ = [
    "IGNORED",
    "OBJECTIVES",
    "AnswerOnly",
    "Batch",
    "Documents",
    "NextToken",
    "Objective",
    "answer_only_loss",
    "documents_loss",
    "next_token_loss",
]
