"""Settings that the benchmarks have in common: with which seed they draw, and where their numbers go."""

from __future__ import annotations

from dataclasses import dataclass, field

JSON = {"place": "output", "help": "where the numbers go"}


@dataclass(frozen=True, kw_only=True)
class SeedConfig:
    """The seed of weights and rows of a benchmark that draws them once: what is asked is how long it takes."""

    seed: int = field(default=0, metadata={"help": "of weights and rows"})

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed}, expected 0 or more")

    @property
    def seeds(self) -> list[int]:
        """All seeds that it draws with."""
        return [self.seed]
