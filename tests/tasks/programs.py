"""One truth table for the two compiled programs, used at every floor: interpreter, operators, tasks and models."""

from __future__ import annotations

from ftmech_hf.tasks.programs import Program, counter, max_identifier

# operand, text, answer
COUNTER = [
    ("a", "ab", "1"),
    ("b", "ab", "1"),
    ("a", "bb", "0"),
    ("a", "aaaaa", "5"),
    ("b", "aaaaa", "0"),
    ("a", "acabc", "2"),
    ("b", "acabc", "1"),
    ("c", "acabc", "2"),
]
MAX_IDENTIFIER = [
    ("5", "bdafhmxpqn", "h"),  # the paper's example
    ("7", "bdafhmxpqn", "n"),
    ("1", "bdafhmxpqn", "a"),
    ("10", "bdafhmxpqn", "x"),
    ("2", "ca", "c"),
    ("1", "ca", "a"),
    ("3", "dbeca", "c"),
]
TRUTH: list[tuple[Program, str, str, str]] = [
    *((counter(operand=operand, letters=3, length=5), operand, text, answer) for operand, text, answer in COUNTER),
    *((max_identifier(rank=int(operand)), operand, text, answer) for operand, text, answer in MAX_IDENTIFIER),
]
"""(program, operand, text, answer at index 1)"""
