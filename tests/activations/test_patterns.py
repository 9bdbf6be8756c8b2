"""Whether outputs of heads lie in planes and are explained by patterns, and what is said where heads are none."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
import torch

from ftmech_hf.activations import find_layout
from ftmech_hf.activations.patterns import (
    LENGTH,
    OTHER,
    _explains,
    _in_planes,
    config_number,
    count_heads,
    why_no_patterns,
)
from tests.conftest import make_gpt2, make_llama


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_outputs_made_of_two_vectors_lie_in_a_plane_and_of_three_do_not() -> None:
    planes = random(3, 6, 2) @ random(3, 2, 5)
    assert _in_planes(planes, 1e-9)
    third = planes.clone()
    third[1] += 1e-3 * random(6, 5)
    assert not _in_planes(third, 1e-5)
    assert _in_planes(third, 1e-1)
    assert _in_planes(torch.zeros(2, 6, 5), 0.0)


def test_a_pattern_explains_what_two_vectors_weighted_by_it_give() -> None:
    pattern = random(2, LENGTH, LENGTH).softmax(-1)
    on_other = pattern[..., OTHER]
    vectors = random(2, 2, 5)  # of each head, of the other token and of all the rest
    outputs = on_other[..., None] * vectors[:, :1] + (1 - on_other)[..., None] * vectors[:, 1:]
    heads = outputs.transpose(0, 1).flatten(1)  # side by side
    assert _explains(pattern, heads, 1e-9)
    assert not _explains(pattern.flip(0), heads, 1e-4)
    assert not _explains(pattern, heads + 0.01 * random(*heads.shape), 1e-4)


def test_patterns_need_an_attention_that_makes_them_and_sites_that_were_shown() -> None:
    model = make_llama(40)
    layout = find_layout(model)
    assert why_no_patterns(model, layout) == {}
    for site in ("attn_pattern", "head_out"):
        first, second = layout.layers
        refused = first._replace(refused=MappingProxyType({site: "they lie elsewhere"}))
        found = why_no_patterns(model, layout._replace(layers=(refused, second)))
        assert found == {0: "cannot be shown: they lie elsewhere"}  # and those of the other block are there
    model.set_attn_implementation("sdpa")
    assert set(why_no_patterns(model, layout).values()) == {'needs a model loaded with attn_implementation="eager"'}


@pytest.mark.parametrize(("doctor", "reason"), [
    (lambda pattern: pattern[:, :3], "block 0 of llama has 3 patterns and 16 outputs of heads"),
    (lambda pattern: pattern[..., :-1], "the attention of block 0 of llama returns none beside its output"),
    (lambda pattern: pattern * 1.01, "rows of block 0 of llama do not sum to one"),
    (lambda pattern: pattern.roll(1, 1), "what the heads of block 0 of llama put out is not what their patterns say"),
])  # fmt: skip
def test_patterns_that_cannot_be_are_refused_with_the_reason(doctor: Any, reason: str) -> None:
    model = make_llama(40)
    attention = model.model.layers[0].self_attn
    inside = attention.forward

    def forward(**settings: Any) -> Any:
        output, pattern = inside(**settings)
        return output, doctor(pattern)

    layout = find_layout(model)
    attention.forward = forward
    assert why_no_patterns(model, layout) == {0: f"cannot be shown: {reason}"}


def test_the_number_of_heads_is_the_configs_where_the_blocks_have_it() -> None:
    assert (count_heads(make_gpt2(40)), count_heads(make_llama(40))) == ((2, [0, 1]), (4, [0, 1]))
    for number, reason in (
        (3, "16 inputs of attn.c_proj in block 0 of gpt2, expected a multiple of 3"),
        (4, "4 slices of what attn.c_proj reads are halves of heads in gpt2"),
        (1, "1 slices of what attn.c_proj reads in block 0 of gpt2 are not one head each"),
    ):
        model = make_gpt2(40)
        find_layout(model)
        model.config.n_head = number
        with pytest.raises(ValueError, match=f"^model: no heads: {reason}"):
            count_heads(model)
    model = make_gpt2(40)
    layout = find_layout(model)
    assert layout.layers[0].attention_out == "attn.c_proj"
    model.config.__dict__["n_head"] = [2, 2]
    with pytest.raises(
        ValueError, match=r"^model: the config of gpt2 has no one num_attention_heads, expected as many"
    ):
        count_heads(model)


def test_a_number_of_the_config_is_one_number() -> None:
    model = make_gpt2(40)
    assert config_number(model, "num_attention_heads") == 2
    assert config_number(model, "num_wheels") is None
    assert config_number(model, "activation_function") is None
