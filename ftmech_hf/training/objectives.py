"""What a step of training minimises.

A row of a procedural task ends ``... ANSWER <eos>``: the answer is the last token but one. A row of stories holds
documents ``<bos> ... <eos>`` that do not see each other, and padding at its end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS


class Objective(NamedTuple):
    """Which tokens of a row are predicted.

    Attributes:
        hidden: tokens at the end of a row that the model is not shown.
        predicted: how many of the last shown positions predict; 0 for all of them.
        packed: whether a row holds documents that do not see each other.
    """

    hidden: int
    predicted: int
    packed: bool = False


OBJECTIVES: dict[str, Objective] = {
    "next_token": Objective(hidden=1, predicted=0),
    # Fine-tuning (Jain et al., App. C.2)
    "answer_only": Objective(hidden=2, predicted=1),
    "documents": Objective(hidden=1, predicted=0, packed=True),
}

PAD_ID, BOS_ID, EOS_ID = (SPECIAL_TOKENS.index(token) for token in (PAD, BOS, EOS))

IGNORED = -100
"""The target of a position that predicts nothing."""


def document_positions(token_ids: Tensor) -> Tensor:
    """Places of the tokens of packed rows (B, T) in their documents; a document begins with ``<bos>``.

    Padding has place 0 throughout. From these places transformers itself keeps documents apart: wherever they do not
    go up by one it lets no token see what is before (``find_packed_sequence_indices``), provided that it is given no
    attention mask and builds no cache.
    """
    place = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
    begins = torch.where(token_ids == BOS_ID, place, 0).cummax(dim=1).values
    return torch.where(token_ids == PAD_ID, 0, place - begins)


def document_targets(token_ids: Tensor) -> Tensor:
    """What each position of packed rows (B, T) but the last predicts, (B, T - 1).

    It is :data:`IGNORED` where the next token is padding or begins another document.
    """
    following = token_ids[:, 1:]
    return torch.where((following == PAD_ID) | (following == BOS_ID), IGNORED, following)


def num_predicted(token_ids: Tensor, objective: str) -> int:
    """How many tokens of rows (B, T) count in their loss; the mean of losses is weighted by it."""
    asked = OBJECTIVES[objective]
    if asked.packed:
        return int((document_targets(token_ids) != IGNORED).sum())
    return len(token_ids) * (asked.predicted or token_ids.shape[1] - asked.hidden)


def _model_inputs(token_ids: Tensor, objective: str) -> tuple[Tensor, dict[str, Any]]:
    """(what a model is shown of rows (B, T), what it is given beside that)."""
    shown = token_ids[:, : -OBJECTIVES[objective].hidden]
    if not OBJECTIVES[objective].packed:
        return shown, {}
    # With a cache, even an empty one, transformers would not look at the positions.
    given = {"position_ids": document_positions(shown), "use_cache": False}
    # It warns of padding without a mask. No document sees what stands in the padding after it.
    return shown.masked_fill(shown == PAD_ID, EOS_ID), given


def _forward(model: nn.Module, token_ids: Tensor, objective: str, **options: Any) -> tuple[Tensor, Any]:
    """(mean cross-entropy of what ``objective`` predicts, the model's output)."""
    hidden, predicted, packed = OBJECTIVES[objective]
    shown, given = _model_inputs(token_ids, objective)
    output = model(shown, logits_to_keep=predicted, **given, **options)
    targets = token_ids[:, 1 : token_ids.shape[1] - hidden + 1][:, -predicted:]
    if packed:
        targets = document_targets(token_ids)
    loss = F.cross_entropy(output.logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
    return loss, output


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of rows (B, T) given the ones before it: pretraining."""
    return _forward(model, token_ids, "next_token")[0]


def answer_only_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the answers of rows (B, T): fine-tuning (Jain et al., App. C.2)."""
    return _forward(model, token_ids, "answer_only")[0]


def documents_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of packed rows (B, T) given its document up to there: stories."""
    return _forward(model, token_ids, "documents")[0]


def num_shown(token_ids: Tensor, objective: str) -> int:
    """How many tokens of rows (B, T) the model is shown, without padding; LDIFS is a mean over them."""
    return int((token_ids[:, : -OBJECTIVES[objective].hidden] != PAD_ID).sum())


def feature_distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...], counted: Tensor | None = None) -> Tensor:
    """The LDIFS distance of two models' hidden states (Mukhoti et al., arXiv 2308.13320), for language models.

    Squared Euclidean distance between the unit vectors of both models' features, from 0 to 4, averaged over rows,
    positions and taps. Deviation: the original takes the mean over the width where this takes the sum, so that the
    weight of this distance does not depend on a model's width; and every layer of the stream is a tap.

    Args:
        first, second: hidden states, each (B, T, D), in the same order.
        counted: which positions (B, T) the mean is over; all of them if not given.
    """
    distances = torch.stack(
        [
            (F.normalize(one.float(), dim=-1) - F.normalize(other.float(), dim=-1)).square().sum(-1)
            for one, other in zip(first, second, strict=True)
        ]
    ).mean(0)
    if counted is None:
        return distances.mean()
    return torch.where(counted, distances, 0.0).sum() / counted.sum().clamp(min=1)


class Anchor:
    """Keeps fine-tuning near the model it started from, in weights (L2SP) or in features (LDIFS).

    Args:
        model: where training starts; what is trained of it is copied.
        l2sp: weight of the squared distance of all trained weights from their start (Li et al., arXiv 1802.01483).
        ldifs: weight of :func:`feature_distance`.
    """

    def __init__(self, model: nn.Module, *, l2sp: float, ldifs: float) -> None:
        self.l2sp, self.ldifs = l2sp, ldifs
        self.start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def to(self, device: torch.device) -> Anchor:
        """Move what it remembers."""
        self.start = {name: value.to(device) for name, value in self.start.items()}
        return self

    def weight_penalty(self, model: nn.Module) -> Tensor:
        """``l2sp`` times the squared distance of the trained weights from their start."""
        terms = [(p - self.start[name]).square().sum() for name, p in model.named_parameters() if name in self.start]
        return self.l2sp * torch.stack(terms).sum()

    def feature_penalty(
        self,
        model: nn.Module,
        token_ids: Tensor,
        hidden_states: tuple[Tensor, ...],
        counted: Tensor,
        random_state: list[Tensor],
        **options: Any,
    ) -> Tensor:
        """``ldifs`` times the distance of a model's hidden states from those it had at its start, on the same tokens.

        The model itself is called with its starting weights: under the same autocast, in the same mode and with the
        same dropout. Any of these alone would set the two apart where nothing was trained.

        Args:
            model: the one that is trained, without a wrapper for distributed training.
            token_ids: what it was shown, (B, T).
            hidden_states: its own.
            counted: which positions (B, T) count.
            random_state: from :func:`_random_state`, as it was before those were computed.
            options: what else it was given.
        """
        device = token_ids.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_rng_state(random_state[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(random_state[1], device)
            given = {"output_hidden_states": True, "logits_to_keep": 1, **options}
            before = functional_call(model, self.start, (token_ids,), given).hidden_states
        return self.ldifs * feature_distance(hidden_states, before, counted)


def _random_state(device: torch.device) -> list[Tensor]:
    """What dropout on the device will be drawn from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def training_loss(
    model: nn.Module,
    token_ids: Tensor,
    objective: str,
    anchor: Anchor | None = None,
    raw_model: nn.Module | None = None,
    *,
    weight: float = 1.0,
    feature_weight: float = 1.0,
) -> Tensor:
    """The objective on rows (B, T), and what an anchor adds to it.

    Args:
        model: called; may be wrapped for distributed training.
        token_ids: whole rows.
        objective: a name of :data:`OBJECTIVES`.
        anchor: keeps the model near its start.
        raw_model: ``model`` without its wrapper, where there is one: the parameters by the anchor's names.
        weight: of these rows among those of a step, by the tokens that are predicted.
        feature_weight: the same for the distance of features, by the tokens that are shown.
    """
    features = anchor is not None and anchor.ldifs > 0
    random_state = _random_state(token_ids.device) if features else []
    loss, output = _forward(model, token_ids, objective, **({"output_hidden_states": True} if features else {}))
    if anchor is not None and anchor.l2sp:
        loss = loss + anchor.weight_penalty(raw_model or model)
    loss = loss * weight
    if anchor is not None and features:
        shown, given = _model_inputs(token_ids, objective)
        counted = token_ids[:, : shown.shape[1]] != PAD_ID
        penalty = anchor.feature_penalty(
            raw_model or model, shown, output.hidden_states, counted, random_state, **given
        )
        loss = loss + feature_weight * penalty
    return loss


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
        number = num_predicted(rows, "documents")
        total += float(documents_loss(model, rows.to(device))) * number
        tokens += number
    return total / tokens
