"""Answer accuracy, for ``evaluate.load`` of this folder; needs ftmech_hf."""

from ftmech_hf.statistics.metrics import AnswerAccuracy  # noqa: F401
