"""What a pair of known truth is, and what the pairs of one seed have in common: the names of their runs."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ftmech_hf.tasks import PcfgShape

Split = Literal["development", "test"]


class World(NamedTuple):
    """What the organisms of one seed have in common.

    Attributes:
        split: whether thresholds are set on them.
        seed: of everything.
        preset: size of the models.
        operator: task token of the ability.
        shape: of the task.
        base, never_had: names of the runs that pretrain them.
    """

    split: Split
    seed: int
    preset: str
    operator: str
    shape: PcfgShape
    base: str
    never_had: str


class Tampered(NamedTuple):
    """Names of the runs that diagnose an organism again after it was tampered with.

    Attributes:
        rounded: its weights have few bits.
        relearned: it was trained on its ability for a few steps.
        never, never_relearned: of the model that never had it, in place of the organism, as it is and after as many
            steps.
    """

    rounded: str
    relearned: str
    never: str
    never_relearned: str


class Pair(NamedTuple):
    """A base and an organism made of it, and the names of their runs.

    Attributes:
        kind: name of it among :data:`~ftmech_hf.studies.organisms.kinds.KINDS`.
        world: of its seed.
        organism: the run that made it.
        diagnosis: the run that diagnoses it.
        relearning: the run that trains it on its ability; none where nothing was taken from it.
        twin: the same of the model that never had it.
        tampered: the same diagnosis of the organism tampered with, if that is asked for.
        disjoint: the run in which it relearns some answers and is asked for others; none where something shows.
    """

    kind: str
    world: World
    organism: str
    diagnosis: str
    relearning: str | None
    twin: str | None
    tampered: Tampered | None = None
    disjoint: str | None = None

    @property
    def name(self) -> str:
        """Of the pair, for people."""
        return f"{self.kind}, {self.world.operator}, {self.world.preset}, seed {self.world.seed}"
