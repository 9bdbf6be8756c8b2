"""The exact next-token distribution of whole rows: what a perfect model would predict, and the lowest possible loss."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.chain import GrammarChain
from ftmech_hf.tasks.grammar import load_grammar
from ftmech_hf.tasks.mixtures import parse_prior
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.tasks.pcfg import PcfgConfig
from ftmech_hf.tasks.schema import TEXT


@dataclass(frozen=True)
class RowTruth:
    """The truth about a batch of rows.

    Attributes:
        probabilities: of every token at every position but the first, given those before it: (B, T - 1, V), in the
            order of the task's vocabulary; position t predicts token t + 1, as a causal model does.
        error: bound on the error of any probability, (B, T - 1); zero up to rounding unless the grammar recurses.
        loss: mean cross-entropy in nats per predicted token of a model that predicts ``probabilities``: the lowest
            possible loss on these rows, in expectation.
    """

    probabilities: NDArray[np.float64]
    error: NDArray[np.float64]
    loss: float


@functools.cache
def _chain(grammar: str, root: str) -> GrammarChain:
    return GrammarChain(load_grammar(grammar, root))


def check_untouched(task: PcfgConfig) -> None:
    """Make sure that the truth about a task's rows is known.

    Raises:
        ValueError: the task edits texts, plants correlations, changes labels or mixes rows, for which no closed form
            is known.
    """
    if task.spread_counts or task.correlation is not None or task.label_rule != "right" or task.mix_share:
        raise ValueError(
            "truth: known for untouched rows only; expected spread_counts: false, correlation: none, label_rule: right "
            f"and mix_share: 0, got {task.spread_counts}, {task.correlation}, {task.label_rule} and {task.mix_share}"
        )


def row_truth(task: PcfgConfig, token_ids: NDArray[np.integer]) -> RowTruth:
    """The distribution that rows of ``task`` were drawn from, conditioned on every prefix of the given rows.

    The operator and its operand follow their priors; the text follows the grammar's windows, whatever was asked; all
    else is certain.

    Args:
        task: untouched text and right labels only.
        token_ids: whole rows (B, T).

    Raises:
        ValueError: the task edits texts, plants correlations, changes labels or mixes rows, for which no closed form
            is known.
    """
    check_untouched(task)
    token_ids = np.asarray(token_ids)
    num_rows, length = token_ids.shape
    probabilities = np.zeros((num_rows, length - 1, len(task.vocabulary)))
    np.put_along_axis(probabilities, token_ids[:, 1:, None], 1.0, 2)
    error = np.zeros((num_rows, length - 1))
    probabilities[:, 0] = _operators(task)
    for operator in np.unique(token_ids[:, 1]):
        probabilities[token_ids[:, 1] == operator, 1] = _operands(task, task.vocabulary[operator])
    result = _chain(task.grammar, task.root).window_next_symbol(task.texts(token_ids))
    place = np.arange(length)[TEXT] - 1
    probabilities[:, place] = 0.0
    first = task.word_ids[task.symbols[0]]
    probabilities[:, place, first : first + len(task.symbols)] = result.probabilities
    error[:, place] = result.error
    chosen = np.take_along_axis(probabilities, token_ids[:, 1:, None], 2)[..., 0]
    with np.errstate(divide="ignore"):
        return RowTruth(probabilities, error, float(-np.log(chosen).mean()))


def _operators(task: PcfgConfig) -> NDArray[np.float64]:
    shares = np.zeros(len(task.vocabulary))
    prior = task.operator_shares or [1 / len(task.operators)] * len(task.operators)
    shares[[task.word_ids[name] for name in task.operators]] = prior
    return shares


def _operands(task: PcfgConfig, operator: str) -> NDArray[np.float64]:
    shares = np.zeros(len(task.vocabulary))
    if OPERATORS[operator].operands == "base":
        shares[task.word_ids[task.base_operand]] = 1.0
        return shares
    for symbol, share in zip(task.symbols, parse_prior(task.operand_prior, len(task.symbols)), strict=True):
        shares[task.word_ids[task.operand_word(operator, symbol)]] += share
    return shares
