"""Prompts of any model and of several lengths are read as if each stood alone; gated MLPs by both their matrices."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import put_in, taken_out
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.report.claims import decide
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.safety import texts
from ftmech_hf.studies.safety.asked import Asked
from ftmech_hf.studies.safety.changes import log_action, mlp_inputs, random_like, reading_matrices, weight_rows
from ftmech_hf.studies.safety.clusters import prompt_states
from ftmech_hf.studies.safety.direction import refusal_directions
from ftmech_hf.studies.safety.texts import chosen_directions, direction_rows, first_tokens
from ftmech_hf.studies.safety.texts_page import read_table
from tests.conftest import make_llama

LENGTHS = (9, 4, 6, 9, 5)


def texts_of(low: int, high: int) -> AnswerRows:
    """Rows as data sets give them: prompts of several lengths of some tokens, filled on the left, and an answer."""
    generator = torch.Generator().manual_seed(low)
    rows = torch.zeros(len(LENGTHS), max(LENGTHS) + 2, dtype=torch.long)
    for row, length in zip(rows, LENGTHS, strict=True):
        row[-length - 2 :] = torch.randint(low, high, (length + 2,), generator=generator)
    return AnswerRows.one_token(rows, pad=0)


def every_layer(model: PreTrainedModel, prompts: Tensor, shown: Tensor | None) -> list[Tensor]:
    """The stream, and what enters the matrices that read it, where prompts end."""
    entered = mlp_inputs(model, prompts, shown, batch_size=2)
    return [*prompt_states(model, prompts, shown, batch_size=2), *entered.values()]


def test_a_prompt_is_read_as_if_it_stood_alone(any_model: PreTrainedModel) -> None:
    prompts, shown = texts_of(3, 40).prompts()
    assert shown is not None
    assert shown.sum(1).tolist() == list(LENGTHS)
    found, unmasked = every_layer(any_model, prompts, shown), every_layer(any_model, prompts, None)
    for number, (row, real) in enumerate(zip(prompts, shown, strict=True)):
        alone = every_layer(any_model, row[real][None], None)
        for together, by_itself in zip(found, alone, strict=True):
            torch.testing.assert_close(together[number], by_itself[0], rtol=1e-4, atol=1e-4)
        # What must fail: padding that a model takes for tokens.
        assert torch.allclose(unmasked[0][number], alone[0][0], atol=1e-2) == bool(real.all())


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return make_llama(40)


def test_both_matrices_of_a_gated_mlp_read_the_stream(llama: LlamaForCausalLM) -> None:
    matrices = reading_matrices(llama)
    assert list(matrices) == [f"model.layers.{n}.mlp.{name}_proj" for n in range(2) for name in ("gate", "up")]
    assert {tuple(each.shape) for each in matrices.values()} == {(24, 16)}
    prompts, shown = texts_of(3, 40).prompts()
    entered = mlp_inputs(llama, prompts, shown)
    one, other = (entered[f"model.layers.0.mlp.{name}_proj"] for name in ("gate", "up"))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, entered["model.layers.1.mlp.up_proj"], atol=1e-2)


def test_a_planted_change_of_a_gated_mlp_is_found_and_acts_on_its_kind_alone(llama: LlamaForCausalLM) -> None:
    """A change of one gate along what sets unsafe prompts apart; its random twin acts on both kinds alike."""
    name = "model.layers.1.mlp.gate_proj"
    safe, unsafe = (mlp_inputs(llama, *texts_of(*tokens).prompts())[name] for tokens in ((3, 20), (20, 40)))
    weights = {name: reading_matrices(llama)[name]}
    _, _, directions = torch.linalg.svd(safe)  # five prompts: what they do not span is left
    apart = directions[len(safe) :].T @ (directions[len(safe) :] @ (unsafe.mean(0)))
    planted = {name: torch.outer(torch.ones(24), apart)}
    shifts = [
        float((log_action(deltas, weights, {name: unsafe}) - log_action(deltas, weights, {name: safe})).mean())
        for deltas in (planted, random_like(planted, 0))
    ]
    assert shifts[0] > 2.0
    assert abs(shifts[1]) < 0.7
    tuned = make_llama(40)
    with torch.no_grad():
        tuned.get_submodule(name).weight += 0.1 * planted[name]
    changed = {row["matrix"]: row for row in weight_rows(llama, tuned, seed=0)}
    assert [each for each, row in changed.items() if row["relative_norm"] > 0] == [name]
    assert changed[name]["effective_rank"] == pytest.approx(1.0, abs=1e-3)


def test_a_refusal_direction_of_texts_is_taken_out_and_put_in(llama: LlamaForCausalLM) -> None:
    """Put into safe prompts it brings their mean to that of unsafe ones; a random one of its length does not."""
    asked = {kind: texts_of(*tokens).prompts() for kind, tokens in (("safe", (3, 20)), ("unsafe", (20, 40)))}
    states = {kind: prompt_states(llama, *each) for kind, each in asked.items()}
    (direction,) = refusal_directions(states["safe"], states["unsafe"])
    torch.testing.assert_close(direction, states["unsafe"][0].mean(0) - states["safe"][0].mean(0))
    other = torch.randn(16, generator=torch.Generator().manual_seed(0))
    other *= direction.norm() / other.norm()
    entered: list[Tensor] = []
    hook = llama.model.layers[1].register_forward_pre_hook(lambda _, args: entered.append(args[0][:, -1].detach()))
    for kind, writes in (
        ("safe", put_in(llama, direction, 0)),
        ("safe", put_in(llama, other, 0)),
        ("unsafe", taken_out(llama, direction)),
    ):
        with intervene(llama, writes):
            prompt_states(llama, *asked[kind])
    hook.remove()
    far = [float((each.mean(0) - states["unsafe"][0].mean(0)).norm()) for each in entered[:2]]
    assert far[0] < 1e-3 < 0.5 < far[1]
    assert (entered[2] @ direction).abs().max() < 1e-3 < (states["unsafe"][0] @ direction).abs().max()
    half = make_llama(40).bfloat16()
    with intervene(half, taken_out(half, direction)):  # a direction is kept in float32, whatever the model computes in
        prompt_states(half, *asked["unsafe"])


def test_a_direction_is_put_in_after_the_layer_that_it_was_taken_from() -> None:
    """Of three layers two are chosen from; whatever a refusal is, the direction goes where it came from."""
    model = make_llama(40, layers=3)
    with torch.no_grad():  # each layer turns the stream, so that a direction says little in the other's place
        for block in model.model.layers:
            block.mlp.down_proj.weight *= 4
    kinds = {
        kind: SimpleNamespace(
            pad=0,
            score=lambda model, rows: torch.zeros(1),  # refusals that are written whole are another question
            **{split: texts_of(low, low + 17) for split in ("train", "validation", "test")},
        )
        for kind, low in (("safe", 3), ("unsafe", 20))
    }
    states = [prompt_states(model, *each.train.prompts()) for each in kinds.values()]
    directions = refusal_directions(*states)
    assert len(directions) == 2
    safe = kinds["safe"].test.prompts()

    def written(direction: Tensor, layer: int) -> Tensor:
        with intervene(model, put_in(model, direction, layer)):
            return first_tokens(model, *safe).argmax(-1)

    right = [written(each, layer) for layer, each in enumerate(directions)]
    wrong = [written(each, 1 - layer) for layer, each in enumerate(directions)]
    told_apart = set()
    for refusal in sorted({int(each) for tokens in (*right, *wrong) for each in tokens}):
        asked = Asked(cast(Any, kinds), refusal, ((refusal,),))
        for layer, direction in chosen_directions(model, asked, 5):
            torch.testing.assert_close(direction, directions[layer])
        rows = direction_rows(model, asked, 5, seed=0)
        (row,) = (each for each in rows if (each["quantity"], each["direction"]) == ("put in", "refusal"))
        shares = [float((each[row["layer"]] == refusal).double().mean()) for each in (right, wrong)]
        assert row["value"] == pytest.approx(shares[0])
        if shares[0] != shares[1]:
            told_apart.add(row["layer"])
        if len(told_apart) == 2:
            break
    assert told_apart == {0, 1}  # what must fail: the same direction in the other place


def asked_of(groups: Groups) -> Asked:
    """Prompts of both kinds that are about these things."""

    def rows(groups: Groups = None) -> Any:
        return SimpleNamespace(groups=groups, prompts=lambda: (torch.zeros(64, 2), None))

    kinds = {kind: SimpleNamespace(test=rows(groups), train=rows(), validation=rows()) for kind in ("safe", "unsafe")}
    return Asked(cast(Any, kinds), 0)


def test_refusals_of_prompts_that_belong_together_are_less_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of a group are refused together, by the direction and by random ones."""
    groups, found = np.arange(64) // 8, np.arange(64) < 24
    monkeypatch.setattr(texts, "chosen_directions", lambda *_: ((0, torch.ones(16)), (0, torch.ones(16))))
    for name in ("taken_out", "put_in", "intervene"):
        monkeypatch.setattr(texts, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(texts, "refuses", lambda *_: found)
    monkeypatch.setattr(Asked, "refused_whole", lambda *_: None)
    shown = {}
    for name, each in (("alone", None), ("together", groups)):
        asked = asked_of(each)
        for kind in asked.kinds.values():
            cast(Any, kind).score = lambda *_: torch.ones(64)
        shown[name] = list(direction_rows(cast(Any, None), asked, 5, seed=0, draws=3))
    for alone, together in zip(shown["alone"], shown["together"], strict=True):
        expected = mean_over_draws(np.tile(found, (3, 1)), groups) if alone["direction"] == "random" else None
        assert (together["low"], together["high"]) == (expected or share_right(found, groups))[1:]
        assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_sides_of_prompts_that_belong_together_are_less_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds have groups of their own, whatever these are called; one that has none is of prompts by themselves."""
    groups, right = np.arange(64) // 8, np.arange(128) % 64 < 32
    states = [[torch.zeros(64, 2)], [torch.zeros(64, 2)]]
    monkeypatch.setattr(texts, "prompt_states", lambda *_, **__: states[0])
    monkeypatch.setattr(texts, "own_sides", lambda *_: ([right], [0.5]))
    monkeypatch.setattr(texts, "sides_by_chance", lambda *_, **__: (np.zeros((3, 1, 128), bool), np.zeros((3, 1))))

    def own_side(asked: Asked) -> Share:
        row = next(each for each in texts.cluster_rows("base", cast(Any, None), asked, 0) if each["quantity"] == "tau")
        return Share(row["own_side"], row["low"], row["high"])

    assert own_side(asked_of(None)) == share_right(right)
    assert own_side(asked_of(groups)) == share_right(right, np.concatenate([groups, groups + 8]))
    mixed = asked_of(groups)
    cast(Any, mixed.kinds["safe"]).test.groups = None
    assert own_side(mixed) == share_right(right, np.concatenate([np.arange(64), groups + 64]))


def test_random_directions_are_a_sample_of_directions_and_not_of_prompts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three directions one has nearly all prompts refused: how many of all others do is hardly known."""
    draws = [np.arange(64) < refused for refused in (55, 0, 0)]
    monkeypatch.setattr(texts, "chosen_directions", lambda *_: ((0, torch.ones(16)), (0, torch.ones(16))))
    monkeypatch.setattr(texts, "refusal_row", lambda *_: {"value": 1.0, "rows": 64})
    for name in ("taken_out", "put_in"):
        monkeypatch.setattr(texts, name, lambda *_: {})
    found = iter([*draws, *draws])
    monkeypatch.setattr(texts, "refuses", lambda *_: next(found))
    rows = list(direction_rows(cast(Any, None), asked_of(None), 5, seed=0, draws=3))
    by_chance = [row for row in rows if row["direction"] == "random"]
    assert [(row["quantity"], row["rows"], row["draws"]) for row in by_chance] == [
        ("taken out", 64, 3),
        ("put in", 64, 3),
    ]
    expected = mean_over_draws(np.array(draws))
    for row in by_chance:
        assert (row["value"], row["low"], row["high"]) == expected
    assert expected.low < 0.02
    assert expected.high > 0.98
    plain = [{"quantity": "refused", "model": model, "mixture": kind, "value": 0.0, "rows": 64}
             for model in ("base", "finetuned") for kind in ("safe", "unsafe")]  # fmt: skip
    nothing = [{"quantity": each, "model": "base", "matrix": ""} for each in ("weights", "tau")]
    table = pd.DataFrame([*plain, *rows, *nothing]).assign(
        chosen=None, relative_norm=0.0, outside=0.0, random_outside=0.0
    )
    read = read_table(table)["into_random"]
    assert read.value == pytest.approx(100 * 55 / 192)
    assert read.interval is not None
    assert decide(read.interval, "<= 10") == "undecided"  # and not a failure, as of 192 prompts
