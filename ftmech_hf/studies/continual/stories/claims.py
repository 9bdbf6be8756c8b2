"""What is claimed of deleting features of stories one after another, and measured of it in each seed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import pandas as pd

from ftmech_hf.analysis.continual import ContinualResult, measure_continual
from ftmech_hf.report.claims import Measurement
from ftmech_hf.report.readings import Missing, Reading, Unit, difference, read_all
from ftmech_hf.studies.continual.claims import SeedMatrix
from ftmech_hf.studies.continual.stories.features import NOT_ASKED
from ftmech_hf.studies.continual.stories.plan import CHAINS, DELETED, FIRST, KEPT
from ftmech_hf.tasks.stories import FEATURES

SEQUENCE, ANY = "stories", "any"
"""What the matrix calls this sequence, and that of a model that is part of none."""

BEST = "ldifs-previous"
"""The LDIFS that claims are about: the paper's default anchor, as in the first sequence."""

TWIST = DELETED[:1]

SAYS: tuple[tuple[str, str, Unit], ...] = (
    ("left", "left of a feature right after its deletion", "%"),
    ("end", "left of all three in the end", "%"),
    ("twist", "twists in the end", "%"),
    ("loss", "loses of what no task is about", "points"),
)
"""What is measured of every chain, and how it is said."""


def _gates(features: tuple[str, ...]) -> tuple[str, ...]:
    """The claims that the base writes some features: of one that it does not write nothing can be deleted or kept."""
    return tuple(f"gate_{each}" for each in features)


# The bars were set before any seed that is reported was run.
MEASUREMENTS: tuple[Measurement, ...] = (
    *(Measurement(f"gate_{each}", f"Base: writes {each} when asked", "%", bar=">= 80") for each in FEATURES),
    Measurement("gate_not_asked", "Base: writes a feature when not asked, mean of six", "%", bar="<= 10"),
    Measurement("left", "Fine-tuning deletes: left of a feature right after its deletion", "%", bar="<= 20",
                controls=_gates(DELETED)),
    Measurement("loss", "Three deletions lose of the features that no task is about", "points", bar=">= 10",
                controls=("loss_null", *_gates(KEPT))),
    Measurement("loss_null", "Control, tuning that deletes nothing, loses of these", "points", bar="<= 5"),
    Measurement("habit", "After three deletions these features are written when not asked", "%", bar="<= 10"),
    Measurement("back", "Twist, deleted first, comes back while others are deleted, by", "points", bar=">= 10",
                controls=("back_null", "back_more")),
    Measurement("back_null", "Control, tuning that deletes nothing: twists gained between the same steps", "points",
                bar="<= 5"),
    Measurement("back_more", "Deleting others brings back more of it than tuning that deletes nothing, by", "points",
                bar=">= 10"),
    Measurement("ldifs_back", "LDIFS: fewer twists in the end, by", "points", bar=">= 10",
                controls=("ldifs_random", "ldifs_twist_left")),
    Measurement("ldifs_random", "Control, LDIFS near random weights: fewer twists in the end, by", "points",
                bar="<= 5"),
    Measurement("ldifs_left", "What that rests on: LDIFS leaves more of a feature right after its deletion, by",
                "points", bar="<= 5"),
    Measurement("ldifs_twist_left", "The same of twists alone: LDIFS leaves more right after their deletion, by",
                "points", bar="<= 5"),
    Measurement("replay_back", "Replay: fewer twists in the end, by", "points", bar=">= 10",
                controls=("replay_faint", "replay_twist_left")),
    Measurement("replay_faint", "Control, replay of next to no rows: fewer twists in the end, by", "points",
                bar="<= 5"),
    Measurement("replay_left", "What that rests on: replay leaves more of a feature right after its deletion, by",
                "points", bar="<= 5"),
    Measurement("replay_twist_left", "The same of twists alone: replay leaves more right after their deletion, by",
                "points", bar="<= 5"),
    Measurement("ldifs_kept", "LDIFS loses less of the features that no task is about, by", "points", bar=">= 3",
                controls=("ldifs_kept_random", "ldifs_left", *_gates(KEPT))),
    Measurement("ldifs_kept_random", "Control, LDIFS near random weights loses less of them, by", "points",
                bar="<= 3"),
    Measurement("replay_kept", "Replay loses less of the features that no task is about, by", "points", bar=">= 3",
                controls=("replay_kept_faint", "replay_left", *_gates(KEPT))),
    Measurement("replay_kept_faint", "Control, replay of next to no rows loses less of them, by", "points",
                bar="<= 3"),
    Measurement("probes", "Probes at the best layer lose of the three deleted features", "points",
                "negligible (figures)", "<= 5", controls=("probes_shuffled", "probes_twin")),
    Measurement("probes_shuffled", "Control, probes on shuffled labels: above the most frequent answer, by", "points",
                bar="<= 5"),
    Measurement("probes_twin", "Control, probes of random weights: below those of the base, by", "points", bar=">= 5"),
    Measurement("probes_kept", "Probes at the best layer lose of the features that no task is about", "points"),
    *(
        Measurement(f"of_{name}_{what}", f"{chain.says}: {says}", unit)
        for name, chain in CHAINS.items()
        for what, says, unit in SAYS
    ),
)  # fmt: skip


class StoryMatrix(SeedMatrix):
    """What the models of one seed write.

    Args:
        table: of the seed, as :class:`~ftmech_hf.studies.continual.claims.SeedMatrix` has it; its values by behaviour
            are shares of stories that have a feature, so that a task is learned where they are low.
        tasks: the features that are deleted, in their order.
    """

    def __init__(self, table: pd.DataFrame, tasks: tuple[str, ...] = DELETED) -> None:
        super().__init__(table, SEQUENCE, tasks, KEPT)

    def _texts(self, found: pd.DataFrame) -> int:
        """How many different stories there are: each is judged, and probed, for every feature."""
        if (found["by"] == "probe").any():
            return int(found["rows"].min())
        return min(int(found["rows"].sum()), self._written)

    @functools.cached_property
    def _written(self) -> int:
        """How many stories a model writes: those that are asked for a feature, and those that are not."""
        base = self.table[(self.table["method"] == "base") & (self.table["by"] == "behaviour")]
        return int(base.groupby("capability")["rows"].sum().max())

    def twists(self, name: str, after: int) -> Reading:
        """How often a twist is written when asked for."""
        return self.share(name, after, list(TWIST))

    def end(self, name: str, features: tuple[str, ...]) -> Reading:
        """How often features are written when asked for, after the last task."""
        return self.share(name, len(self.tasks), list(features))

    def fewer(self, name: str) -> Reading:
        """Points of twists in the end by which fine-tuning has more than another chain."""
        return difference(self.end(FIRST, TWIST), self.end(name, TWIST))

    def back(self, name: str) -> Reading:
        """Points of twists gained between the first task and the last."""
        return difference(self.end(name, TWIST), self.twists(name, 1))

    def result(self, method: str) -> ContinualResult:
        """All numbers of a chain that deletes; a task is learned as far as its feature is not written when asked."""
        models = [("base", 0), *((method, number) for number in range(1, len(self.tasks) + 1))]
        tuned = [1 - self.values(*each, self.tasks)["value"].to_numpy() for each in models]
        never = [self.values(*each, self.kept)["value"].to_numpy() for each in models]
        probes = None
        with contextlib.suppress(Missing):
            probes = [
                self.values(*each, self.kept, "probe", "best")["value"].to_numpy() for each in (models[0], models[-1])
            ]
        return measure_continual(tuned, never, probes=probes)


def _probes_lost(seed: StoryMatrix, features: tuple[str, ...]) -> Reading:
    models = ("base", 0), (FIRST, len(seed.tasks))
    return difference(*(seed.share(*each, list(features), "probe", "best") for each in models))


def _shuffled(seed: StoryMatrix) -> Reading:
    found = seed.values(FIRST, len(seed.tasks), list(DELETED), "probe", "best")
    rows = int(found["rows"].min())  # the stories are the same
    shuffled, most = (Reading(100 * float(found[column].mean()), rows=rows) for column in ("shuffled", "floor"))
    return difference(shuffled, most)


_MEASURES: dict[str, Callable[[StoryMatrix], Reading]] = {
    **{f"gate_{name}": lambda seed, name=name: seed.share("base", 0, [name])  # type: ignore[misc]
       for name in FEATURES},
    "gate_not_asked": lambda seed: seed.share("base", 0, list(FEATURES), site=NOT_ASKED),
    "left": lambda seed: seed.learned(FIRST),
    "loss": lambda seed: seed.lost(FIRST),
    "loss_null": lambda seed: seed.lost("nothing"),
    "habit": lambda seed: seed.share(FIRST, len(seed.tasks), list(KEPT), site=NOT_ASKED),
    "back": lambda seed: seed.back(FIRST),
    "back_null": lambda seed: seed.back("nothing"),
    "back_more": lambda seed: difference(seed.end(FIRST, TWIST), seed.end("twist-alone", TWIST)),
    "ldifs_back": lambda seed: seed.fewer(BEST),
    "ldifs_random": lambda seed: seed.fewer("ldifs-random"),
    "ldifs_left": lambda seed: difference(seed.learned(BEST), seed.learned(FIRST)),
    **{
        f"{method}_twist_left": lambda seed, name=name: difference(  # type: ignore[misc]
            seed.twists(name, 1), seed.twists(FIRST, 1))
        for method, name in (("ldifs", BEST), ("replay", "replay"))
    },
    "replay_back": lambda seed: seed.fewer("replay"),
    "replay_faint": lambda seed: seed.fewer("replay-faint"),
    "replay_left": lambda seed: difference(seed.learned("replay"), seed.learned(FIRST)),
    "ldifs_kept": lambda seed: seed.kept_more(BEST, FIRST),
    "ldifs_kept_random": lambda seed: seed.kept_more("ldifs-random", FIRST),
    "replay_kept": lambda seed: seed.kept_more("replay", FIRST),
    "replay_kept_faint": lambda seed: seed.kept_more("replay-faint", FIRST),
    "probes": lambda seed: _probes_lost(seed, DELETED),
    "probes_kept": lambda seed: _probes_lost(seed, KEPT),
    "probes_shuffled": _shuffled,
    "probes_twin": lambda seed: difference(
        seed.share("base", 0, list(DELETED), "probe", "best"), seed.share("random", 0, list(DELETED), "probe", "best")),
}  # fmt: skip


def measure(seed: StoryMatrix) -> dict[str, Reading]:
    """What is there of one seed; what rests on a run that is not finished is left out."""
    found = read_all(_MEASURES, seed)
    for name, chain in CHAINS.items():
        with contextlib.suppress(Missing):
            found[f"of_{name}_loss"] = seed.lost(name)
            found[f"of_{name}_end"] = seed.end(name, DELETED)
            found[f"of_{name}_twist"] = seed.end(name, TWIST)
            if chain.tasks == DELETED:
                found[f"of_{name}_left"] = seed.learned(name)
    return found
