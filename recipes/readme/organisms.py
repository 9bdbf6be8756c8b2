"""The tables of the study that scores verdicts, from the folder that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.organisms.figures import LABELS
from ftmech_hf.studies.organisms.kinds import TRUTH_OF
from recipes.readme.studies import claims_table
from recipes.readme.tables import markdown_table


def organisms_block(folder: Path) -> str:
    """Claims, truths beside verdicts, and areas under the curve of all methods, as Markdown."""
    score = json.loads((folder / "score.json").read_text(encoding="utf-8"))
    env = FinishedRun(folder).env
    seeds = ", ".join(map(str, score["seeds"]))
    source = (
        f"{score['pairs']} test pairs of seeds {seeds}, whose two labels agree ({len(score['disagree'])} more do not); "
        f"95 % intervals over pairs; {env.get('seconds', 0) / 60:.0f} minutes of one core; config hash "
        f"`{score['hash']}`; {describe_versions(env)}."
    )
    constant, share = score["constant"]
    areas = {"probability": score["auc"], **score["rivals"]}
    own, every = score["own_gone"], score["every_areas"]
    rows = [
        (LABELS[name], *("—" if each is None else f"{each:.3f}" for each in (area, every[name], own["areas"][name])),
         *_robustness(score["robustness"][name]))
        for name, area in areas.items()
    ]  # fmt: skip
    return "\n\n".join(
        [
            claims_table(folder, source, remarks=score["too_few"]),
            _truths(score),
            f"Always saying {constant} would be right in {share:.0%}.",
            _every(score["every"]),
            _of_seeds(score["of_seeds"]),
            markdown_table(
                (
                    "hidden above gone",
                    "area under the curve",
                    "of all lost pairs",
                    "above gone ones that had it",
                    "robustness",
                    "rounded",
                    "relearning",
                    "exactly",
                ),
                rows,
            ),
            f"Areas are of {_pairs_of(score['measured'])}{_robust_pairs(score['robustness']['probability'])}. "
            f"Of the gone pairs {own['pairs']} had the ability once, of which {own['right']} are called gone and "
            f"{own['undecided']} undecided; the others are made of the model that never had it, the control.",
            markdown_table(
                ("hidden or gone, decided by", "right", "wrong", "undecided"),
                [(name, *map(str, row.values())) for name, row in score["decisions"].items()],
            ),
            *edits_tables(score.get("edits")),
        ]
    )


_SHARES = {
    "size": "of the change", "restored": "bring back of the lead", "restored_by_chance": "turned at random",
    "without_other": "the other edit taken back", "kept": "right after the other edit",
    "other_left": "of what it took",
}  # fmt: skip
"""Of planted edits, by their key -> what a column of their mean is called."""


def edits_tables(found: Mapping[str, Any] | None) -> list[str]:
    """Planted edits by the model they are in and by their place, and what noise does by truth."""
    if not found:
        return []
    both = [*found["places"], *found["too_little"]]
    edits = pd.DataFrame(both, columns=["model", "place", "found", "by_rule", *_SHARES])
    looked_for = edits["found"].notna()
    # What nothing brings back has no part of its own, whose size or chance could be said.
    edits.loc[looked_for, "restored"] = edits.loc[looked_for, "restored"].fillna(0.0)
    # Where another part was found, its size and chance are none of what was planted.
    edits.loc[edits["found"].ne(True), ["size", "restored_by_chance"]] = float("nan")
    rules = f"of the two parts that changed most: the {', '.join(found['by_rule'])} one"
    tables = []
    for by, called in (("model", "planted edits, by task and model"), ("place", "planted edits, by place")):
        shares = list(_SHARES) if by == "model" else []
        rows = [
            (str(name), _found_of(each["found"]), *(
                "—" if each[key].isna().all() else f"{each[key].mean():.0%}" for key in shares),
             ", ".join(str(sum(rule in right for right in each["by_rule"].dropna())) for rule in found["by_rule"]))
            for name, each in edits.groupby(by, sort=by == "place")
        ]  # fmt: skip
        tables.append(markdown_table((called, "found", *(_SHARES[key] for key in shares), rules), rows))
    noise = [
        (truth, f"{each['rises']} of {each['of']}", f"{each['gains']} of {each['of']}")
        for truth, each in found["noise"].items()
    ]
    of_noise = ("truth", "more is right under noise, beyond both intervals", "beyond that of the difference")
    return [*(tables if both else []), markdown_table(of_noise, noise)]


def _found_of(found: pd.Series) -> str:
    """How many were found; of others there was nothing to look for."""
    looked_for = found.dropna()
    took_too_little = len(found) - len(looked_for)
    more = f" ({took_too_little} more took too little)" if took_too_little else ""
    return f"{int(looked_for.sum())} of {len(looked_for)}{more}"


def _every(found: Mapping[str, Any]) -> str:
    """How often each verdict is right, of all pairs by what was done to them."""
    each = ", ".join(
        f"*{verdict}* {rate['right']} of {rate['pairs']}"
        for verdict, rate in found["by_verdict"].items() if verdict in TRUTH_OF
    )  # fmt: skip
    right = found["right"]
    return (
        f"With the pairs whose two labels disagree, by what was done to each of the {found['pairs']}, the verdict is "
        f"right in {right['value']:.0%} ({100 * right['low']:.0f} to {right['high']:.0%}): {each}."
    )


def _of_seeds(found: Mapping[str, Mapping[str, int]]) -> str:
    """How often the verdict is right of each seed."""
    each = ", ".join(f"{counts['right']} of {counts['pairs']} of seed {seed}" for seed, counts in found.items())
    return f"Right are {each}."


def _pairs_of(measured: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {truth}" for truth, number in measured.items()) + " pairs whose signs were measured"


def _robust_pairs(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f", robustness is of {found['pairs']} of them, of seeds {', '.join(map(str, found['seeds']))}"


def _robustness(found: dict[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("—",) * 4
    share = found["robustness"]
    parts = (found[name] for name in ("quantisation", "relearning", "relearning_exact"))
    whole = f"{share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f})"
    return whole, *(f"{part:.3f}" for part in parts)


def _truths(score: dict[str, Any]) -> str:
    stated = [*next(iter(score["confusion"].values()))]
    rows = []
    for truth, row in score["confusion"].items():
        right = score["truths"].get(truth, {}).get("right")
        interval = "—" if right is None else f"{right['value']:.0%} ({100 * right['low']:.0f} to {right['high']:.0%})"
        rows.append((truth, *(str(row[name]) for name in stated), interval))
    return markdown_table(("truth \\ verdict", *stated, "right"), rows)
