"""Terms that keep what a model learned in earlier tasks: by its answers, weights, old rows and old adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ftmech_hf.training.attention import shown_without_waiting
from ftmech_hf.training.objectives.answer import AnswerOnly
from ftmech_hf.training.objectives.base import IGNORED, Batch, answered_places, sent, targets_of
from ftmech_hf.training.regularizers import Regularizer, Seen

QUESTION = slice(1, 4)
"""Where a row of the procedural task says what it asks: operator, operand, parameter."""


class LwF(Regularizer):
    """The distance from the starting model's answers to new texts (Learning without forgetting, arXiv 1606.09282).

    ``T^2`` times the KL divergence of the model's answers from the start's, both at temperature T, a mean over tokens
    of answers. The original keeps the outputs for its old tasks; a language model has one output and is asked by its
    prompt. So the text of a new row is asked ``questions`` of old tasks; without those the row is asked what it asks,
    which is what it is to learn another answer to.

    Args:
        strength: what it is multiplied with.
        temperature: T.
        questions: token ids of operator, operand and parameter of what may be asked, int64 (n, 3). Which of them a row
            is asked is a function of its tokens.
    """

    counts_answers = True

    def __init__(self, strength: float, *, temperature: float = 2.0, questions: Tensor | None = None) -> None:
        super().__init__(strength)
        self.temperature, self.questions = temperature, questions

    def to(self, device: torch.device) -> None:
        """Move the questions."""
        self.questions = None if self.questions is None else self.questions.to(device)

    def penalty(self, seen: Seen) -> Tensor:
        """``strength`` times the distance."""
        batch = self._asked(seen.batch)
        shown = shown_without_waiting(seen.model, AnswerOnly().shown(batch))
        now = seen.model(shown.token_ids, **shown.options).logits
        before = seen.start.outputs(seen.model, shown)
        if batch.answers is not None:
            last = slice(-batch.from_first, None)
            counted = targets_of(batch, batch.answers)[:, last] != IGNORED
            places = answered_places(counted, batch.num_answered)
            now, before = (each[:, last].flatten(0, 1)[places] for each in (now, before))
        log_now, log_before = ((each.float() / self.temperature).log_softmax(-1) for each in (now, before))
        apart = (log_before.exp() * (log_before - log_now)).sum(-1).mean()
        return self.strength * self.temperature**2 * apart

    def _asked(self, batch: Batch) -> Batch:
        if self.questions is None:
            return batch
        token_ids = batch.token_ids.clone()
        token_ids[:, QUESTION] = self.questions[batch.token_ids.sum(1) % len(self.questions)]
        return dataclasses.replace(batch, token_ids=token_ids)


class EWC(Regularizer):
    """Distance from the start, by how much weights matter (elastic weight consolidation, arXiv 1612.00796).

    Online (Schwarz et al., arXiv 1805.06370, with no decay): one anchor, the start, and the sum of what all earlier
    tasks say of the weights.

    Args:
        strength: what it is multiplied with.
        fisher: name of a weight -> its Fisher information, of its shape; of all that is trained.
        permuted: a control: the same numbers inside every weight matrix, at places drawn by chance.
        seed: of these places.
    """

    def __init__(self, strength: float, fisher: Mapping[str, Tensor], *, permuted: bool = False, seed: int = 0) -> None:
        super().__init__(strength)
        self.fisher = dict(fisher)
        if permuted:
            generator = torch.Generator().manual_seed(seed)
            self.fisher = {
                name: each.flatten()[torch.randperm(each.numel(), generator=generator)].view_as(each)
                for name, each in self.fisher.items()
            }

    def to(self, device: torch.device) -> None:
        """Move the Fisher information."""
        self.fisher = {name: each.to(device) for name, each in self.fisher.items()}

    def penalty(self, seen: Seen) -> Tensor:
        """``strength / 2`` times the weighted squared distance."""
        start = seen.start.weights
        terms = [
            (self.fisher[name] * (p - start[name]).square()).sum()
            for name, p in seen.model.named_parameters() if name in start
        ]  # fmt: skip
        return self.strength / 2 * torch.stack(terms).sum()


class DarkExperience(Regularizer):
    """Squared distance of logits on replayed rows from what they were (DER++, Buzzega et al., arXiv 2004.07211).

    The cross-entropy of these rows is in the objective. The mean is over the answers' tokens that a step replays on
    average, and over the vocabulary; the original draws two batches of old rows, one for each of its two terms.

    Args:
        strength: what it is multiplied with.
        logits: of the answers' tokens of all kept rows, one after another (tokens, V).
        lengths: tokens of each row's answer, (rows,).
        share: of the rows of a step that are replayed.
    """

    counts_rows = True

    def __init__(self, strength: float, logits: Tensor, lengths: Tensor, *, share: float) -> None:
        super().__init__(strength)
        self.logits, self.share = logits, share
        self.first = np.concatenate([[0], lengths.numpy().cumsum()])  # counted here, where no device is waited for
        self.mean_length = float(lengths.double().mean())

    def to(self, device: torch.device) -> None:
        """Move the logits."""
        self.logits = self.logits.to(device)

    def penalty(self, seen: Seen) -> Tensor:
        """``strength`` times the mean squared distance."""
        batch, device = seen.batch, seen.logits.device
        assert batch.kept is not None
        kept = batch.kept.numpy()
        rows = np.flatnonzero(kept >= 0)
        if not len(rows):
            return seen.logits.sum() * 0.0
        places = np.concatenate([np.arange(self.first[each], self.first[each + 1]) for each in kept[rows]])
        chosen = sent(torch.from_numpy(rows), device)
        number = None if batch.num_answered is None else batch.num_answered[rows]
        now = answer_tokens(seen.logits, batch, seen.num_shown, chosen, number)
        before = self.logits[sent(torch.from_numpy(places), device)]
        expected = self.share * len(batch) * self.mean_length
        return self.strength * (now.float() - before.float()).square().mean(-1).sum() / expected


class OLoRA(Regularizer):
    """Overlap of an adapter's input directions with those of earlier ones (Wang et al., arXiv 2310.14152).

    Each task has an adapter of its own, on a model into which the earlier ones are merged: they are frozen and summed.

    Args:
        strength: what it is multiplied with.
        earlier: of every adapter that this one stands on, name of a weight -> A of a module (rank, D).
    """

    def __init__(self, strength: float, earlier: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__(strength)
        self.earlier = [dict(each) for each in earlier]

    def to(self, device: torch.device) -> None:
        """Move the earlier adapters."""
        self.earlier = [{name: each.to(device) for name, each in one.items()} for one in self.earlier]

    def penalty(self, seen: Seen) -> Tensor:
        """``strength`` times the sum of the absolute entries of ``A_earlier A^T`` over modules and earlier adapters."""
        mine = {name.replace(".default.", "."): p for name, p in seen.model.named_parameters() if ".lora_A." in name}
        terms = [(one[name] @ mine[name].T).abs().sum() for one in self.earlier for name in one if name in mine]
        return self.strength * torch.stack(terms).sum()


def answer_tokens(
    logits: Tensor, batch: Batch, num_shown: int, rows: Tensor, num_answered: NDArray[np.int64] | None = None
) -> Tensor:
    """The logits (tokens, V) that predict the answers of some rows, row after row.

    Args:
        logits: (B, K, V), of the last K of the positions that were shown.
        batch: what they are of.
        num_shown: how many tokens of each row the model was shown.
        rows: which of them (n,).
        num_answered: tokens of the answer of each of them, if that is known; without it the device is waited for.
    """
    first = num_shown - logits.shape[1]
    if batch.answers is None:
        return logits[rows, batch.token_ids.shape[1] - 3 - first]
    counted = batch.answers[:, 1:][:, first:num_shown]
    return logits[rows].flatten(0, 1)[answered_places(counted[rows], num_answered)]


def answer_logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (tokens, V) of all answers of a batch, row after row."""
    shown = AnswerOnly().shown(batch)
    logits = model(shown.token_ids, **shown.options).logits
    rows = torch.arange(len(batch), device=logits.device)
    return answer_tokens(logits, batch, shown.token_ids.shape[1], rows)


def sampled_log_probs(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The log-likelihood (nats) of answers that are drawn from the model itself, token by token, a sum over them."""
    log_probs = answer_logits_of(model, batch).float().log_softmax(-1)
    uniform = torch.rand(len(log_probs), 1, generator=generator).to(log_probs.device)
    cumulated = log_probs.detach().exp().cumsum(-1)
    drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:]).clamp(max=log_probs.shape[-1] - 1)
    return F.nll_loss(log_probs, drawn[:, 0], reduction="sum").neg()


def fisher_information(model: nn.Module, rows: Sequence[Batch], *, seed: int) -> dict[str, Tensor]:
    """Diagonal Fisher information of trained weights: the mean squared gradient of log p(y), y drawn from the model.

    A gradient a row. (``torch.func.vmap`` would take many at once, but transformers looks into its masks, which it does
    not allow.) Labels that are drawn, and not those of the rows, make it the Fisher information and no other matrix
    (Kunstner et al., arXiv 1905.12558).

    Args:
        model: in evaluation mode.
        rows: one row each.
        seed: of what is drawn.

    Returns:
        name of a trained weight -> its information, of its shape.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: torch.zeros_like(p) for name, p in trained.items()}
    generator = torch.Generator().manual_seed(seed)
    for row in rows:
        gradients = torch.autograd.grad(
            sampled_log_probs(model, row, generator), [*trained.values()], allow_unused=True
        )
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient.square() / len(rows)
    return found
