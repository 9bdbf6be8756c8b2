"""How a model is pruned for a behavior, and what a run that prunes says and keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ftmech_hf.activations import Units, find_units
from ftmech_hf.analysis.ablation import importance_agreement
from ftmech_hf.analysis.pruning import Importance, magnitude_importance, random_importance
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.pruning import (
    PUBLICATIONS,
    UNITS,
    PruneConfig,
    _find_behavior,
    _score,
    prune,
)
from ftmech_hf.jobs.pruning_sweep import behavior_importance, describe_controls, exact_importance, prune_for
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.report.charts import new_figure
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.clusters import paired_lead, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import Share, paired_difference, share_interval
from ftmech_hf.tasks import Capability, PcfgShape, RowStream, for_capability
from ftmech_hf.tasks.text.tokens import Whole
from tests.conftest import make_llama
from tests.studies.planted import make_rows, make_wrapped


def test_the_number_of_neurons_is_not_chosen_on_the_set_that_is_reported() -> None:
    """Validation rows that nothing answers take the smallest number, whatever the reported rows say."""
    model, rows = make_wrapped("llama"), make_rows()
    never = rows[500:600].clone()
    never[:, -2] = 0  # <pad>

    def best(validation: torch.Tensor) -> int:
        sets = {"count_a": rows[650:750], "count_b_cte0": never, "count_b_cte1": never}
        behavior = Behavior(
            name="first word", train=AnswerRows.one_token(rows[:100]), validation=AnswerRows.one_token(validation),
            tests={name: AnswerRows.one_token(each) for name, each in sets.items()},
        )  # fmt: skip
        found = prune_for(model, behavior, sizes=[0, 1, 8], max_best_k=15, num_random=0, num_random_at_best=2)
        assert found.pruning.chosen_on == "validation"
        curve = found.pruning.curve
        assert {entry["method"] for entry in curve if "count_b_cte0" not in entry} == {"random"}
        # the scores of every row, in the order of the curve
        assert [float(each["count_a"].double().mean()) for each in found.scores] == [e["count_a"] for e in curve]
        assert [len(each) for each in found.at_best("random", "count_a")] == [100, 100]
        return found.pruning.best_k

    assert best(never) == 1
    assert best(rows[650:750]) == 8


def test_more_than_there_is_is_refused_before_anything_is_measured() -> None:
    model, rows = make_wrapped("llama"), AnswerRows.one_token(make_rows()[:40])
    behavior = Behavior(name="first word", train=rows, validation=rows, tests={"test": rows})
    number = sum(group.num_units for group in find_units(model, "activation").values())

    def never(units: Units) -> Importance:
        raise AssertionError("measured")

    with pytest.raises(ValueError, match=f"sizes: {number + 1}, expected at most {number}: the model has no more of"):
        prune_for(model, behavior, unit="activation", sizes=[1, number + 1], num_random_at_best=1, score=never)


@pytest.mark.parametrize(("floor", "over"), [(None, "constant answer"), (0.5, "floor"), (0.0, "nothing pruned")])
def test_what_pruning_gains_is_over_the_floor(floor: float | None, over: str) -> None:
    """An answer that every row accepts beside its own is a constant one that is right, and guessing one of two is."""
    model, rows = make_wrapped("llama"), make_rows()[:40]
    accepted = [[Whole((*row[:-2], 7, row[-1]), 1)] for row in rows.tolist()]
    asked = AnswerRows.one_token(rows, accepted=accepted if floor is None else None)
    behavior = Behavior(name="first word", train=asked, validation=asked, tests={"test": asked}, floor=floor,
                        score=lambda model, part: torch.ones(len(part), dtype=torch.bool))  # fmt: skip
    found = prune_for(model, behavior, unit="activation", sizes=[1] if over == "floor" else [0, 1], num_random=0,
                      num_random_at_best=2)  # fmt: skip
    gain = describe_controls(found, behavior, "test")["gain"]
    assert gain["over"] == over
    assert gain["value"] == (0.5 if over == "floor" else 0.0)
    if over == "floor":
        assert gain["low"] == pytest.approx(share_interval(40, 40).low - 0.5)
    assert behavior.floors["test"].floor == (1.0 if floor is None else floor)


@pytest.mark.parametrize(
    ("unpruned", "best", "expected"), [(60, 80, 0.5), (58, 80, 0.75), (10, 80, 1.0), (80, 80, None), (85, 80, None)]
)
def test_a_random_choice_that_brings_nothing_back_does_not_do_half_as_well(
    unpruned: int, best: int, expected: float | None
) -> None:
    """Of four random masks under 60, 69, 70 and 75 % are right, where the best has 80 %; a constant answer has 5 %."""
    rows, first = AnswerRows.one_token(make_rows()[:100]), torch.arange(100)

    def at_best(method: str, name: str) -> list[torch.Tensor]:
        return [first < best] if method == "importance" else [first < right for right in (60, 69, 70, 75)]

    behavior = Behavior(name="first word", train=rows, validation=rows, tests={"test": rows})
    found: Any = SimpleNamespace(
        pruning=SimpleNamespace(curve=[{"num_pruned": 0}, {"num_pruned": 1}]), at_best=at_best,
        scores=[{"test": first < unpruned}, {"test": first < best}],
    )  # fmt: skip
    assert describe_controls(found, behavior, "test")["random_share"] == expected


def test_what_pruning_gains_of_rows_that_belong_together_is_less_sure() -> None:
    """Ten of a group are right together; random masks are asked the first half of them alone."""
    groups = np.arange(100) // 10
    rows = dataclasses.replace(AnswerRows.one_token(make_rows()[:100]), groups=groups)
    best, unpruned, masks = (torch.arange(100) < right for right in (80, 30, 40))
    found: Any = SimpleNamespace(
        pruning=SimpleNamespace(curve=[{"num_pruned": 0}, {"num_pruned": 1}]),
        at_best=lambda method, name: [best] if method == "importance" else [masks[:60]] * 3,
        scores=[{"test": unpruned}, {"test": best}],
    )  # fmt: skip
    behavior = Behavior(name="first word", train=rows, validation=rows, tests={"test": rows})
    said = describe_controls(found, behavior, "test")
    expected = mean_over_draws(np.tile(masks[:60], (3, 1)), groups[:60])
    assert (said["random_accuracy"], said["random_low"], said["random_high"]) == expected
    assert Share(*(said["gain"][name] for name in Share._fields)) == paired_lead(best.numpy(), unpruned.numpy(), groups)
    alone = mean_over_draws(np.tile(masks[:60], (3, 1)))
    assert expected.high - expected.low > 1.5 * (alone.high - alone.low)
    floor = dataclasses.replace(behavior, floor=0.5, score=lambda model, part: torch.ones(len(part), dtype=torch.bool))
    over = describe_controls(found, floor, "test")["gain"]
    assert over["over"] == "floor"
    assert over["low"] == pytest.approx(share_right(best.numpy(), groups).low - 0.5)


CONFIG = PruneConfig(
    unit="row", sizes=[0, 1, 2, 5], max_best_k=3, num_random=1, num_random_at_best=3, random_rows=20, score_rows=24,
    exact_rows=6, eval_rows=40, seed=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a small model with the procedural task's tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    made = make_llama(len(SHAPE.vocabulary))
    made.save_pretrained(folder)
    save_tokenizer(build_tokenizer(SHAPE.vocabulary), folder)
    return str(folder)


SHAPE = PcfgShape(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)


@pytest.mark.parametrize(("changes", "message"), [
    ({"sizes": []}, r"sizes: \[\], expected numbers of 0 or more"),
    ({"sizes": [1, -1]}, r"sizes: \[1, -1\], expected numbers of 0 or more"),
    ({"sizes": [0, 4]}, r"sizes: \[0, 4\], expected at least one from 1 to max_best_k: 3"),
    ({"exact_rows": -1}, "exact_rows: -1, expected 0 or more"),
    ({"num_random": -1}, "num_random: -1, expected 0 or more"),
    ({"unit": "weight"}, "unit: weight has too many units to ablate each; leave out exact_rows and score: exact"),
    ({"unit": "weight", "exact_rows": 0, "score": "exact"}, "unit: weight has too many units"),
    ({"schedule": "iterative", "score": "magnitude"}, "schedule: iterative, but score: magnitude does not depend on"),
    ({"schedule": "iterative", "score": "random"}, "score: random does not depend on what is pruned already"),
    *(({name: 0}, f"{name}: 0") for name in ("max_best_k", "num_random_at_best", "random_rows", "score_rows")),
    ({"eval_rows": 0}, "eval_rows: 0"),
])  # fmt: skip
def test_what_cannot_be_pruned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_what_can_be_is_not() -> None:
    dataclasses.replace(CONFIG, sizes=[3], exact_rows=0)
    dataclasses.replace(CONFIG, unit="weight", exact_rows=0)
    dataclasses.replace(CONFIG, schedule="iterative", score="exact", unit="head")


def test_the_procedural_task_asks_for_the_pretraining_capability() -> None:
    for changes, fitted in (({}, 24), ({"exact_rows": 50}, 50)):
        behavior = _find_behavior(dataclasses.replace(CONFIG, **changes, operator="index"), SHAPE)
        asked = {
            "index_a": for_capability(SHAPE, Capability("index", "a")),
            "index_b_cte0": for_capability(SHAPE, Capability("index", "b"), 0.0),
            "index_b_cte1": for_capability(SHAPE, Capability("index", "b"), 1.0),
        }
        assert list(behavior.tests) == list(asked)
        assert behavior.name == "index_a"
        expected = {"train": ("probe", fitted), "validation": ("validation", 40)}
        for name, (split, number) in expected.items():
            rows = RowStream(asked["index_a"], seed=4, split=split).rows(0, number).token_ids
            assert getattr(behavior, name).token_ids.numpy().tolist() == rows.tolist()
        for name, task in asked.items():
            rows = RowStream(task, seed=4, split="test").rows(0, 40).token_ids
            assert behavior.tests[name].token_ids.numpy().tolist() == rows.tolist()


def test_every_score_is_the_one_it_is_called(model: str) -> None:
    loaded, behavior = load_model(model), _find_behavior(dataclasses.replace(CONFIG, exact_rows=50), SHAPE)
    units = find_units(loaded, "head")
    few = behavior.train[:24]
    expected = {
        "gradient": behavior_importance(loaded, units, behavior, few),
        "exact": exact_importance(loaded, few, "head"),
        "magnitude": magnitude_importance(units),
        "random": random_importance(units, np.random.default_rng([4, 1])),
    }
    for name, importance in expected.items():
        config = dataclasses.replace(CONFIG, score=name, unit="head", exact_rows=0)  # type: ignore[arg-type]
        found = _score(config, loaded, units, behavior)
        assert found.keys() == importance.keys()
        assert all(torch.equal(found[group], values) for group, values in importance.items())


def test_a_run_says_keeps_and_publishes_what_pruning_gave(model: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = str(tmp_path / "prune")
    config = dataclasses.replace(CONFIG, model=model, output_dir=folder, save_pruned=True, num_random=2)
    made = prune(config, SHAPE, progress=lambda *at: seen.append(at))
    again = prune(config, SHAPE)  # is found, and not made again
    assert (again.path, again.finished) == (made.path, True)
    run = FinishedRun(made.path)
    assert run.floor("count_a") is not None
    check_what_is_said(run, seen, model)
    check_the_kept_model_is_the_pruned_one(run, model)
    check_what_is_published(run)


def check_what_is_said(run: FinishedRun, seen: list[tuple[int, int, str]], model: str) -> None:
    summary, table = run.summary, run.table
    best = table[(table["num_pruned"] == summary["best_k"])]
    assert summary["best_k"] in (1, 2)
    assert (summary["unit"], summary["score"], summary["schedule"]) == ("row", "gradient", "single")
    chosen = best[best["method"] == "importance"].iloc[0]
    sets = ["validation", "count_a", "count_b_cte0", "count_b_cte1"]
    assert summary["accuracy_by_set"] == {name: chosen[name] for name in sets}
    assert summary["accuracy"] == chosen["count_a"]
    assert summary["random_accuracy"] == best[best["method"] == "random"]["count_a"].mean()
    assert (best["method"] == "random").sum() == 3
    assert len(seen) == len(table) == 4 + 3 * 2 + 1
    assert seen[-1] == (len(seen), len(seen), "")
    # the same search by hand, with the settings of the run
    loaded, behavior = load_model(model), _find_behavior(CONFIG, SHAPE)
    found = prune_for(
        loaded, behavior, sizes=CONFIG.sizes, max_best_k=3, num_random=2, num_random_at_best=3, seed=4, random_rows=20,
        score=lambda units: behavior_importance(loaded, units, behavior, behavior.train),
    )  # fmt: skip
    assert summary["pruned"] == found.pruning.pruned
    random = [each.double() for each in found.at_best("random", "count_a")]
    assert [len(each) for each in random] == [20, 20, 20]
    assert (summary["random_masks"], summary["random_rows"]) == (3, 20)
    assert summary["random_low"] <= summary["random_accuracy"] <= summary["random_high"]
    assert summary["random_high"] - summary["random_low"] > 0.1  # twenty rows say no more
    floor = run.floor("count_a")
    assert floor is not None
    answers = behavior.tests["count_a"].answer_ids()
    constant = torch.tensor([answer == max(set(answers), key=answers.count) for answer in answers])
    assert float(constant.double().mean()) == pytest.approx(floor)
    unpruned, (best,) = found.scores[0]["count_a"], found.at_best("importance", "count_a")
    over, control = max(("constant answer", constant), ("nothing pruned", unpruned), key=lambda each: each[1].sum())
    assert summary["gain"] == {"over": over, **paired_difference(best.numpy(), control.numpy())._asdict()}
    least, most = (int(each[:20].sum()) for each in (control, best))
    half = sum(2 * int(each.sum()) >= most + least for each in random) / 3
    assert summary["random_share"] == (half if most > least else None)
    pd.testing.assert_frame_equal(table, pd.DataFrame(found.pruning.rows()))
    exact = exact_importance(loaded, behavior.train[:6], "row")
    agreement = importance_agreement(found.importance, exact, top=3, seed=4)
    written = summary["exact"]
    assert written == {**agreement.summary(), "by_group": written["by_group"]}
    assert written["by_group"] == pytest.approx(agreement.by_group, nan_ok=True)
    expected = [
        (group, number, float(score), float(exact[group][number]))
        for group, scores in found.importance.items() for number, score in enumerate(scores)
    ]  # fmt: skip
    importance = pd.read_parquet(run.path / "importance.parquet")
    assert list(importance) == ["group", "number", "score", "exact"]
    assert list(importance.itertuples(index=False, name=None)) == expected


def check_the_kept_model_is_the_pruned_one(run: FinishedRun, model: str) -> None:
    kept, expected = load_model(str(run.path)), load_model(model)
    units = find_units(expected, "row")
    for name in run.summary["pruned"]:
        group, number = name[:-1].rsplit("[", 1)
        with torch.no_grad():
            units[group].weight.movedim(units[group].axis, 0)[int(number)] = 0
    for name, value in expected.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)
    assert load_tokenizer(str(run.path)).get_vocab() == build_tokenizer(SHAPE.vocabulary).get_vocab()
    card = (run.path / "README.md").read_text()
    assert "# prune" in card
    for said in (*run.summary["pruned"], "LlamaForCausalLM", run.hash, f"torch {torch.__version__}"):
        assert said in card


def check_what_is_published(run: FinishedRun) -> None:
    (publication,) = PUBLICATIONS
    assert (publication.kind, publication.holds) == ("prune", "table")
    assert publication.question == "Does zeroing a few neurons bring a capability back?"
    found, share = run.summary, run.summary["random_share"]
    assert list(publication.state(run, "model")) == [
        f"With {found['best_k']} rows of weight matrices set to zero, a number chosen on other rows, it answers "
        f"`count_a` right in {100 * found['accuracy']:.1f} % of 40 prompts; with as many random ones, "
        "on 20 of them, in "
        f"{100 * found['random_accuracy']:.1f} % ({100 * found['random_low']:.1f} % to "
        f"{100 * found['random_high']:.1f} % over 3 choices of them"
        f"{'' if share is None else f', of which {100 * share:.1f} % gain half as much'}), "
        "and always giving one answer would be right in "
        f"{100 * (run.floor('count_a') or 0):.1f} %. (seed 4)"
    ]
    assert UNITS == {"row": "rows of weight matrices", "weight": "weights", "activation": "MLP activations",
                     "head": "attention heads"}  # fmt: skip
    (picture,) = publication.pictures(run)
    assert (picture.file, picture.caption) == (
        "pruning_row.png", "Accuracy against the number of rows of weight matrices set to zero, beside random ones",
    )  # fmt: skip
    ax = new_figure(4, 3).add_subplot()
    picture.draw(ax)
    assert ax.get_title() == "Pruned rows of weight matrices"
    at_start = run.table[run.table["num_pruned"] == 0].iloc[0]["count_a"]
    assert at_start in [float(y[0]) for line in ax.get_lines() if len(y := np.asarray(line.get_ydata()))]


def test_an_iterative_search_scores_again_under_each_mask_before_it_grows(model: str) -> None:
    loaded, behavior = load_model(model), _find_behavior(CONFIG, SHAPE)
    zeros: list[int] = []

    def score(units: Units) -> Importance:
        matrices = [group.weight.detach().movedim(group.axis, 0) for group in units.values()]
        zeros.append(sum(int((matrix == 0).all(1).sum()) for matrix in matrices))
        return behavior_importance(loaded, units, behavior, behavior.train)

    found = prune_for(loaded, behavior, sizes=[0, 1, 2, 5], num_random=0, score=score, iterative=True)
    assert zeros == [0, 1, 2]  # before anything is pruned, under the first row, under two
    assert found.pruning.best_k in (1, 2, 5)
    zeros.clear()
    prune_for(loaded, behavior, sizes=[0, 1, 2, 5], num_random=0, score=score)
    assert zeros == [0]
