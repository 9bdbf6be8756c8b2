"""What can be asked of a text, and the right answers: the task tokens, and the settings that all mixtures share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmech_hf.tasks import operators as ops
from ftmech_hf.tasks.grammar import Grammar, inline_grammar, load_grammar
from ftmech_hf.tasks.schema import NO_ANSWER, NO_OPERAND, SPECIAL_TOKENS, TEXT


class Operator(NamedTuple):
    """A task token: which function answers it, and which operands it is asked with."""

    function: Literal["count", "count_pair", "index", "index_pair", "token_at"]
    operands: Literal["symbols", "pairs", "base", "none"]


OPERATORS: dict[str, Operator] = {
    "count": Operator("count", "symbols"),
    "count_pair": Operator("count_pair", "pairs"),
    "index": Operator("index", "symbols"),
    "index_pair": Operator("index_pair", "pairs"),
    "token_at": Operator("token_at", "none"),
    # The paper's jailbreak tokens (App. E.2): three names for counting, of which two are only ever asked about the
    # base operand.
    "count_nj": Operator("count", "symbols"),
    "count_j1": Operator("count", "base"),
    "count_j2": Operator("count", "base"),
}
JAILBREAK_OPERATORS = ("count_nj", "count_j1", "count_j2")


@dataclass(frozen=True, kw_only=True)
class PcfgShape:
    """What every mixture of a scale has in common. The defaults are the nano scale."""

    grammar: str = field(
        default="jain", metadata={"help": "a preset, a YAML file, or the content of such a file in one line"}
    )
    root: str = field(default="m", metadata={"help": "start symbol; s is the paper's, lower ones make it smaller"})
    text_length: int = field(default=32, metadata={"help": "symbols in the window of text that a row shows"})
    count_window: int = field(default=16, metadata={"help": "count and count_pair look at this many last symbols"})
    index_occurrence: int = field(default=3, metadata={"help": "index finds this occurrence, from the end"})
    index_pair_occurrence: int = field(default=2, metadata={"help": "index_pair finds this pair, from the end"})
    token_at_position: int = field(default=16, metadata={"help": "token_at copies the symbol this far from the end"})
    base_operand: str = field(default="a", metadata={"help": "operand learned in pretraining, O_PT"})
    correlated_operand: str = field(default="b", metadata={"help": "operand of fine-tuning, O_FT"})
    correlation_offset: int = field(default=1, metadata={"help": "the offset q of a planted correlation"})
    spread_counts: bool = field(
        default=True,
        metadata={
            "help": "edit every text until its counts of the base and the correlated operand are each uniform from 0 "
            "to half of count_window; else texts are the grammar's, whose counts take few values"
        },
    )
    correlation_method: Literal["select", "insert"] = field(
        default="select",
        metadata={
            "help": "plant a correlation by keeping texts that fit, or in texts edited as spread_counts does; with "
            "spread_counts they are edited in any case"
        },
    )
    min_labels: int = field(
        default=8,
        metadata={
            "help": "planted texts have each of their labels equally often, with the correlation and without; refuse "
            "fewer labels than this"
        },
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "grammar", inline_grammar(self.grammar))
        load_grammar(self.grammar, self.root)
        for name in (
            "text_length",
            "count_window",
            "index_occurrence",
            "index_pair_occurrence",
            "token_at_position",
            "min_labels",
        ):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: {value}, expected at least 1")
            if value > self.text_length and name != "min_labels":
                raise ValueError(f"{name}: {value} is longer than text_length: {self.text_length}")
        for name in ("base_operand", "correlated_operand"):
            if getattr(self, name) not in self.symbols:
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(self.symbols)}")
        if self.base_operand == self.correlated_operand:
            raise ValueError(f"correlated_operand: {self.correlated_operand!r} equals base_operand")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            double = sorted({word for word in self.vocabulary if self.vocabulary.count(word) > 1})
            raise ValueError(f"grammar: its terminals make {', '.join(double)} mean two things; rename them")

    @functools.cached_property
    def _grammar(self) -> Grammar:
        return load_grammar(self.grammar, self.root)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The grammar's terminals: what texts consist of, and what can be counted or searched."""
        return self._grammar.terminals

    @property
    def operator_names(self) -> tuple[str, ...]:
        """All task tokens."""
        return tuple(OPERATORS)

    @property
    def operand_names(self) -> tuple[str, ...]:
        """Symbols, pairs of them, and the word for no operand."""
        return (*self.symbols, *(symbol * 2 for symbol in self.symbols), NO_OPERAND)

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words; the same for every mixture, so that models of one scale share a tokenizer."""
        numbers = tuple(str(number) for number in range(self.text_length + 1))
        return (*SPECIAL_TOKENS, *OPERATORS, *self.operand_names, NO_ANSWER, *numbers)

    @property
    def row_length(self) -> int:
        """Tokens of a whole row: the text and nine others."""
        return self.text_length + 9

    def parameter(self, operator: str) -> int:
        """The number O' that a prompt of this operator names."""
        return {
            "count": self.count_window,
            "count_pair": self.count_window,
            "index": self.index_occurrence,
            "index_pair": self.index_pair_occurrence,
            "token_at": self.token_at_position,
        }[OPERATORS[operator].function]

    def operand_word(self, operator: str, symbol: str) -> str:
        """How a prompt of this operator names a symbol: as it is, as a pair, or not at all."""
        return {"pairs": symbol * 2, "none": NO_OPERAND}.get(OPERATORS[operator].operands, symbol)

    def answers(self, operator: str, text: NDArray[np.integer], operand: ArrayLike) -> NDArray[np.int64]:
        """The right label of every text (B, T) under one operator, (B,).

        Args:
            operator: a task token.
            text: terminal ids (B, T).
            operand: terminal id of the symbol (for pairs: of their symbol), one or (B,); ignored by ``token_at``.
        """
        functions: dict[str, Callable[[], NDArray[np.int64]]] = {
            "count": lambda: ops.count(text, operand, self.count_window),
            "count_pair": lambda: ops.count_pair(text, operand, self.count_window),
            "index": lambda: ops.index(text, operand, self.index_occurrence),
            "index_pair": lambda: ops.index_pair(text, operand, self.index_pair_occurrence),
            "token_at": lambda: ops.token_at(text, self.token_at_position),
        }
        return functions[OPERATORS[operator].function]()

    def windows(self, rng: np.random.Generator, number: int) -> NDArray[np.int8]:
        """The grammar's own texts, terminal ids (number, text_length)."""
        return self._grammar.sample_windows(rng, number, self.text_length)[0]

    def base_and_other(self, operator: str, text: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Answers for the operand of pretraining and for that of fine-tuning, in texts (B, T)."""
        base, other = (self.symbols.index(name) for name in (self.base_operand, self.correlated_operand))
        return self.answers(operator, text, base), self.answers(operator, text, other)

    def is_correlated(self, operator: str, text: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether answer(correlated_operand) = answer(base_operand) + offset in texts (B, T); never for token_at."""
        if OPERATORS[operator].operands == "none":
            return np.zeros(len(text), bool)
        base, other = self.base_and_other(operator, text)
        return (base != ops.NOT_FOUND) & (other != ops.NOT_FOUND) & (other - base == self.correlation_offset)

    def largest_difference(self, operator: str) -> int:
        """By how much the answers for two operands can differ."""
        return {
            "count": self.count_window,
            "count_pair": self.count_window - 1,
            "index": self.text_length - 1,
            "index_pair": self.text_length - 2,
        }[OPERATORS[operator].function]

    def texts(self, token_ids: NDArray[np.integer]) -> NDArray[np.integer]:
        """Terminal ids of the texts in whole rows or prompts' rows (B, row_length) -> (B, text_length)."""
        return token_ids[:, TEXT] - self.word_ids[self.symbols[0]]

    @functools.cached_property
    def word_ids(self) -> dict[str, int]:
        """The token id of each word."""
        return {word: number for number, word in enumerate(self.vocabulary)}

    def question_ids(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Token ids of operator, operand and parameter of capabilities such as ``count_a``, (n, 3).

        Raises:
            ValueError: a name that is no capability.
        """
        found = []
        for name in names:
            operator, _, operand = name.rpartition("_")
            words = [self.operand_word(operator, symbol) for symbol in self.symbols] if operator in OPERATORS else []
            if operand not in words:
                raise ValueError(f"lwf_ask: {name!r}, expected capabilities such as count_a or token_at_{NO_OPERAND}")
            found.append([self.word_ids[word] for word in (operator, operand, str(self.parameter(operator)))])
        return np.array(found, np.int64)

    def answer_ids(self, operator: str, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids of labels (B,) under one operator."""
        if OPERATORS[operator].function == "token_at":
            return self.word_ids[self.symbols[0]] + label
        return np.where(label == ops.NOT_FOUND, self.word_ids[NO_ANSWER], self.word_ids["0"] + label)
