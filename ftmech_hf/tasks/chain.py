"""What comes next? The exact next-symbol distribution of a grammar, for whole strings and for windows of them.

A grammar is read from left to right as a Markov chain. Its state is the *stack*: the symbols still to be expanded, in
order. One step takes the first symbol of the stack, expands it down to its first terminal, emits that, and leaves the
rest. A grammar without recursion has finitely many stacks (363 at the nano scale, 7,032 for the paper's), so forward
probabilities are exact. Where there are more than ``max_states``, the most probable ones are kept, and every answer
comes with a bound on what the others could change.

**Windows.** A window of W symbols starts uniformly at one of the ``n - W + 1`` places of a string of n symbols. With L
symbols before and R behind it, its weight is ``1 / (L + R + 1)``, the integral of ``x ** L * x ** R`` over x from 0 to
1. Gauss-Legendre nodes turn that into a sum over a few x in which left and right side are independent: the left side is
a generating function of where a window may start, the right side one of how many symbols may follow.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ftmech_hf.tasks.grammar import Grammar

MAX_STATES = 20_000
MAX_NODES = 64
BATCH_NUMBERS = 4_000_000
"""Numbers held at once per forward step, which bounds memory (32 MB each)."""
CHECKPOINT = 16
NEGLIGIBLE = 1e-30
"""With recursion there is always another stack; the first that is less probable than this, and all after it, are left
out, and counted as lost."""
Floats = NDArray[np.float64]
Stack = tuple[str, ...]


@dataclass(frozen=True)
class NextSymbolResult:
    """Next-symbol distributions at every position of a batch of texts.

    Attributes:
        probabilities: (B, T, V) for windows, before each of its T symbols; (B, T + 1, V + 1) for prefixes of whole
            strings, the last column being the end. Rows after an impossible symbol are NaN.
        log_likelihood: log-probability in nats of each text as a window, or as the beginning of a string, (B,).
        error: bound on how far any of ``probabilities`` may be off, per text and position; zero up to rounding if the
            grammar has no recursion.
    """

    probabilities: Floats
    log_likelihood: Floats
    error: Floats


class GrammarChain:
    """A grammar as a Markov chain over stacks; build it once per grammar and use it for many texts."""

    def __init__(self, grammar: Grammar, *, max_states: int = MAX_STATES) -> None:
        self.grammar = grammar
        self.num_terminals = len(grammar.terminals)
        self._explore(max_states)

    def _explore(self, max_states: int) -> None:
        """Number the stacks, the most probable first, and tabulate the steps between them."""
        terminals = {name: number for number, name in enumerate(self.grammar.terminals)}
        ids: dict[Stack, int] = {(self.grammar.root,): 0}
        todo: list[tuple[float, int, Stack]] = [(-1.0, 0, (self.grammar.root,))]
        entries: list[tuple[int, int, int, float]] = []
        kept = {0}
        while todo and len(kept) <= max_states:
            mass, source, stack = heapq.heappop(todo)
            if self.grammar.is_recursive and -mass < NEGLIGIBLE:
                break
            kept.add(source)
            for (terminal, rest), probability in self._step(stack).items():
                if rest not in ids:
                    ids[rest] = len(ids)
                    if rest:
                        heapq.heappush(todo, (mass * probability, ids[rest], rest))
                    else:
                        kept.add(ids[rest])
                entries.append((terminals[terminal], source, ids[rest], probability))
        self.num_states = len(ids)
        self.end = np.zeros(self.num_states)
        if () in ids:
            self.end[ids[()]] = 1.0
        self.steps = []  # one matrix per terminal: [stack before, stack after] = probability
        for number in range(self.num_terminals):
            rows, columns, values = zip(*[e[1:] for e in entries if e[0] == number] or [(0, 0, 0.0)], strict=True)
            self.steps.append(sparse.csr_array((values, (rows, columns)), shape=(self.num_states, self.num_states)))
        self.step = functools.reduce(operator.add, self.steps)
        # What a stack loses by steps that were not followed, the stacks never expanded losing everything.
        self.lost = np.clip(1 - np.asarray(self.step.sum(axis=1)).ravel() - self.end, 0, None)
        self.lost[self.lost < 1e-12] = 0.0

    def _step(self, stack: Stack) -> dict[tuple[str, Stack], float]:
        """Expand the first symbol down to its first terminal, in all ways worth following."""
        found: dict[tuple[str, Stack], float] = {}
        todo = [(stack, 1.0)]
        while todo:
            (first, *rest), probability = todo.pop()
            if first not in self.grammar.rules:
                key = first, tuple(rest)
                found[key] = found.get(key, 0.0) + probability
            elif probability > 1e-15:  # left recursion never ends; what is dropped counts as lost
                todo += [((*rhs, *rest), probability * p) for rhs, p in self.grammar.rules[first]]
        return found

    @functools.cached_property
    def total_lost(self) -> float:
        """Probability that a string passes through stacks that were not kept; 0 if the chain is complete."""
        if not self.lost.any():
            return 0.0
        return float(sum(mass @ self.lost for mass in self._walk()))

    def _walk(self) -> Iterator[Floats]:
        """Distribution over stacks before each symbol of a random string, until all strings have ended."""
        mass: Floats = np.zeros(self.num_states)
        mass[0] = 1.0
        while mass.sum() > 1e-16:
            yield mass
            mass = self.step.T @ mass

    def next_symbol(self, texts: NDArray[np.integer]) -> NextSymbolResult:
        """Next-symbol distributions given the beginning of a whole string.

        Args:
            texts: terminal ids (B, T); each row is taken as the first T symbols of a string, T may be 0.
        """
        start = np.zeros((self.num_states, 1))
        start[0] = 1.0
        ones = np.ones_like(start)

        def weights() -> Iterator[Floats]:
            return itertools.repeat(ones)

        return self._forward(np.asarray(texts), start, weights, with_end=True, loss=self.total_lost)

    def window_next_symbol(self, windows: NDArray[np.integer]) -> NextSymbolResult:
        """Next-symbol distributions within windows drawn by :meth:`Grammar.sample_windows`.

        Args:
            windows: terminal ids (B, W), whole windows: their length enters the answer.

        Raises:
            ValueError: strings of the grammar are never that long.
        """
        windows = np.asarray(windows)
        left, right, error = self._window_edges(windows.shape[1])

        def weights() -> Iterator[Floats]:
            return self._end_weights(right, windows.shape[1])

        return self._forward(windows, left, weights, with_end=False, loss=error)

    def _window_edges(self, width: int) -> tuple[Floats, Floats, float]:
        """Generating functions of both sides of a window, (stacks, nodes), and what they may be off by."""
        lengths = np.array([float(mass @ self.end) for mass in self._walk()])  # lengths[n] = P(n symbols)
        spare = lengths[width:]
        if spare.sum() <= 0:
            raise ValueError(f"text_length: strings of root {self.grammar.root!r} are never {width} symbols long")
        nodes, node_weights = np.polynomial.legendre.leggauss(min(MAX_NODES, len(spare) // 2 + 1))
        nodes, node_weights = (nodes + 1) / 2, node_weights / 2
        surplus = np.arange(len(spare))
        by_quadrature = nodes ** surplus[:, None] @ node_weights  # should be 1 / (surplus + 1)
        error = float(spare @ np.abs(by_quadrature * (surplus + 1) - 1) / spare.sum())
        left, right = np.zeros((2, self.num_states, len(nodes)))
        power = np.ones(len(nodes))
        for mass in self._walk():
            left += mass[:, None] * power
            power = power * nodes
        more = np.repeat(self.end[:, None], len(nodes), axis=1)
        while more.max() > 1e-17:
            right += more
            more = (self.step @ more) * nodes
        error = error if error > 1e-12 else 0.0
        return left * node_weights / spare.sum(), right, error + self.total_lost / float(spare.sum())

    def _end_weights(self, right: Floats, width: int) -> Iterator[Floats]:
        """``step ** k @ right`` for k = width, ..., 0; recomputed from checkpoints, since all would not fit."""
        saved, current = {0: right}, right
        for k in range(1, width + 1):
            current = self.step @ current
            if k % CHECKPOINT == 0:
                saved[k] = current
        for base in sorted(saved, reverse=True):
            block = [saved.pop(base)]
            while len(block) < CHECKPOINT and base + len(block) <= width:
                block.append(self.step @ block[-1])
            yield from reversed(block)

    def _forward(
        self,
        texts: NDArray[np.integer],
        start: Floats,
        weights: Callable[[], Iterator[Floats]],
        *,
        with_end: bool,
        loss: float,
    ) -> NextSymbolResult:
        per_batch = max(1, BATCH_NUMBERS // start.size)
        parts = [
            self._forward_batch(texts[first : first + per_batch], start, weights(), with_end)
            for first in range(0, len(texts), per_batch)
        ]
        probabilities, log_mass, log_likelihood = (np.concatenate(each) for each in zip(*parts, strict=True))
        if not loss:
            return NextSymbolResult(probabilities, log_likelihood, np.zeros_like(log_mass))
        # With mass m kept and at most ``loss`` left out, a share of m is off by at most loss / (m + loss).
        with np.errstate(over="ignore"):
            error = np.minimum(loss * np.exp(-log_mass), 1.0)
        return NextSymbolResult(probabilities, log_likelihood, error)

    def _forward_batch(
        self, texts: NDArray[np.integer], start: Floats, weights: Iterator[Floats], with_end: bool
    ) -> tuple[Floats, Floats, Floats]:
        """(probabilities, log of the mass left before each position, log-likelihood of the texts)."""
        num_texts, length = texts.shape
        shape = (self.num_states, num_texts, start.shape[1])
        now = np.broadcast_to(start[:, None], shape)
        probabilities = np.empty((num_texts, length + with_end, self.num_terminals + with_end))
        log_mass = np.empty((num_texts, length + with_end))
        log_scale, log_likelihood = np.zeros((2, num_texts))
        next(weights)
        for place in range(length + with_end):
            flat = np.ascontiguousarray(now).reshape(self.num_states, -1)
            after = [(step.T @ flat).reshape(shape) for step in self.steps]
            weight = next(weights)
            share = np.stack([np.einsum("sbq,sq->b", each, weight) for each in after], axis=1)
            if with_end:
                share = np.column_stack([share, self.end @ flat])
            mass = share.sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                probabilities[:, place] = share / mass[:, None]
                log_mass[:, place] = np.log(mass) + log_scale
                if place == length:
                    break
                observed = texts[:, place]
                chosen = np.log(share[np.arange(num_texts), observed]) - np.log(mass)
                log_likelihood += np.where(mass > 0, chosen, -np.inf)
            now = sum(each * (observed == terminal)[:, None] for terminal, each in enumerate(after))
            scale = now.max(axis=(0, 2))
            scale = np.where(scale > 0, scale, 1.0)
            now = now / scale[:, None]
            log_scale += np.log(scale)
        return probabilities, log_mass, log_likelihood
