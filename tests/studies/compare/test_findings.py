"""Components of the stream's difference stand beside the largest of any null model behind the same block."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.activation_difference import ActivationDifferenceResult, LayerDifference
from ftmech_hf.analysis.difference_components import Component, ComponentsResult
from ftmech_hf.studies.compare.finding import Words
from ftmech_hf.studies.compare.findings import _components, _shift, _tokens
from ftmech_hf.studies.compare.report import answer_in_words
from ftmech_hf.studies.compare.texts import Windows
from tests.conftest import make_gpt2


def measured(**sizes: list[float]) -> Any:
    """A model whose components behind each layer have these sizes."""
    places = torch.tensor([[0, 2], [1, 1], [2, 2]])
    layers = {
        int(layer[1:]): [Component(torch.ones(16), 0.5, size, places) for size in of_layer]
        for layer, of_layer in sizes.items()
    }
    return SimpleNamespace(components=ComponentsResult(layers, 9))


def test_each_stands_beside_the_largest_of_all_null_models_behind_its_block() -> None:
    rows = torch.tensor([[3, 4, 5, 6], [3, 7, 5, 6], [3, 4, 5, 6]])
    windows = Windows(rows, torch.ones_like(rows).bool())
    words = Words(token=lambda number: f"w{number}", text=lambda ids: " ".join(f"w{each}" for each in ids))
    pair = measured(l0=[8.0, 0.5, 0.0], l1=[6.0])
    nulls = [measured(l0=[2.0, 1.0], l1=[0.5]), measured(l0=[1.0], l1=[1.0])]
    found = _components(pair, nulls, TracedModel(make_gpt2(40)), windows, words, 9)
    assert [(each.score, each.null_score) for each in found] == [(6.0, 1.0), (8.0, 2.0), (0.5, 2.0)]
    assert [each.stands_out for each in found] == [True, True, False]
    assert found[0].where == (
        "behind block 1, 50% of the differences' variance; farthest in what follows w5 (2 of 3 places), "
        "first after w3 w4 w5"
    )
    assert found[0].what.startswith("towards w")
    assert len(_components(pair, nulls, TracedModel(make_gpt2(40)), windows, words, 1)) == 1
    assert _components(SimpleNamespace(components=None), nulls, None, windows, words, 9) == []  # type: ignore[arg-type]


def predicting(*gained: float) -> Any:
    """A model of which each token's probability gained so much."""
    promoted = torch.tensor([0.25] * len(gained))
    return SimpleNamespace(outputs=SimpleNamespace(probability=torch.tensor(gained), promoted=promoted, top=1))


def test_what_is_said_no_more_is_found_as_what_is_said_more() -> None:
    words = Words(token=lambda number: f"w{number}", text=lambda ids: "")
    pair, nulls = predicting(0.02, -0.5, 0.1, 0.0), [predicting(0.1, 0.0, 0.0, 0.0), predicting(0.0, 0.0, 0.0, -0.125)]
    found = _tokens(pair, nulls, words, 9)
    assert [(each.what, round(each.score, 3), each.null_score) for each in found] == [
        ("w1", 0.5, 0.125), ("w2", 0.1, 0.125), ("w0", 0.02, 0.125)
    ]  # fmt: skip
    assert [each.stands_out for each in found] == [True, False, False]
    assert [each.where for each in found] == ["less likely than before", *["rises most at 25% of the places"] * 2]
    assert len(_tokens(pair, nulls, words, 2)) == 2
    said = answer_in_words(found, {"parameters": 1, "changed": 0})
    assert said.startswith("The token that lost most is w1, 50.0% of all probability, 4.0 times as much as in any null")
    risen = answer_in_words([replace(found[0], where=found[1].where)], {"parameters": 1, "changed": 0})
    assert risen.startswith("The token that gained most is w1, 50.0%")


def shifted(constant: float) -> Any:
    """A model whose stream's difference is the same in all texts by this share."""
    difference = LayerDifference(relative_norm=0.1, constant=constant, mean=torch.ones(16))
    return SimpleNamespace(activations=ActivationDifferenceResult({0: difference}, 9))


def test_a_shift_stands_out_where_null_models_are_half_constant_too() -> None:
    """Of a share, three times a half is more than there is."""
    base, words = TracedModel(make_gpt2(40)), Words(token=lambda number: f"w{number}", text=lambda ids: "")
    (found,) = _shift(shifted(0.8), [shifted(0.5), shifted(0.2)], base, words, 10)
    assert (round(found.score, 5), round(found.null_score, 5), found.stands_out) == (4.0, 1.0, True)
    (weaker,) = _shift(shifted(0.7), [shifted(0.5), shifted(0.2)], base, words, 10)
    assert not weaker.stands_out
    (whole,) = _shift(shifted(1.0), [shifted(0.9)], base, words, 10)
    assert whole.stands_out


def test_a_shift_of_a_model_that_no_stream_is_read_of_alone_is_found_all_the_same() -> None:
    model, words = make_gpt2(40), Words(token=lambda number: f"w{number}", text=lambda ids: "")
    base, embedded = TracedModel(model), list[torch.Tensor]()
    model.transformer.wte.register_forward_hook(lambda _, args, output: embedded.append(output))
    model.transformer.ln_f.register_forward_hook(lambda _, args, output: output + embedded[-1].mean(1, keepdim=True))
    (found,) = _shift(shifted(0.8), [shifted(0.5)], base, words, 10)
    assert found.what == "towards what cannot be read as tokens in this architecture"
    assert round(found.score, 5) == 4.0
