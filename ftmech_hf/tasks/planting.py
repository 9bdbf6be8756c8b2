"""Texts of the procedural task in which a correlation is planted: the labels they have, and where they are drawn from.

Every label occurs equally often, with the correlation and without: see :func:`.stratified_labels`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.mixtures import (
    Texts,
    plant_correlation,
    remembered_labels,
    spread_counts,
    stratified_labels,
    tie_places,
)
from ftmech_hf.tasks.operators_table import OPERATORS, PcfgShape

CALIBRATION_TEXTS = 65_536
"""Texts that tell which labels occur often enough with and without a correlation."""


class Planting(NamedTuple):
    """Where texts with and without the correlation are drawn from.

    Attributes:
        shape: grammar, lengths, operands and offset.
        operator: the task token that is asked.
    """

    shape: PcfgShape
    operator: str

    def draw(self, rng: np.random.Generator, correlated: NDArray[np.bool_]) -> Texts:
        """Texts in which the correlation holds or not, with labels that are all equally often.

        Args:
            rng: of all that is drawn.
            correlated: whether it holds in each, bool (B,).

        Raises:
            ValueError: it (almost) never does, or too few labels occur.
        """
        wanted = correlated + 2 * rng.choice(self.labels, len(correlated))
        candidates = functools.partial(self.candidates, rng)
        return plant_correlation(wanted, candidates, self.cell_of, self.describe_cell)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of planted texts: a function of the shape and of what is asked."""
        found = self._remembered(tied=False)
        return found if len(found) else self._remembered(tied=True)

    def candidates(self, rng: np.random.Generator, number: int, tied: bool | None = None) -> Texts:
        """Texts to choose from; with tied places or as they come, or whichever has enough labels if not said."""
        shape, function = self.shape, OPERATORS[self.operator].function
        if not self._edited:
            return shape.windows(rng, number)
        texts = spread_texts(shape, rng, number, shape.correlation_offset if function == "count" else None)
        if (not len(self._remembered(tied=False))) if tied is None else tied:
            operands, occurrence = asked_operands(shape), shape.parameter(self.operator)
            texts = tie_places(rng, texts, operands, len(shape.symbols), occurrence, shape.correlation_offset)
        return texts

    @property
    def _edited(self) -> bool:
        return self.shape.spread_counts or self.shape.correlation_method == "insert"

    def cell_of(self, texts: Texts) -> NDArray[np.int64]:
        """Twice the correlated operand's label, and one more where the correlation holds."""
        correlated = self.shape.is_correlated(self.operator, texts)
        return 2 * self.shape.base_and_other(self.operator, texts)[1] + correlated

    def describe_cell(self, cell: int) -> str:
        """A cell in words."""
        kind = f"{'' if cell % 2 else 'un'}correlated with offset {self.shape.correlation_offset}"
        return f"{kind} and have label {cell // 2}"

    def _remembered(self, *, tied: bool) -> NDArray[np.int64]:
        """The labels; none where only tied places give enough of them."""

        def find() -> NDArray[np.int64]:
            try:
                return self.find_labels(tied=tied)
            except ValueError:
                if tied or not self._edited or OPERATORS[self.operator].function != "index":
                    raise
                return np.empty(0, np.int64)

        of_shape = (getattr(self.shape, each.name) for each in dataclasses.fields(PcfgShape))
        return remembered_labels((CALIBRATION_TEXTS, self.operator, tied, *of_shape), find)

    def find_labels(self, *, tied: bool) -> NDArray[np.int64]:
        """The labels that occur often enough among candidates."""
        shape, operator = self.shape, self.operator
        texts = self.candidates(np.random.Generator(np.random.Philox(0)), CALIBRATION_TEXTS, tied)
        return stratified_labels(
            shape.base_and_other(operator, texts)[1],
            shape.is_correlated(operator, texts),
            at_least=shape.min_labels,
            asked=f"{operator} {shape.operand_word(operator, shape.correlated_operand)}, "
            f"correlation_offset: {shape.correlation_offset},",
        )


def asked_operands(shape: PcfgShape) -> tuple[int, int]:
    """Terminal ids of the operand of pretraining and of that of fine-tuning."""
    return shape.symbols.index(shape.base_operand), shape.symbols.index(shape.correlated_operand)


def spread_texts(shape: PcfgShape, rng: np.random.Generator, number: int, offset: int | None) -> Texts:
    """The grammar's texts, edited until their counts are spread; see :func:`.spread_counts`."""
    texts = shape.windows(rng, number)
    return spread_counts(rng, texts, asked_operands(shape), len(shape.symbols), shape.count_window, offset)
