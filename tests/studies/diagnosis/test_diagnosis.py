from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.studies.diagnosis import evidence, whereabouts
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, REHEARSED, TWIN, ExaminationConfig, Examined
from ftmech_hf.studies.diagnosis.diagnosis import DiagnoseConfig, examine, gather
from ftmech_hf.studies.diagnosis.revival import revive
from ftmech_hf.studies.diagnosis.verdict import VerdictResult, judge_capability
from ftmech_hf.training.evaluation import answer_logits
from tests.studies.planted import MAKERS, ask, make_base, make_never, make_rows, make_wrapped

FEW = ExaminationConfig(
    rows=200, fit_rows=500, patch_rows=150, reverse_lr=4e-3, reverse_steps=32, repeats=2, random_masks=3,
    prune_sizes=[0, 1, 2, 4],
)  # fmt: skip


def case(
    kind: str, finetuned: PreTrainedModel, null: PreTrainedModel | None = None, config: ExaminationConfig = FEW
) -> Examined:
    models = {BASE: make_base(kind), FINETUNED: finetuned, NULL: null or make_never(kind)}
    return Examined(models, ask(make_rows()), ask(make_rows("!", 1, seed=1), "next"), config, 0)


def judged(found: dict[str, Any]) -> VerdictResult:
    return judge_capability(gather(found))


def diagnosed(examined: Examined) -> tuple[VerdictResult, pd.DataFrame, dict[str, Any]]:
    table, found = examine(examined, None, None)
    return judged(found), pd.DataFrame(table), found


@functools.cache
def wrapped_llama() -> tuple[VerdictResult, pd.DataFrame, dict[str, Any]]:
    return diagnosed(case("llama", make_wrapped("llama")))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_copy_is_unchanged(kind: str) -> None:
    thorough = dataclasses.replace(FEW, thorough=True)
    result, table, found = diagnosed(case(kind, copy.deepcopy(make_base(kind)), config=thorough))
    assert (result.verdict, result.signs) == ("unchanged", ())
    assert found["drop"].value == 0
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
    table, found = examine(case("llama", copied), None, lambda *each: calls.append(each))
    assert judged(found).verdict == "unchanged"
    assert [name for _, _, name in calls] == ["behaviour"]
    assert {row["analysis"] for row in table} == {"behaviour"}
    nothing = Examined({BASE: without, FINETUNED: copied, NULL: make_never("llama")}, ask(make_rows()), None, FEW, 0)
    assert set(examine(nothing, None, None)[1]["seconds"]) == {"behaviour"}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_a_control_hidden_is_only_said_with_its_doubt(kind: str) -> None:
    random = MAKERS[kind](40, seed=5)
    examined = case(kind, make_wrapped(kind), random)
    assert not examined.control
    assert case(kind, make_wrapped(kind)).control
    found = evidence.behaviour(examined)[1] | evidence.pruning(examined)[1]
    found |= evidence.revival(examined, found["base"])[1]
    assert found["revival"].is_faster_than(found["revival_null"], 2)
    result = judged(found)
    assert result.verdict in ("hidden or learned anew", "undecided")
    assert "no control was given (--control)" in result.reason


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_never_had_it_is_gone(kind: str) -> None:
    examined = case(kind, MAKERS[kind](40, seed=7))
    found = evidence.behaviour(examined)[1] | evidence.pruning(examined)[1] | evidence.probing(examined)[1]
    found |= evidence.patching(examined, found["cuts"])[1] | evidence.revival(examined, found["base"])[1]
    result = judged(found)
    assert result.verdict == "gone"
    assert not any(sign.holds for sign in result.signs)


def test_a_wrapper_of_a_llama_is_called_one_and_every_instrument_has_its_reference() -> None:
    result, table, found = wrapped_llama()
    assert result.verdict == "behind a wrapper"
    assert found["finetuned"].value < 0.05
    assert {"comes back fast", "can be read"} <= {sign.name for sign in result.signs if sign.holds}
    assert set(table.columns) == {
        "analysis", "quantity", "model", "questions", "site", "layer", "x", "value", "low", "high", "reference",
    }  # fmt: skip
    by_analysis = table.groupby("analysis")["reference"]
    assert len(by_analysis) == 11
    assert by_analysis.any().all()
    assert not by_analysis.all().any()
    assert found["revival_null"].last_step == 5 * found["revival"].slowest
    assert {REHEARSED, f"{REHEARSED} into base"} <= set(table["model"])
    with_it = table[table["model"].str.contains(REHEARSED) | (table["quantity"] == f"base, {REHEARSED}")]
    assert set(with_it["analysis"]) == {
        "behaviour", "patching", "path", "weights", "logit lens", "similarity", "separation", "sensitivity",
    }  # fmt: skip
    assert table["value"].notna().all()


def test_what_teaches_nothing_looks_like_nothing_and_another_seed_like_another_model() -> None:
    examined = case("llama", make_wrapped("llama"), config=dataclasses.replace(FEW, reverse_lr=1e-3))
    examined.bystanders[TWIN] = MAKERS["llama"](40, seed=9)
    behaviour = [*evidence.behaviour(examined)[0], *evidence.bystanders(examined)[0]]
    rows = pd.DataFrame([*behaviour, *whereabouts.similarity(examined)[0]])
    right = rows[(rows["quantity"] == "accuracy") & (rows["questions"] == "capability")].set_index("model")["value"]
    assert right[REHEARSED] == pytest.approx(right[BASE], abs=0.02)
    assert right[TWIN] < right[BASE] - 0.5
    alike = rows[(rows["quantity"] == "CKA") & (rows["questions"] == "capability")].groupby("model")["value"].min()
    assert alike[REHEARSED] > 0.9 > alike[FINETUNED]
    assert alike[TWIN] < alike[REHEARSED]
    weights = pd.DataFrame(whereabouts.weights(examined)[0])
    sizes = weights[(weights["quantity"] == "relative norm") & weights["layer"].notna()]
    assert sizes[sizes["model"] == REHEARSED]["value"].max() > 0
    assert not set(sizes["model"]) & {TWIN, NULL}
    without = Examined(examined.models, examined.capability, None, dataclasses.replace(FEW, null_steps=0), 0)
    assert without.bystanders == {}


def test_the_same_wrapper_with_a_base_that_never_had_it_is_no_finding() -> None:
    models = {BASE: MAKERS["llama"](40, seed=9), FINETUNED: make_wrapped("llama"), NULL: MAKERS["llama"](40, seed=5)}
    examined = Examined(models, ask(make_rows()), None, FEW, 0)
    _, facts = evidence.behaviour(examined)
    assert facts["base"].low < facts["chance"] + 0.2
    rows, _ = whereabouts.separation(examined)  # without other questions, two answers are held apart
    assert {row["quantity"] for row in rows} == {"tau", "own side", "kinds by chance"}


def test_halves_meet_where_the_base_says() -> None:
    """Whatever the fine-tuned model is: choosing by it would be choosing by the result."""
    found = [
        evidence.probing(case("llama", model))[1] for model in (make_wrapped("llama"), MAKERS["llama"](40, seed=7))
    ]
    assert found[0]["cuts"] == found[1]["cuts"]
    assert found[0]["read_layer"] == found[1]["read_layer"]
    assert found[0]["read"] != found[1]["read"]


def test_deep_models_are_looked_into_at_evenly_spaced_layers() -> None:
    examined = case("gpt2", make_wrapped("gpt2"))
    assert examined.layers == [0, 1]
    few = Examined(examined.models, examined.capability, None, dataclasses.replace(FEW, max_layers=1), 0)
    assert few.layers == [0]
    assert list(few.stream(BASE, "capability", "test")) == ["block 0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 1}, "repeats: 1, expected at least 2"),
        ({"prune_sizes": [0]}, r"prune_sizes: \[0\]"),
        ({"reverse_lr": 0.0}, "reverse_lr: 0.0"),
    ],
)
def test_what_cannot_be_examined(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExaminationConfig(**settings)
    with pytest.raises(ValueError, match="other_dataset: x, but no dataset"):
        DiagnoseConfig(other_dataset="x")


def test_another_run_gives_the_same_numbers_and_leaves_nothing_behind_in_the_models() -> None:
    examined = case("llama", make_wrapped("llama"))
    rows = make_rows()[:20]
    before = {name: answer_logits(model, rows) for name, model in examined.models.items()}
    weights = {
        name: {key: p.clone() for key, p in model.state_dict().items()} for name, model in examined.models.items()
    }
    _, table, _ = diagnosed(examined)
    pd.testing.assert_frame_equal(table, wrapped_llama()[1])
    for name, model in examined.models.items():
        assert all(torch.equal(p, weights[name][key]) for key, p in model.state_dict().items())
        assert torch.equal(answer_logits(model, rows), before[name])


@functools.cache
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
    found = evidence.behaviour(examined)[1] | evidence.pruning(examined)[1] | evidence.probing(examined)[1]
    found |= evidence.patching(examined, found["cuts"])[1] | evidence.revival(examined, found["base"])[1]
    assert found["finetuned"].value < 0.25
    result = judged(found)
    assert result.verdict == ("gone" if control else "undecided"), (result.reason, result.rows())


def test_a_base_that_is_its_own_control_is_refused_as_one() -> None:
    examined = case("llama", make_wrapped("llama"), make_base("llama"))
    result = judged(evidence.behaviour(examined)[1])
    assert result.verdict == "undecided"
    assert "the control answers 100%" in result.reason
