"""The plan of retrieval, its results and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import yaml

from ftmech_hf.hub import save
from ftmech_hf.jobs.card import check_card
from ftmech_hf.studies.diagnosis.method import row
from ftmech_hf.studies.retrieval import results
from ftmech_hf.studies.retrieval.claims import CLOSED
from ftmech_hf.studies.retrieval.plan import (
    CONTEXTS,
    DIAGNOSED,
    INSIDE,
    LARGEST,
    TUNINGS,
    RetrievalConfig,
    RetrievalPlan,
)
from tests.browser import check_page, figures_of_claims
from tests.studies.retrieval.test_claims import INSIDE as INSIDE_TABLES
from tests.studies.retrieval.test_claims import seed

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"


class _Run(NamedTuple):
    """What the page reads of a finished run."""

    table: pd.DataFrame
    summary: dict[str, str] = {}  # noqa: RUF012 (never changed)


def patching_table() -> pd.DataFrame:
    """Rows of a diagnosis: the stream brings all back from the second layer on, another question's nothing."""
    return pd.DataFrame(
        row("patching", quantity, value if quantity == "same row" else 0.0, model="base into fine-tuned",
            questions="capability", site="resid_post", layer=layer)
        for layer, value in enumerate((0.2, 0.5, 0.9, 1.0)) for quantity in ("same row", "other row")
    )  # fmt: skip


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
    steps = {name: plan.called_with(run)["train"].steps for name, run in plan.reversals[0].items()}
    assert steps == {LARGEST: 300, "heart": 1000, "random": 1000}  # what never read is followed for longer
    heart = plan.called_with(plan.models[0]["heart"])["task"]
    assert (heart.mixture, heart.world, heart.context) == ("questions", "known", "none")


def test_what_is_diagnosed_stands_beside_what_never_read(plan: RetrievalPlan) -> None:
    made = {name: plan.folders[run] for name, run in plan.models[0].items()}
    assert set(plan.diagnoses[0]) == set(DIAGNOSED)
    assert {LARGEST, "closed-full-replay", "retrieved-full-2"} < set(DIAGNOSED)  # two that keep reading
    for name, run in plan.diagnoses[0].items():
        config = plan.called_with(run)["config"]
        models = (config.base, config.finetuned, config.control)
        assert models == tuple(str(made[each]) for each in ("base", name, "heart"))
        assert plan.called_with(run)["case_config"].reverse_lr == plan.config.reverse_lr
    assert {name: Path(plan.called_with(run)["config"].model) for name, run in plan.inside[0].items()} == {
        name: made[name] for name in INSIDE
    }


def test_some_are_asked_for_all_that_the_largest_data_teach(plan: RetrievalPlan) -> None:
    assert set(plan.taught[0]) == {"base", *CLOSED, "closed-full-0-steps", "closed-full-1-steps"}
    for run in plan.taught[0].values():
        config = plan.called_with(run)["config"]
        assert (config.questions, config.all_taught) == (1000, True)


def test_rates_are_those_of_the_first_seed_and_none_is_made_twice(tmp_path: Path) -> None:
    plan = RetrievalPlan(RetrievalConfig(seeds=[3, 4], output_dir=str(tmp_path)))
    without = RetrievalPlan(RetrievalConfig(seeds=[3, 4], output_dir=str(tmp_path), rates=[]))
    assert (len(plan.rates), len(without.rates)) == (10, 0)
    # The rate of the study, a tenth of it, and the adapter at the study's rate are there already.
    assert len(plan.folders) == len(without.folders) + 2 * (10 - 3)
    assert plan.rates[1e-3, False] == plan.asked[3][LARGEST]
    assert plan.rates[1e-3, True] == plan.asked[3]["closed-full-lora"]
    assert plan.rates[1e-4, False] == plan.asked[3]["closed-full-slow"]
    (tuned,) = [name for name in plan.needs_of(plan.rates[1e-5, True]) if name.startswith("rate")]
    train = plan.called_with(tuned)["train"]
    assert (train.lr, train.seed, train.steps) == (pytest.approx(1e-4), 3, 157)


def test_the_base_alone_is_the_study_s_base(plan: RetrievalPlan) -> None:
    """The file that pretrains a base by itself says the same as the study's settings, to the run's hash."""
    made = [*plan.models[0].values(), *plan.reversals[0].values()]
    assert {plan.called_with(each)["config"].task for each in made} == {"library"}  # so that config.yaml makes it again
    alone = yaml.safe_load((CONFIGS / "nano" / "library_pretrain.yaml").read_text(encoding="utf-8"))
    run = plan.called_with(plan.models[0]["base"])
    train, place, objective = run["train"], run["config"], run["objective"]
    assert alone.pop("scale") == "nano"
    assert alone.pop("task") == "library"
    assert (alone.pop("preset"), alone.pop("answer_weight")) == (place.preset, objective.answer_weight)
    alone.pop("output_dir")
    alone.pop("eval_rows")  # of its curve, which the study does not draw
    assert alone == {name: getattr(train, name) for name in alone}
    assert {"batch_size", "steps", "lr", "muon_lr"} <= set(alone)


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes: \[100, 200, 300\], expected three numbers that grow, the first at"):
        RetrievalConfig(sizes=[100, 200, 300])
    with pytest.raises(ValueError, match=r"sizes: \[300, 300, 300\], expected three numbers that grow"):
        RetrievalConfig(sizes=[300, 300, 300])
    with pytest.raises(ValueError, match="epochs: 0, expected at least 1"):
        RetrievalConfig(epochs=0)


def test_rates_that_are_shown_are_those_that_were_trained_at(
    plan: RetrievalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter's, too, which is trained at ten times the rate that it is called by."""
    tuned = {run: plan.called_with(plan.needs_of(run)[0])["train"].lr for run in plan.rates.values()}
    monkeypatch.setattr(plan, "find", lambda run: _Run(seed().tables[LARGEST]))
    found = results.rates_table(plan)
    assert found["rate"].tolist() == pytest.approx([tuned[run] for run in plan.rates.values()])
    assert set(found["lora"]) == {False, True}


def test_the_page_shows_what_is_there(plan: RetrievalPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = seed().tables
    table = pd.concat([each.assign(model=name, seed=0) for name, each in tables.items()], ignore_index=True)
    table = table.assign(precision=table["completeness"], f1=table["right"])
    monkeypatch.setattr(results, "read_table", lambda plan: table)
    rates = pd.DataFrame({"rate": [1e-4, 1e-3] * 2, "lora": [False, False, True, True], "found": 0.9, "taught": 0.5})
    monkeypatch.setattr(results, "rates_table", lambda plan: rates)
    runs = {name: _Run(each) for name, each in INSIDE_TABLES.items()}
    diagnosed = {LARGEST: _Run(patching_table(), {"verdict": "weakened", "reason": "it reads less"})}
    found = {id(plan.inside): runs, id(plan.diagnoses): diagnosed}
    monkeypatch.setattr(plan, "finished", lambda of: {0: found.get(id(of), {})})
    claims = {claim.id: claim for claim in results.write_results(plan)}
    assert claims["b1"].measured == pytest.approx(20)
    assert claims["look_lost"].measured == pytest.approx(15)
    verdicts = json.loads((plan.output / "verdicts.json").read_text())
    assert verdicts == [{"model": LARGEST, "verdicts": {"0": "weakened"}, "reason": "it reads less"}]
    shown = {row["model"]: row for row in results.summarise_models(table)}
    assert set(shown) == {"base", *TUNINGS}
    assert (shown[LARGEST]["found"], shown[LARGEST]["taught"]) == (pytest.approx(80), pytest.approx(70))
    sizes = results.by_size(plan, table)
    assert len(sizes) == 9
    assert set(sizes.loc[sizes["clock"] == "steps", "questions"]) == {200, 500, 1000}
    page = plan.output / "report.html"
    drawn = figures_of_claims(page)
    assert drawn["b3"] == ["figure-more-data"]
    assert drawn["read_lost"] == ["figure-read-and-looked-at"]
    assert drawn["b8_slow"] == ["figure-how-fast"]
    assert "it reads less" in page.read_text(encoding="utf-8")
    assert "What brings reading back" in page.read_text(encoding="utf-8")
    named = {each["id"] for each in json.loads((plan.output / "claims.json").read_text())}
    assert {"b1", "b2", "b3", "b4", "b5", "b6", "b8_replay"} <= named
    check_page(page)
    assert (Path(plan.output) / "table.parquet").is_file()
    card = (save(plan.output, tmp_path / "published", "someone/retrieval")["main"] / "README.md").read_text()
    check_card(card, "dataset")
    assert re.findall(r"arxiv:(\S+)", card) == ["2406.11201"]
    assert "fine-tuning changes inside a model." in card  # nothing of a task that is known exactly


def test_a_table_says_what_each_model_is() -> None:
    sizes = (200, 500, 1000)
    assert results.describe_model("heart", sizes) == "learned by heart, never read"
    assert results.describe_model("closed-terse-0", sizes) == "200 questions, one fact of each answer, no documents"
    assert results.describe_model("closed-full-1-steps", sizes) == (
        "500 questions, full answers, no documents, as many steps as of the most questions"
    )
    assert results.describe_model("closed-full-replay", sizes) == (
        "1,000 questions, full answers, no documents, 25% of rows from pretraining"
    )
    assert len({results.describe_model(name, sizes) for name in TUNINGS}) == len(TUNINGS)
