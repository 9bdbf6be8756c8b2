"""How often verdicts were right on pairs of models whose truth is known, and whether a diagnosis is of such a pair.

The study of organisms measures it and writes the file that is read here. A rate says how often a verdict of that kind
was right among those pairs; of models, questions and settings that were not among them it says little, and that is
said.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.models.loading import RANDOM_INIT

SCORE_FILE = Path(__file__).with_name("verdict_score.json")
RESTS_ON = ("pruning", "revival", "probing", "patching")
"""Methods that the verdict rests on where answers alone do not decide."""
COUNTS = ("fit_rows", "patch_rows", "max_layers", "random_masks", "repeats")
"""Settings of a diagnosis of which more is surer and changes nothing else."""
DECIDES = {
    "fit_rows": "rows that probes are fitted on", "patch_rows": "rows of patching and pruning",
    "max_layers": "layers that are looked into", "random_masks": "random masks of pruning",
    "repeats": "repetitions of reverse fine-tuning", "prune_sizes": "numbers of pruned rows",
    "reverse_steps": "first steps of reverse fine-tuning", "most_reverse_steps": "most steps of reverse fine-tuning",
    "reverse_lr": "learning rate of reverse fine-tuning", "reverse_batch_size": "batch size of reverse fine-tuning",
    "reverse_by": "what reverse fine-tuning trains",
}  # fmt: skip
"""Settings that a verdict depends on, beside how many questions are asked, and what a page calls them."""


@functools.cache
def read_score() -> Mapping[str, Any]:
    """What the study of organisms found: its ``by_verdict``, its ``scope`` and where it is from."""
    found: Mapping[str, Any] = json.loads(SCORE_FILE.read_text(encoding="utf-8"))
    return found


def describe_score(summary: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """In a few sentences: how often verdicts like this one were right, and whether this pair is like those.

    Args:
        summary: of a diagnosis.
        score: of :func:`read_score`.
    """
    verdict, pairs = summary["verdict"], score["pairs"]
    found = score["by_verdict"].get(verdict, {"pairs": 0, "right": 0})
    if verdict == "undecided":
        text = f"So were {_say(found['pairs'], pairs, 'organisms', score['undecided'])}"
    elif found["pairs"]:
        text = f"Verdicts of this kind were right in {_say(found['right'], found['pairs'], 'organisms', found)}"
    else:
        text = f"Verdicts of this kind were given to none of {pairs} organisms, so that their rate is not known"
    every = score.get("every", {"by_verdict": {}})  # not in scores of earlier versions
    also = every["by_verdict"].get(verdict, found)
    if found["pairs"] < also["pairs"] and verdict not in ("undecided", "nothing to lose"):
        more = _say(also["right"], also["pairs"], "counting those too whose two labels disagree", also)
        text += f", and in {more}" if found["pairs"] else f"; they were right in {more}"
    right, undecided = (score[name]["value"] for name in ("right", "undecided"))
    wrong = max(0.0, 1 - right - undecided)
    with_those = f" ({every['wrong']['value']:.0%} with those)" if every.get("wrong") and score["disagree"] else ""
    text += (
        f". Organisms are pairs of models whose truth is known; {len(score['disagree'])} more do not count, since what "
        f"was done to them and how they relearn tell two truths. Of all {pairs} the verdict was right in {right:.0%}, "
        f"wrong in {wrong:.0%}{with_those} and undecided in {undecided:.0%}; always saying the most frequent truth "
        f"would be right in {score['constant'][1]:.0%}. "
    )
    if reasons := outside(summary, score):
        return f"{text}This pair is outside of what was scored, and the rates may not hold: {'; '.join(reasons)}."
    return f"{text}Architecture, size and kind of question were among those that were scored."


def outside(summary: Mapping[str, Any], score: Mapping[str, Any]) -> list[str]:
    """In what a diagnosis differs from all that were scored; nothing if it is like them.

    Args:
        summary: of a diagnosis.
        score: of :func:`read_score`.
    """
    facts, scope = summary["facts"], score["scope"]
    low, high = scope["parameters"]
    architecture, task = facts["architecture"], facts["capability"].rpartition("_")[0]
    scored = {(each[0], each[1]) for each in scope["cells"]}
    architectures, tasks = (sorted({each[part] for each in scored}) for part in (0, 1))
    left_out = [name for name in facts.get("left_out", ()) if name in RESTS_ON]
    found = {
        f"its architecture is {architecture}, and scored were {', '.join(architectures)}":
            architecture not in architectures,
        f"it has {facts['parameters']:,} parameters, and scored were models of {low:,} to {high:,}":
            not low <= facts["parameters"] <= high,
        f"it is asked about {facts['capability']}, and scored were questions of the tasks {', '.join(tasks)}":
            task not in tasks,
        f"no {architecture} was scored on questions of the task {task}":
            architecture in architectures and task in tasks and (architecture, task) not in scored,
        f"it is asked {facts['rows']} questions, and scored was with {scope['rows']}": facts["rows"] < scope["rows"],
        "it has no control that never had the capability":
            facts["reference"] == RANDOM_INIT or not summary.get("evidence", {}).get("control", True),
        "the two models read the questions as different tokens": facts["other_tokens"] is not None,
        "its change is learned tokens": facts["prompt_kind"] is not None,
        f"left out was {', '.join(left_out)}": bool(left_out),
        "its rule has other thresholds": summary["rule"] != score["rule"],
    }  # fmt: skip
    reasons = [reason for reason, holds in found.items() if holds]
    for name, setting in scope["settings"].items():
        own = facts["settings"][name]
        if own < setting if name in COUNTS else own != setting:
            reasons.append(f"{DECIDES[name]}: {_in_words(own)} here, {_in_words(setting)} in what was scored")
    return reasons


def _in_words(setting: Any) -> str:
    return ", ".join(map(str, setting)) if isinstance(setting, list) else str(setting)


def _say(right: int, number: int, what: str, ends: Mapping[str, Any]) -> str:
    """A share with its interval, which knows that organisms of one seed share their base."""
    low, high = ends["low"], ends["high"]
    return f"{right} of {number} {what} ({right / number:.0%}; 95 % interval {100 * low:.0f} to {high:.0%})"
