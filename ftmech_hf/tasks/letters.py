"""The data of the compiled programs (Jain et al., arXiv 2311.12786, App. B.1): letters, and one answer about them.

A row is ``<bos> LETTERS ANSWER <eos>``. There is no question in it: a compiled program has one, and fine-tuning gives
it another, so that the same rows are judged by the answer of pretraining (``o_pt``) and by that of fine-tuning
(``o_ft``).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks import operators as ops
from ftmech_hf.tasks.mixtures import plant_correlation
from ftmech_hf.tasks.programs import Program, counter, letter_words, max_identifier
from ftmech_hf.tasks.schema import BLOCK, BOS, EOS, LETTERS_TEXT, Rows, Task
from ftmech_hf.tasks.spelling import spell

Texts = NDArray[np.int8]


LONGEST = 4096
"""Letters of a text at most: every number of them is an answer there can be, and so a token."""


@dataclass(frozen=True, kw_only=True)
class LettersConfig(Task):
    """What the two tasks share; each adds its operands, its texts and its answers."""

    text = LETTERS_TEXT

    letters: int = field(default=9, metadata={"help": "the first letters of the alphabet that texts are made of"})
    length: int = field(default=45, metadata={"help": "letters in a text"})
    operand: str = field(default="a", metadata={"help": "what the answers are about"})
    base_operand: str = field(default="a", metadata={"help": "O_PT, what the compiled program answers about"})
    correlated_operand: str = field(default="b", metadata={"help": "O_FT, what fine-tuning is about"})
    correlation: float | None = field(
        default=None, metadata={"help": "C_Tr: share of texts with the planted correlation; none for untouched texts"}
    )
    correlation_offset: int = field(
        default=1, metadata={"help": "q: the correlation is answer(O_FT) = answer(O_PT) + q"}
    )

    program_name: ClassVar[str]

    def __post_init__(self) -> None:
        letter_words(self.letters)
        if not 1 <= self.length <= LONGEST:
            raise ValueError(f"length: {self.length}, expected 1 to {LONGEST}")
        if self.correlation is not None and not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation: {self.correlation}, expected a share between 0 and 1")
        for name in ("operand", "base_operand", "correlated_operand"):
            if getattr(self, name) not in self.operand_names:
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(self.operand_names)}")
        if self.base_operand == self.correlated_operand:
            raise ValueError(f"correlated_operand: {self.correlated_operand!r} is base_operand, expected another")

    @property
    def operator_names(self) -> tuple[str, ...]:
        """The program, which no row names."""
        return (self.program_name,)

    @property
    def operand_names(self) -> tuple[str, ...]:
        """What can be asked about."""
        raise NotImplementedError

    @property
    def output_words(self) -> tuple[str, ...]:
        """The answers there can be; an answer's label is its place among them."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """That of the compiled program."""
        letters = letter_words(self.letters)
        return spell(letters, self.output_words).vocabulary

    @property
    def row_length(self) -> int:
        """Tokens of a row."""
        return self.length + 3

    @abstractmethod
    def program(self, operand: str | None = None) -> Program:
        """The RASP program that answers about an operand, ``base_operand`` if none is given."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, number: int) -> Texts:
        """Draw texts (number, length) of letter ids."""

    @abstractmethod
    def answers(self, texts: Texts, operand: str) -> NDArray[np.int64]:
        """The right answers about texts (B, T), as labels (B,)."""

    def is_correlated(self, texts: Texts) -> NDArray[np.int64]:
        """Whether the correlation holds in texts (B, T): 0 or 1, (B,)."""
        base, other = (self.answers(texts, operand) for operand in (self.base_operand, self.correlated_operand))
        return (other == base + self.correlation_offset).astype(np.int64)

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """Draw a block of rows."""
        if self.correlation is None:
            texts = self.draw(rng, BLOCK)
        else:
            wanted = (rng.random(BLOCK) < self.correlation).astype(np.int64)
            texts = plant_correlation(
                wanted,
                lambda number: self.draw(rng, number),
                self.is_correlated,
                lambda cell: f"{'' if cell else 'un'}correlated with offset {self.correlation_offset}",
            )
        label = self.answers(texts, self.operand)
        return Rows(self.encode(texts, label), label, self.is_correlated(texts).astype(bool))

    def encode(self, texts: Texts, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (B, T + 3) of texts (B, T) and labels (B,)."""
        place = {word: number for number, word in enumerate(self.vocabulary)}
        answers = np.array([place[word] for word in self.output_words])
        rows = np.empty((len(texts), texts.shape[1] + 3), np.int64)
        rows[:, 0], rows[:, -1] = place[BOS], place[EOS]
        rows[:, 1:-2] = place["a"] + texts.astype(np.int64)
        rows[:, -2] = answers[label]
        return rows

    def question(self, token_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows ask nothing: all of them are about ``operand``."""
        nothing = np.zeros(len(token_ids), np.int64)
        return nothing, nothing + self.operand_names.index(self.operand), nothing - 1

    def test_tasks(self) -> dict[str, Task]:
        """Both operands on texts without and with the correlation: ``o_pt_cte0`` to ``o_ft_cte1`` (Table 3)."""
        operands = {"o_pt": self.base_operand, "o_ft": self.correlated_operand}
        return {
            f"{name}_cte{correlation}": dataclasses.replace(self, operand=operand, correlation=float(correlation))
            for name, operand in operands.items()
            for correlation in (0, 1)
        }


@dataclass(frozen=True, kw_only=True)
class CounterConfig(LettersConfig):
    """How many times does a letter stand in the text? Letters are drawn uniformly, with replacement."""

    program_name = "counter"

    @property
    def operand_names(self) -> tuple[str, ...]:
        """Letters."""
        return letter_words(self.letters)

    @property
    def output_words(self) -> tuple[str, ...]:
        """Counts, from 0."""
        return tuple(str(count) for count in range(self.length + 1))

    def program(self, operand: str | None = None) -> Program:
        """Counts ``operand``."""
        return counter(operand=operand or self.base_operand, letters=self.letters, length=self.length)

    def draw(self, rng: np.random.Generator, number: int) -> Texts:
        """Uniform letters."""
        return rng.integers(0, self.letters, (number, self.length), np.int8)

    def answers(self, texts: Texts, operand: str) -> NDArray[np.int64]:
        """Counts."""
        return ops.count(texts, self.operand_names.index(operand), texts.shape[1])


@dataclass(frozen=True, kw_only=True)
class MaxIdentifierConfig(LettersConfig):
    """Which letter is the fifth (or seventh, ...) in the alphabet among the text's? All of a text's letters differ."""

    letters: int = field(default=26, metadata={"help": "the first letters of the alphabet that texts are made of"})
    length: int = field(default=10, metadata={"help": "letters in a text"})
    operand: str = field(default="5", metadata={"help": "which letter the answers name, by its rank"})
    base_operand: str = field(default="5", metadata={"help": "O_PT, the rank that the compiled program names"})
    correlated_operand: str = field(default="7", metadata={"help": "O_FT, the rank that fine-tuning is about"})
    correlation_offset: int = field(
        default=3, metadata={"help": "q: letter(O_FT) stands q letters after letter(O_PT) in the alphabet"}
    )

    program_name = "max_identifier"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length > self.letters:
            raise ValueError(f"length: {self.length} different letters, but letters: {self.letters}")

    @property
    def operand_names(self) -> tuple[str, ...]:
        """Ranks, from 1."""
        return tuple(str(rank) for rank in range(1, self.length + 1))

    @property
    def output_words(self) -> tuple[str, ...]:
        """Letters."""
        return letter_words(self.letters)

    def program(self, operand: str | None = None) -> Program:
        """Names the letter of rank ``operand``."""
        return max_identifier(rank=int(operand or self.base_operand), letters=self.letters, length=self.length)

    def draw(self, rng: np.random.Generator, number: int) -> Texts:
        """Different letters in random order."""
        return rng.random((number, self.letters)).argsort(axis=1)[:, : self.length].astype(np.int8)

    def answers(self, texts: Texts, operand: str) -> NDArray[np.int64]:
        """Letter ids."""
        return ops.ranked(texts, int(operand))
