from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.studies.continual import results
from ftmech_hf.studies.continual.capabilities import task_of
from ftmech_hf.studies.continual.claims import BEST
from ftmech_hf.studies.continual.methods import METHODS
from ftmech_hf.studies.continual.plan import ContinualConfig, ContinualPlan
from ftmech_hf.studies.continual.sequences import SEQUENCES, planted_shape
from ftmech_hf.tasks import PcfgShape, RowStream
from tests.browser import check_page, figures_of_claims
from tests.studies.continual.test_claims import KEPT, matrix


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ContinualPlan:
    config = ContinualConfig(
        seeds=[0], sequences=["s1"], methods=[*KEPT, "ldifs-base"], output_dir=str(tmp_path_factory.mktemp("continual"))
    )
    return ContinualPlan(config, PcfgShape())


def test_the_plan_shares_what_methods_have_in_common(plan: ContinualPlan) -> None:
    runs = plan.models[0]
    assert runs["s1", "ldifs-base"][0] == runs["s1", "ldifs-previous"][0]  # the base is the first start
    assert runs["s1", "ldifs-base"][1] != runs["s1", "ldifs-previous"][1]
    assert plan.others[0]["single-count_b"] == runs["s1", "plain"][0]  # the first task alone is the first task
    assert runs["s1", "replay"][0] == runs["s1", "replay-shuffled"][0]
    assert runs["s1", "ewc"][0] == runs["s1", "ewc-permuted"][0]
    assert len({name for chain in runs.values() for name in chain}) == 4 * len(plan.config.methods) - 3
    seeds = {plan.called_with(name)["train"].seed for name in runs["s1", "plain"]}
    assert seeds == {0, 1000, 2000, 3000}  # tasks in a row share no texts
    random = [plan.called_with(name)["config"].anchor_model for name in runs["s1", "ldifs-random"]]
    assert len(set(random)) == 1
    assert "random-seed0" in str(random[0])
    assert plan.called_with(runs["s1", "ldifs-previous"][2])["config"].anchor_model is None
    assert plan.called_with(plan.others[0]["never"])["task"].operand_prior == ["control"]  # never asked about a
    random_weights = plan.called_with(plan.others[0]["random"])["train"]
    assert random_weights.steps == 0
    assert random_weights.seed != plan.called_with(plan.others[0]["base"])["train"].seed  # not what the base began with
    joint = plan.called_with(plan.others[0]["joint"])
    assert joint["train"].steps == 4 * plan.config.task_steps  # all that a sequence sees
    assert (joint["task"].operators, joint["task"].operand_prior) == (["count", "index"], ["0", "0.5", "0.5"])
    heads = [name for name in plan.folders if name.startswith("head-lp-ft")]
    assert len(heads) == 4


def test_every_text_that_a_task_is_about_is_asked_of_the_base_and_of_who_learned_it_alone(tmp_path: Path) -> None:
    config = ContinualConfig(seeds=[0], sequences=["s1", "s3"], other_methods=["plain"], output_dir=str(tmp_path))
    plan = ContinualPlan(config, PcfgShape())
    planted = {name: plan.called_with(plan.asked[run])["config"].planted for name, run in plan.others[0].items()}
    alone = {name for name in planted if name.startswith("single-")}
    assert alone == {f"single-{name}" for sequence in ("s1", "s3") for name in SEQUENCES[sequence].names}
    assert {name for name, with_shortcut in planted.items() if with_shortcut} == {
        "base",
        *(f"single-{name}" for name in SEQUENCES["s3"].names),
    }
    for place, (name, own) in enumerate(zip(SEQUENCES["s3"].names, plan.models[0]["s3", "plain"], strict=True)):
        single, chain = (plan.called_with(run) for run in (plan.others[0][f"single-{name}"], own))
        assert single["task"] == chain["task"]
        assert single["train"] == replace(chain["train"], seed=0)
        assert place or single["config"].model == chain["config"].model
    without = ContinualPlan(replace(config, sequences=["s1", "s2"]), PcfgShape())
    assert not any(without.called_with(run)["config"].planted for run in without.asked.values())


def test_models_are_probed_at_the_end_of_a_sequence_and_brought_back_on_texts_of_their_own(plan: ContinualPlan) -> None:
    for chain in plan.models[0].values():
        probed = [plan.called_with(plan.asked[name])["config"].probe_rows > 0 for name in chain]
        assert probed == [False, False, False, True]
    others = {name for name, run in plan.others[0].items() if plan.called_with(plan.asked[run])["config"].probe_rows}
    assert others == {"base", "never", "random", "joint"}
    for name, run in plan.reversals[0].items():
        back = plan.called_with(run)
        assert back["config"].split == "reverse"
        assert (back["task"].operators[0], back["task"].operator_prior) == ("count", [1.0, 0.0])
        assert back["task"].operand_prior[0] == "1.0"
        last = {"plain": plan.models[0]["s1", "plain"][-1], "random": plan.others[0]["random"]}.get(name)
        assert last is None or back["config"].model == str(plan.folders[last])
    assert "never-s1-4-index_c" in plan.called_with(plan.reversals[0]["never"])["config"].model


def test_sequences_are_the_same_tasks_in_other_orders_or_with_a_shortcut() -> None:
    first, second, third = (SEQUENCES[name] for name in ("s1", "s2", "s3"))
    assert [str(each) for each in first.tasks] == ["count_b", "index_b", "count_c", "index_c"]
    assert second.tasks == first.tasks[::-1]
    assert third.tasks == first.tasks
    assert (first.correlation, second.correlation, third.correlation) == (None, None, 1.0)


def test_the_page_shows_what_is_there(plan: ContinualPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.concat([matrix(), *(_joint(name) for name in ("random",))])
    monkeypatch.setattr(results, "read_matrix", lambda plan: table)
    claims = {claim.id: claim for claim in results.write_results(plan)}
    assert claims["a2"].measured == pytest.approx(50)
    page = (plan.output / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3
    assert '<td class="n">-4.4</td>' in page  # the paper's
    numbers = pd.read_parquet(plan.output / "table.parquet").set_index("method")
    assert numbers.loc["plain", "concept_loss"] == pytest.approx(0.7)
    assert numbers.loc[BEST, "concept_loss"] == pytest.approx(0.2)
    shown = {row["method"]: row for row in results.methods_table(numbers.reset_index(), "s1")}
    assert set(shown) == set(KEPT)
    assert shown["l2sp"] == {
        "method": "l2sp", "says": METHODS["l2sp"].says, "seeds": 1, "learned": pytest.approx(90),
        "concept_loss": pytest.approx(40), "forgetting": pytest.approx(10), "probe_change": None,
    }  # fmt: skip
    assert results.methods_table(numbers.reset_index(), "s2") == []
    tasks = {row["method"]: row for row in results.numbers_table(numbers.reset_index())}
    assert tasks["plain"] == {
        "sequence": "s1", "method": "plain", "accuracy": pytest.approx(82.5), "floor": pytest.approx(10),
        "lead": pytest.approx(100 * (3 * 0.7 + 0.8) / 0.9 / 4), "backward_transfer": pytest.approx(-10),
        "forward_transfer": pytest.approx(0), "plasticity_gap": None,
    }  # fmt: skip
    assert results.numbers_table(pd.DataFrame()) == []
    assert '<td class="n">80.6</td>' in page
    two = pd.concat([numbers, numbers.assign(learned=0.5)]).reset_index()
    assert [row["learned"] for row in results.methods_table(two, "s1")] == pytest.approx([70] * len(KEPT))
    rows = {row["method"]: row for row in results.paper_table(numbers.reset_index(), "s1")}
    assert rows["plain"]["concept_loss"] == pytest.approx(70)
    assert rows["plain"]["probe_change"] == pytest.approx(-2)
    assert (Path(plan.output) / "matrix.parquet").is_file()
    drawn = figures_of_claims(plan.output / "report.html")
    assert [claim for claim in drawn if not drawn[claim]] == ["a6_shuffled"]  # which is in no picture
    assert drawn["a4"] == ["figure-what-is-lost-for-what-is-learned"]
    check_page(plan.output / "report.html")


def _joint(name: str) -> pd.DataFrame:
    """Probes of another model, as those of the base."""
    table = matrix()
    base = table[(table["method"] == "base") & (table["by"] == "probe")]
    return base.assign(method=name, value=0.6)


def test_strengths_are_tried_and_chosen_on_rows_of_their_own(tmp_path: Path) -> None:
    config = ContinualConfig(seeds=[99], develop=True, output_dir=str(tmp_path))
    plan = ContinualPlan(config, PcfgShape())
    tried = {method for _, method in plan.models[99]}
    assert {"plain", "ldifs-previous@100", "ewc@100000", "replay@0.1"} <= tried
    strengths = {plan.called_with(name)["train"].ldifs for name in plan.models[99]["s1", "ldifs-previous@100"]}
    assert strengths == {100.0}
    assert {plan.called_with(name)["config"].split for name in plan.asked.values()} == {"validation"}
    assert not any(name.startswith(("never", "random", "joint")) for name in plan.folders)
    table = pd.DataFrame([{"method": name, "learned": value} for name, value in
                          {"plain": 0.9, "replay@0.1": 0.5, "replay@0.25": 0.4, "ewc@100": 0.9}.items()])  # fmt: skip
    assert results.strengths_table(table) == [
        {"setting": "replay", "tried": pytest.approx({0.1: 50, 0.25: 40}), "plain": pytest.approx(90), "chosen": 0.1,
         "too_strong": True}
    ]  # fmt: skip
    table.loc[table["method"] == "replay@0.25", "learned"] = 0.88
    assert [(row["chosen"], row["too_strong"]) for row in results.strengths_table(table)] == [(0.25, False)]
    learned = {
        "ldifs-previous@0.1": 0.9,
        "ldifs-previous@1": 0.91,
        "ldifs-previous@10": 0.89,
        "ldifs-previous@100": 0.4,
        "l2sp@10": 0.9,
    }
    numbers = pd.DataFrame([{"method": name, "learned": value} for name, value in {"plain": 0.9, **learned}.items()])
    assert results.chosen_strengths(numbers) == {"ldifs_strength": 10.0}  # of the others not all are there


def test_texts_with_a_shortcut_need_fewer_answers_and_never_more() -> None:
    capability = SEQUENCES["s3"].tasks[3]
    assert planted_shape(PcfgShape(), capability).min_labels == 4
    assert planted_shape(PcfgShape(min_labels=3), capability).min_labels == 3
    assert planted_shape(PcfgShape(), capability).correlated_operand == "c"
    for each in SEQUENCES["s3"].tasks:  # all of them can be drawn
        assert RowStream(task_of(PcfgShape(), each, 1.0), seed=0, split="test").rows(0, 16).correlated.all()


def test_models_are_followed_back_for_longer_than_one_that_never_had_it_needs(tmp_path: Path) -> None:
    config = ContinualConfig(seeds=[0], sequences=["s1"], diagnosed=["plain"], output_dir=str(tmp_path))
    plan = ContinualPlan(config, PcfgShape())
    cases = [plan.called_with(name)["case_config"] for name in plan.diagnoses[0]["plain"]]
    assert [case.most_reverse_steps for case in cases] == [512] * 4


def test_the_control_of_a_diagnosis_has_learned_as_many_tasks(tmp_path: Path) -> None:
    """A model that had to give nothing up would come back sooner than one that was tuned on four tasks."""
    config = ContinualConfig(
        seeds=[0], sequences=["s1"], diagnosed=["plain", "ldifs-previous"], output_dir=str(tmp_path)
    )
    plan = ContinualPlan(config, PcfgShape())
    for method in config.diagnosed:
        calls = [plan.called_with(name)["config"] for name in plan.diagnoses[0][method]]
        assert [Path(call.control).name.rpartition("-seed")[0] for call in calls] == [
            Path(call.finetuned).name.rpartition("-seed")[0].replace(method, "never") for call in calls
        ]
        assert len({call.control for call in calls}) == 4
    assert plan.called_with(plan.reversals[0]["never"])["config"].model == calls[-1].control
