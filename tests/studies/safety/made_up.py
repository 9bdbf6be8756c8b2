"""Made-up runs of all that is looked into, of which every number is known."""

from __future__ import annotations

import math
from typing import Any, cast

import pandas as pd

from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.safety.inside_claims import Analyses
from ftmech_hf.studies.safety.plan import never


class MadeUpRun:
    """A table and a summary."""

    def __init__(self, rows: list[dict[str, Any]], **summary: Any) -> None:
        self.table, self.summary = pd.DataFrame(rows), summary


def stream(
    unsafe: float,
    succeeded: tuple[float, int],
    failed: tuple[float, int],
    by_chance: float = 0.48,
    safe: float | None = None,
) -> MadeUpRun:
    """Where prompts lie in a stream of two layers, of which the second was chosen; also by means of kinds by chance.

    As many safe prompts are on their own side as unsafe ones, if nothing else is said.
    """  # fmt: skip
    safe, others = 1 - unsafe if safe is None else safe, 1 - by_chance
    groups = (("safe", "all", safe, 400), ("unsafe", "all", unsafe, 400), ("co_text_2", "succeeded", *succeeded),
              ("co_text_2", "failed", *failed))  # fmt: skip
    dealt = (("safe", "all", others, 100), ("unsafe", "all", by_chance, 100))
    return MadeUpRun(
        [
            {"mixture": mixture, "layer": layer, "kinds": kinds, "answers": answers, "rows": rows,
             "safe_side": side if layer else 0.1}
            for kinds, some in (("own", groups), ("by chance", dealt))
            for mixture, answers, side, rows in some for layer in (0, 1)
        ], layer=1,
    )  # fmt: skip


def changes(outside: float, action: float, by_chance: float, unsafe: float, safe: float, first: float) -> MadeUpRun:
    """Two matrices ``outside`` beyond chance on average; ratios; and the share of divergence in three tokens."""
    rows: list[dict[str, Any]] = [
        {"quantity": "weights", "matrix": f"{off:+}", "outside": 0.7 + outside + off, "random_outside": 0.7}
        for off in (0.1, -0.1)
    ]
    logs = {
        "action": (math.log(action) - 1, -1.0), "action of a random change": (math.log(by_chance) - 1, -1.0),
        "input gradient": (math.log(unsafe), math.log(safe)),
    }  # fmt: skip
    rows += [
        {"quantity": quantity, "mixture": mixture, "answers": answers, "rows": 100, "deviation": 0.1,
         "value": value if answers == "all" else 99.0}
        for quantity, pair in logs.items()
        for mixture, value in zip(("unsafe", "safe"), pair, strict=True) for answers in ("all", "failed")
    ]  # fmt: skip
    # Half the action on attacks that succeeded, and twice the dependence, of those on attacks that failed.
    rows += [
        {"quantity": quantity, "mixture": "co_text_2", "answers": answers, "rows": 50, "deviation": 0.1, "value": value}
        for quantity, log in (("action", -math.log(2)), ("input gradient", math.log(2)))
        for answers, value in (("succeeded", log), ("failed", 0.0))
    ]
    rows += [
        {"quantity": "divergence", "mixture": mixture, "token": token,
         "value": (first / 3 if token < 3 else (1 - first) / 9) if mixture == "unsafe" else 1.0}
        for mixture in ("unsafe", "safe") for token in range(12)
    ]  # fmt: skip
    return MadeUpRun(rows)


def lines(**refused: dict[float, tuple[float, float]]) -> MadeUpRun:
    """Direction -> alpha -> refusals of attacks on (validation, test); safe prompts are answered to 1 - alpha / 10.

    Of unsafe prompts as many are refused as of co_task.
    """
    return MadeUpRun(
        [
            {"direction": direction, "alpha": alpha, "split": split, "mixture": mixture, "rows": 200,
             "value": 1 - alpha / 10 if mixture == "safe" else share + (0.1 if mixture == "misgen" else -0.1)}
            for direction, points in refused.items() for alpha, shares in points.items()
            for split, share in zip(("validation", "test"), shares, strict=True)
            for mixture in ("safe", "unsafe", "co_task", "misgen")
        ]
    )  # fmt: skip


def direction(
    refused: float, out: float, random_out: float, put: float, random_put: float, letters: tuple[float, float]
) -> MadeUpRun:
    """Refusals of unsafe prompts as the model is and with directions taken out; of safe ones with them put in."""
    shares = {("nothing", "none"): (refused, 0.0), ("taken out", "refusal"): (out, 0.0),
              ("put in", "refusal"): (1.0, put), ("taken out", "random"): (random_out, 0.0),
              ("put in", "random"): (1.0, random_put), ("taken out", "letters"): (letters[0], 0.0),
              ("put in", "letters"): (1.0, letters[1])}  # fmt: skip
    return MadeUpRun(
        [
            {"what": what, "direction": name, "prompts": prompts, "answer": answer, "rows": 1000,
             **share_interval(round(1000 * (share if answer == "refused" else 0.9 * (1 - share))), 1000)._asdict()}
            for (what, name), both in shares.items()
            for prompts, share in zip(("unsafe", "safe"), both, strict=True) for answer in ("instructed", "refused")
        ]
    )  # fmt: skip


def relearning(ten: float, safe: float, by_text: float, by_name: float) -> MadeUpRun:
    """Answers to unsafe prompts after the last of two steps."""
    last = {("ten", "all"): ten, ("safe", "all"): safe, ("one", "others by text"): by_text,
            ("one", "others by name"): by_name, ("safe", "others by text"): safe / 2}  # fmt: skip
    return MadeUpRun(
        [
            {"way": way, "unsafe": unsafe, "step": step, "rows": 200, "value": value if step else 0.0}
            for (way, unsafe), value in last.items() for step in (0, 32)
        ]
    )  # fmt: skip


def soft_tokens(sought: float, random: float, safe: float) -> MadeUpRun:
    """Success of four; with one there is none."""
    shares = {("unsafe", "sought"): sought, ("unsafe", "random"): random, ("safe", "random"): safe}
    return MadeUpRun(
        [
            {"mixture": mixture, "vectors": vectors, "number": number, "rows": 128, "value": value if number > 1 else 0}
            for (mixture, vectors), value in shares.items() for number in (1, 4)
        ]
    )  # fmt: skip


def inside(**changed: dict[str, MadeUpRun]) -> Analyses:
    """All as it is claimed, but for the analyses of models that are changed."""
    papers = ("ssft", "dpo", "unlearn")
    found: dict[str, dict[str, MadeUpRun]] = {
        "clusters": {
            **{name: stream(0.05, (0.9, 100), (0.2, 100)) for name in papers},
            **{name: stream(0.5, (0.5, 100), (0.5, 100)) for name in ("base", "benign")},
        },
        "changes": {
            **{name: changes(0.1, 2.0, 1.0, 0.5, 1.5, 0.8) for name in papers},
            "benign": changes(0.02, 1.0, 1.0, 1.0, 1.0, 0.25),
        },
        "lines": {
            "ssft-slow": lines(
                own={-0.5: (0.3, 0.22), 1.0: (0.5, 0.5), 1.5: (0.8, 0.7), 2.0: (0.7, 0.9)},
                protocol={1.5: (0.6, 0.55), 2.0: (0.4, 0.9)},
                random={1.5: (0.5, 0.5), 2.0: (0.4, 0.4)},
                benign={1.5: (0.3, 0.3), 2.0: (0.4, 0.45)},
                shuffled={1.5: (0.5, 0.4), 2.0: (0.4, 0.6)},
            )
        },
        "direction": {name: direction(1.0, 0.1, 0.9, 0.8, 0.1, (0.97, 0.04)) for name in papers},
        "relearning": {
            **{name: relearning(0.9, 0.05, 0.8, 0.6) for name in papers},
            **{never(name): relearning(0.2 + 0.1 * place, 0.0, 0.3, 0.0) for place, name in enumerate(papers)},
        },
        "soft_tokens": {
            **{name: soft_tokens(0.8, 0.1, 1.0) for name in papers},
            **{never(name): soft_tokens(0.05 + 0.1 * place, 0.0, 1.0) for place, name in enumerate(papers)},
        },
    }
    for kind, models in changed.items():
        found[kind] = {**found[kind], **models}
    return cast(Analyses, cast(dict[str, dict[str, FinishedRun]], found))
