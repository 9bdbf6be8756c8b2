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
    rows = [
        (LABELS[name], "—" if area is None else f"{area:.3f}", *_robustness(score["robustness"][name]))
        for name, area in areas.items()
    ]
    return "\n\n".join(
        [
            claims_table(folder, source),
            _truths(score),
            f"Always saying {constant} would be right in {share:.0%}.",
            _every(score["every"]),
            markdown_table(
                ("hidden above gone", "area under the curve", "robustness", "rounded", "relearning", "exactly"), rows
            ),
            markdown_table(
                ("hidden or gone, decided by", "right", "wrong", "undecided"),
                [(name, *map(str, row.values())) for name, row in score["decisions"].items()],
            ),
            *edits_tables(score.get("edits")),
        ]
    )


_SHARES = ("size", "restored", "restored_by_chance")


def edits_tables(found: Mapping[str, Any] | None) -> list[str]:
    """Planted edits by the model they are in, and what noise does by truth."""
    if not found:
        return []
    places = pd.DataFrame(found["places"], columns=["planted", "found", "by_rule", *_SHARES])
    # What nothing brings back has no part of its own, whose size or chance could be said.
    places["restored"] = places["restored"].fillna(0.0)
    places["model"] = [", ".join(name.split(", ")[1:3]) for name in places["planted"]]
    rows = [
        (str(model), f"{each['found'].sum()} of {len(each)}", *(
            "—" if each[name].isna().all() else f"{each[name].mean():.0%}" for name in _SHARES),
         ", ".join(str(sum(rule in right for right in each["by_rule"])) for rule in found["by_rule"]))
        for model, each in places.groupby("model", sort=False)
    ]  # fmt: skip
    columns = (
        "planted edits, by task and model",
        "found",
        "of the change",
        "bring back of the lead",
        "turned at random",
        f"of the two parts that changed most: the {', '.join(found['by_rule'])} one",
    )
    noise = [
        (truth, f"{each['rises']} of {each['of']}", f"{each['gains']} of {each['of']}")
        for truth, each in found["noise"].items()
    ]
    of_noise = ("truth", "more is right under noise, beyond both intervals", "beyond that of the difference")
    parts = [markdown_table(columns, rows)] if rows else []
    if found["too_little"]:
        parts.append(f"Of {len(found['too_little'])} more edits there is nothing to look for: they took too little.")
    return [*parts, markdown_table(of_noise, noise)]


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
