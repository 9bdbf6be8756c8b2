"""The objective and what is added to it: the number whose gradient a step takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ftmech_hf.training.attention import shown_without_waiting
from ftmech_hf.training.objectives.base import Batch, Objective, Shown
from ftmech_hf.training.regularizers import Features, Regularizer, Seen, Start, random_state, read_outputs


def check_layer(model: nn.Module, objective: Objective) -> None:
    """Make sure that a model has the layer whose output an objective reads.

    Raises:
        ValueError: it has not.
    """
    if (layer := objective.reads_layer) is not None:
        number: int = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
        if layer >= number:
            raise ValueError(f"rmu_layer: {layer}, expected one of the model's {number} layers, counted from 0")


class TotalLoss:
    """An objective with its regularizers, and the copy of the start that either of them compares with.

    Args:
        model: where training starts; what is trained of it is copied, if anything compares with it.
        objective: what is minimised.
        regularizers: added to it.
        anchor: the model that features are compared with, if it is not the start.
        average: share of the start in what :meth:`average_with_start` makes.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        regularizers: Sequence[Regularizer] = (),
        anchor: nn.Module | None = None,
        average: float = 0.0,
    ) -> None:
        self.objective, self.regularizers = objective, regularizers
        self.needs_features = any(each.needs_features for each in regularizers)
        self.counts_answers = any(each.counts_answers for each in regularizers)
        check_layer(model, objective)
        self.average = average
        needs_start = bool(regularizers or objective.needs_reference or average)
        self.start = Start(model, anchor if self.needs_features else None) if needs_start else None

    def to(self, device: torch.device) -> TotalLoss:
        """Move what it remembers."""
        if self.start is not None:
            self.start.to(device)
        for each in self.regularizers:
            each.to(device)
        return self

    def average_with_start(self, model: nn.Module) -> None:
        """Give a model's weights their share of the starting ones, if they are to have any."""
        if self.start is not None and self.average:
            self.start.mix_into(model, self.average)

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        raw_model: nn.Module | None = None,
        *,
        weight: float | Tensor = 1.0,
        feature_weight: float | Tensor = 1.0,
        row_weight: float | Tensor = 1.0,
        answer_weight: float | Tensor = 1.0,
    ) -> Tensor:
        """The objective on a batch, and what regularizers add to it.

        Args:
            model: called once; may be wrapped for distributed training.
            batch: the rows.
            raw_model: ``model`` without its wrapper, where there is one: the parameters by the names they started with.
            weight: of these rows among those of a step, by what the objective counts.
            feature_weight: the same for what compares features, by the tokens that are shown.
            row_weight: the same by rows, for what is a mean over those that are expected.
            answer_weight: the same by the tokens of answers, for what is a mean over those beside any objective.
        """
        raw_model = raw_model or model
        shown = shown_without_waiting(raw_model, self.objective.shown(batch))
        before = random_state(shown.token_ids.device) if self.needs_features else []
        layer = self.objective.reads_layer
        wanted = {"output_hidden_states": True} if self.needs_features or layer is not None else {}
        output = model(shown.token_ids, **shown.options, **wanted)
        loss = self.objective.loss(read_outputs(output, layer), batch, self._reference(raw_model, shown))
        if self.start is None:
            return loss * weight
        features = None
        if self.needs_features:
            states = self.start.hidden_states(raw_model, shown, before)
            features = Features(output.hidden_states, states, shown.real)
        seen = Seen(raw_model, self.start, batch, read_outputs(output, layer), shown.token_ids.shape[1], features)
        loss = loss * weight
        for each in self.regularizers:
            if each.counts_rows:
                of_part = row_weight
            elif each.counts_answers:
                of_part = answer_weight
            else:
                of_part = feature_weight if each.needs_features else weight
            loss = loss + of_part * each.penalty(seen)
        return loss

    def _reference(self, raw_model: nn.Module, shown: Shown) -> Tensor | None:
        if not self.objective.needs_reference:
            return None
        assert self.start is not None
        return self.start.outputs(raw_model, shown, self.objective.reads_layer)
