"""The second sequence: its plan, claims of a made-up matrix, and the page."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftmech_hf.report.claims import judge
from ftmech_hf.studies import load_study
from ftmech_hf.studies.continual.stories import results
from ftmech_hf.studies.continual.stories.claims import MEASUREMENTS, StoryMatrix, measure
from ftmech_hf.studies.continual.stories.plan import CHAINS, DELETED, KEPT, StorySequenceConfig, StorySequencePlan
from ftmech_hf.studies.continual.stories.study import STORIES_STUDY
from ftmech_hf.tasks.stories import FEATURES, StoriesConfig
from tests.browser import check_page, figures_of_claims

CONFIGS = Path(__file__).parents[4] / "recipes" / "configs" / "nano"
TWISTS = {  # after each task
    "plain": (0.1, 0.5, 0.6), "ldifs-previous": (0.12, 0.2, 0.3), "ldifs-base": (0.1, 0.3, 0.4),
    "replay": (0.1, 0.1, 0.15), "ldifs-random": (0.1, 0.5, 0.58), "replay-faint": (0.1, 0.5, 0.59),
    "nothing": (0.9, 0.9, 0.92), "twist-alone": (0.1, 0.4, 0.45),
}  # fmt: skip
LOST = {"plain": 0.2, "ldifs-previous": 0.1, "replay": 0.05, "ldifs-random": 0.19, "replay-faint": 0.2, "nothing": 0.02}
"""Of what no task is about, from 0.9, in the end."""


def matrix(seed: int = 0) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []

    def add(method: str, after: int, name: str, value: float, by: str = "behaviour", site: str = "") -> None:
        place = "any" if after == 0 else "stories"
        rows.append({"sequence": place, "method": method, "after_task": after, "seed": seed, "capability": name,
                     "by": by, "site": site, "value": value, "floor": 0.05 if by == "behaviour" else 0.75,
                     "rows": 200, "shuffled": 0.77})  # fmt: skip

    for name in FEATURES:
        add("base", 0, name, 0.9)
        add("base", 0, name, 0.04, site="not asked")
    for method, twists in TWISTS.items():
        for after, twist in enumerate(twists, start=1):
            for name in KEPT:
                add(method, after, name, 0.9 - LOST.get(method, 0.1) * after / 3)
                add(method, after, name, 0.06, site="not asked")
            for name in DELETED:
                add(method, after, name, 0.06, site="not asked")
            add(method, after, "Twist", twist)
            for number, name in enumerate(DELETED[1:], start=2):
                gone = CHAINS[method].tasks[0] and method != "twist-alone" and after >= number
                add(method, after, name, (0.1 if method != "ldifs-previous" else 0.14) if gone else 0.9)
    for method, after, value in (("base", 0, 0.9), ("random", 0, 0.7), ("plain", 3, 0.87)):
        for name in FEATURES:
            add(method, after, name, value, "probe", "best")
    return pd.DataFrame(rows)


EXPECTED = {
    "gate_Twist": 90, "gate_not_asked": 4, "left": 10, "loss": 20, "loss_null": 2, "habit": 6, "back": 50,
    "back_null": 2, "back_more": 15, "ldifs_back": 30, "ldifs_random": 2, "ldifs_left": 100 * (0.12 + 0.28) / 3 - 10,
    "ldifs_twist_left": 2, "replay_twist_left": 0,
    "replay_back": 45, "replay_faint": 1, "replay_left": 0, "ldifs_kept": 10, "ldifs_kept_random": 1,
    "replay_kept": 15, "replay_kept_faint": 0, "probes": 3, "probes_kept": 3, "probes_shuffled": 2, "probes_twin": 20,
    "of_plain_twist": 60, "of_plain_end": 100 * 0.8 / 3, "of_plain_loss": 20, "of_nothing_loss": 2, "of_plain_left": 10,
}  # fmt: skip


def test_claims_are_of_the_rows_they_say() -> None:
    found = {name: each.value for name, each in measure(StoryMatrix(matrix())).items()}
    assert {name: found[name] for name in EXPECTED} == pytest.approx(EXPECTED, abs=1e-6)
    assert "of_nothing_left" not in found  # it deletes nothing
    assert len({each.id for each in MEASUREMENTS}) == len(MEASUREMENTS)
    judged = {each.id for each in MEASUREMENTS if each.bar}
    assert judged <= set(found)  # every claim is measured
    base = matrix()
    base = base[base["method"].isin(("base", "nothing"))]
    left = measure(StoryMatrix(base))
    assert not {"left", "back", "ldifs_back", "probes"} & set(left)  # of what is not there nothing is said
    assert left["back_null"].value == pytest.approx(2)


def test_the_floor_of_a_feature_is_what_is_written_unasked() -> None:
    found = measure(StoryMatrix(matrix()))
    assert found["gate_Twist"].floor == pytest.approx(5)
    assert found["left"].floor == pytest.approx(5)


def test_a_story_counts_once_for_however_many_features_it_is_judged() -> None:
    """Six models of 200 + 200 stories: what is read of several features is of 400 of them at most, of probes of 200."""
    found = measure(StoryMatrix(matrix()))
    rows = {name: found[name].rows for name in ("gate_Twist", "gate_not_asked", "habit", "left", "of_plain_end")}
    assert rows == {"gate_Twist": 200, "gate_not_asked": 400, "habit": 400, "left": 400, "of_plain_end": 400}
    low, high = found["probes_twin"].interval or (0, 0)
    assert high - low == pytest.approx(15.2, abs=0.6)  # 90 and 70 % of 200 stories, and not of 600


@pytest.mark.parametrize("feature", ["BadEnding", "Conflict"])
def test_what_the_base_does_not_write_is_neither_deleted_nor_kept(feature: str) -> None:
    table = matrix()
    here = (table["capability"] == feature) & (table["by"] == "behaviour") & (table["site"] == "")
    table.loc[here & (table["method"] == "base"), "value"] = 0.3
    found = {each.id: each for each in judge(MEASUREMENTS, {0: measure(StoryMatrix(table))})}
    named = {name for name, each in found.items() if f"gate_{feature}" in each.withdrawn_by}
    assert named == ({"left"} if feature in DELETED else set()) or named <= {"loss", "ldifs_kept", "replay_kept"}
    assert found["left"].verdict == ("withdrawn" if feature in DELETED else "holds")


def test_twists_that_were_never_deleted_are_not_kept_from_coming_back() -> None:
    """The mean over three features hides that one of them is left."""
    table = matrix()
    mine = (table["method"] == "ldifs-previous") & (table["site"] == "") & (table["by"] == "behaviour")
    table.loc[mine & (table["after_task"] == 1) & (table["capability"] == "Twist"), "value"] = 0.3
    for number, name in ((2, "Dialogue"), (3, "BadEnding")):
        table.loc[mine & (table["after_task"] == number) & (table["capability"] == name), "value"] = 0.0
    found = {each.id: each for each in judge(MEASUREMENTS, {0: measure(StoryMatrix(table))})}
    assert found["ldifs_left"].verdict == "holds"
    assert found["ldifs_twist_left"].measured == pytest.approx(20)
    assert (found["ldifs_back"].verdict, found["ldifs_back"].withdrawn_by) == ("withdrawn", ["ldifs_twist_left"])


@pytest.mark.parametrize("setting", ["ewc_strength", "lwf_strength", "fisher_rows", "olora_strength", "der_strength"])
def test_a_strength_that_no_chain_takes_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}: 7, but no method of this study takes it; expected "):
        StorySequenceConfig(**{setting: 7})  # type: ignore[arg-type]
    assert StorySequenceConfig(ldifs_strength=7, replay=0.3, buffer_rows=7, task_lr=7).replay == 0.3


@pytest.mark.parametrize(
    ("method", "claim", "control"),
    [("nothing", "back", "back_null"), ("twist-alone", "back", "back_more"),
     ("ldifs-random", "ldifs_back", "ldifs_random"),
     ("replay-faint", "replay_back", "replay_faint"), ("nothing", "loss", "loss_null")],
)  # fmt: skip
def test_a_claim_is_withdrawn_where_its_control_finds_the_same(method: str, claim: str, control: str) -> None:
    controls = next(each.controls for each in MEASUREMENTS if each.id == claim)
    asked = [each for each in MEASUREMENTS if each.id in (claim, *controls)]

    def verdicts(wrong: bool) -> dict[str, Any]:
        table = matrix()
        mine = (table["method"] == method) & (table["site"] == "")
        if wrong and control == "loss_null":
            table.loc[mine & table["capability"].isin(KEPT), "value"] = 0.3
        elif wrong and control == "back_more":  # tuning that deletes nothing brings twists back as well, and more
            table.loc[mine & (table["capability"] == "Twist") & (table["after_task"] == 3), "value"] = 1.0
        elif wrong:
            twists = mine & (table["capability"] == "Twist")
            table.loc[twists & (table["after_task"] == 1), "value"] = 0.1
            table.loc[twists & (table["after_task"] == 3), "value"] = 1.0 if method == "nothing" else 0.1
        return {each.id: each for each in judge(asked, {0: measure(StoryMatrix(table))})}

    right, wrong = verdicts(False), verdicts(True)
    assert right[claim].verdict == "holds"
    assert right[control].verdict in ("holds", "undecided")
    assert wrong[claim].verdict == "withdrawn"
    assert wrong[claim].withdrawn_by == [control]


def read_plan(folder: Path, *more: str) -> StorySequencePlan:
    argv = ["--config", str(CONFIGS / "continual_stories.yaml"), "--seeds", "0", "--output_dir", str(folder)]
    return STORIES_STUDY.read_plan([*argv, "--runs_dir", str(folder), *more])


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StorySequencePlan:
    return read_plan(tmp_path_factory.mktemp("stories"), "--chains", *CHAINS)


def test_each_task_is_the_deletion_of_the_study_of_stories(plan: StorySequencePlan, tmp_path: Path) -> None:
    study = load_study("tinystories")
    places = ["--output_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    theirs = study.read_plan(["--config", str(CONFIGS / "stories.yaml"), *places])  # type: ignore[attr-defined]
    base, ours = theirs.folders["base-seed0"].name, plan.folders[plan.others[0]["base"]].name
    assert ours == base  # the same run: who has made one has made the other
    deletion = theirs.called_with("delete-f-r-large-seed0")
    first = plan.called_with(plan.models[0]["plain"][0])
    assert first["task"] == deletion["task"]
    same = ("lr", "batch_size", "weight_decay", "warmup_fraction", "final_lr_fraction", "optimizer", "seed")
    assert [getattr(first["train"], name) for name in same] == [getattr(deletion["train"], name) for name in same]
    assert (first["train"].steps, deletion["train"].steps) == (100, 300)  # a third of it
    chain = [plan.called_with(name) for name in plan.models[0]["plain"]]
    assert [(each["task"].feature, each["task"].without, each["task"].claim) for each in chain] == [
        (name, name, 1.0) for name in DELETED
    ]
    assert [each["train"].seed for each in chain] == [0, 1000, 2000]  # tasks in a row share no stories
    for before, after in zip(plan.models[0]["plain"], chain[1:], strict=False):
        assert after["config"].model == str(plan.folders[before])


def test_chains_differ_in_what_each_adds(plan: StorySequencePlan) -> None:
    models = plan.models[0]
    assert set(models) == set(CHAINS)
    assert models["ldifs-base"][0] == models["ldifs-previous"][0]  # the base is the first start
    assert models["twist-alone"][0] == models["plain"][0]
    assert models["replay"][0] == models["replay-faint"][0]
    second = {name: plan.called_with(runs[1]) for name, runs in models.items()}
    base, random = (str(plan.folders[plan.others[0][name]]) for name in ("base", "random"))
    anchors = {name: each["config"].anchor_model for name, each in second.items()}
    assert anchors == {**dict.fromkeys(CHAINS), "ldifs-base": base, "ldifs-random": random}
    trained = {name: plan.called_with(run)["train"] for name, run in plan.others[0].items()}
    assert trained["random"].steps == 0
    assert trained["random"].seed != trained["base"].seed  # not what the base began with
    strengths = {name: (each["train"].ldifs > 0, each["train"].replay_share) for name, each in second.items()}
    share = plan.config.replay
    assert strengths == {
        name: ("ldifs" in name, {"replay": share, "replay-faint": 0.004}.get(name, 0.0)) for name in CHAINS
    }
    for name in ("nothing", "twist-alone"):
        assert second[name]["task"] == plan.task
    assert set(plan.probed) == {plan.others[0]["base"], models["plain"][-1]}
    assert set(plan.asked) >= {run for runs in models.values() for run in runs}


def test_every_claim_has_the_runs_it_rests_on(tmp_path: Path) -> None:
    chains = read_plan(tmp_path).config.chains
    table = matrix()
    found = measure(StoryMatrix(table[table["method"].isin(("base", "random", *chains))]))
    assert {each.id for each in MEASUREMENTS if each.bar} <= set(found)
    assert set(CHAINS) - set(chains) == {"ldifs-base"}
    for name in chains:
        table = matrix()
        left = measure(StoryMatrix(table[table["method"].isin({"base", "random", *chains} - {name})]))
        assert {each.id for each in MEASUREMENTS if each.bar} - set(left), name  # none could be left out


def test_the_last_models_of_named_chains_are_probed(tmp_path: Path) -> None:
    plan = read_plan(tmp_path, "--probed", "plain", "replay")
    ends = [runs[-1] for name, runs in plan.models[0].items() if name in ("plain", "replay")]
    assert set(plan.probed) == {plan.others[0]["base"], *ends}


def test_strengths_are_tried_on_stories_that_nobody_reports(tmp_path: Path) -> None:
    config = StorySequenceConfig(seeds=[99], develop=True, output_dir=str(tmp_path))
    plan = StorySequencePlan(config, StoriesConfig())
    assert set(plan.models[99]) == {
        "plain", "ldifs-previous@1", "ldifs-previous@10", "ldifs-previous@100", "replay@0.1", "replay@0.25"
    }  # fmt: skip
    assert not plan.probed
    assert {len(runs) for runs in plan.models[99].values()} == {2}  # of the first task there is nothing to replay
    assert {plan.called_with(name)["config"].seed for name in plan.asked.values()} == {1099}
    learned = {"plain": 0.9, "ldifs-previous@1": 0.9, "ldifs-previous@10": 0.87, "ldifs-previous@100": 0.3}
    numbers = pd.DataFrame([{"method": name, "learned": value} for name, value in learned.items()])
    assert results.strengths_table(numbers) == [
        {"setting": "ldifs_strength", "tried": pytest.approx({1: 90, 10: 87, 100: 30}), "plain": pytest.approx(90),
         "chosen": 10.0, "too_strong": False}
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"chains": ["ewc"]}, {"chains": ["replay"]}, {"probe_stories": -1},
                                   {"chains": ["plain"], "probed": ["replay"]}])  # fmt: skip
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        StorySequenceConfig(**wrong)


def test_numbers_of_what_is_tried_are_of_the_tasks_it_takes(tmp_path: Path) -> None:
    config = StorySequenceConfig(seeds=[0], develop=True, output_dir=str(tmp_path))
    table = matrix()
    numbers = results.read_numbers(StorySequencePlan(config, StoriesConfig()), table[table["after_task"] < 3])
    assert list(numbers["method"]) == ["plain"]  # no other was made up
    assert numbers["learned"].item() == pytest.approx(0.9)
    assert numbers["concept_loss"].item() == pytest.approx(0.2 * 2 / 3)


def test_real_stories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files: features are judged exactly of procedural stories alone"):
        StorySequencePlan(StorySequenceConfig(output_dir=str(tmp_path)), StoriesConfig(files=["stories.txt"]))


def test_the_page_shows_what_is_there(plan: StorySequencePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "read_matrix", lambda plan: matrix())
    claims = {claim.id: claim for claim in results.write_results(plan)}
    assert claims["back"].measured == pytest.approx(50)
    numbers = pd.read_parquet(plan.output / "table.parquet").set_index("method")
    assert set(numbers.index) == {name for name, chain in CHAINS.items() if chain.tasks == DELETED}
    assert numbers.loc["plain", "learned"] == pytest.approx(0.9)
    assert numbers.loc["plain", "concept_loss"] == pytest.approx(0.2)
    assert numbers.loc["plain", "forgetting"] == pytest.approx((0.5 + 0.0) / 2)  # a deletion is undone by half
    assert numbers.loc["plain", "probe_change"] == pytest.approx(-0.03)
    columns, first, second, *_ = results.matrix_rows(matrix())
    assert columns == ["chain", "after", *KEPT, *DELETED]
    assert first == ["base", "—", *["90 (4)"] * 6]
    assert second[:3] == ["plain", "Twist", "83 (6)"]
    page = (plan.output / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3
    assert all(f">{cell}<" in page for cell in second[:5])
    drawn = figures_of_claims(plan.output / "report.html")
    assert [claim for claim in drawn if not drawn[claim]] == []
    check_page(plan.output / "report.html")


def test_runs_keep_their_names(tmp_path: Path) -> None:
    names = sorted({folder.name for folder in read_plan(tmp_path).folders.values()})
    assert len(names) == 43
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
    assert digest == "561a7167b8caf951"
