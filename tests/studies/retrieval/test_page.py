"""The plan of retrieval, its results and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.studies.retrieval import results
from ftmech_hf.studies.retrieval.plan import CONTEXTS, LARGEST, TUNINGS, RetrievalConfig, RetrievalPlan
from tests.browser import check_page, figures_of_claims
from tests.studies.retrieval.test_claims import seed


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RetrievalPlan:
    return RetrievalPlan(RetrievalConfig(seeds=[0], output_dir=str(tmp_path_factory.mktemp("retrieval"))))


def test_every_way_to_tune_is_what_its_name_says(plan: RetrievalPlan) -> None:
    runs = {name: plan.called_with(run) for name, run in plan.models[0].items() if name in TUNINGS}
    assert len({plan.models[0][name] for name in TUNINGS}) == len(TUNINGS) == 16
    steps = {name: each["train"].steps for name, each in runs.items()}
    assert [steps[f"closed-full-{place}"] for place in range(3)] == [32, 79, 157]  # five epochs of 32 rows a step
    assert {steps[name] for name in runs if not name.endswith(("-0", "-1"))} == {157}
    assert {name for name, each in runs.items() if each["task"].style == "terse"} == {
        "closed-terse-0", "closed-terse-1", "closed-terse-2"
    }  # fmt: skip
    for name, each in runs.items():
        task = each["task"]
        assert (task.world, task.people, task.asked) == ("domain", "trained", ["one", "several"])
        assert task.context == CONTEXTS[TUNINGS[name].context]
        assert task.pairs == (200 if "-0" in name else 500 if "-1" in name else 1000)
        assert task.pretraining_share == (0.25 if name == "closed-full-replay" else 0)
    rates = {name: each["train"].lr for name, each in runs.items()}
    assert rates.pop("closed-full-slow") == pytest.approx(1e-4)
    assert rates.pop("closed-full-lora") == pytest.approx(1e-2)
    assert set(rates.values()) == {1e-3}
    assert [name for name, each in runs.items() if each["adapter"].adapter == "lora"] == ["closed-full-lora"]


def test_reading_is_trained_back_on_other_people_than_it_is_tested_on(plan: RetrievalPlan) -> None:
    assert set(plan.reversals[0]) == {LARGEST, "heart", "random"}
    for run in plan.reversals[0].values():
        task = plan.called_with(run)["task"]
        assert (task.world, task.context, task.pairs) == ("third", "oracle", 200)
        (tested,) = task.test_tasks().values()
        assert (tested.world, tested.people, tested.context, tested.pairs) == ("domain", "held_out", "oracle", 0)
    heart = plan.called_with(plan.models[0]["heart"])["task"]
    assert (heart.mixture, heart.world, heart.context) == ("questions", "known", "none")


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes: \[100, 200, 300\], expected three numbers that grow, the first at"):
        RetrievalConfig(sizes=[100, 200, 300])
    with pytest.raises(ValueError, match="epochs: 0, expected at least 1"):
        RetrievalConfig(epochs=0)


def test_the_page_shows_what_is_there(plan: RetrievalPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = seed().tables
    table = pd.concat([each.assign(model=name, seed=0) for name, each in tables.items()], ignore_index=True)
    table = table.assign(precision=table["completeness"], f1=table["right"])
    monkeypatch.setattr(results, "read_table", lambda plan: table)
    claims = {claim.id: claim for claim in results.write_results(plan)}
    assert claims["b1"].measured == pytest.approx(20)
    shown = {row["model"]: row for row in results.summarise_models(table)}
    assert set(shown) == {"base", *TUNINGS}
    assert (shown[LARGEST]["found"], shown[LARGEST]["taught"]) == (pytest.approx(80), pytest.approx(70))
    sizes = results.by_size(plan, table)
    assert len(sizes) == 9
    assert set(sizes.loc[sizes["clock"] == "steps", "questions"]) == {200, 500, 1000}
    page = plan.output / "report.html"
    drawn = figures_of_claims(page)
    assert drawn["b3"] == ["figure-more-data"]
    named = {each["id"] for each in json.loads((plan.output / "claims.json").read_text())}
    assert {"b1", "b2", "b3", "b4", "b5", "b6", "b8_replay"} <= named
    check_page(page)
    assert (Path(plan.output) / "table.parquet").is_file()
