from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.config import config_hash, to_dict
from ftmech_hf.jobs.study import StudyPlan
from ftmech_hf.report import readings
from ftmech_hf.report.page import make_picture
from ftmech_hf.report.readings import Reading
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.tinystories.claims import _best, _loss_ratio, _lost, _Shares, false_positives
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.examples import mark_story
from ftmech_hf.studies.tinystories.figures import losses_figure, rates_of, scores_figure
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL, StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED
from ftmech_hf.studies.tinystories.results import over_seeds
from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import StoriesConfig, find_evidence, make_story


def test_marks_are_where_the_evidence_is_and_lose_no_character() -> None:
    for number in range(20):
        text = make_story(split_generator(0, "test", number), features=["Twist"]).story
        segments = mark_story(text, "Twist")
        assert "".join(segment.text for segment in segments) == text
        slots = [text[slice(*each.slot)] for each in find_evidence(text, "Twist")]
        assert sorted(segment.text for segment in segments if segment.mark == "slot") == sorted(slots)
    assert [segment.mark for segment in mark_story("Nothing of the kind.", "Twist")] == [""]


def test_a_difference_is_taken_within_each_instruction() -> None:
    """Two models that agree on all but five of 200 instructions: far surer than two shares of 200."""
    has = np.random.default_rng(0).random(200) < 0.5
    other = has.copy()
    other[np.flatnonzero(has)[:5]] = False
    models = {"one": has, "other": other}
    shares = _Shares({(0, name, 0, kind): each for name, each in models.items() for kind in (ASKED, NOT_ASKED)}, [0])
    (found,) = shares.mean([("one", 0)], [("other", 0)])
    assert (found.value, found.rows) == (pytest.approx(2.5), None)
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] < 6
    (alone,) = shares.mean([("one", 0)])
    assert (alone.value, alone.rows) == (100 * has.mean(), 200)
    _, ends = readings.over_seeds([alone], "%")
    assert ends is not None
    assert ends[1] - ends[0] > 13  # type: ignore[operator]
    with pytest.raises(KeyError):
        shares.mean([("missing", 0)])


def test_what_deletion_left_and_what_a_control_learns_are_not_what_comes_back() -> None:
    numbers = {("one", 0): 20, ("one", 30): 60, ("two", 0): 10, ("two", 30): 20, ("control", 0): 0, ("control", 30): 15}
    verdicts = {(0, *model, kind): np.arange(100) < number for model, number in numbers.items()
                for kind in (ASKED, NOT_ASKED)}  # fmt: skip
    shares = _Shares(verdicts, [0])
    (found,) = shares.gained(["one", "two"], 30, "control")
    assert found.value == pytest.approx((60 - 20 + 20 - 10) / 2 - 15)
    assert found.rows is None
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    (learned,) = shares.gained(["control"], 30, "control")
    assert learned.value == 0


def test_every_seed_has_a_reading() -> None:
    verdicts = {(seed, "one", 0, kind): np.arange(10) < 5 + seed for seed in (0, 1) for kind in (ASKED, NOT_ASKED)}
    assert [(each.value, each.rows) for each in _Shares(verdicts, [0, 1]).mean([("one", 0)])] == [(50, 10), (60, 10)]


def test_a_rate_stands_beside_what_the_same_models_do_unasked_and_what_the_judge_gets_wrong() -> None:
    asked, unasked = np.arange(10) < 8, np.arange(10) < 3
    verdicts = {(0, "one", 0, ASKED): asked, (0, "one", 0, NOT_ASKED): unasked}
    judged = [{"feature": "Dialogue", "specificity": 0.5}, {"feature": "Twist", "specificity": 0.75}]
    shares = _Shares(verdicts, [0], false_positives(judged, "Twist"))
    (requested,), (unrequested,) = shares.mean([("one", 0)]), shares.mean([("one", 0)], kind=NOT_ASKED)
    assert (requested.value, requested.floor) == (80, pytest.approx(30))
    assert (unrequested.value, unrequested.floor) == (pytest.approx(30), 25)
    assert false_positives(judged, "Conflict") is None
    (apart,) = shares.mean([("one", 0)], [("one", 0)])
    assert (apart.value, apart.floor) == (0, None)  # a difference has its own reference


def test_steps_to_the_bases_loss() -> None:
    """Back is twice in a row; a control that dips once is not, nor one that is there only at its last step."""
    rows = [{"seed": 0, "model": BASE, "stage": "pretrain", "step": 9, "set": "Twist", "loss": 1.0}]
    curves = {
        CONTROL: [3.0, 1.0, 1.5, 1.009, 1.0],
        "F (large)": [2.0, 1.009, 1.0, 1.0, 1.0],
        "F+R (large)": [2.0, 2.0, 1.011, 1.009, 1.0],
        "F+MM (large)": [2.0, 1.0, 2.0, 2.0, 1.0],
        "none": [1.0, 1.0, 1.0, 1.0, 1.0],
    }
    for label, losses in curves.items():
        rows += [
            {"seed": 0, "model": label, "stage": "reverse", "step": step, "set": "Twist", "loss": loss}
            for step, loss in zip((0, 2, 5, 18, 40), losses, strict=True)
        ]

    def ratios(*labels: str) -> list[Reading]:
        return _loss_ratio(pd.DataFrame(rows), "Twist", [0], labels)

    assert ratios("F (large)") == [Reading(9.0)]
    (both,) = ratios("F (large)", "F+R (large)")
    assert both == Reading(pytest.approx(3.0))  # 18 over the geometric mean of 2 and 18
    assert ratios("F+MM (large)") == [Reading(18 / 40, bound="at most")]
    assert ratios("none") == [Reading(18.0)]  # no step at all counts as one
    with pytest.raises(KeyError):
        ratios("F (small)")


def test_what_lost_nothing_gains_nothing_back() -> None:
    """Filtering alone leaves the twist: of it, and of models that lost it, a mean says neither."""
    labels = ["F (large)", "F+R (large)", "F (small)", "F+MM (small)", "F (lora)"]
    assert _lost(labels) == ["F+R (large)", "F+MM (small)"]
    with pytest.raises(KeyError):
        _lost(["F (large)", "F (small)"])


def test_the_layer_of_a_probe_is_not_chosen_on_the_rows_that_are_reported() -> None:
    row = {"seed": 0, "model": "base", "label": "Twist", "words": "seen", "state": "", "num_test": 50}
    probes = pd.DataFrame(
        [{**row, "site": "a", "accuracy": 0.9, "chosen": 0.6}, {**row, "site": "b", "accuracy": 0.7, "chosen": 0.8},
         {**row, "site": "c", "words": "held out", "accuracy": 1.0, "chosen": np.nan}]
    )  # fmt: skip
    assert _best(probes, "Twist", 0, "base") == Reading(pytest.approx(70), rows=50)
    with pytest.raises(KeyError):
        _best(probes, "Twist", 1, "base")


def test_one_seed_has_the_interval_of_its_stories_and_several_a_wider_one() -> None:
    table = pd.DataFrame({"model": "one", "seed": seed, "value": 0.5 + 0.1 * seed, "number": 10} for seed in (0, 1))
    alone = over_seeds(table[table["seed"] == 0], ["model"]).iloc[0]
    assert (alone["value"], alone["low"], alone["high"]) == share_interval(5, 10)
    both = over_seeds(table, ["model"]).iloc[0]
    assert both["value"] == pytest.approx(0.55)
    pooled = share_interval(11, 20)
    assert both["low"] < pooled.low
    assert both["high"] > pooled.high


def test_results_of_another_judge_have_another_name(tmp_path: Path) -> None:
    """By what the judge is and not where it lies; the exact one adds nothing to the name."""
    for name, content in (("one", "{}"), ("copy", "{}"), ("other", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "judge.json").write_text(content)
    names = ("exact", *(str(tmp_path / name) for name in ("one", "copy", "other")))
    hashes = []
    for judge in names:
        config = StoriesStudyConfig(judge=judge, output_dir=str(tmp_path / "out"))
        plan = StudyPlan(config)
        hashes.append(plan.hash)
    exact, one, copy, other = hashes
    assert exact == config_hash(to_dict(StoriesStudyConfig()))
    assert one == copy
    assert len({exact, one, other}) == 3


def test_what_is_asked_for_and_what_is_not_are_curves_of_two_names() -> None:
    """Who cannot see the dashes is told which is which, and a model that is switched off is off with both."""
    rows = [
        {"measure": "stories", "model": model, "seed": 0, "step": step, "kind": kind, "value": 0.5, "rows": 9}
        for model in ("F (large)", CONTROL) for kind in (ASKED, NOT_ASKED) for step in (0, 9)
    ]  # fmt: skip

    def means(points: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
        return points.groupby([*by], as_index=False)["value"].mean().assign(low=0.4, high=0.6)

    figure = scores_figure(pd.DataFrame(rows), "stories", means, "twist")
    names = {str(line.get_label()) for ax in figure.axes for line in ax.lines}
    assert {"F", f"F, {NOT_ASKED}"} <= names
    assert NOT_ASKED in make_picture(figure, "").alt


def test_the_base_of_a_picture_is_the_mean_over_seeds_as_its_curves_are() -> None:
    rows = [
        {"model": model, "stage": stage, "seed": seed, "set": "Dialogue", "step": step, "loss": loss + 0.1 / (1 + step)}
        for seed, loss in ((0, 1.0), (1, 3.0))
        for model, stage in ((BASE, "pretrain"), ("F (large)", "delete"), ("F (large)", "reverse"))
        for step in (0, 9)
    ]
    figure = losses_figure(pd.DataFrame(rows), "Dialogue")
    dashed = [line for ax in figure.axes for line in ax.lines if line.get_label() == "base"]
    assert [float(line.get_ydata()[0]) for line in dashed] == [pytest.approx(2.01)] * 2  # type: ignore[index]
    assert rates_of(pd.DataFrame(rows)) == ["large"]
    assert rates_of(pd.DataFrame(rows)[:2]) == rates_of(pd.DataFrame()) == []


def test_a_feature_that_no_word_decides_is_not_pruned_for(tmp_path: Path) -> None:
    config = StoriesStudyConfig(seeds=[0], output_dir=str(tmp_path))
    for feature, pruned in (("Twist", True), ("Dialogue", False)):
        plan = StoriesPlan(config, StoriesConfig(feature=feature))
        assert any(name.startswith("prune") for name in plan.folders) == pruned
