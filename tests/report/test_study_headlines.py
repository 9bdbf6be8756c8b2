"""The tables of sweeps, compiled programs and stories, from runs whose numbers are all different."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.claims import decide, read_claims
from ftmech_hf.report.page import format_verdict
from ftmech_hf.statistics.seeds import share_over_seeds
from ftmech_hf.studies.sweep.plan import Sweep, SweepConfig
from ftmech_hf.studies.sweep.results import write_results
from ftmech_hf.studies.tinystories.claims import CLAIMS, Verdicts, judge_claims
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED
from ftmech_hf.studies.tinystories.results import gather as gather_stories
from ftmech_hf.studies.tinystories.results import read_verdicts
from ftmech_hf.studies.tracr import results as tracr
from ftmech_hf.studies.tracr.claims import cell_id
from ftmech_hf.studies.tracr.plan import TracrConfig, TracrPlan
from ftmech_hf.tasks.stories import StoriesConfig
from tests.report.fabricated import write_run

T = {2: 12.706204736174698, 3: 4.302652729911275}
"""97.5 % point of Student's t for so many seeds, from a printed table."""


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its interval."""
    mean, half = statistics.mean(values), T[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def geometric(values: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean and its interval."""
    mean, low, high = (math.exp(each) for each in student([math.log(value) for value in values]))
    return mean, low, high


def of_rows(values: Sequence[float], rows: int, whole: float = 1.0) -> tuple[float, float, float]:
    """Mean of shares of so many rows each, and its interval."""
    counts = [(round(value / whole * rows), rows) for value in values]
    _, low, high = share_over_seeds(counts)
    return (
        statistics.mean(values),
        min(whole * low, statistics.mean(values)),
        max(whole * high, statistics.mean(values)),
    )


def metrics(*lines: dict[str, float]) -> dict[str, str]:
    return {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}


# Sweeps


def sweep_of(tmp_path: Path, seeds: Sequence[int]) -> Sweep:
    sections = {
        "common": {
            "text_length": 12,
            "count_window": 8,
            "min_labels": 4,
            "index_occurrence": 2,
            "token_at_position": 6,
            "steps": 10,
        },
        "pretrain": {"n_layer": 1, "n_embd": 16, "n_head": 2, "operand_prior": "low"},
        "finetune": {"operators": "count", "operand_prior": "b", "correlation": 1.0},
        "reverse": {"operators": "count", "operand_prior": "a"},
        "grid": {"finetune.lr": {"large": 1e-3, "small": 1e-5}},
        "claims": [
            {"id": "low", "statement": "It is low", "metric": "count_b_cte0", "bar": "<= 95",
             "only": {"finetune.lr": "large"}},
            {"id": "back", "statement": "It takes steps", "stage": "reverse", "metric": "steps_to_revival",
             "bar": ">= 2", "only": {"finetune.lr": "small"}},
        ],
        "figures": [{"title": "f", "metrics": ["count_a"], "x": "step", "color": "finetune.lr"}],
    }  # fmt: skip
    return Sweep(SweepConfig(seeds=list(seeds), output_dir=str(tmp_path / "out")), sections, "nano")


def test_every_cell_of_a_sweep_is_its_own(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, [0, 1, 2])
    assert len(sweep.folders) == 3 * (1 + 2 + 2), "every seed has runs of its own"
    number = itertools.count(1)
    expected: dict[tuple[str, str, str], list[float]] = {}
    written = set()
    for cell in sweep.points:
        lr = cell.labels["finetune.lr"]
        assert cell.seed in (0, 1, 2)
        for stage, run in cell.runs.items():
            assert f"seed{cell.seed}" in run
            if run in written:
                continue
            written.add(run)
            first = {"step": 0, "eval_rows": 8}
            last: dict[str, float] = {"step": 10, "eval_rows": 8}
            for each in ("count_a", "count_b_cte0", "count_b_cte1"):
                last[f"accuracy/{each}"] = next(number) / 100
                first[f"accuracy/{each}"] = last[f"accuracy/{each}"] / 2
                key = (lr if stage != "pretrain" else "", stage, each)
                expected.setdefault(key, []).append(last[f"accuracy/{each}"])
            if stage == "reverse":  # back at step 5 in seed 0; in seed 1 at the end alone, and not in seed 2
                middle = {"step": 5, "eval_rows": 8, "accuracy/count_a": 0.95 if cell.seed == 0 else 0.9}
                last["accuracy/count_a"] = (0.99, 0.98, 0.5)[cell.seed]
                expected[lr, stage, "count_a"][-1] = last["accuracy/count_a"]
                write_run(sweep.folders[run], "x", metrics(first, middle, last))
            else:
                write_run(sweep.folders[run], "x", metrics(first, last))
    results = write_results(sweep)
    assert results.missing == []
    summary = results.summary
    for (lr, stage, metric), values in expected.items():
        rows = summary[(summary["stage"] == stage) & (summary["metric"] == metric) & (summary["step"] == 10)]
        for row in rows[rows["finetune.lr"] == lr].to_dict("records") if lr else rows.to_dict("records"):
            assert row["n"] == 3
            assert (row["mean"], row["low"], row["high"]) == pytest.approx(of_rows(values, 8))
    for lr in ("large", "small"):
        chosen = summary[(summary["finetune.lr"] == lr) & summary["step"].isna()].set_index(["stage", "metric"])
        steps, back = chosen.loc[("reverse", "steps_to_revival")], chosen.loc[("reverse", "revived")]
        assert (steps["mean"], steps["low"]) == pytest.approx(geometric([5, 10, 10])[:2])
        assert math.isinf(steps["high"]), "of seed 2 it is known that it needs more"
        assert back["mean"] == pytest.approx(1 / 3)
        forgotten = chosen.loc[("finetune", "change/count_a")]
        assert forgotten["mean"] == pytest.approx(statistics.mean(expected[lr, "finetune", "count_a"]) / 2)
    low, slow = read_claims(tmp_path / "out")
    assert low.values == pytest.approx([100 * each for each in expected["large", "finetune", "count_b_cte0"]])
    assert (low.interval or (0, 0))[1] == pytest.approx(
        of_rows(expected["large", "finetune", "count_b_cte0"], 8)[2] * 100
    )
    assert (low.verdict, low.unit) == ("holds", "%")
    assert (slow.values, slow.bar, slow.verdict) == ([5, 10, 10], ">= 2", "holds")
    assert (slow.interval or (0, 0))[1] is None
    assert "2 claims: 2 hold" in (tmp_path / "out" / "report.html").read_text()
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    last = table[(table["stage"] == "finetune") & (table["metric"] == "count_b_cte0") & (table["step"] == 10)]
    for lr in ("large", "small"):
        values = last[last["finetune.lr"] == lr].sort_values("seed")["value"].tolist()
        assert values == pytest.approx(expected[lr, "finetune", "count_b_cte0"])


def test_a_sweep_with_a_run_missing_is_reported_with_what_can_be_drawn(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, [0])
    pretrained = sweep.points[0].runs["pretrain"]
    write_run(sweep.folders[pretrained], "x", metrics({"step": 10, "eval_rows": 8, "accuracy/count_b": 0.5}))
    results = write_results(sweep)
    assert len(results.missing) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 runs are missing" in page
    assert "Not drawn: figures: f: no" in page
    assert (results.summary["mean"] == 0.5).all()


# Compiled programs


def check_floors(plan: TracrPlan, sets: Sequence[str]) -> None:
    assert tracr.floors_of(plan) == {}  # of runs that an earlier version made
    for cell in plan.finetunings:
        path = plan.folders[cell.finetune] / "env.json"
        floors = [{"name": each, "rows": 8, "floor": 0.2 + 0.1 * cell.seed + place / 100, "text_free": 0.1}
                  for place, each in enumerate(sets)]  # fmt: skip
        path.write_text(json.dumps({**json.loads(path.read_text()), "floors": floors}))
    expected = {each: 25 + place for place, each in enumerate(sets)}
    assert tracr.floors_of(plan)["counter"] == pytest.approx(expected)


def test_every_cell_of_table_3_is_its_own(tmp_path: Path) -> None:
    config = TracrConfig(
        seeds=[0, 1], programs=["counter"], lrs=[1e-2, 1e-4], steps=7, output_dir=str(tmp_path / "out")
    )
    plan = TracrPlan(config)
    number = itertools.count(3)
    sets = ("o_pt_cte0", "o_pt_cte1", "o_ft_cte0", "o_ft_cte1")
    share: dict[tuple[Any, ...], float] = {}
    for cell in plan.finetunings:
        last: dict[str, float] = {"step": 7, "eval_rows": 8}
        for each in sets:
            last[f"accuracy/{each}"] = share[cell.lr, cell.correlation, cell.seed, each] = next(number) / 100
        first = {name: value / 2 for name, value in last.items()}
        write_run(plan.folders[cell.finetune], "finetune", metrics({**first, "step": 0}, last))
        apart = {each: next(number) / 200 for each in ("before", "one_weight", "best", "random")}
        apart["one_weight"] += 10 * cell.lr  # what it gains differs between rates
        for each, value in apart.items():
            share[cell.lr, cell.correlation, cell.seed, each] = value
        summary: dict[str, Any] = {
            name: {"o_pt": apart[name], "o_ft": 0.0, "validation": 1 - apart[name]}
            for name in ("before", "one_weight", "best")
        }
        summary |= {"random": apart["random"], "best_k": 3 + cell.seed, "rows": 8, "attention": []}
        write_run(plan.folders[cell.dissect], "dissect", {"summary.json": json.dumps(summary)})
    steps = {"C_Tr 0, from 0.01": (10, 20), "C_Tr 1, from 0.01": (20, 40), "control": (80, None)}
    for back in plan.reversals:
        step = steps[back.origin][back.seed]
        lines = [
            {"step": 0, "accuracy/o_pt_cte0": 0.1},
            {"step": 1, "accuracy/o_pt_cte0": 0.96},  # by luck
            {"step": 2, "accuracy/o_pt_cte0": 0.2},
            {"step": step or 5, "accuracy/o_pt_cte0": 0.97 if step else 0.9},
            {"step": 400, "accuracy/o_pt_cte0": 0.95 if step else 0.9},
        ]
        write_run(plan.folders[back.run], "reverse_finetune", metrics(*lines))
    check_floors(plan, sets)
    results = tracr.gather(plan)
    assert len(results.cells) == 2 * 2 * 4
    for row in results.cells.to_dict("records"):
        values = [100 * share[row["lr"], row["correlation"], seed, row["column"]] for seed in (0, 1)]
        assert (row["ours"], row["low"], row["high"]) == pytest.approx(of_rows(values, 8, 100))
        assert row["difference"] == pytest.approx(row["ours"] - row["paper"])
    for row in results.weights.to_dict("records"):
        if row["metric"] == "weights":
            assert row["mean"] == 3.5
            continue
        values = [100 * share[row["lr"], row["correlation"], seed, row["metric"]] for seed in (0, 1)]
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(of_rows(values, 8, 100))
    means = results.reversals.set_index(["origin", "lr", "metric"])["mean"]
    for origin, values in steps.items():
        for lr in config.reverse_lrs:
            assert means[origin, lr, "steps_to_revival"] == pytest.approx(
                statistics.geometric_mean(400 if each is None else each for each in values)
            )
            assert means[origin, lr, "revived"] == (0.5 if None in values else 1)
    check_claims_of_table_3(results, config.lrs, share)


def check_claims_of_table_3(
    results: tracr.TracrResults, lrs: Sequence[float], share: dict[tuple[Any, ...], float]
) -> None:
    """One weight, the way back, and every cell."""
    claims = {claim.id: claim for claim in [*results.claims, *results.of_cells]}
    assert len(claims) == 1 + 2 * 3 + 2 * 2 * 4
    gains = []
    for seed in (0, 1):  # at the rate that gains most on other rows, which here is where it gains least on these
        each = {
            lr: share[lr, 1.0, seed, "one_weight"] - share[lr, 1.0, seed, "before"] for lr in lrs
        }  # fmt: skip
        gains.append(100 * min(each.values()))
    assert claims["counter_one_weight"].values == pytest.approx(gains)
    assert claims["counter_one_weight"].verdict == "fails"
    back = claims["counter_back_C_Tr 0, from 0.01_lr0.01"]
    assert (back.values, back.bar) == ([8, 20], ">= 1"), "80 over 10, at least 400 over 20"
    assert (back.interval or (0, 0))[1] is None
    for row in results.cells.to_dict("records"):
        claim = claims[cell_id(row["program"], row["lr"], row["correlation"], row["column"])]
        assert claim.paper == f"{row['paper']:g} (Table 3)"
        assert (claim.measured, claim.interval) == (row["ours"], (row["low"], row["high"]))
        bar = ">= 66.7" if row["paper"] >= 200 / 3 else "<= 33.3" if row["paper"] <= 100 / 3 else ""
        assert claim.bar == bar
        assert row["verdict"] == format_verdict(claim)


# Stories

BACK = (0, 30, 300)
# model -> stories of a hundred with a twist when asked, (seed 0, seed 1) at steps 0, 30, 300 of fine-tuning back
ASKED_FOR = {
    "base": ((91, 85), (0, 0), (0, 0)),
    "control": ((10, 14), (20, 24), (70, 78)),
    "F (large)": ((40, 44), (50, 51), (80, 81)),
    "F+R (large)": ((10, 20), (40, 43), (70, 75)),
    "F+MM (large)": ((25, 26), (45, 46), (75, 76)),
    "F (small)": ((60, 70), (60, 61), (90, 88)),
    "F+R (small)": ((30, 31), (55, 56), (85, 84)),
    "F+MM (small)": ((45, 52), (50, 55), (80, 82)),
}
NOT = {
    "base": (3, 6), "control": (95, 96), "F (large)": (5, 6), "F+R (large)": (7, 8), "F+MM (large)": (9, 10),
    "F (small)": (11, 12), "F+R (small)": (13, 14), "F+MM (small)": (15, 16),
}  # fmt: skip
"""The same when not asked: of the base before, of the others at the end."""

EXPECTED = {
    "base_asked": (91, 85),
    "base_not_asked": (3, 6),
    "control_asked": (10, 14),
    "deleted_large": (25, 30),
    "rates": (20, 21),  # 45 less 25, 51 less 30
    "randomised": (30, 31.5),  # 50 less 20, 57 less 25.5
    "early": (30, 28),  # 50 less 20, 52 less 24
    "gained": (10, 7.75),  # 30, 20, 25 and 5 in the mean, less 10; 23, 20, 25 and 3, less 10
    "late": (10, 3),  # 80 less 70, 81 less 78
    "specific": (10, 11),
    "loss_ratio": (90 / 6000 ** (1 / 3), 100 / 7500 ** (1 / 3)),  # over the geometric mean of 10, 20, 30; of 20, 25, 15
    "loss_ratio_lost": (90 / 600**0.5, 100 / 375**0.5),  # 20, 30; 25, 15
    "probe_gap": (2.5, 1),
    "probe_control": (12.5, 10),
    "probe_random": (22.5, 17),  # 92.5 less 70, 92 less 75
    "pruned": (40, 30),
    "pruned_lost": (38, 32),  # 40 and 35 in the mean of two, less those of the control
    "pruned_not_asked": (3, 1),
    "pruned_control": (2, 3),
}
LOSS_STEPS = {"control": (90, 100), "F (large)": (10, 20), "F+R (large)": (20, 25), "F+MM (large)": (30, 15)}
READ = {  # best layer of the probe for a twist
    "base": (0.95, 0.93), "control": (0.80, 0.82), "F (large)": (0.94, 0.92), "F+R (large)": (0.92, 0.91),
    "F+MM (large)": (0.93, 0.93), "F (small)": (0.95, 0.92), "F+R (small)": (0.91, 0.90), "F+MM (small)": (0.90, 0.94),
    RANDOM_INIT: (0.70, 0.75),
}  # fmt: skip
PRUNED = {  # (kind, state) -> choices of the twist of the three models, per seed
    (ASKED, "before"): ((0.1, 0.2, 0.3), (0.1, 0.1, 0.1)),
    (ASKED, "best"): ((0.5, 0.6, 0.7), (0.3, 0.4, 0.5)),
    (ASKED, "random"): ((0.2, 0.2, 0.26), (0.1, 0.14, 0.15)),
    (NOT_ASKED, "before"): ((0.0, 0.03, 0.03), (0.01, 0.01, 0.01)),
    (NOT_ASKED, "best"): ((0.04, 0.05, 0.06), (0.01, 0.02, 0.03)),
    (NOT_ASKED, "random"): ((0.9, 0.9, 0.9), (0.8, 0.8, 0.8)),
}
LARGE = ("F (large)", "F+R (large)", "F+MM (large)")


def has(count: int, seed: int) -> np.ndarray:
    """So many of a hundred stories."""
    return np.random.default_rng(seed).permutation(100) < count


def stories_plan(tmp_path: Path) -> StoriesPlan:
    return StoriesPlan(StoriesStudyConfig(seeds=[0, 1], output_dir=str(tmp_path)), StoriesConfig())


def verdicts_of(seed: int) -> Verdicts:
    verdicts: Verdicts = {}
    for label, steps in ASKED_FOR.items():
        for step, counts in zip(BACK, steps, strict=True):
            verdicts[seed, label, step, ASKED] = has(counts[seed], seed)
            verdicts[seed, label, step, NOT_ASKED] = has(50, seed)
        verdicts[seed, label, 0 if label == "base" else 300, NOT_ASKED] = has(NOT[label][seed], seed)
    return verdicts


def losses_of(seed: int) -> list[dict[str, Any]]:
    """The base ends at 1 + seed; the others come within a hundredth of it at the steps above, and not one before."""
    at = {"seed": seed, "set": "Twist"}
    rows: list[dict[str, Any]] = [
        {**at, "model": "base", "stage": "pretrain", "step": step, "loss": loss}
        for step, loss in ((0, 2.0 + seed), (9, 1.0 + seed))
    ]
    for label, ends in LOSS_STEPS.items():
        for step, loss in ((0, 3.0), (ends[seed] - 1, 1.02), (ends[seed], 1.009), (300, 1.0)):
            row = {**at, "model": label, "stage": "reverse", "step": step, "loss": loss + seed}
            rows += [row, {**row, "set": "no_Twist", "loss": 0.5}]
    return rows


def probes_of(seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for label, best in READ.items():
        # the layer that is best on other stories is not the best on those that are reported
        layers = ((best[seed] - 0.2, 0.6, 0.9), (best[seed], 0.8, (0.55, 0.54)[seed]), (best[seed] + 0.02, 0.7, 0.9))
        for layer, (right, chosen, shuffled) in enumerate(layers):
            row = {"seed": seed, "model": label, "label": "Twist", "words": "seen", "state": "", "layer": layer,
                   "accuracy": right, "chosen": chosen, "shuffled": shuffled, "majority": (0.50, 0.52)[seed],
                   "num_test": 1000}  # fmt: skip
            others = ({"label": "Dialogue"}, {"words": "held_out"}, {"state": "fine-tuned back"})
            rows += [row, *({**row, **other, "accuracy": 0.99, "chosen": 0.99} for other in others)]
    return rows


def pruned_of(seed: int) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "model": label, "kind": kind, "state": state, "choice": value, "rows": 100}
        for (kind, state), values in PRUNED.items()
        for label, value in zip(LARGE, values[seed], strict=True)
    ] + [
        {"seed": seed, "model": "control", "kind": ASKED, "state": state, "choice": value[seed], "rows": 100}
        for state, value in (("before", (0.10, 0.12)), ("best", (0.12, 0.15)))
    ]


JUDGED = [{"feature": "Dialogue", "specificity": 0.5}, {"feature": "Twist", "specificity": 0.97}]
"""The judge sees a twist in three of a hundred stories that have none."""


def stories_evidence() -> tuple[Verdicts, pd.DataFrame, pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    losses, probes, pruned = (pd.DataFrame([*rows(0), *rows(1)]) for rows in (losses_of, probes_of, pruned_of))
    return {**verdicts_of(0), **verdicts_of(1)}, losses, probes, pruned, JUDGED


def test_every_claim_about_stories_is_what_it_is_called(tmp_path: Path) -> None:
    plan = stories_plan(tmp_path)
    claims = {claim.id: claim for claim in judge_claims(plan, *stories_evidence())}
    assert list(claims) == [each.id for each in CLAIMS] == list(EXPECTED)
    assert [(each.statement, each.paper, each.bar) for each in claims.values()] == [
        (each.statement, each.paper, each.bar) for each in CLAIMS
    ]
    for name, values in EXPECTED.items():
        claim = claims[name]
        low, high = claim.interval or (None, None)
        assert low is not None, name
        assert high is not None, name
        assert claim.values == pytest.approx(values), name
        if claim.unit == "points":  # never narrower than Student's or than the instructions or choices
            mean, *student_s = student(values)
            assert claim.measured == pytest.approx(mean), name
            assert low <= student_s[0] + 1e-9, name
            assert high >= student_s[1] - 1e-9, name
        else:
            right = of_rows(values, 100, 100) if claim.unit == "%" else geometric(values)
            assert (claim.measured, low, high) == pytest.approx(right), name
        assert (claim.seeds, claim.verdict) == ([0, 1], decide(claim.interval, claim.bar)), name
    # what is asked for beside how often it is written unasked; what is not, beside how often the judge sees it wrongly
    assert claims["base_asked"].floor == pytest.approx((3 + 6) / 2)
    assert claims["base_not_asked"].floor == pytest.approx(3)
    assert claims["rates"].floor is None
    assert claims["rates"].interval is not None
    assert claims["rates"].interval[1] - claims["rates"].interval[0] > 2 * (student((20, 21))[2] - 20.5)
    assert {name: claim.verdict for name, claim in claims.items() if claim.verdict != "undecided"} == DECIDED


DECIDED = {"rates": "holds", "randomised": "holds", "early": "holds", "deleted_large": "holds", "loss_ratio": "holds"}
"""Two seeds say little."""


def test_a_claim_about_stories_is_judged_by_all_its_seeds(tmp_path: Path) -> None:
    """The bar is 80 %: one seed far below it leaves open what one far above it says, whichever is which."""
    plan = stories_plan(tmp_path)
    for counts, verdict in (
        ((99, 58), "undecided"),
        ((58, 99), "undecided"),
        ((58, 59), "fails"),
        ((100, 100), "holds"),
    ):
        verdicts, *rest = stories_evidence()
        for seed in (0, 1):
            verdicts[seed, "base", 0, ASKED] = has(counts[seed], seed)
        claim = judge_claims(plan, verdicts, *rest)[0]
        assert (claim.id, claim.measured, claim.verdict) == ("base_asked", pytest.approx(sum(counts) / 2), verdict)


def test_a_claim_of_which_a_run_is_missing_is_not_made_of_the_others(tmp_path: Path) -> None:
    plan = stories_plan(tmp_path)
    verdicts, losses, probes, pruned, judged = stories_evidence()
    del verdicts[1, "F (small)", 300, ASKED]
    losses, probes, pruned = (
        table[(table["model"] != "F (large)") | (table["seed"] != 1)] for table in (losses, probes, pruned)
    )
    claims = {claim.id for claim in judge_claims(plan, verdicts, losses, probes, pruned, judged)}
    lost = {"late", "loss_ratio", "probe_gap", "probe_control", "probe_random", "pruned", "pruned_not_asked"}
    assert set(EXPECTED) - claims == lost


def test_what_is_read_of_stories_stands_under_its_own_name(tmp_path: Path) -> None:
    """From the folders of the runs: step, seed, model and kind of instruction of every share."""
    config = StoriesStudyConfig(
        seeds=[0, 1], protocols=["F"], lora=False, probe_stories=0, prune_stories=0, output_dir=str(tmp_path)
    )
    plan = StoriesPlan(config, StoriesConfig())
    number = itertools.count(5)
    expected: dict[tuple[int, str, int, str], int] = {}
    for model in plan.models:
        for run, steps in ((model.score, (None,)), (model.reverse_score, (3, 30, None))):
            if not run:
                continue
            points, rows = [], []
            for step in steps:
                at = 0 if run == model.score else 300 if step is None else step
                point: dict[str, Any] = {"step": step}
                for kind in (ASKED, NOT_ASKED):
                    count = expected[model.seed, model.label, at, kind] = next(number)
                    point[kind] = {"value": count / 100, "low": 0.0, "high": 1.0, "has": count, "number": 100,
                                   "undecided": 0.0, "others_obeyed": None}  # fmt: skip
                    rows += [{"step": step, "kind": kind, "number": n, "Twist": bool(found), "prompt": f"p{n}",
                              "text": "Once."} for n, found in enumerate(has(count, count))]  # fmt: skip
                points.append(point)
            summary = {"points": points, "judge": []}
            write_run(plan.folders[run], "stories_score", {"summary.json": json.dumps(summary)})
            pd.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(plan.folders[run] / "table.parquet")
    found = read_verdicts(plan)
    assert set(found) == set(expected)
    for key, count in expected.items():
        assert found[key].tolist() == has(count, count).tolist(), key
    results = gather_stories(plan)
    shares = results.points.set_index(["seed", "model", "step", "kind"])["value"]
    assert {key: round(100 * value) for key, value in shares.items()} == expected
    for row in results.cells.to_dict("records"):
        values = [expected[seed, row["model"], row["step"], ASKED] for seed in (0, 1)]
        assert (row["ours"], row["low"], row["high"]) == pytest.approx(of_rows(values, 100, 100))
    assert len(results.missing) == 2 * (2 + 2 * 2 + 1), "nothing that trains was made"
