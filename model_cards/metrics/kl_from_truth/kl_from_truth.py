"""KL from the truth, for ``evaluate.load`` of this folder; needs ftmech_hf."""

from ftmech_hf.statistics.metrics import KLFromTruth  # noqa: F401
