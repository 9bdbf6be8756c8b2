"""Metrics as ``evaluate.Metric`` classes; the folders of ``model_cards/metrics`` load them with ``evaluate.load``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.measures import accuracy_by_group, accuracy_change, kl_from_truth, most_forgotten

CITATION = "Jain et al., Mechanistically analyzing the effects of fine-tuning on procedurally defined tasks, 2311.12786"


WORD, FLAG = datasets.Value("string"), datasets.Value("bool")
NUMBERS = datasets.Sequence(datasets.Value("float64"))


def _info(description: str, inputs: str, **features: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=CITATION,
        inputs_description=inputs,
        features=datasets.Features(features),
    )


class AnswerAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Share of right answers: of all, of each operand, and of each operand by whether the correlation holds."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Share of right answers, per operand of the prompt and per correlation of the text.",
            "predictions, references: answers as words. operands: the operand that each prompt names. "
            "correlated: whether the planted correlation holds in its text.",
            predictions=WORD, references=WORD, operands=WORD, correlated=FLAG,
        )  # fmt: skip

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], operands: Sequence[str], correlated: Sequence[bool]
    ) -> dict[str, Any]:
        """``accuracy``, ``rows`` and ``interval`` (95 %, Wilson) of all; ``by_group`` has the same of every group.

        Groups are ``a``, and ``a_cte0`` and ``a_cte1`` for texts without and with the correlation.
        """
        split = [f"{operand}_cte{int(holds)}" for operand, holds in zip(operands, correlated, strict=True)]
        groups = {
            **accuracy_by_group(predictions, references, operands),
            **accuracy_by_group(predictions, references, split),
        }
        described = {name: _describe(right, total) for name, (right, total) in sorted(groups.items())}
        ((right, total),) = accuracy_by_group(predictions, references, ["all"] * len(references)).values()
        return {**_describe(right, total), "by_group": described}


def _describe(right: int, total: int) -> dict[str, Any]:
    share = share_interval(right, total)
    return {"accuracy": share.value, "rows": total, "interval": (share.low, share.high)}


def _matrix(name: str, rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of numbers, (rows, V).

    Raises:
        ValueError: rows differ in length, there are none, or a number is nan.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"{name}: {len(rows)} rows of lengths {sorted(lengths)[:5]}, expected rows of one length")
    found = torch.tensor(rows, dtype=torch.float64)
    if bool(found.isnan().any()) or bool((found == torch.inf).any()):
        raise ValueError(f"{name}: nan or infinity, expected numbers; a logit may be minus infinity")
    return found


class KLFromTruth(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """How far a model's next-token distributions are from the exact ones of the grammar, in nats per token."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Mean KL(truth || model) in nats per token, and the entropy of the truth.",
            "predictions: logits over the vocabulary, one list for each position. references: the exact "
            "probabilities there, as ftmech_hf.tasks.exact_distribution.row_truth gives them.",
            predictions=NUMBERS, references=NUMBERS,
        )  # fmt: skip

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[float]]) -> dict[str, Any]:
        """``kl`` and its largest value ``kl_max``; ``lowest_loss``: mean entropy of the truth; ``tokens``."""
        logits, truth = _matrix("predictions", predictions), _matrix("references", references)
        sums = truth.sum(-1)
        if logits.shape != truth.shape:
            raise ValueError(f"references: {tuple(truth.shape)}, expected the predictions' shape {tuple(logits.shape)}")
        if bool((truth < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-6):
            raise ValueError("references: expected probabilities that sum to 1 at every position")
        kl = kl_from_truth(F.log_softmax(logits, dim=-1), truth)
        entropy = torch.special.entr(truth).sum(-1)
        return {
            "kl": float(kl.mean()),
            "kl_max": float(kl.max()),
            "lowest_loss": float(entropy.mean()),
            "tokens": len(kl),
        }


class Forgetting(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What a model forgot and gained by fine-tuning, in its answers to the same prompts before and after."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Accuracy before and after fine-tuning and its change, by group of prompts.",
            "predictions: answers after fine-tuning, as words. predictions_before: the base model's. references: "
            "the right ones. groups: what each prompt belongs to, such as its operand.",
            predictions=WORD, predictions_before=WORD, references=WORD, groups=WORD,
        )  # fmt: skip

    def _compute(
        self,
        predictions: Sequence[str],
        predictions_before: Sequence[str],
        references: Sequence[str],
        groups: Sequence[str],
    ) -> dict[str, Any]:
        """``before``, ``after`` and ``change`` by group, and the group ``most_forgotten``, None if none was."""
        before, after = (
            {name: right / total for name, (right, total) in accuracy_by_group(answers, references, groups).items()}
            for answers in (predictions_before, predictions)
        )
        change = accuracy_change(before, after)
        return {
            "before": before,
            "after": after,
            "change": change,
            "most_forgotten": most_forgotten(change),
        }
