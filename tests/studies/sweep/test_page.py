from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.report.charts import FLOOR_LABEL
from ftmech_hf.report.paper_tables import (
    COLUMNS,
    PAPER_TABLES,
    CompareConfig,
    agreement,
    compare_with_paper,
    read_paper_table,
)
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.intervals import difference_of_shares, share_interval
from ftmech_hf.statistics.seeds import share_over_seeds
from ftmech_hf.studies.sweep.claims import ExpectConfig, judge_claims
from ftmech_hf.studies.sweep.figures import draw_figure
from ftmech_hf.studies.sweep.numbers import stage_rows
from ftmech_hf.studies.sweep.results import floors_of, last_numbers, shows_claim, summarise
from ftmech_hf.studies.sweep.sections import FigureConfig


def make_table() -> pd.DataFrame:
    rows = [
        {
            "lr": lr, "seed": seed, "stage": "finetune", "step": step, "metric": metric,
            "value": base + 0.1 * seed + step / 100, "rows": 100,
        }
        for lr, base in (("large", 0.2), ("small", 0.5))
        for seed in (0, 1, 2)
        for step in (0.0, 10.0)
        for metric in ("count_a", "count_b")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_summary_is_over_seeds_and_rows() -> None:
    summary = summarise(make_table(), ["lr"])
    row = summary[(summary["lr"] == "large") & (summary["step"] == 10) & (summary["metric"] == "count_a")].iloc[0]
    share = share_over_seeds([(30, 100), (40, 100), (50, 100)])
    assert (row["n"], row["mean"], row["low"], row["high"]) == pytest.approx((3, *share))
    one = summarise(make_table().query("seed == 0"), ["lr"])
    assert one["low"].tolist()[0] == share_interval(20, 100).low
    lost = summarise(make_table().drop(columns="rows"), ["lr"])
    assert lost["low"].isna().all(), "of how many rows, nobody says"


def test_the_table_of_a_stage_has_its_last_numbers_in_the_order_of_the_grid() -> None:
    table = last_numbers(summarise(make_table(), ["lr"]), {"finetune": ["lr"]})["finetune"]
    assert list(table["lr"]) == ["large", "small"]
    assert list(table.columns) == ["lr", "count_a", "count_b"]
    assert table["count_a"][1].startswith("70.0 (")


def runs_of_different_lengths() -> pd.DataFrame:
    """Runs of 5, 20 and 100 steps, each right in as many per cent after its last; a stage that does not vary."""
    rows: list[dict[str, Any]] = []
    for steps, seed in itertools.product((5, 20, 100), (0, 1, 2)):
        run = {"steps": str(steps), "seed": seed, "stage": "finetune", "rows": 100, "floor": steps / 1000}
        for step, share in ((0.0, 0.0), (float(steps), steps / 100)):
            rows += [{**run, "step": step, "metric": name, "value": share} for name in ("count_a", "count_b")]
        rows.append(
            {**run, "step": None, "metric": "change/count_a", "value": steps / 100, "rows": None, "floor": None}
        )
    return pd.DataFrame(rows)


def test_each_run_is_shown_after_its_own_last_step() -> None:
    table = runs_of_different_lengths()
    summary = summarise(table, ["steps"])
    last = last_numbers(summary, {"finetune": ["steps"]})["finetune"]
    assert [cell.split(" ")[0] for cell in last["count_a"]] == ["5.0", "20.0", "100.0"]
    assert [cell.split(" ")[0] for cell in last["change/count_a"]] == ["+5.0", "+20.0", "+100.0"]
    assert floors_of(summary)["finetune"].startswith("count_a 0 to 10 %")

    bars = draw_figure(summary, ["steps"], FigureConfig(title="t", metrics=["count_a"], x="steps"))
    (line,) = [line for line in bars.axes[0].lines if list(line.get_ydata()) == pytest.approx([0.05, 0.2, 1.0])]
    assert list(line.get_xdata()) == [0, 1, 2]
    frontier = draw_figure(summary, ["steps"], FigureConfig(title="t", kind="frontier", metrics=["count_b", "count_a"]))
    assert any(sorted(line.get_xdata()) == pytest.approx([0.05, 0.2, 1.0]) for line in frontier.axes[0].lines)
    # floors of the points that are drawn, also where a run of fewer steps was evaluated more often
    often = summary["steps"].eq("5") & summary["step"].eq(0.0)
    uneven = pd.concat([summary, summary[often].assign(step=1.0)], ignore_index=True)
    frontier = draw_figure(uneven, ["steps"], FigureConfig(title="t", kind="frontier", metrics=["count_b", "count_a"]))
    (floor,) = [line for line in frontier.axes[0].lines if line.get_label() == FLOOR_LABEL]
    assert list(floor.get_xdata()) == pytest.approx([(0.005 + 0.02 + 0.1) / 3] * 2)

    claims = [
        ExpectConfig(id=str(steps), statement="s", metric="count_a", bar=">= 1", only={"steps": str(steps)})
        for steps in (5, 20, 100)
    ]
    judged = judge_claims(claims, table, (0, 1, 2), lambda _: "share")
    assert [claim.measured for claim in judged] == pytest.approx([5, 20, 100])


def test_a_change_is_no_surer_than_the_rows_of_its_two_ends(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text(json.dumps({"kind": "finetune", "hash": "h"}))
    lines = [{"step": step, "eval_rows": rows, "accuracy/count_a": 1.0} for step, rows in ((0, 32), (8, 64))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (change,) = [row for row in stage_rows("finetune", FinishedRun(tmp_path)) if row["metric"] == "change/count_a"]
    ends = difference_of_shares((64, 64), (32, 32))
    assert (change["value"], change["low"], change["high"]) == (0.0, ends.low, ends.high)
    assert ends.low < -0.05
    table = pd.DataFrame([{**change, "seed": seed, "stage": "finetune"} for seed in (0, 1, 2)])
    claim = ExpectConfig(id="kept", statement="s", metric="change/count_a", bar=">= -0.5")
    (judged,) = judge_claims([claim], table, (0, 1, 2), lambda _: "points")
    assert judged.verdict == "undecided"
    assert judged.interval == pytest.approx((100 * ends.low / math.sqrt(3), 100 * ends.high / math.sqrt(3)))
    (row,) = summarise(table, []).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx([end / 100 for end in judged.interval or ()])
    assert last_numbers(summarise(table, []), {"finetune": []})["finetune"]["change/count_a"][0].startswith("+0.0 (-")


def test_what_fine_tuning_changed_in_a_probe_is_of_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text(json.dumps({"kind": "probe", "hash": "h"}))
    found = {"accuracy": 0.9, "majority": 0.2, "shuffled": 0.2, "num_test": 50, "label": "a"}
    over = {"value": 0.3, "low": 0.1, "high": 0.4}
    summary = {"base": {**found, "over_finetuned": over}, "finetuned": {**found, "accuracy": 0.6}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    site = {"label": "a", "accuracy": 0.9, "num_test": 50}
    pd.DataFrame([{**site, "model": name} for name in summary]).to_parquet(tmp_path / "table.parquet")
    (row,) = [row for row in stage_rows("probe", FinishedRun(tmp_path)) if row["metric"] == "change/probe"]
    assert (row["value"], row["low"], row["high"]) == (-0.3, -0.4, -0.1)


def as_measured(values: Any) -> pd.DataFrame:
    """The summary of a sweep whose cells have ``values(paper's cell)``."""
    rows = []
    for operator, pretraining in PAPER_TABLES:
        if pretraining == "50K":
            continue
        for row in read_paper_table(operator, pretraining).itertuples():
            operand, texts, steps = str(row.column).removeprefix("o_").split("_")
            value = values(row)
            rows.append(
                {
                    "finetune.operators": operator, "prior": row.prior, "finetune.lr": row.rate,
                    "finetune.correlation": str(row.correlation), "stage": "finetune",
                    "step": 20.0 if steps == "1k" else 200.0,
                    "metric": f"{operator}_{ {'pt': 'a', 'ft': 'b'}[operand] }_{texts}",
                    "n": 1, "mean": value, "low": value, "high": value,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_papers_own_values_agree_with_it_and_shuffled_ones_do_not() -> None:
    cells = compare_with_paper(as_measured(lambda row: row.paper / 100), CompareConfig())
    assert len(cells) == 4 * 36 * len(COLUMNS)
    same = agreement(cells[cells["pretraining"] == "200K"])
    assert (same["rank_correlation"] > 0.999).all()
    assert (same["same_third"] == 1).all()
    rng = np.random.default_rng(0)
    shuffled = cells.assign(ours=rng.permutation(cells["ours"]))
    assert abs(agreement(shuffled)["rank_correlation"].mean()) < 0.15


def test_the_papers_tables_are_as_printed() -> None:
    table = read_paper_table("count", "200K")
    assert len(table) == 36 * len(COLUMNS)
    cell = table.query("prior == 'low' and rate == 'medium' and correlation == 1.0").set_index("column")["paper"]
    assert (cell["o_ft_cte0_10k"], cell["o_ft_cte1_10k"], cell["o_pt_cte0_10k"]) == (0, 100, 17.5)
    assert not table["paper"].isna().any()
    for operator, pretraining in itertools.product(("count", "index"), ("200K", "50K")):
        assert set(read_paper_table(operator, pretraining)["prior"]) == {"low", "medium", "high"}


def test_stages_give_their_numbers(tmp_path: Path) -> None:
    values = {0: 0.5, 4: 0.97, 8: 1.0}
    lines = [{"step": step, "eval_rows": 8, "accuracy/count_a": value} for step, value in values.items()]
    (tmp_path / "env.json").write_text(json.dumps({"kind": "finetune", "hash": "h"}))  # of an earlier version
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "config.yaml").write_text("eval_near: 0.96")
    tuned = {(row["step"], row["metric"]): row["value"] for row in stage_rows("finetune", FinishedRun(tmp_path))}
    assert tuned == {(0, "count_a"): 0.5, (4, "count_a"): 0.97, (8, "count_a"): 1.0, (None, "change/count_a"): 0.5}
    reversed_ = {row["metric"]: row["value"] for row in stage_rows("reverse", FinishedRun(tmp_path))}
    assert (reversed_["steps_to_revival"], reversed_["revived"]) == (4, 1.0)
    assert reversed_["revival_area"] == pytest.approx((0.735 * math.log(5) + 0.985 * math.log(9 / 5)) / math.log(9))
    (tmp_path / "config.yaml").write_text("eval_near: 0.98")  # what it looked for is what counts
    late = {row["metric"]: row for row in stage_rows("reverse", FinishedRun(tmp_path))}
    assert (late["steps_to_revival"]["value"], late["revived"]["value"]) == (8, 0.0)
    assert (late["count_a"]["rows"], late["steps_to_revival"]["bound"]) == (8, "at least")


@pytest.mark.parametrize(
    "config",
    [
        FigureConfig(title="curves", metrics=["count_a", "count_b"], color="lr", style="metric"),
        FigureConfig(title="bars", metrics=["count_a"], x="lr", rows="metric"),
        FigureConfig(title="frontier", kind="frontier", metrics=["count_b", "count_a"], color="lr"),
    ],
)
def test_figures_show_every_line(config: FigureConfig) -> None:
    figure = draw_figure(summarise(make_table(), ["lr"]), ["lr"], config)
    lines = [line for ax in figure.axes for line in ax.lines if len(line.get_xdata())]
    assert len(lines) >= {"curves": 4, "bars": 1, "frontier": 2}[config.title]
    if config.title == "curves":
        drawn = {tuple(np.round(np.asarray(line.get_ydata(), float), 6)) for line in lines}
        assert (0.3, 0.4) in drawn


def test_no_more_is_lost_of_a_share_than_there_is() -> None:
    """Student's interval of three seeds that lose 60, 80 and 100 points goes beyond them; that of a loss may go on."""
    table = pd.DataFrame(
        [{"lr": "large", "seed": seed, "stage": "finetune", "step": None, "metric": metric, "value": value}
         for metric in ("change/count_a", "loss/all") for seed, value in enumerate((-0.6, -0.8, -1.0))]
    )  # fmt: skip
    found = summarise(table, ["lr"]).set_index("metric")
    assert found.loc["change/count_a", "low"] == -1.0
    assert found.loc["loss/all", "low"] == pytest.approx(-0.8 - 4.302652729911275 * 0.2 / 3**0.5)
    assert found.loc["change/count_a", "high"] == found.loc["loss/all", "high"]


def test_floors_and_leads_stand_beside_what_they_are_of(tmp_path: Path) -> None:
    known = (("count_a", 8, 0.5), ("count_a", 40, 0.25), ("count_b", 40, 0.8))
    floors = [{"name": name, "rows": rows, "floor": floor, "text_free": 0.1} for name, rows, floor in known]
    (tmp_path / "env.json").write_text(json.dumps({"kind": "finetune", "hash": "h", "floors": floors}))
    lines = [
        {"step": 0, "eval_rows": 8, "accuracy/count_a": 0.5, "accuracy/count_b": 0.5, "loss/all": 1.0},
        {"step": 4, "eval_rows": 40, "accuracy/count_a": 0.7, "accuracy/count_b": 0.9, "loss/all": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    rows = stage_rows("finetune", FinishedRun(tmp_path))
    found = {(row["step"], row["metric"]): (row["floor"], row["lead"]) for row in rows}
    assert found[0, "count_a"] == (0.5, 0.0)  # on as many rows as were evaluated then
    assert found[4, "count_a"] == (0.25, pytest.approx(0.6))
    assert found[4, "count_b"] == (0.8, pytest.approx(0.5))  # higher, and less of a lead
    for nothing in ((0, "count_b"), (4, "loss/all"), (None, "change/count_a")):
        assert found[nothing] == (None, None)
    other = [{**row, "floor": row["floor"] and row["floor"] + 0.1, "lead": row["lead"] and 0.8} for row in rows]
    table = pd.DataFrame([{**row, "lr": "large", "seed": seed, "stage": "finetune"}
                          for seed, made in enumerate((rows, other)) for row in made])  # fmt: skip
    summary = summarise(table, ["lr"]).set_index(["step", "metric"])
    assert summary.loc[(4, "count_a"), "lead"] == pytest.approx(0.7)
    assert summary.loc[(4, "count_a"), "floor"] == pytest.approx(0.3)
    shown = last_numbers(summary.reset_index(), {"finetune": ["lr"]})["finetune"]
    assert shown["count_a"][0].endswith(", lead 70")
    assert "lead" not in shown["loss/all"][0]
    assert floors_of(summary.reset_index()) == {"finetune": "count_a 30 %, count_b 85 %"}
    two = pd.concat([summary.reset_index(), summary.reset_index().assign(lr="small", floor=0.2)])
    assert floors_of(two)["finetune"].startswith("count_a 20 to 30 %")

    figure = draw_figure(summary.reset_index(), ["lr"], FigureConfig(title="t", metrics=["count_a"]))
    (line,) = [line for line in figure.axes[0].lines if str(line.get_label()) == f"_{FLOOR_LABEL}, count_a"]
    assert np.asarray(line.get_ydata(), float).tolist() == pytest.approx([0.55, 0.3])
    assert FLOOR_LABEL in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_papers_cells_have_our_floors_beside_them() -> None:
    cells = compare_with_paper(as_measured(lambda row: 0.5).assign(floor=0.2), CompareConfig())
    assert (cells["floor"] == 20).all()
    assert compare_with_paper(as_measured(lambda row: 0.5), CompareConfig())["floor"].isna().all()


def two_axes(*, missing: tuple[str, str]) -> pd.DataFrame:
    """Runs of two priors at two rates but one, each with a number of its own."""
    rows = [
        {"prior": prior, "lr": lr, "seed": 0, "stage": "finetune", "step": 9.0, "metric": "count_a", "rows": 100,
         "value": {"large": 0.1, "small": 0.9}[lr]}
        for prior in ("high", "low") for lr in ("large", "small") if (prior, lr) != missing
    ]  # fmt: skip
    return summarise(pd.DataFrame(rows), ["prior", "lr"])


@pytest.mark.parametrize("prior", ["high", "low"])
def test_a_line_has_one_colour_in_all_panels_also_where_a_run_is_missing(prior: str) -> None:
    summary = two_axes(missing=(prior, "large"))
    figure = draw_figure(summary, ["prior", "lr"], FigureConfig(title="t", columns="prior", color="lr"))
    shown = zip(figure.legends[0].legend_handles, figure.legends[0].get_texts(), strict=True)
    legend = {text.get_text(): handle.get_color() for handle, text in shown}  # type: ignore[union-attr]
    assert set(legend) >= {"large", "small"}
    drawn = [line for ax in figure.axes for line in ax.lines if line.get_label() in ("large", "small")]
    assert len(drawn) == 3
    assert all(line.get_color() == legend[str(line.get_label())] for line in drawn)


@pytest.mark.parametrize("prior", ["high", "low"])
def test_a_label_has_one_place_in_all_panels_also_where_a_run_is_missing(prior: str) -> None:
    summary = two_axes(missing=(prior, "large"))
    figure = draw_figure(summary, ["prior", "lr"], FigureConfig(title="t", columns="prior", x="lr"))
    for ax in figure.axes:
        labels = [text.get_text() for text in ax.get_xticklabels()]
        (line,) = [line for line in ax.lines if line.get_label() == "count_a"]
        for x, y in zip(*line.get_data(), strict=True):
            assert y == pytest.approx({"large": 0.1, "small": 0.9}[labels[int(x)]])


def test_a_figure_of_something_else_is_refused() -> None:
    summary = summarise(make_table(), ["lr"])
    with pytest.raises(ValueError, match="figures: t: color: 'rate', expected one of"):
        draw_figure(summary, ["lr"], FigureConfig(title="t", color="rate"))
    with pytest.raises(ValueError, match="figures: t: no 'count_c' in finetune, only count_a, count_b"):
        draw_figure(summary, ["lr"], FigureConfig(title="t", metrics=["count_c"]))


def test_a_claim_of_a_sweep_is_about_one_point_of_its_grid() -> None:
    table = make_table().assign(bound="")
    large = ExpectConfig(id="c", statement="s", metric="count_a", bar=">= 35", only={"lr": "large"})
    (claim,) = judge_claims([large], table, [0, 1, 2], lambda _: "share")
    assert claim.values == pytest.approx([30, 40, 50])
    assert (claim.unit, claim.verdict) == ("%", "undecided")
    (missing,) = judge_claims([large], table, [0, 1, 2, 3], lambda _: "share")
    assert missing.verdict is None
    with pytest.raises(ValueError, match=r"claims: c: only: {}, but 2 points of the grid are so"):
        judge_claims([dataclasses.replace(large, only={})], table, [0, 1, 2], lambda _: "share")
    with pytest.raises(ValueError, match="claims: c: only: unknown axis 'rate'"):
        judge_claims([dataclasses.replace(large, only={"rate": "large"})], table, [0], lambda _: "share")
    with pytest.raises(ValueError, match="claims: c: bar: '> 20', expected such as >= 80"):
        dataclasses.replace(large, bar="> 20")


def test_a_claim_leads_to_the_pictures_of_its_number() -> None:
    claim = ExpectConfig(id="a", statement="A", metric="count_a", bar=">= 80", only={"lr": "0.1"})
    figure = FigureConfig(title="F", metrics=["count_b", "count_a"])
    assert shows_claim(figure, claim)
    assert shows_claim(dataclasses.replace(figure, only={"lr": "0.1"}), claim)
    assert not shows_claim(dataclasses.replace(figure, only={"lr": "1"}), claim)
    assert not shows_claim(dataclasses.replace(figure, stage="reverse"), claim)
    assert not shows_claim(dataclasses.replace(figure, metrics=["count_b"]), claim)
