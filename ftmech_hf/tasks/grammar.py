"""Probabilistic context-free grammars: rules from YAML, validated, and a fast sampler of strings and windows.

A grammar file names its root, its terminals and its rules. A rule lists its productions, equally likely, or maps each
to its probability::

    root: s
    terminals: [a, b]
    rules:
      s: [a s b, a b]
      t: {a: 0.9, b: 0.1}
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ftmech_hf.config import ConfigError, parse_yaml, read_yaml
from ftmech_hf.tasks.sampling import Sampler, Strings

PRESETS = Path(__file__).parent / "grammars"
"""A file ``NAME.yaml`` here is the preset NAME."""

Production = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Grammar:
    """A PCFG without empty productions and without endless strings.

    Attributes:
        rules: nonterminal -> its (right-hand side, probability) pairs.
        terminals: the alphabet; terminal id t stands for ``terminals[t]``.
        root: the start symbol.

    Raises:
        ValueError: an undefined or doubly defined symbol, probabilities that do not sum to 1, a rule that leads back
            to itself alone, or strings whose expected length is infinite; names the rule.
    """

    rules: Mapping[str, tuple[Production, ...]]
    terminals: tuple[str, ...]
    root: str

    def __post_init__(self) -> None:
        if self.root not in self.rules:
            raise ValueError(f"root: {self.root!r} has no rules, expected one of {' '.join(self.rules)}")
        if len(self.terminals) > np.iinfo(np.int8).max:
            raise ValueError(f"grammar: {len(self.terminals)} terminals, expected at most {np.iinfo(np.int8).max}")
        for symbol in self.rules:
            self._check_productions(symbol)
        self._check_unit_cycles()
        self._check_finite()

    def _check_productions(self, symbol: str) -> None:
        if symbol in self.terminals:
            raise ValueError(f"grammar: {symbol!r} is a terminal and has rules too")
        total = sum(probability for _, probability in self.rules[symbol])
        if abs(total - 1) > 1e-6 or not all(0 < p <= 1 for _, p in self.rules[symbol]):
            raise ValueError(f"grammar: the probabilities of {symbol!r} are not above 0 with sum 1 (sum {total:g})")
        for rhs, _ in self.rules[symbol]:
            if not rhs:
                raise ValueError(f"grammar: {symbol!r} has an empty production, expected at least one symbol")
            for name in rhs:
                if name not in self.rules and name not in self.terminals:
                    raise ValueError(f"grammar: {name!r} in a production of {symbol!r} is neither rule nor terminal")

    def _check_finite(self) -> None:
        # Branching-process theory: the expected number of symbols after d levels goes as the d-th power of the mean
        # offspring matrix; its sum over levels is finite if and only if the spectral radius is below 1.
        radius = float(np.abs(np.linalg.eigvals(self._mean_offspring())).max())
        if radius > 1 - 1e-9:
            raise ValueError(
                f"grammar: strings of root {self.root!r} have no finite expected length "
                f"(a level of rules multiplies its symbols by {radius:.3g}); make the recursive productions rarer"
            )

    def _check_unit_cycles(self) -> None:
        reachable = self.reachable(self.root)
        unit = {s: {rhs[0] for rhs, _ in self.rules[s] if len(rhs) == 1 and rhs[0] in self.rules} for s in reachable}
        closure = dict(unit)
        for _ in unit:
            closure = {s: seen.union(*(unit[t] for t in seen)) for s, seen in closure.items()}
        for symbol, seen in closure.items():
            if symbol in seen:
                raise ValueError(f"grammar: {symbol!r} leads back to {symbol!r} alone, so a string has endless parses")

    def _mean_offspring(self) -> NDArray[np.float64]:
        names = [symbol for symbol in self.rules if symbol in self.reachable(self.root)]
        place = {name: number for number, name in enumerate(names)}
        mean = np.zeros((len(names), len(names)))
        for symbol in names:
            for rhs, probability in self.rules[symbol]:
                for child in rhs:
                    if child in place:
                        mean[place[symbol], place[child]] += probability
        return mean

    def reachable(self, symbol: str) -> set[str]:
        """The nonterminals that occur in derivations of ``symbol``, itself included."""
        found, todo = {symbol}, [symbol]
        while todo:
            children = {child for rhs, _ in self.rules[todo.pop()] for child in rhs if child in self.rules}
            todo += children - found
            found |= children
        return found

    @property
    def symbols(self) -> tuple[str, ...]:
        """Terminals, then nonterminals: a symbol id is a position here."""
        return (*self.terminals, *self.rules)

    @functools.cached_property
    def is_recursive(self) -> bool:
        """Whether a symbol can occur below itself, so that derivations have no greatest depth."""
        power = self._mean_offspring() > 0
        for _ in range(len(power).bit_length()):
            power = power | (power @ power)
        return bool(power.diagonal().any())

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self)

    def sample(self, rng: np.random.Generator, num_strings: int, *, ancestors: bool = False) -> Strings:
        """Draw whole strings; the same ones whether or not their ``ancestors`` are asked for."""
        return self._sampler.sample(rng, num_strings, ancestors)

    def sample_windows(
        self, rng: np.random.Generator, num_windows: int, length: int, *, ancestors: bool = False
    ) -> tuple[NDArray[np.int8], NDArray[np.int16] | None]:
        """Draw strings and cut one window out of each, its start uniform over the string (paper, App. B.2).

        The paper does not say what happens to the quarter of its strings that are shorter than its window; here they
        are drawn again, so the strings behind the windows are the grammar's, given that they are long enough.

        Returns:
            windows (num_windows, length), int8 terminal ids; and their ancestors (num_windows, levels, length), see
            :class:`Strings`, or None.

        Raises:
            ValueError: strings of this grammar are (almost) never that long.
        """
        windows, above = [], []
        missing = num_windows
        for _ in range(100):
            strings = self.sample(rng, missing, ancestors=ancestors)
            spare = np.diff(strings.starts) - length
            offsets = strings.starts[:-1] + (rng.random(missing) * (spare + 1)).astype(np.int64)
            offsets = offsets[spare >= 0]
            if len(offsets):
                # rows of this view are windows; taking them copies each at once
                windows.append(np.lib.stride_tricks.sliding_window_view(strings.symbols, length)[offsets])
                if strings.ancestors is not None:
                    view = np.lib.stride_tricks.sliding_window_view(strings.ancestors, length, axis=1)
                    above.append(view[:, offsets].transpose(1, 0, 2))
            missing -= len(offsets)
            if not missing:
                return np.concatenate(windows), _stack_levels(above) if above else None
        raise ValueError(f"text_length: strings of root {self.root!r} are (almost) never {length} symbols long")


def _stack_levels(parts: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Join (B, levels, T) arrays along B; with recursion the number of levels differs between draws."""
    levels = max(part.shape[1] for part in parts)
    fill = [((0, 0), (0, levels - part.shape[1]), (0, 0)) for part in parts]
    return np.concatenate([np.pad(p, f, constant_values=-1) for p, f in zip(parts, fill, strict=True)])


def parse_rules(content: Any) -> tuple[dict[str, tuple[Production, ...]], tuple[str, ...], str]:
    """Read the content of a grammar file: (rules, terminals, root).

    Raises:
        ValueError: it does not look like one, or has rules that its root cannot reach; names the entry.
    """
    if not isinstance(content, Mapping) or set(content) != {"root", "terminals", "rules"}:
        shown = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"grammar: expected the entries root, terminals and rules, found {shown}")
    if not isinstance(content["rules"], Mapping) or not isinstance(content["terminals"], list):
        raise ValueError("grammar: expected 'rules' to map symbols to productions and 'terminals' to be a list")
    terminals = tuple(str(name) for name in content["terminals"])
    if len(set(terminals)) != len(terminals) or any(" " in name or not name for name in terminals):
        raise ValueError(f"grammar: the terminals {' '.join(terminals)!r} are not different single words")
    rules = {str(symbol): _parse_productions(str(symbol), value) for symbol, value in content["rules"].items()}
    root = str(content["root"])
    unreachable = set(rules) - Grammar(rules, terminals, root).reachable(root)
    if unreachable:
        raise ValueError(f"grammar: root {root!r} never leads to the rules of {' '.join(sorted(unreachable))}")
    return rules, terminals, root


def _parse_productions(symbol: str, value: Any) -> tuple[Production, ...]:
    if isinstance(value, Mapping):
        if not all(isinstance(share, int | float) for share in value.values()):
            raise ValueError(f"grammar: the productions of {symbol!r} need a number each, as in {{a b: 0.7, b: 0.3}}")
        return tuple((tuple(str(text).split()), float(share)) for text, share in value.items())
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"grammar: the productions of {symbol!r} should be a list such as [a b, b], found {value!r}")
    return tuple((tuple(text.split()), 1 / len(texts)) for text in texts)


def inline_grammar(grammar: str) -> str:
    """Make a ``grammar`` setting independent of files: a preset stays a name, a YAML file becomes one line of rules.

    So the saved settings of a run hold the grammar itself, and their hash follows its rules.
    """
    if (PRESETS / f"{grammar}.yaml").is_file() or grammar.lstrip().startswith("{"):
        return grammar
    if not grammar.endswith((".yaml", ".yml")):
        raise ValueError(
            f"grammar: unknown {grammar!r}, expected one of {', '.join(preset_names())}, or a file ending in .yaml"
        )
    try:
        content = read_yaml(grammar)
    except ConfigError as error:
        raise ValueError(f"grammar: {error}") from None
    parse_rules(content)
    text = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return " ".join(text.split())


def preset_names() -> list[str]:
    """The grammars that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


@functools.cache
def load_grammar(grammar: str, root: str | None = None) -> Grammar:
    """The grammar of a ``grammar`` setting (preset, file, or rules in one line), at its own root or another one."""
    inline = inline_grammar(grammar)
    if inline.lstrip().startswith("{"):
        content = parse_yaml(inline, f"grammar: {inline[:60]!r}")
    else:
        content = read_yaml(str(PRESETS / f"{inline}.yaml"))
    rules, terminals, own_root = parse_rules(content)
    return Grammar(rules, terminals, root or own_root)
