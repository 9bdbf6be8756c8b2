"""The procedural task of Jain et al. (arXiv 2311.12786): counting, indexing and copying on text from a PCFG.

A row is ``<bos> OPERATOR OPERAND PARAMETER <sot> TEXT <eot> = ANSWER <eos>``, for example
``<bos> count a 16 <sot> a b c ... <eot> = 5 <eos>``: how many of the last 16 symbols are a's?
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks import operators as ops
from ftmech_hf.tasks.grammar import GRAMMARS, Grammar, load_grammar
from ftmech_hf.tasks.mixtures import insert_operands, parse_prior, plant_correlation
from ftmech_hf.tasks.schema import ART, BLOCK, BOS, EOS, EOT, SOT, SPECIAL_TOKENS, Capability, Rows

OPERATORS = ("count", "index", "token_at")
NO_OPERAND, NO_ANSWER = "null", "none"


@dataclass(frozen=True, kw_only=True)
class PcfgShape:
    """What every mixture of a scale has in common. The defaults are the nano scale."""

    grammar: str = field(default="jain", metadata={"help": "preset grammar"})
    root: str = field(default="m", metadata={"help": "start symbol; s is the paper's, lower ones make it smaller"})
    text_length: int = field(default=32, metadata={"help": "symbols in the window of text that a row shows"})
    count_window: int = field(default=16, metadata={"help": "count looks at this many last symbols"})
    index_occurrence: int = field(default=3, metadata={"help": "index finds this occurrence, from the end"})
    token_at_position: int = field(default=16, metadata={"help": "token_at copies the symbol this far from the end"})
    base_operand: str = field(default="a", metadata={"help": "operand learned in pretraining, O_PT"})
    correlated_operand: str = field(default="b", metadata={"help": "operand of fine-tuning, O_FT"})
    correlation_offset: int = field(default=1, metadata={"help": "the offset q of a planted correlation"})
    correlation_method: Literal["select", "insert"] = field(
        default="select", metadata={"help": "keep natural texts that fit, or insert operands as the paper does"}
    )

    def __post_init__(self) -> None:
        if self.grammar not in GRAMMARS:
            raise ValueError(f"grammar: unknown {self.grammar!r}, expected one of {', '.join(GRAMMARS)}")
        load_grammar(self.grammar, self.root)
        for name in ("text_length", "count_window", "index_occurrence", "token_at_position"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: {value}, expected at least 1")
            if value > self.text_length:
                raise ValueError(f"{name}: {value} is longer than text_length: {self.text_length}")
        for name in ("base_operand", "correlated_operand"):
            if getattr(self, name) not in self.operands:
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(self.operands)}")
        if self.base_operand == self.correlated_operand:
            raise ValueError(f"correlated_operand: {self.correlated_operand!r} equals base_operand")
        if abs(self.correlation_offset) > self.text_length:
            raise ValueError(
                f"correlation_offset: {self.correlation_offset} is out of reach of text_length: {self.text_length}"
            )

    @property
    def _grammar(self) -> Grammar:
        return load_grammar(self.grammar, self.root)

    @property
    def operands(self) -> tuple[str, ...]:
        """What can be counted or searched: the grammar's terminals."""
        return self._grammar.terminals

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All words; the same for every mixture, so that models of one scale share a tokenizer."""
        numbers = tuple(str(number) for number in range(self.text_length + 1))
        return (*SPECIAL_TOKENS, *OPERATORS, *self.operands, NO_OPERAND, NO_ANSWER, *numbers)

    @property
    def row_length(self) -> int:
        """Tokens of a whole row: the text and nine others."""
        return self.text_length + 9

    def parameter(self, operator: str) -> int:
        """The number O' that a prompt of this operator names."""
        return {
            "count": self.count_window,
            "index": self.index_occurrence,
            "token_at": self.token_at_position,
        }[operator]

    def answers(self, operator: str, text: NDArray[np.integer], operand: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The right label of every text (B, T) under one operator, (B,)."""
        functions: dict[str, Callable[[], NDArray[np.int64]]] = {
            "count": lambda: ops.count(text, operand, self.count_window),
            "index": lambda: ops.index(text, operand, self.index_occurrence),
            "token_at": lambda: ops.token_at(text, self.token_at_position),
        }
        return functions[operator]()

    def is_correlated(self, operator: str, text: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether answer(correlated_operand) = answer(base_operand) + offset in texts (B, T); never for token_at."""
        if operator == "token_at":
            return np.zeros(len(text), bool)
        base, other = (self.operands.index(name) for name in (self.base_operand, self.correlated_operand))
        base_answer = self.answers(operator, text, base)
        other_answer = self.answers(operator, text, other)
        found = (base_answer != ops.NOT_FOUND) & (other_answer != ops.NOT_FOUND)
        return found & (other_answer - base_answer == self.correlation_offset)

    @functools.cached_property
    def _word_ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    def answer_ids(self, operator: str, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids of labels (B,) under one operator."""
        if operator == "token_at":
            return self._word_ids[self.operands[0]] + label
        return np.where(label == ops.NOT_FOUND, self._word_ids[NO_ANSWER], self._word_ids["0"] + label)

    def for_capability(self, capability: Capability, correlation: float | None = None) -> PcfgConfig:
        """Rows that ask for one capability only, with a planted correlation or untouched text."""
        prior = [str(float(name == capability.operand)) for name in self.operands]
        if capability.operand == NO_OPERAND:
            prior = ["1.0", *["0.0"] * (len(self.operands) - 1)]  # drawn and not shown
        shape = {each.name: getattr(self, each.name) for each in dataclasses.fields(PcfgShape)}
        return PcfgConfig(**shape, operators=[capability.operator], operand_prior=prior, correlation=correlation)


@dataclass(frozen=True, kw_only=True)
class PcfgConfig(PcfgShape):
    """A distribution over rows: a shape, and what is asked how often."""

    operators: list[str] = field(
        default_factory=lambda: list(OPERATORS), metadata={"help": "task families, equally likely"}
    )
    operand_prior: list[str] = field(
        default_factory=lambda: ["high"],
        metadata={"help": "P_T(O): low, medium, high, control, a, b, c, or one probability per operand"},
    )
    correlation: float | None = field(
        default=None,
        metadata={
            "help": "share of rows in which answer(correlated_operand) = answer(base_operand) + correlation_offset, "
            "never in the rest; none for untouched text"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.operators:
            if name not in OPERATORS:
                raise ValueError(f"operators: unknown {name!r}, expected some of {', '.join(OPERATORS)}")
        if not self.operators or len(set(self.operators)) != len(self.operators):
            raise ValueError(f"operators: {' '.join(self.operators)!r}, expected at least one and none twice")
        parse_prior(self.operand_prior, len(self.operands))
        if self.correlation is None:
            return
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation: {self.correlation}, expected a probability between 0 and 1")
        if self.operators not in (["count"], ["index"]):
            raise ValueError(
                f"correlation: {self.correlation} needs operators: count or index alone, got {' '.join(self.operators)}"
            )

    def _sample_text(self, rng: np.random.Generator) -> NDArray[np.int8]:
        def draw(number: int) -> NDArray[np.int8]:
            texts = self._grammar.sample_windows(rng, number, self.text_length)
            if self.correlation is not None and self.correlation_method == "insert":
                operand = self.operands.index(self.correlated_operand)
                texts = insert_operands(rng, texts, operand, self.count_window)
            return texts

        if self.correlation is None:
            return draw(BLOCK)
        wanted = rng.random(BLOCK) < self.correlation
        return plant_correlation(wanted, draw, lambda text: self.is_correlated(self.operators[0], text))

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """Draw a block of rows; see :class:`ftmech_hf.tasks.schema.RowStream`."""
        operator = rng.integers(0, len(self.operators), BLOCK)
        operand = rng.choice(len(self.operands), BLOCK, p=parse_prior(self.operand_prior, len(self.operands)))
        text = self._sample_text(rng)
        label, correlated = np.empty(BLOCK, np.int64), np.empty(BLOCK, bool)
        for number, name in enumerate(self.operators):
            asked = operator == number
            label[asked] = self.answers(name, text[asked], operand[asked])
            correlated[asked] = self.is_correlated(name, text[asked])
            if name == "token_at":
                operand[asked] = -1
        return Rows(self._encode(operator, operand, text, label), label, operator, operand, correlated)

    def _encode(
        self,
        operator: NDArray[np.int64],
        operand: NDArray[np.int64],
        text: NDArray[np.int8],
        label: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        ids = self._word_ids
        first_terminal = ids[self.operands[0]]
        rows = np.empty((len(text), self.row_length), np.int64)
        rows[:, 0], rows[:, 4], rows[:, -4], rows[:, -3], rows[:, -1] = (ids[t] for t in (BOS, SOT, EOT, ART, EOS))
        rows[:, 2] = np.where(operand < 0, ids[NO_OPERAND], first_terminal + operand)
        rows[:, 5:-4] = first_terminal + text
        for number, name in enumerate(self.operators):
            asked = operator == number
            rows[asked, 1] = ids[name]
            rows[asked, 3] = ids[str(self.parameter(name))]
            rows[asked, -2] = self.answer_ids(name, label[asked])
        return rows

    def describe_row(self, rows: Rows, number: int) -> dict[str, Any]:
        """Row ``number`` of ``rows`` in the columns of :data:`ftmech_hf.tasks.schema.FEATURES`."""
        words = [self.vocabulary[token] for token in rows.token_ids[number]]
        return {
            "prompt": " ".join(words[:-2]),
            "completion": " " + " ".join(words[-2:]),
            "operator": words[1],
            "operand": words[2],
            "parameter": int(words[3]),
            "text": " ".join(words[5:-4]),
            "answer": words[-2],
            "label": int(rows.label[number]),
            "correlated": bool(rows.correlated[number]),
        }
