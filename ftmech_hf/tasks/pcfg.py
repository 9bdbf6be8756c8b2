"""The procedural tasks of Jain et al. (arXiv 2311.12786): counting, indexing and copying on text from a PCFG.

A row is ``<bos> OPERATOR OPERAND PARAMETER <sot> TEXT <eot> = ANSWER <eos>``, for example
``<bos> count a 16 <sot> a b c ... <eot> = 5 <eos>``: how many of the last 16 symbols are a's?
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.mixtures import check_distribution, parse_prior
from ftmech_hf.tasks.operators_table import JAILBREAK_OPERATORS, OPERATORS, PcfgShape
from ftmech_hf.tasks.planting import Planting, spread_texts
from ftmech_hf.tasks.schema import BLOCK, Capability, Rows, Task, encode_rows


@dataclass(frozen=True, kw_only=True)
class PcfgConfig(PcfgShape, Task):
    """A distribution over rows: a shape, and what is asked how often."""

    operators: list[str] = field(
        default_factory=lambda: ["count", "index", "token_at"], metadata={"help": "task tokens that are asked"}
    )
    operator_prior: list[float] = field(
        default_factory=list, metadata={"help": "one probability per operator; equal if not given"}
    )
    operand_prior: list[str] = field(
        default_factory=lambda: ["high"],
        metadata={"help": "P_T(O): low, medium, high, control, a, b, c, or one probability per symbol"},
    )
    correlation: float | None = field(
        default=None,
        metadata={
            "help": "share of rows in which answer(correlated_operand) = answer(base_operand) + correlation_offset, "
            "never in the rest; none for texts in which none is planted"
        },
    )
    label_rule: Literal["right", "swapped", "random"] = field(
        default="right",
        metadata={
            "help": "swapped: the base operand's prompts get the correlated operand's answers and the other way "
            "round (randFT in the paper); random: the answers of other rows"
        },
    )
    mix_share: float = field(default=0.0, metadata={"help": "share of rows that are pretraining rows, nothing planted"})
    mix_operators: list[str] = field(
        default_factory=lambda: ["count", "index", "token_at"], metadata={"help": "operators of the rows mixed in"}
    )
    mix_operand_prior: list[str] = field(
        default_factory=lambda: ["high"], metadata={"help": "operand prior of the rows mixed in"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_operators("operators", self.operators)
        if self.operator_prior:
            check_distribution(self.operator_prior, len(self.operators), field="operator_prior")
        parse_prior(self.operand_prior, len(self.symbols))
        if not 0 <= self.mix_share <= 1:
            raise ValueError(f"mix_share: {self.mix_share}, expected a probability between 0 and 1")
        if self.mix_share:
            _check_operators("mix_operators", self.mix_operators)
            parse_prior(self.mix_operand_prior, len(self.symbols), field="mix_operand_prior")
        self._check_correlation()

    def _check_correlation(self) -> None:
        if self.correlation is None:
            return
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation: {self.correlation}, expected a probability between 0 and 1")
        able = [name for name, operator in OPERATORS.items() if operator.operands in ("symbols", "pairs")]
        if len(self.operators) != 1 or self.operators[0] not in able:
            raise ValueError(
                f"correlation: {self.correlation} needs operators: one of {', '.join(able)} alone, "
                f"got {' '.join(self.operators)}"
            )
        largest = self.largest_difference(self.operators[0])
        if abs(self.correlation_offset) > largest:
            raise ValueError(
                f"correlation_offset: {self.correlation_offset} is out of reach, "
                f"answers of {self.operators[0]} differ by {largest} at most"
            )

    @property
    def operator_shares(self) -> tuple[float, ...] | None:
        """How often each operator is asked; None where all are asked alike."""
        if not self.operator_prior:
            return None
        return check_distribution(self.operator_prior, len(self.operators), field="operator_prior")

    def test_tasks(self) -> dict[str, PcfgConfig]:
        """The test sets of a model trained on this, by name.

        On one operator: the base operand on natural text (``count_a``), the correlated one on texts without and with
        the correlation (``count_b_cte0``, ``count_b_cte1``), and if training has it planted, so the base operand. On
        several, and where no correlation is asked for and none can be planted: both operands on natural text. A
        jailbreak operator brings the base operand under its two siblings.
        """
        sets = {}
        asked = [*self.operators]
        if set(asked) & set(JAILBREAK_OPERATORS):
            asked += [name for name in JAILBREAK_OPERATORS if name not in asked]
        for operator in asked:
            base, other = (
                Capability(operator, self.operand_word(operator, symbol))
                for symbol in (self.base_operand, self.correlated_operand)
            )
            sets[str(base)] = for_capability(self, base)
            if OPERATORS[operator].operands in ("none", "base"):
                continue
            if len(self.operators) > 1 or (self.correlation is None and not _can_be_planted(self, other)):
                sets[str(other)] = for_capability(self, other)
            else:
                for capability in (base, other) if self.correlation is not None else (other,):
                    sets[f"{capability}_cte0"] = for_capability(self, capability, 0.0)
                    sets[f"{capability}_cte1"] = for_capability(self, capability, 1.0)
        return sets

    def variant(self, name: str) -> PcfgConfig:
        """Read a dataset's config name: ``default``, ``pretrain-low``, ``count_b`` or ``count_b-c0.8``.

        Raises:
            ValueError: a name that is none of these, or a share that cannot be.
        """
        if name == "default":
            return self
        if name.startswith("pretrain-"):
            return dataclasses.replace(self, operand_prior=[name.removeprefix("pretrain-")], correlation=None)
        asked, _, share = name.partition("-c")
        operator, _, operand = asked.rpartition("_")
        try:
            correlation = float(share) if share else None
            return for_capability(self, Capability(operator, operand), correlation)
        except (KeyError, ValueError) as error:
            reason = f": {error}" if operator in OPERATORS else ""
            raise ValueError(
                f"variants: {name!r}, expected default, pretrain-PRIOR, OPERATOR_OPERAND such as count_b, or "
                f"OPERATOR_OPERAND-cSHARE such as count_b-c0.8{reason}"
            ) from None

    def sample_block(self, rng: np.random.Generator, *, ancestors: bool = False) -> Rows:
        """Draw a block of rows; see :class:`ftmech_hf.tasks.schema.RowStream`.

        Raises:
            ValueError: the planted correlation (almost) never occurs; or ancestors of planted text are requested,
                which has none.
        """
        if ancestors and (self.spread_counts or self.correlation is not None or self.mix_share):
            raise ValueError(
                "ancestors: known for the grammar's texts only, not with spread_counts, correlation, mix_share"
            )
        operator = rng.choice(len(self.operators), BLOCK, p=self.operator_shares)
        operand = rng.choice(len(self.symbols), BLOCK, p=parse_prior(self.operand_prior, len(self.symbols)))
        text, above = self._sample_text(rng, ancestors)
        rows = self._ask(rng, operator, operand, text)
        if self.mix_share:
            mixed_in = rng.random(BLOCK) < self.mix_share
            other = self._pretraining.sample_block(rng)
            columns = {
                name: np.where(mixed_in[:, None] if column.ndim > 1 else mixed_in, getattr(other, name), column)
                for name, column in vars(rows).items()
                if column is not None
            }
            rows = Rows(**columns)
        return dataclasses.replace(rows, ancestors=above)

    @functools.cached_property
    def _pretraining(self) -> PcfgConfig:
        return _mixture(self, operators=self.mix_operators, operand_prior=self.mix_operand_prior)

    def _sample_text(
        self, rng: np.random.Generator, ancestors: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.int16] | None]:
        if self.correlation is None:
            if self.spread_counts:
                return spread_texts(self, rng, BLOCK, None), None
            return self._grammar.sample_windows(rng, BLOCK, self.text_length, ancestors=ancestors)
        return self._planting.draw(rng, rng.random(BLOCK) < self.correlation), None

    @property
    def _planting(self) -> Planting:
        return Planting(self, self.operators[0])

    def _ask(
        self,
        rng: np.random.Generator,
        operator: NDArray[np.int64],
        operand: NDArray[np.int64],
        text: NDArray[np.int8],
    ) -> Rows:
        """Ask every text its question and answer it."""
        ids, base = self.word_ids, self.symbols.index(self.base_operand)
        label, answer, operator_id, operand_id, parameter = np.empty((5, BLOCK), np.int64)
        correlated = np.empty(BLOCK, bool)
        for number, name in enumerate(self.operators):
            asked = operator == number if len(self.operators) > 1 else slice(None)
            symbol = np.full_like(operand[asked], base) if OPERATORS[name].operands == "base" else operand[asked]
            label[asked] = self._label(rng, name, text[asked], symbol)
            correlated[asked] = self.is_correlated(name, text[asked])
            answer[asked] = self.answer_ids(name, label[asked])
            operator_id[asked] = ids[name]
            operand_id[asked] = np.array([ids[self.operand_word(name, each)] for each in self.symbols])[symbol]
            parameter[asked] = ids[str(self.parameter(name))]
        token_ids = encode_rows(
            self, operator=operator_id, operand=operand_id, parameter=parameter,
            text=ids[self.symbols[0]] + text.astype(np.int64), answer=answer,
        )  # fmt: skip
        return Rows(token_ids, label, correlated)

    def _label(
        self, rng: np.random.Generator, operator: str, text: NDArray[np.int8], symbol: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if self.label_rule == "swapped":
            base, other = (self.symbols.index(name) for name in (self.base_operand, self.correlated_operand))
            symbol = np.where(symbol == base, other, np.where(symbol == other, base, symbol))
        label = self.answers(operator, text, symbol)
        return rng.permutation(label) if self.label_rule == "random" else label


def _check_operators(setting: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in OPERATORS:
            raise ValueError(f"{setting}: unknown {name!r}, expected some of {', '.join(OPERATORS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{setting}: {' '.join(names)!r}, expected at least one and none twice")


def _mixture(shape: PcfgShape, **asked: Any) -> PcfgConfig:
    """Other questions about the texts of ``shape``; everything that is not named has its default."""
    settings = {each.name: getattr(shape, each.name) for each in dataclasses.fields(PcfgShape)}
    return PcfgConfig(**settings, **asked)


def for_capability(shape: PcfgShape, capability: Capability, correlation: float | None = None) -> PcfgConfig:
    """Rows that ask for one capability only, with a planted correlation or without.

    Args:
        shape: its grammar, lengths and offset; a whole :class:`PcfgConfig` will do, what it asks is left aside.
        capability: a task token and its operand as prompts name it (``null`` for ``token_at``).
        correlation: share of correlated texts; None for texts as in pretraining.

    Raises:
        ValueError: the task token has no such operand, or the correlation cannot be planted.
    """
    words = [shape.operand_word(capability.operator, symbol) for symbol in shape.symbols]
    if capability.operand not in words:
        raise ValueError(f"operand: {capability.operator} has no operand {capability.operand!r}")
    if OPERATORS[capability.operator].operands == "base" and capability.operand != shape.base_operand:
        raise ValueError(
            f"operand: {capability.operator} is about {shape.base_operand} alone, not {capability.operand}"
        )
    asked = words.index(capability.operand)  # token_at: the first; it is drawn and not shown
    prior = [str(float(number == asked)) for number in range(len(words))]
    return _mixture(shape, operators=[capability.operator], operand_prior=prior, correlation=correlation)


def _can_be_planted(shape: PcfgShape, capability: Capability) -> bool:
    """Whether enough labels of what is asked occur with the correlation and without."""
    try:
        return bool(len(for_capability(shape, capability, 0.0)._planting.labels))
    except ValueError:
        return False
