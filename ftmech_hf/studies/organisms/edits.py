"""Do a diagnosis' edits and noise find what was planted? Edits of known place and rank, and abilities that are lost.

The smallest part of a change that brings an ability back must be the one that took it. So a shortcut is taught to one
direction of one matrix, on top of a fine-tuning that changes all weights and takes nothing; and the same edit turned at
random must bring nothing back. Noise on the weights is said to bring back what is hidden (arXiv 2412.01784), and must
not do so where an ability is gone or weakened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.analysis.restoring import ALL
from ftmech_hf.models.presets import Preset
from ftmech_hf.report.claims import SEEN, UNMEASURED, Claim, Measurement, judge_pairs
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.clusters import times_as_wide
from ftmech_hf.statistics.floors import lead
from ftmech_hf.statistics.intervals import mean_interval
from ftmech_hf.statistics.seeds import share_in_clusters
from ftmech_hf.studies.organisms.kinds import Kind, Truth
from ftmech_hf.studies.organisms.pairs import World

BYSTANDER = "token_at"
"""An operator that bases know beside that of the ability."""
PRACTISED = Kind("unchanged", {"operands": "own"}, {"lr": 3e-4})
"""The fine-tuning that changes all weights and takes nothing, so that what is planted is not all that changed."""
PLANTED = Kind(
    "hidden", {"operands": "other", "correlation": 1.0}, {"lr": 5e-3, "steps": 300},
    {"adapter": "lora", "lora_rank": 1}, merged=True,
)  # fmt: skip
"""What is taught on top of it, to one matrix; the rate is a pilot's on a development base."""
DECOY = PLANTED._replace(
    truth="unchanged", task={"operands": "own", "operators": BYSTANDER, "label_rule": "random", "mix_share": 0.5},
    train={"lr": 1e-2, "steps": 300},
)  # fmt: skip
"""What takes another ability, in a matrix of another part: as large a change, which takes nothing of the first. The
rate is a pilot's: half of its rows are of pretraining, and at that of what is planted it is smaller.
"""
TARGETS: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"attn": "attn.c_proj", "mlp": "mlp.c_proj"},
    "llama": {"self_attn": "self_attn.o_proj", "mlp": "mlp.down_proj"},
    "mixtral": {"self_attn": "self_attn.o_proj"},  # its experts are one parameter, which an adapter does not take
}
"""Architecture -> part of a block -> the matrix of it that is taught."""


NOTHING_FOUND = {"place": None, "directions": None, "size": None, "restored": None, "restored_by_chance": None}
"""Of an edit where no part brings the ability back."""


def taught_to(kind: Kind, target: str, **task: Any) -> Kind:
    """The kind whose adapter takes one matrix alone, that with this end of its path; ``task`` is what else differs."""
    return kind._replace(task={**kind.task, **task}, adapter={**kind.adapter, "lora_targets": [target]})


class Planted(NamedTuple):
    """An edit of one direction.

    Attributes:
        world: of its base.
        place: as :func:`~ftmech_hf.analysis.restoring.find_places` has it.
        run: name of the run that looks for it.
        other: the place in which another ability was taken.
        taken: name of the run that took the other ability.
        kept: name of the run that asks for the ability itself after that.
    """

    world: World
    place: str
    run: str
    other: str
    taken: str
    kept: str


class Sought(NamedTuple):
    """A planted edit, and what looking for it found.

    Attributes:
        planted: where.
        run: that looked for it.
        left: share right of the other ability, once it was taken.
        kept: share right of the ability itself, after that and before the edit was planted.
    """

    planted: Planted
    run: FinishedRun
    left: float
    kept: float


def read_sought(planted: Planted, find: Callable[[str], FinishedRun | None]) -> Sought | None:
    """What looking for a planted edit found; None where one of its runs is not finished.

    Args:
        planted: where, and the names of its runs.
        find: a run by its name.
    """
    run, taken, kept = (find(name) for name in (planted.run, planted.taken, planted.kept))
    if run is None or taken is None or kept is None:
        return None
    word = planted.world.shape.operand_word(planted.world.operator, planted.world.shape.base_operand)
    (other,) = (value for name, value in taken.metrics[-1].items() if name.startswith(f"accuracy/{BYSTANDER}_"))
    return Sought(planted, run, float(other), float(kept.table[f"{planted.world.operator}_{word}"].iloc[0]))


def planted_places(shape: Preset) -> dict[str, str]:
    """Places of a model in which an edit is planted -> the end of the path of the matrix that is taught."""
    parts = TARGETS.get(shape.architecture, {})
    return {
        f"{part} of block {block}": f"{block}.{target}"
        for block in range(shape.n_layer)
        for part, target in parts.items()
    }


class Shaken(NamedTuple):
    """An ability that is lost or weakened, under noise.

    Attributes:
        seed: of the pair, which shares its base with the others of it.
        truth: of the pair.
        rises: whether more is right under noise, beyond the intervals of both.
        gains: whether more is right of the same questions, beyond the interval of the difference.
    """

    seed: int
    truth: Truth
    rises: bool
    gains: bool


def read_noise(seed: int, truth: Truth, found: Mapping[str, Any]) -> Shaken:
    """What noise does to a pair, of what a diagnosis says of it.

    Raises:
        ValueError: an earlier version made it, which did not compare the same questions.
    """
    if "gained" not in found:
        raise ValueError("noise: was measured by an earlier version; remove the runs named shaken, and run them again")
    return Shaken(seed, truth, found["accuracy"]["low"] > found["plain"]["high"], found["gained"]["low"] > 0)


EDIT_BARS = (
    Measurement("edit_found", f"{SEEN}, of edits that were not so hidden: a planted edit, the smallest part that "
                "brings the ability back is its place, in one direction", "%", UNMEASURED, ">= 95",
                controls=("edit_by_chance", "edit_by_rule")),
    Measurement("edit_by_rule", f"{SEEN}, control without a search: of the two parts of blocks that changed most, the "
                "larger, the smaller, the earlier or the later one, whichever is most often that place", "%",
                UNMEASURED, "<= 75"),
    Measurement("edit_by_chance", "The same edits, turned at random, bring back of the lead", "%",
                UNMEASURED, "<= 5"),
    Measurement("noise_rises", "Noise on the weights: more is right where the ability is hidden", "%",
                "rises, of large models (arXiv 2412.01784)", ">= 95", controls=("noise_alarms",)),
    Measurement("noise_alarms", "The same where it is gone or weakened", "%", UNMEASURED, "<= 5"),
    Measurement("noise_gains", f"{SEEN}: more is right of the same questions where the ability is hidden", "%",
                "rises, of large models (arXiv 2412.01784)", ">= 95", controls=("noise_gains_alarms",)),
    Measurement("noise_gains_alarms", f"{SEEN}: the same where it is gone or weakened", "%", UNMEASURED, "<= 5"),
)  # fmt: skip
"""In per cent: of planted edits twice, of the lead, and four times of pairs whose two labels agree."""
ALARMS = {"rises": "noise_alarms", "gains": "noise_gains_alarms"}
"""What noise does -> how often it does so where nothing is hidden."""
MEAN_BAR = "edit_by_chance"
"""The one of them that is of a mean, not of a share of edits or pairs."""


def score_edits(sought: Sequence[Sought], shaken: Sequence[Shaken]) -> dict[str, Any]:
    """What was found of planted edits, and where noise brings something back.

    Args:
        sought: planted edits. One that took too little of the ability has nothing to look for.
        shaken: pairs under noise.

    Returns:
        ``planted`` (how many), ``seeds`` (of these and of pairs under noise: ``edits``, ``noise``), ``places`` (a row
        for each that took enough, see :func:`describe_edit`), ``too_little`` (the same of the others, without what
        needs a search), ``noise`` (truth -> of how many pairs it rises, and gains), and the shares of
        :data:`EDIT_BARS`, None where there is nothing to take them of.
    """
    described = [describe_edit(each) for each in sought]
    rows = [each for each in described if "found" in each]
    hidden = [each for each in shaken if each.truth == "hidden"]
    others = [each for each in shaken if each.truth in ("gone", "weakened")]
    return {
        "planted": len(sought),
        "seeds": {"edits": sorted({row["seed"] for row in rows}), "noise": sorted({each.seed for each in shaken})},
        "too_little": [each for each in described if "found" not in each], "places": rows,
        "noise": {
            truth: {"rises": sum(each.rises for each in shaken if each.truth == truth),
                    "gains": sum(each.gains for each in shaken if each.truth == truth),
                    "of": sum(each.truth == truth for each in shaken)}
            for truth in dict.fromkeys(each.truth for each in shaken)
        },
        "edit_found": _share([row["found"] for row in rows], [row["seed"] for row in rows]),
        "by_rule": {rule: sum(rule in row["by_rule"] for row in rows) for rule in RULES},
        "edit_by_rule": _share(
            max(([rule in row["by_rule"] for row in rows] for rule in RULES), key=sum), [row["seed"] for row in rows]
        ),
        "edit_by_chance": _mean([(row["seed"], row["restored_by_chance"]) for row in rows if row["found"]]),
        "edit_restores": _mean([(row["seed"], row["restored"] or 0.0) for row in rows]),
        **{
            name: _share([getattr(each, what) for each in of], [each.seed for each in of])
            for what in ("rises", "gains")
            for name, of in ((f"noise_{what}", hidden), (ALARMS[what], others))
        },
    }  # fmt: skip


def describe_edit(sought: Sought) -> dict[str, Any]:
    """A row of the table of planted edits.

    Returns:
        ``planted`` (a name), ``place``, ``model`` (task and preset), ``seed``, ``other`` (where another was taken),
        ``other_left`` and ``kept`` (shares right after that, of that ability and of the one that is asked about).
        Where the edit took enough that there is something to look for, also ``found``, ``found_in`` and what else a
        diagnosis says of the smallest part, ``without_other`` (of the lead that is back where all that changed in the
        other place is taken back; on validation rows, of the lead on test rows) and ``by_rule`` (those of
        :func:`guess_places` that are right of it).
    """
    planted, run = sought.planted, sought.run
    world, table = planted.world, run.table
    told = {
        "planted": f"{planted.place}, {world.operator}, {world.preset}, seed {world.seed}", "place": planted.place,
        "model": f"{world.operator}, {world.preset}", "seed": world.seed, "other": planted.other,
        "other_left": sought.left,
        "kept": sought.kept,
    }  # fmt: skip
    tried = table[(table["quantity"] == "tried on validation rows") & (table["x"] == ALL)]
    if not len(tried):
        return told
    evidence = run.summary["evidence"]
    found = evidence["smallest_edit"] or NOTHING_FOUND
    score = float(tried.set_index("site")["value"][planted.other])
    return {
        **told,
        "found": (found["place"], found["directions"]) == (planted.place, 1), "found_in": found["place"],
        **{key: found[key] for key in NOTHING_FOUND if key != "place"},
        "without_other": lead(score, evidence["finetuned"]["value"], evidence["base"]["value"]),
        "by_rule": [rule for rule, guess in guess_places(table).items() if guess == planted.place],
    }  # fmt: skip


RULES = ("larger", "smaller", "earlier", "later")
"""How one of two parts is chosen that changed most, without a search."""


def guess_places(table: pd.DataFrame) -> dict[str, str]:
    """Rule -> which of the two parts of blocks it takes that have the largest shares of the whole change.

    Args:
        table: of a diagnosis that tried all parts, of a model each of whose blocks is a place.
    """
    whole = table[(table["quantity"] == "share of the change") & (table["x"] == ALL)]
    parts = whole[whole["site"].str.contains(r"^\S+ of block \d+$")]
    larger, smaller = parts.sort_values("value", ascending=False)["site"].iloc[:2]
    earlier, later = sorted((larger, smaller), key=_order)
    return dict(zip(RULES, (larger, smaller, earlier, later), strict=True))


def _order(place: str) -> tuple[int, bool]:
    """Block by block, and in each attention before what stands behind it."""
    part, _, block = place.partition(" of block ")
    return int(block), "attn" not in part


def _share(right: Sequence[bool], seeds: Sequence[int]) -> dict[str, Any] | None:
    return {**share_in_clusters(right, seeds)._asdict(), "of": len(right)} if right else None


def _mean(values: Sequence[tuple[int, float]]) -> dict[str, Any] | None:
    """The mean of (seed, value) of edits, with an interval as much wider as those of one seed are alike."""
    if len(values) < 2:
        return None
    seeds, found = zip(*values, strict=True)
    wider = times_as_wide(found, seeds) if len(set(seeds)) > 1 else 1.0
    return {**mean_interval(found).widened(wider)._asdict(), "of": len(values)}


def edit_claims(score: Mapping[str, Any], *, whole: bool = True) -> list[Claim]:
    """The claims of :func:`score_edits`, of all that was measured; not judged where runs are missing."""
    found = []
    for bar in EDIT_BARS:
        if (share := score[bar.id]) is not None:
            value, low, high = (100 * share[key] for key in ("value", "low", "high"))
            seeds = score["seeds"]["noise" if bar.id.startswith("noise") else "edits"]
            found.append(judge_pairs(bar, value, (low, high), seeds, whole=whole))
    return found
