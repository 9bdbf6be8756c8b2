"""The headline: every cell of the table of claims, from runs whose numbers are all different."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.report.page import format_verdict
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.seeds import share_over_seeds
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS, measure, revival
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import write_results
from ftmech_hf.tasks import PcfgShape
from recipes.readme.studies import main_block, results_block
from tests.report.fabricated import ENDS, EXPECTED, ROWS, SEEDS, write_reproduction

T_975 = 4.302652729911275
"""97.5 % point of Student's t with two degrees of freedom, from a printed table."""

VERDICTS = {
    "base_low_a": "holds", "base_low_b": "holds", "base_high_a": "undecided", "base_high_b": "undecided",
    "low_b_cte1": "undecided", "low_b_cte0": "undecided", "low_a": "holds", "high_b_cte0": "undecided",
    "high_a": "undecided", "gain_a": "holds", "control_gain_a": "holds", "tuned_control_gain_a": "holds",
    "probe_gap": "undecided",
    "probe_lead": "holds", "revival_ratio": "undecided",
}  # fmt: skip
AREAS = ("revival_area", "control_revival_area")
"""In per cent, and no share of rows: of how many, nobody can say."""
CAPPED = ("revival_ratio", "control_revival_steps")
"""The control of the last seed was not back when it stopped."""


PROBED_RIGHT = {
    "probe_shuffled": ((230, 214), (240, 226), (249, 248)),
}
"""Rows of a thousand that are right, in each seed."""


FLOOR_OF = {
    "base_low_a": 31, "base_low_b": 32, "base_high_a": 31, "base_high_b": 32, "low_b_cte1": 33, "low_b_cte0": 34,
    "low_a": 31, "high_b_cte0": 34, "high_a": 31, "pruned_a": 31, "random_pruned_a": 31, "pruned_b_cte1": 33,
    "pruned_activations_a": 31, "random_pruned_activations_a": 31, "control_a": 31, "control_pruned_a": 31,
    "probe_base": 22.5333, "probe_finetuned": 22.9333, "probe_control": 11, "probe_random_init": 17,
}  # fmt: skip
"""The constant answer on the rows of the last step, of probes the majority class: means over seeds."""


def measured(name: str) -> float:
    """The mean over seeds, geometric of ratios and steps."""
    values = EXPECTED[name]
    return statistics.geometric_mean(values) if UNITS[name] in ("x", "steps") else statistics.mean(values)


def interval(name: str) -> tuple[float, float | None]:
    """From the textbook: Student's, on the logarithm of ratios and steps, and of shares by their two levels."""
    values, unit = EXPECTED[name], UNITS[name]
    if unit == "%":
        _, low, high = share_over_seeds([(round(value / 100 * ROWS), ROWS) for value in values])
        return 100 * low, 100 * high
    scaled = [math.log(value) for value in values] if unit in ("x", "steps") else values
    half = T_975 * statistics.stdev(scaled) / len(scaled) ** 0.5
    low, high = statistics.mean(scaled) - half, statistics.mean(scaled) + half
    if unit in ("x", "steps"):
        return math.exp(low), None if name in CAPPED else math.exp(high)
    if unit == "points" and name not in PROBED_RIGHT:  # of the same rows: each seed has its interval
        below, above = (100 * end * len(values) ** 0.5 / len(values) for end in ENDS)
        return min(low, statistics.mean(values) - below), max(high, statistics.mean(values) + above)
    if unit == "points":  # never narrower than the rows: the difference of two shares, of each seed
        ends = [[share_interval(right, ROWS) for right in pair] for pair in PROBED_RIGHT[name]]
        of_rows = [
            (
                math.hypot(one.value - one.low, other.high - other.value),
                math.hypot(one.high - one.value, other.value - other.low),
            )
            for one, other in ends
        ]
        below, above = (100 * math.hypot(*each) / len(ends) for each in zip(*of_rows, strict=True))
        return min(low, statistics.mean(values) - below), max(high, statistics.mean(values) + above)
    return max(0, low), high


UNITS = {each.id: each.unit for each in MEASUREMENTS}


@pytest.fixture
def plan(tmp_path: Path) -> ReproducePlan:
    plan = ReproducePlan(ReproduceConfig(seeds=list(SEEDS), output_dir=str(tmp_path / "out")), PcfgShape())
    for seed in SEEDS:
        write_reproduction(plan.of_seed(seed), seed)
    return plan


def test_every_number_is_the_one_that_it_is_called(plan: ReproducePlan) -> None:
    read = [measure(plan.finished[seed]) for seed in SEEDS]
    assert list(read[0]) == [each.id for each in MEASUREMENTS] == list(EXPECTED)
    for number, found in enumerate(read):
        values = {name: each.value for name, each in found.items()}
        assert values == pytest.approx({name: each[number] for name, each in EXPECTED.items()}), SEEDS[number]
        assert {name for name, each in found.items() if each.rows} == {
            n for n, unit in UNITS.items() if unit == "%"
        } - set(AREAS)
        assert {each.rows for each in found.values() if each.rows} == {ROWS}
        assert {name for name, each in found.items() if each.bound} == (set(CAPPED) if number == 2 else set())


def check_claim(claim: Mapping[str, object]) -> None:
    """All that a claim says of its numbers."""
    name = str(claim["id"])
    assert claim["values"] == pytest.approx(EXPECTED[name])
    assert claim["seeds"] == list(SEEDS)
    assert claim["measured"] == pytest.approx(measured(name))
    if name in AREAS:
        assert claim["interval"] is None
        return
    (low, high), ends = interval(name), list(claim["interval"])  # type: ignore[call-overload]
    assert ends == [pytest.approx(low, rel=1e-6), high if high is None else pytest.approx(high, rel=1e-6)]
    assert claim["verdict"] == VERDICTS.get(name)
    assert claim["floor"] == (None if name not in FLOOR_OF else pytest.approx(FLOOR_OF[name], abs=1e-3))


def test_the_report_has_every_number_of_every_seed(plan: ReproducePlan) -> None:
    claims = write_results(plan)
    out = plan.output
    for claim in claims:
        check_claim(vars(claim))
    saved = json.loads((out / "claims.json").read_text())
    assert [claim["id"] for claim in saved] == list(VERDICTS)
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
    "probe_gap": ("+3.3 points", "-4.7 to 11.3"),
    "probe_lead": ("+47.4 points", "38.9 to 55.9"),
    "gain_a": ("+69.5 points", "63.0 to 76.5"),
    "control_gain_a": ("+2.6 points", "-2.6 to 9.5"),
    "tuned_control_gain_a": ("+2.5 points", "-2.7 to 9.4"),
    "revival_ratio": ("at least 10.6 x", "1.1 or more"),
}
"""What a reader sees: measured, and its interval; worked out with a pocket calculator."""


def cells_of(line: str, mark: str) -> list[str]:
    """What stands in the cells of a row, without the links below it."""
    line = re.sub(r'<span class="links"[^>]*>.*?</span>', "", line)
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.split(mark, line)]


def test_a_reader_sees_them_on_the_page_and_in_the_readme(plan: ReproducePlan) -> None:
    write_results(plan)
    out = plan.output
    page, readme = (out / "report.html").read_text(), results_block(out)
    for each in MEASUREMENTS:
        if not each.bar:
            continue
        low, high = interval(each.id)
        shown = SHOWN.get(each.id, (f"{measured(each.id):.1f} %", f"{low:.1f} to {high or math.inf:.1f}"))
        verdict = {"holds": "✓ holds", "fails": "✗ fails", "undecided": "? undecided"}[VERDICTS[each.id]]
        floor = f"{FLOOR_OF[each.id]:.1f} %" if each.id in FLOOR_OF else "—"
        expected = [each.statement, each.paper, floor, *shown, each.bar, verdict]
        (line,) = (line for line in readme.splitlines() if line.startswith(f"| {each.statement} |"))
        assert cells_of(line.strip("| "), r" \| ") == expected
        (row,) = (row for row in page.split("<tr>") if f">{each.statement}<" in row)
        found = cells_of(row.replace("&gt;", ">").replace("&lt;", "<").split("</tr>")[0], r"</t[dh]>")
        assert [cell for cell in found if cell] == expected
    assert "15 claims: 7 hold, 8 undecided" in re.sub(r"<[^>]*>", "", page)
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
    assert (found["revival_steps"].value, found["revival_ratio"].value) == (0, 80.0)


def test_seeds_are_other_runs_of_other_seeds(tmp_path: Path) -> None:
    """Same experiment, nothing shared: every run of a seed has its own folder, its own hash and its own inputs."""
    config, shape = ReproduceConfig(seeds=[0, 1, 2], output_dir=str(tmp_path)), PcfgShape()
    plan = ReproducePlan(config, shape)
    places = [plan.of_seed(seed) for seed in config.seeds]
    assert [list(each) for each in places] == [list(places[0])] * 3
    every = [folder for each in places for folder in each.values()]
    assert len({folder.name[-12:] for folder in every}) == len(every) == 42
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
        assert claim.verdict is None, "a seed that failed may be the one that would have missed the bar"
        assert format_verdict(claim) == "not judged"
    out = plan.output
    page = (out / "report.html").read_text()
    assert "4 runs are missing" in page
    assert "<b>finetuned-low-seed1</b> failed: loss: became nan" in page
    assert all(f"reversed-control-seed{seed}" in page for seed in SEEDS)
    assert "14 claims: 6 hold, 5 undecided, 3 not judged" in re.sub(r"<[^>]*>", "", page)
    assert page.count("data:image/svg+xml") == 6  # all but that of fine-tuning back
    assert (out / "overview.png").stat().st_size > 10_000
    assert set(pd.read_parquet(out / "table.parquet")["id"]) == set(claims)
    assert "| not judged |" in results_block(out)


def test_no_report_is_made_of_nothing(tmp_path: Path) -> None:
    config, shape = ReproduceConfig(seeds=[0], output_dir=str(tmp_path / "out")), PcfgShape()
    with pytest.raises(ValueError, match=r"output_dir: no run of .*out is finished"):
        write_results(ReproducePlan(config, shape))
    assert not (tmp_path / "out").exists()
