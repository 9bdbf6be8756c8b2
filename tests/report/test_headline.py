"""The headline: every cell of the table of claims, from runs whose numbers are all different."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.report.claims import Claim, judge
from ftmech_hf.report.page import verdict
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS, measure, revival
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import write_results
from ftmech_hf.tasks import PcfgShape
from recipes.readme.studies import main_block, results_block
from tests.report.fabricated import EXPECTED, SEEDS, write_reproduction

T_975 = 4.302652729911275
"""97.5 % point of Student's t with two degrees of freedom, from a printed table."""

LIMITS = {"%": (0.0, 100.0), "x": (0.0, float("inf")), "steps": (0.0, float("inf")), "neurons": (0.0, float("inf")),
          "points": (float("-inf"), float("inf"))}  # fmt: skip

HOLDS = {
    "base_low_a": True, "base_low_b": True, "base_high_a": True, "base_high_b": True, "low_b_cte1": True,
    "low_b_cte0": True, "low_a": True, "high_b_cte0": True, "high_a": False, "pruned_a": True, "random_pruned_a": True,
    "probe_gap": True, "probe_shuffled": True, "revival_ratio": True,
}  # fmt: skip


def interval(values: tuple[float, ...], unit: str) -> tuple[float, float]:
    """Student's, from the textbook, cut to what is possible."""
    half = T_975 * statistics.stdev(values) / len(values) ** 0.5
    low, high = LIMITS[unit]
    return max(low, statistics.mean(values) - half), min(high, statistics.mean(values) + half)


@pytest.fixture
def plan(tmp_path: Path) -> ReproducePlan:
    plan = ReproducePlan(ReproduceConfig(seeds=list(SEEDS), output_dir=str(tmp_path / "out")), PcfgShape())
    for seed in SEEDS:
        write_reproduction(plan.of_seed(seed), seed)
    return plan


def test_every_number_is_the_one_that_it_is_called(plan: ReproducePlan) -> None:
    measured = [measure(plan.finished[seed]) for seed in SEEDS]
    assert list(measured[0]) == [each.id for each in MEASUREMENTS] == list(EXPECTED)
    for number, found in enumerate(measured):
        assert found == pytest.approx({name: values[number] for name, values in EXPECTED.items()}), SEEDS[number]


def check_claim(claim: Mapping[str, object]) -> None:
    """All that a claim says of its numbers."""
    name = str(claim["id"])
    assert claim["values"] == pytest.approx(EXPECTED[name])
    assert claim["seeds"] == list(SEEDS)
    assert claim["measured"] == pytest.approx(statistics.mean(EXPECTED[name]))
    assert claim["interval"] == pytest.approx(interval(tuple(EXPECTED[name]), str(claim["unit"])), rel=1e-6)
    assert claim["holds"] == HOLDS.get(name)


def test_the_report_has_every_number_of_every_seed(plan: ReproducePlan) -> None:
    claims = write_results(plan)
    out = plan.output
    for claim in claims:
        check_claim(vars(claim))
    saved = json.loads((out / "claims.json").read_text())
    assert [claim["id"] for claim in saved] == list(HOLDS)
    for claim in saved:
        check_claim(claim)
    table = pd.read_parquet(out / "table.parquet")
    assert len(table) == len(EXPECTED) * len(SEEDS)
    for name, values in EXPECTED.items():
        rows = table[table["id"] == name]
        assert dict(zip(rows["seed"], rows["value"], strict=True)) == pytest.approx(
            dict(zip(SEEDS, values, strict=True))
        )


SHOWN = {
    "base_low_a": ("99.4 %", "98.7 to 100.0"),
    "base_low_b": ("24.3 %", "10.6 to 38.1"),
    "base_high_a": ("98.4 %", "94.9 to 100.0"),
    "base_high_b": ("97.8 %", "94.7 to 100.0"),
    "low_b_cte1": ("99.2 %", "97.2 to 100.0"),
    "low_b_cte0": ("2.6 %", "0.0 to 6.7"),
    "low_a": ("15.1 %", "8.1 to 22.1"),
    "high_b_cte0": ("85.6 %", "72.7 to 98.5"),
    "high_a": ("78.0 %", "45.3 to 100.0"),
    "pruned_a": ("85.2 %", "73.6 to 96.8"),
    "random_pruned_a": ("7.8 %", "0.2 to 15.4"),
    "probe_gap": ("+3.3 points", "-4.7 to 11.3"),
    "probe_shuffled": ("+1.0 points", "-1.0 to 3.1"),
    "revival_ratio": ("14.3 x", "0.0 to 48.2"),
}
"""What a reader sees: measured, and its interval; worked out with a pocket calculator."""


def cells_of(line: str, mark: str) -> list[str]:
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.split(mark, line)]


def test_a_reader_sees_them_on_the_page_and_in_the_readme(plan: ReproducePlan) -> None:
    write_results(plan)
    out = plan.output
    page, readme = (out / "report.html").read_text(), results_block(out)
    for each in MEASUREMENTS:
        if not each.bar:
            continue
        expected = [
            each.statement,
            each.paper,
            *SHOWN[each.id],
            each.bar,
            "holds" if HOLDS[each.id] else "does not hold",
        ]
        (line,) = (line for line in readme.splitlines() if line.startswith(f"| {each.statement} |"))
        assert cells_of(line.strip("| "), r" \| ") == expected
        (row,) = (row for row in page.split("<tr>") if f">{each.statement}<" in row)
        found = cells_of(row.replace("&gt;", ">").replace("&lt;", "<").split("</tr>")[0], r"</t[dh]>")
        assert [cell for cell in found if cell] == expected
    assert "13 of 14" in re.sub(r"<[^>]*>", "", page)
    assert "Mean over seeds 0, 1, 2," in readme
    differs = {row["what"]: row for row in json.loads((out / "differences.json").read_text())}
    (row,) = (row for row in page.split("<tr>") if ">symbols of a text<" in row)
    assert cells_of(row.split("</tr>")[0], r"</t[dh]>")[1:3] == ["250 (App. B.2)", "32"]
    assert differs["symbols of a text"]["here"] == "32"
    assert len(differs) == page.split("Where this differs from the paper</h2>")[1].split("</table>")[0].count(
        '<th scope="row">'
    )
    front = [line for line in main_block(out).splitlines() if line.startswith("| ")]
    assert len(front) == 1 + 5
    assert set(front) <= set(readme.splitlines())


@pytest.mark.parametrize("measurement", [each for each in MEASUREMENTS if each.bar], ids=lambda each: each.id)
def test_a_claim_is_judged_by_all_its_seeds(measurement: Claim) -> None:
    """Neither its best nor its worst seed decides, nor the first or the last, nor the one in the middle."""
    sign, bar = measurement.bar.split()
    better = 1.0 if sign == ">=" else -1.0

    def verdicts(*distances: float) -> bool | None:
        by_seed = {
            seed: {each.id: float(each.bar.split()[1]) if each.bar else 1.0 for each in MEASUREMENTS}
            | {measurement.id: float(bar) + better * distance}
            for seed, distance in enumerate(distances)
        }
        (claim,) = (claim for claim in judge(MEASUREMENTS, by_seed) if claim.id == measurement.id)
        assert claim.measured == pytest.approx(float(bar) + better * statistics.mean(distances))
        return claim.holds

    assert verdicts(0.9, -0.2, -0.3) is True  # two of three miss it, and the mean meets it
    assert verdicts(-0.3, -0.2, 0.9) is True
    assert verdicts(-0.9, 0.2, 0.3) is False  # two of three meet it, and the mean misses it
    assert verdicts(0.3, 0.2, -0.9) is False
    assert verdicts(0.0) is True


def test_what_counts_as_back_is_95_percent_twice_in_a_row(plan: ReproducePlan) -> None:
    back = revival(plan.finished[0]["reversed-low"])
    assert (back.steps, back.threshold) == (10, 0.95)
    never = revival(plan.finished[2]["reversed-control"])
    assert (never.steps, never.last_step) == (None, 150)


def test_a_model_that_never_lost_it_is_back_after_one_step(plan: ReproducePlan) -> None:
    """A ratio over no step at all would be no number."""
    lines = [json.dumps({"step": step, "eval_rows": 8, "accuracy/count_a": 0.96}) for step in (0, 1)]
    (plan.of_seed(0)["reversed-low"] / "metrics.jsonl").write_text("\n".join(lines))
    found = measure(plan.finished[0])
    assert (found["revival_steps"], found["revival_ratio"]) == (0, 80.0)


def test_seeds_are_other_runs_of_other_seeds(tmp_path: Path) -> None:
    """Same experiment, nothing shared: every run of a seed has its own folder, its own hash and its own inputs."""
    config, shape = ReproduceConfig(seeds=[0, 1, 2], output_dir=str(tmp_path)), PcfgShape()
    plan = ReproducePlan(config, shape)
    places = [plan.of_seed(seed) for seed in config.seeds]
    assert [list(each) for each in places] == [list(places[0])] * 3
    every = [folder for each in places for folder in each.values()]
    assert len({folder.name[-12:] for folder in every}) == len(every) == 36
    cells = {cell.name: cell for cell in plan.unfinished()}
    assert sum(len(runs) for runs in plan.seeds.values()) == len(cells)
    for seed, runs in plan.seeds.items():
        for cell in (cells[run] for run in runs.values()):
            settings = cell.kwargs.get("train", cell.kwargs["config"])
            assert settings.seed == seed
            place = cell.kwargs["config"]
            models = [entry.split("=", 1)[1] for entry in place.models] if hasattr(place, "models") else [
                getattr(place, "model", None)
            ]  # fmt: skip
            assert {name for name in models if name} <= {str(folder) for folder in plan.of_seed(seed).values()}


def test_what_is_missing_keeps_nothing_else_out_of_the_report(plan: ReproducePlan) -> None:
    (plan.of_seed(1)["finetuned-low"] / "manifest.json").unlink()
    for seed in SEEDS:
        (plan.of_seed(seed)["reversed-control"] / "manifest.json").unlink()
    plan.failed = {"finetuned-low-seed1": "loss: became nan"}
    claims = {claim.id: claim for claim in write_results(plan)}
    assert set(EXPECTED) - set(claims) == {
        "revival_ratio", "control_revival_steps", "control_revival_area",
    }  # fmt: skip
    for name, claim in claims.items():
        if name not in ("low_b_cte1", "low_b_cte0", "low_a"):
            check_claim(vars(claim))
            continue
        first, _, last = EXPECTED[name]
        assert (claim.seeds, claim.values) == ([0, 2], pytest.approx([first, last]))
        assert claim.measured == pytest.approx((first + last) / 2)
        assert claim.holds is None, "a seed that failed may be the one that would have missed the bar"
        assert verdict(claim) == "not judged"
    out = plan.output
    page = (out / "report.html").read_text()
    assert "4 runs are missing" in page
    assert "<b>finetuned-low-seed1</b> failed: loss: became nan" in page
    assert all(f"reversed-control-seed{seed}" in page for seed in SEEDS)
    assert "10 of 13" not in page
    assert "9 of 13" in re.sub(r"<[^>]*>", "", page)
    assert page.count("data:image/svg+xml") == 6  # all but that of fine-tuning back
    assert (out / "overview.png").stat().st_size > 10_000
    assert set(pd.read_parquet(out / "table.parquet")["id"]) == set(claims)
    assert "| not judged |" in results_block(out)


def test_no_report_is_made_of_nothing(tmp_path: Path) -> None:
    config, shape = ReproduceConfig(seeds=[0], output_dir=str(tmp_path / "out")), PcfgShape()
    with pytest.raises(ValueError, match=r"output_dir: no run of .*out is finished"):
        write_results(ReproducePlan(config, shape))
    assert not (tmp_path / "out").exists()
