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
from ftmech_hf.tasks.rules import Production, Rules
from ftmech_hf.tasks.sampling import Sampler, Strings

PRESETS = Path(__file__).parent / "grammars"
"""A file ``NAME.yaml`` here is the preset NAME."""


@dataclass(frozen=True)
class Grammar(Rules):
    """Rules that strings and windows can be drawn from."""

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self)

    def sample(self, rng: np.random.Generator, num_strings: int, *, ancestors: bool = False) -> Strings:
        """Draw whole strings; the same ones whether or not their ``ancestors`` are requested."""
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
    unreachable = set(rules) - Rules(rules, terminals, root).reachable(root)
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

    Raises:
        ValueError: neither a preset nor a file, or a file that holds no grammar.
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
