from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.studies.diagnosis import diagnosis
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, OTHER_SEED, SELF_DISTILLED, Case, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import MeasuredResult, asked_methods, left_out, measure_case
from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.finetuning import revive
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from ftmech_hf.studies.diagnosis.methods.null_models import measure_null_models
from ftmech_hf.studies.diagnosis.methods.probing import measure_probing
from ftmech_hf.studies.diagnosis.methods.separation import measure_separation
from ftmech_hf.studies.diagnosis.methods.similarity import measure_similarity
from ftmech_hf.studies.diagnosis.methods.weights import measure_weights
from ftmech_hf.studies.diagnosis.verdict import VerdictResult, judge_capability
from ftmech_hf.training.evaluation import answer_logits
from tests.conftest import remembered
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import MAKERS, ask, make_base, make_never, make_rows, make_wrapped

FEW = CaseConfig(
    rows=200, fit_rows=500, patch_rows=150, reverse_lr=4e-3, reverse_steps=32, repeats=2, random_masks=3,
    prune_sizes=[0, 1, 2, 4],
)  # fmt: skip


def case(kind: str, finetuned: PreTrainedModel, null: PreTrainedModel | None = None, config: CaseConfig = FEW) -> Case:
    models = {BASE: make_base(kind), FINETUNED: finetuned, NULL: null or make_never(kind)}
    return Case(models, ask(make_rows()), ask(make_rows("!", 1, seed=1), "next"), config, 0)


def judged(found: MeasuredResult) -> VerdictResult:
    return judge_capability(found.evidence())


def diagnosed(examined: Case) -> tuple[VerdictResult, pd.DataFrame, Evidence]:
    found = measure_case(examined)
    return judged(found), pd.DataFrame(found.rows()), found.evidence()


@functools.cache
def measured_llama() -> MeasuredResult:
    return measure_case(case("llama", make_wrapped("llama")), workers=2)


def wrapped_llama() -> tuple[VerdictResult, pd.DataFrame, Evidence]:
    found = measured_llama()
    return judged(found), pd.DataFrame(found.rows()), found.evidence()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_copy_is_unchanged(kind: str) -> None:
    thorough = dataclasses.replace(FEW, thorough=True)
    result, table, found = diagnosed(case(kind, copy.deepcopy(make_base(kind)), config=thorough))
    assert (result.verdict, result.signs) == ("unchanged", ())
    assert found.drop.value == 0
    at = table.set_index("analysis")
    for analysis, quantity, expected in (
        ("similarity", "CKA", 1.0), ("sensitivity", "ratio to base", 1.0), ("weights", "relative norm", 0.0),
    ):  # fmt: skip
        rows = at.loc[analysis]
        rows = rows[(rows["quantity"] == quantity) & (rows["model"] == FINETUNED)]
        assert len(rows)
        assert rows["value"].tolist() == pytest.approx([expected] * len(rows))


def test_where_answers_decide_no_other_instrument_runs() -> None:
    calls: list[tuple[int, int, str]] = []
    copied, without = copy.deepcopy(make_base("llama")), MAKERS["llama"](40, seed=9)
    found = measure_case(case("llama", copied), lambda *each: calls.append(each))
    assert judged(found).verdict == "unchanged"
    assert [name for _, _, name in calls] == ["behaviour"]
    assert {row["analysis"] for row in found.rows()} == {"behaviour"}
    nothing = Case({BASE: without, FINETUNED: copied, NULL: make_never("llama")}, ask(make_rows()), None, FEW, 0)
    assert set(measure_case(nothing).seconds) == {"behaviour"}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_a_control_hidden_is_only_said_with_its_doubt(kind: str) -> None:
    random = MAKERS[kind](40, seed=5)
    examined = case(kind, make_wrapped(kind), random)
    assert not examined.control
    assert case(kind, make_wrapped(kind)).control
    found = measured(examined, "behaviour", "pruning", "revival")
    evidence = found.evidence()
    assert evidence.revival is not None
    assert evidence.revival_null is not None
    assert evidence.revival.is_faster_than(evidence.revival_null, 2)
    result = judged(found)
    assert result.verdict in ("hidden or learned anew", "undecided")
    assert "no trained control was given (--control)" in result.reason


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_never_had_it_is_gone(kind: str) -> None:
    examined = case(kind, MAKERS[kind](40, seed=7))
    found = measured(examined, "behaviour", "pruning", "probing", "patching", "revival")
    result = judged(found)
    assert result.verdict == "gone"
    assert not any(sign.holds for sign in result.signs)


def test_a_wrapper_of_a_llama_is_called_one_and_every_instrument_has_its_reference() -> None:
    result, table, found = wrapped_llama()
    assert result.verdict == "behind a wrapper"
    assert found.finetuned.value < 0.05
    assert {"comes back fast", "can be read"} <= {sign.name for sign in result.signs if sign.holds}
    assert set(table.columns) == {
        "analysis", "quantity", "model", "questions", "site", "layer", "x", "value", "low", "high", "reference",
    }  # fmt: skip
    by_analysis = table.groupby("analysis")["reference"]
    assert len(by_analysis) == 12
    assert by_analysis.any().all()
    assert not by_analysis.all().any()
    assert found.revival is not None
    assert found.revival_null is not None
    assert found.revival.slowest is not None
    assert found.revival_null.last_step == 3 * found.revival.slowest
    assert {SELF_DISTILLED, f"{SELF_DISTILLED} into base"} <= set(table["model"])
    with_it = table[table["model"].str.contains(SELF_DISTILLED) | (table["quantity"] == f"base, {SELF_DISTILLED}")]
    assert set(with_it["analysis"]) == {
        "behaviour", "patching", "path", "weights", "logit lens", "similarity", "separation", "sensitivity",
        "unlearning",
    }  # fmt: skip
    assert table["value"].notna().all()
    depths = table[table["quantity"] == "unlearning depth"].set_index("model")["value"]
    assert depths[SELF_DISTILLED] < 0.1 < depths[FINETUNED]


def test_what_teaches_nothing_looks_like_nothing_and_another_seed_like_another_model() -> None:
    examined = case("llama", make_wrapped("llama"), config=dataclasses.replace(FEW, reverse_lr=1e-3))
    examined.null_models[OTHER_SEED] = MAKERS["llama"](40, seed=9)
    behaviour = [*measure_behaviour(examined).rows(), *measure_null_models(examined).rows()]
    rows = pd.DataFrame([*behaviour, *measure_similarity(examined).rows()])
    right = rows[(rows["quantity"] == "accuracy") & (rows["questions"] == "capability")].set_index("model")["value"]
    assert right[SELF_DISTILLED] == pytest.approx(right[BASE], abs=0.02)
    assert right[OTHER_SEED] < right[BASE] - 0.5
    alike = rows[(rows["quantity"] == "CKA") & (rows["questions"] == "capability")].groupby("model")["value"].min()
    assert alike[SELF_DISTILLED] > 0.9 > alike[FINETUNED]
    assert alike[OTHER_SEED] < alike[SELF_DISTILLED]
    weights = pd.DataFrame(measure_weights(examined).rows())
    sizes = weights[(weights["quantity"] == "relative norm") & weights["layer"].notna()]
    assert sizes[sizes["model"] == SELF_DISTILLED]["value"].max() > 0
    assert not set(sizes["model"]) & {OTHER_SEED, NULL}
    without = Case(examined.models, examined.capability, None, dataclasses.replace(FEW, null_steps=0), 0)
    assert without.null_models == {}


def test_the_same_wrapper_with_a_base_that_never_had_it_is_no_finding() -> None:
    models = {BASE: MAKERS["llama"](40, seed=9), FINETUNED: make_wrapped("llama"), NULL: MAKERS["llama"](40, seed=5)}
    examined = Case(models, ask(make_rows()), None, FEW, 0)
    evidence = measure_behaviour(examined).evidence()
    assert evidence.base.low < evidence.chance + 0.2
    rows = measure_separation(examined).rows()  # without other questions, two answers are held apart
    assert {row["quantity"] for row in rows} == {"tau", "own side", "kinds by chance"}


def test_halves_meet_where_the_base_says() -> None:
    """Whatever the fine-tuned model is: choosing by it would be choosing by the result."""
    found = [measure_probing(case("llama", model)) for model in (make_wrapped("llama"), MAKERS["llama"](40, seed=7))]
    assert found[0].places == found[1].places
    assert found[0].evidence().read != found[1].evidence().read


def test_deep_models_are_looked_into_at_evenly_spaced_layers() -> None:
    examined = case("gpt2", make_wrapped("gpt2"))
    assert examined.layers == [0, 1]
    few = Case(examined.models, examined.capability, None, dataclasses.replace(FEW, max_layers=1), 0)
    assert few.layers == [0]
    assert list(few.stream(BASE, "capability", "test")) == [0]
    assert list(few.sites(BASE, "capability", "test")) == ["block 0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 1}, "repeats: 1, expected at least 2"),
        ({"rows": 7}, "rows: 7, expected at least 8"),
        ({"patch_rows": 1}, "patch_rows: 1, expected at least 2"),
        ({"prune_sizes": [0]}, r"prune_sizes: \[0\]"),
        ({"reverse_lr": 0.0}, "reverse_lr: 0.0"),
    ],
)
def test_what_cannot_be_examined(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaseConfig(**settings)
    with pytest.raises(ValueError, match="other_dataset: x, but no dataset"):
        DiagnoseConfig(other_dataset="x")


def test_more_rows_than_a_model_has_are_refused_by_their_setting_before_anything_is_measured() -> None:
    done: list[str] = []
    config = dataclasses.replace(FEW, prune_sizes=[0, 10**6])
    with pytest.raises(ValueError, match=r"^prune_sizes: 1000000, expected at most \d+: the model has no more of unit"):
        measure_case(case("llama", make_wrapped("llama"), config=config), lambda *each: done.append(each[2]), workers=1)
    assert not done


def test_one_process_gives_the_same_numbers_as_two_and_leaves_nothing_behind_in_the_models() -> None:
    examined = case("llama", make_wrapped("llama"))
    rows = make_rows()[:20]
    before = {name: answer_logits(model, rows) for name, model in examined.models.items()}
    weights = {
        name: {key: p.clone() for key, p in model.state_dict().items()} for name, model in examined.models.items()
    }
    found, beside = measure_case(examined, workers=1), measured_llama()
    pd.testing.assert_frame_equal(pd.DataFrame(found.rows()), pd.DataFrame(beside.rows()))
    assert list(found.by_method) == list(beside.by_method) == asked_methods(FEW)
    summaries = [{**each.summary(), "seconds": None} for each in (found, beside)]
    assert summaries[0] == summaries[1]
    assert all(example["reversed"] for example in summaries[1]["examples"])
    for name, model in examined.models.items():
        assert all(torch.equal(p, weights[name][key]) for key, p in model.state_dict().items())
        assert torch.equal(answer_logits(model, rows), before[name])


@remembered
def unrelated(kind: str) -> PreTrainedModel:
    """A model that always learned another thing: it names the fourth word, at the capability's own mark."""
    rows = make_rows(seed=8)
    rows[:, -2] = rows[:, 4]
    curve = revive(MAKERS[kind](40, seed=11), ask(rows), seed=3, steps=400, lr=3e-3, batch_size=64, threshold=0.95,
                   eval_rows=200)  # fmt: skip
    assert curve.steps is not None
    return curve.model


@pytest.mark.parametrize("control", [True, False])
def test_a_model_that_learned_other_things_is_not_called_hidden_or_weakened(control: bool) -> None:
    """It is right as often as by chance; whatever one half of it does, nothing of the capability is left."""
    examined = case("llama", unrelated("llama"), None if control else MAKERS["llama"](40, seed=5))
    found = measured(examined, "behaviour", "pruning", "probing", "patching", "revival")
    assert found.evidence().finetuned.value < 0.25
    result = judged(found)
    assert result.verdict == ("gone" if control else "undecided"), (result.reason, result.rows())


def test_a_base_that_is_its_own_control_is_refused_as_one() -> None:
    examined = case("llama", make_wrapped("llama"), make_base("llama"))
    result = judge_capability(Evidence.gather([measure_behaviour(examined).evidence()]))
    assert result.verdict == "undecided"
    assert "the control answers 100%" in result.reason


def test_two_processes_are_for_small_models_on_the_cpu_and_one_or_two_have_one_thread_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = case("llama", make_wrapped("llama"))
    monkeypatch.setattr(diagnosis, "count_cores", lambda: 2)
    assert [diagnosis._processes(small, workers) for workers in (0, 1, 2)] == [(2, True), (1, True), (2, True)]
    monkeypatch.setattr(diagnosis, "count_cores", lambda: 1)
    assert diagnosis._processes(small, 0) == (1, True)
    monkeypatch.setattr(diagnosis, "SMALL", 100)
    assert [diagnosis._processes(small, workers) for workers in (0, 1, 2)] == [(1, False), (1, True), (2, True)]
    elsewhere = Case(
        {**small.models, NULL: copy.deepcopy(make_never("llama")).to("meta")}, small.capability, None, FEW, 0
    )
    assert [diagnosis._processes(elsewhere, workers) for workers in (0, 1)] == [(1, False), (1, False)]
    with pytest.raises(ValueError, match="workers: 2, but models are on cpu, meta; expected 0 or 1"):
        measure_case(elsewhere, workers=2)
    with pytest.raises(ValueError, match="workers: 3, expected 0, 1, or on Linux 2"):
        DiagnoseConfig(workers=3)


def test_what_is_left_out_takes_with_it_what_needs_it() -> None:
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")}

    def of(*names: str) -> list[str]:
        return left_out(Case(models, ask(make_rows()), None, FEW, 0, leave_out=names))

    assert of() == []
    assert of("weights") == ["weights"]
    assert of("revival") == ["revival", "path"]
    assert of("probing", "null models") == ["null models", "probing", "patching", "unlearning"]
    with pytest.raises(ValueError, match="leave_out: behaviour, expected some of null_models, pruning, revival"):
        DiagnoseConfig(leave_out=["behaviour"])
