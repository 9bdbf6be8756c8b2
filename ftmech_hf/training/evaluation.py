"""How good is a model? What is measured on test rows, while training and after it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ftmech_hf.tasks import RowStream
from ftmech_hf.training.objectives import Batch, Documents, documents_loss


def answer_logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (B, V) at the position that predicts the answer of rows (B, T)."""
    # Nothing is generated, and with a cache keys are copies that round differently on some processors.
    logits: Tensor = model(token_ids[:, :-2], logits_to_keep=1, use_cache=False).logits
    return logits[:, -1].float()


@torch.no_grad()
def answer_accuracy(model: nn.Module, token_ids: Tensor, *, batch_size: int = 256) -> float:
    """Share of rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    device = next(model.parameters()).device
    right = 0
    for rows in token_ids.split(batch_size):
        rows = rows.to(device)
        right += int((answer_logits(model, rows).argmax(-1) == rows[:, -2]).sum())
    return right / len(token_ids)


@torch.no_grad()
def documents_mean_loss(model: nn.Module, token_ids: Tensor, *, batch_size: int = 32) -> float:
    """Cross-entropy (nats) of packed rows (B, T), a mean over all tokens that are predicted."""
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for rows in token_ids.split(batch_size):
        number = Documents().weight(Batch(rows))
        total += float(documents_loss(model, rows.to(device))) * number
        tokens += number
    return total / tokens


MEASURES = {"accuracy": answer_accuracy, "loss": documents_mean_loss}
"""What is logged of every test set, by what a task is judged by: a share of answers, or nats per token."""


class Evaluation:
    """The test sets of a run; their rows are made once.

    Args:
        test_sets: test rows by name.
        measure: what their task is judged by.
    """

    def __init__(self, test_sets: Mapping[str, RowStream], measure: str) -> None:
        self.test_sets, self.measure = test_sets, measure
        self._rows: dict[tuple[str, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.test_sets)

    def __call__(self, model: nn.Module, number: int) -> dict[str, float]:
        """``measure/NAME`` -> value, on the first rows of each test set; the model is left in evaluation mode."""
        model.eval()
        found = {}
        for name, stream in self.test_sets.items():
            if (name, number) not in self._rows:
                self._rows[name, number] = torch.from_numpy(stream.rows(0, number).token_ids)
            found[f"{self.measure}/{name}"] = MEASURES[self.measure](model, self._rows[name, number])
        return found


def in_words(found: Mapping[str, float]) -> str:
    """The first two of what was measured, for a progress bar."""
    return ", ".join(
        f"{name.partition('/')[2]} {value:.1%}" if name.startswith("accuracy/") else f"{name} {value:.3f}"
        for name, value in list(found.items())[:2]
    )
