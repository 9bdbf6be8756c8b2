"""A reproduction whose runs were never made: every number in it is another one, so that none can be taken for another.

:data:`EXPECTED` was worked out from these numbers by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.studies.tracr.plan import TracrPlan

SEEDS = (0, 1, 2)
ROWS = 1000
"""Of every test set after the last step."""
SETS = ("count_a", "count_b", "count_b_cte1", "count_b_cte0")

# run -> test set -> right answers of a thousand, a number per seed
RIGHT: dict[str, dict[str, Sequence[int]]] = {
    "base-low": {"count_a": (995, 991, 996), "count_b": (201, 223, 306), "count_b_cte1": (31, 32, 33),
                 "count_b_cte0": (34, 35, 36)},
    "base-high": {"count_a": (971, 982, 999), "count_b": (964, 985, 986), "count_b_cte1": (941, 942, 943),
                  "count_b_cte0": (944, 945, 946)},
    "base-control": {"count_a": (101, 112, 133), "count_b": (881, 882, 883), "count_b_cte1": (884, 885, 886),
                     "count_b_cte0": (887, 888, 889)},
    "finetuned-low": {"count_a": (121, 155, 177), "count_b": (551, 552, 553), "count_b_cte1": (994, 983, 998),
                      "count_b_cte0": (11, 22, 44)},
    "finetuned-high": {"count_a": (722, 688, 931), "count_b": (831, 832, 833), "count_b_cte1": (951, 952, 953),
                       "count_b_cte0": (811, 844, 913)},
    "finetuned-control": {"count_a": (102, 113, 134), "count_b": (554, 555, 556), "count_b_cte1": (991, 992, 993),
                          "count_b_cte0": (12, 23, 45)},
    "reversed-low": {"count_a": (968, 978, 988), "count_b": (41, 42, 43), "count_b_cte1": (44, 45, 46),
                     "count_b_cte0": (47, 48, 49)},
    "reversed-control": {"count_a": (958, 957, 901), "count_b": (51, 52, 53), "count_b_cte1": (54, 55, 56),
                         "count_b_cte0": (57, 58, 59)},
}  # fmt: skip

# run -> right answers of a thousand on count_a at these steps before the last one, per seed; 950 counts as back if it
# is there twice in a row, which at step 3 of the first it is not
CURVES: dict[str, Sequence[Mapping[int, int]]] = {
    "reversed-low": (
        {0: 120, 3: 950, 5: 949, 10: 950, 40: 951, 80: 940},
        {0: 150, 10: 700, 20: 960},
        {0: 170, 5: 955, 10: 960},
    ),
    "reversed-control": ({0: 100, 40: 949, 80: 951}, {0: 110, 90: 940, 100: 970}, {0: 130, 100: 930}),
}
LAST_STEP = 150

# run -> what its summary says, a number per seed
PRUNED: dict[str, dict[str, Sequence[float]]] = {
    "prune-rows": {"gain": (0.671, 0.692, 0.723), "random_share": (0.012, 0.023, 0.034),
                   "accuracy": (0.811, 0.842, 0.903), "random_accuracy": (0.051, 0.072, 0.111), "best_k": (5, 8, 15),
                   "count_a": (0.61, 0.62, 0.63), "count_b_cte1": (0.301, 0.402, 0.553),
                   "count_b_cte0": (0.64, 0.65, 0.66)},
    "prune-activations": {"accuracy": (0.711, 0.722, 0.783), "random_accuracy": (0.061, 0.082, 0.093),
                          "best_k": (6, 9, 14), "count_a": (0.67, 0.68, 0.69), "count_b_cte1": (0.31, 0.32, 0.33),
                          "count_b_cte0": (0.34, 0.35, 0.36)},
    "prune-control": {"gain": (0.013, 0.024, 0.041), "accuracy": (0.141, 0.152, 0.193),
                      "random_accuracy": (0.105, 0.107, 0.109), "best_k": (7, 10, 13),
                      "count_a": (0.37, 0.38, 0.39), "count_b_cte1": (0.41, 0.42, 0.43),
                      "count_b_cte0": (0.44, 0.45, 0.46)},
    "prune-finetuned-control": {"gain": (0.016, 0.027, 0.032), "accuracy": (0.142, 0.153, 0.194),
                                "random_accuracy": (0.104, 0.106, 0.108), "best_k": (4, 11, 12),
                                "count_a": (0.47, 0.48, 0.49), "count_b_cte1": (0.51, 0.52, 0.53),
                                "count_b_cte0": (0.54, 0.55, 0.56)},
}  # fmt: skip
PROBED: dict[str, dict[str, Sequence[float]]] = {
    "base": {"accuracy": (0.981, 0.972, 0.963), "majority": (0.211, 0.222, 0.243), "shuffled": (0.201, 0.212, 0.233)},
    "finetuned": {"accuracy": (0.961, 0.902, 0.953), "majority": (0.214, 0.226, 0.248),
                  "shuffled": (0.230, 0.240, 0.249)},
    "control": {"accuracy": (0.351, 0.362, 0.383), "majority": (0.1, 0.11, 0.12), "shuffled": (0.13, 0.14, 0.15)},
    "random init": {"accuracy": (0.451, 0.462, 0.483), "majority": (0.16, 0.17, 0.18), "shuffled": (0.19, 0.2, 0.21)},
}  # fmt: skip

# model -> its best probe's lead, in each seed
OVER: dict[str, dict[str, Sequence[float]]] = {
    "base": {"over_finetuned": (0.020, 0.070, 0.010), "over_random": (0.531, 0.512, 0.483)},
    "finetuned": {"over_finetuned": (0.0, 0.0, 0.0), "over_random": (0.509, 0.441, 0.472)},
}
ENDS = (0.09, 0.12)
"""How far the interval of a lead or gain goes down and up, on the rows of one seed."""

EXPECTED: dict[str, Sequence[float]] = {
    "base_low_a": (99.5, 99.1, 99.6),
    "base_low_b": (20.1, 22.3, 30.6),
    "base_high_a": (97.1, 98.2, 99.9),
    "base_high_b": (96.4, 98.5, 98.6),
    "low_b_cte1": (99.4, 98.3, 99.8),
    "low_b_cte0": (1.1, 2.2, 4.4),
    "low_a": (12.1, 15.5, 17.7),
    "high_b_cte0": (81.1, 84.4, 91.3),
    "high_a": (72.2, 68.8, 93.1),
    "gain_a": (67.1, 69.2, 72.3),
    "control_gain_a": (1.3, 2.4, 4.1),
    "tuned_control_gain_a": (1.6, 2.7, 3.2),
    "probe_gap": (2.0, 7.0, 1.0),
    "probe_lead": (50.9, 44.1, 47.2),
    "revival_ratio": (8.0, 5.0, 30.0),  # 80 / 10, 100 / 20, at least 150 / 5
    "pruned_a": (81.1, 84.2, 90.3),
    "random_pruned_a": (5.1, 7.2, 11.1),
    "random_share": (1.2, 2.3, 3.4),
    "probe_shuffled": (1.6, 1.4, 0.1),
    "chance": (21.1, 22.2, 24.3),
    "revival_steps": (10, 20, 5),
    "control_revival_steps": (80, 100, 150),
    # sums of (log(1 + later) - log(1 + step)) (one + other) / 2, over log 151
    "revival_area": (83.52500229573772, 69.10931959792678, 82.50527045227233),
    "control_revival_area": (63.56220446905828, 56.90834682221667, 56.08996952317225),
    "best_k": (5, 8, 15),
    "pruned_b_cte1": (30.1, 40.2, 55.3),
    "pruned_activations_a": (71.1, 72.2, 78.3),
    "random_pruned_activations_a": (6.1, 8.2, 9.3),
    "control_a": (10.1, 11.2, 13.3),
    "control_pruned_a": (14.1, 15.2, 19.3),
    "probe_base": (98.1, 97.2, 96.3),
    "probe_finetuned": (96.1, 90.2, 95.3),
    "probe_control": (35.1, 36.2, 38.3),
    "probe_random_init": (45.1, 46.2, 48.3),
}
"""Claim or control -> what it must be, a number per seed."""


FLOORS = {"count_a": 0.31, "count_b": 0.32, "count_b_cte1": 0.33, "count_b_cte0": 0.34}
"""Of every test set of :data:`ROWS` rows; on fewer rows they are others."""


def write_run(folder: Path, kind: str, files: Mapping[str, str]) -> None:
    """A folder that is taken for a finished run."""
    folder.mkdir(parents=True)
    floors = [
        {"name": name, "rows": rows, "floor": floor * rows / ROWS, "text_free": 0.5}
        for name, floor in FLOORS.items()
        for rows in (500, ROWS)
    ]
    env = {"kind": kind, "hash": folder.name, "inputs": {}, "seconds": 1.0, "floors": floors}
    (folder / "env.json").write_text(json.dumps(env))
    for name, text in {"config.yaml": "{}", **files}.items():
        (folder / name).write_text(text)
    (folder / "manifest.json").write_text("{}")


def write_training(folder: Path, name: str, seed: int) -> None:
    """A training curve whose last line alone is what the run came to."""
    curve = CURVES[name][seed] if name in CURVES else {0: 77, LAST_STEP // 2: 66}
    rows = ROWS
    lines: list[dict[str, Any]] = [
        {"step": step, "eval_rows": 500, **{f"accuracy/{each}": right / rows for each in SETS}}
        for step, right in curve.items()
    ]
    last = {f"accuracy/{each}": RIGHT[name][each][seed] / rows for each in SETS}
    lines.append({"step": LAST_STEP, "eval_rows": rows, **last})
    write_run(folder, "pretrain", {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})


def _with_ends(value: float) -> dict[str, float]:
    return {"value": value, "low": value - ENDS[0], "high": value + ENDS[1]}


def write_pruning(folder: Path, name: str, seed: int) -> None:
    found: dict[str, Any] = {key: values[seed] for key, values in PRUNED[name].items()}
    by_chance = share_interval(round(found["random_accuracy"] * ROWS), ROWS)  # masks that agree are as sure as rows
    found |= {"random_low": by_chance.low, "random_high": by_chance.high}
    found |= {"random_masks": ROWS, "gain": _with_ends(found.get("gain", 0.99))}
    by_set = {each: found.pop(each) for each in ("count_a", "count_b_cte1", "count_b_cte0")}
    write_run(
        folder,
        "prune",
        {"summary.json": json.dumps({**found, "accuracy_by_set": by_set, "rows": ROWS, "random_rows": ROWS})},
    )
    rows = [
        {
            "method": method,
            "num_pruned": number,
            "validation": 0.5,
            **{each: value * (0.5 + number / 30) for each, value in by_set.items()},
        }
        for method in ("importance", "random")
        for number in (0, 5, 15)
    ]
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")


def write_probing(folder: Path, seed: int) -> None:
    found: dict[str, dict[str, Any]] = {
        model: {**{key: values[seed] for key, values in each.items()}, "num_test": ROWS}
        for model, each in PROBED.items()
    }
    for model, leads in OVER.items():
        found[model] |= {key: _with_ends(values[seed]) for key, values in leads.items()}
    write_run(folder, "probe", {"summary.json": json.dumps(found)})
    rows = [
        {"label": "a", "site": site, "model": model, "num_test": ROWS,
         **{key: each[key] * share for key in PROBED[model]}}
        for model, each in found.items()
        for site, share in (("embedding", 0.5), ("block 0", 1.0), ("block 1", 0.9))
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")


def write_attention(folder: Path) -> None:
    patterns = {name: [[[share, 1 - share]] * 2] * 2 for name, share in (("base", 0.8), ("finetuned", 0.3))}
    write_run(folder, "attention", {"summary.json": json.dumps({"tokens": ["count", "a"], "pattern": patterns})})


def write_reproduction(folders: Mapping[str, Path], seed: int) -> None:
    """All runs of one seed, where its plan looks for them."""
    for name, folder in folders.items():
        if name in RIGHT:
            write_training(folder, name, seed)
        elif name in PRUNED:
            write_pruning(folder, name, seed)
        elif name == "probe":
            write_probing(folder, seed)
        else:
            write_attention(folder)


def write_tracr(plan: TracrPlan) -> None:
    """The runs of Table 3 and of what is fine-tuned back, where the plan of a Tracr study looks for them."""
    sets = ("o_pt_cte0", "o_pt_cte1", "o_ft_cte0", "o_ft_cte1")
    for number, cell in enumerate(plan.finetunings):
        lines = [
            {"step": step, "eval_rows": 8, **{f"accuracy/{each}": (number + share) / 100 for each in sets}}
            for step, share in ((0, 1), (plan.config.steps, 2))
        ]
        write_run(plan.folders[cell.finetune], "finetune", {"metrics.jsonl": "\n".join(map(json.dumps, lines))})
        found: dict[str, Any] = {
            name: {"o_pt": number / 100, "validation": number / 100} for name in ("before", "one_weight", "best")
        }
        found |= {"random": 0.5, "best_k": 3, "rows": 8, "attention": [], "tokens": [], "pattern": []}
        write_run(plan.folders[cell.dissect], "dissect", {"summary.json": json.dumps(found)})
    for back in plan.reversals:
        lines = [{"step": step, "accuracy/o_pt_cte0": 0.1} for step in (0, plan.config.reverse_steps)]
        write_run(plan.folders[back.run], "reverse", {"metrics.jsonl": "\n".join(map(json.dumps, lines))})


def write_stories(plan: StoriesPlan) -> None:
    """The stories that every model writes, where the plan of a study of stories looks for them."""
    for model in plan.models:
        for run, steps in ((model.score, (None,)), (model.reverse_score, (3, 30, None))):
            if run:
                _write_score(plan.folders[run], steps)


def _write_score(folder: Path, steps: Sequence[int | None]) -> None:
    share = {"value": 0.25, "low": 0.1, "high": 0.5, "has": 1, "number": 4, "undecided": 0.0, "others_obeyed": 0.5}
    kinds = ("asked", "not asked")
    points = [{"step": step, **dict.fromkeys(kinds, share)} for step in steps]
    write_run(folder, "stories_score", {"summary.json": json.dumps({"points": points, "judge": []})})
    rows = [
        {"step": step, "kind": kind, "number": number, "Twist": number == 0, "prompt": f"p{number}", "text": "Once."}
        for step in steps
        for kind in kinds
        for number in range(4)
    ]
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
