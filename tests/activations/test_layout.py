"""How a layout is put together of what every block was shown to do, and what is said where that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ftmech_hf.activations import layout as layouts
from ftmech_hf.activations.equations import BlockParts
from ftmech_hf.activations.layout import (
    BlockLayout,
    Layout,
    check_layout,
    find_block_list,
    find_layout,
    find_parts,
    inside_peft,
    model_blocks,
)
from ftmech_hf.activations.proofs import (
    first_tensor,
    probe_tokens,
    run,
    run_settings,
    tolerance_of,
    with_first,
    within_context,
)
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from tests.conftest import make_gpt2, make_llama

WHY = {"added": "adds nothing", "heads": "has no matrix", "neurons": "adds more", "experts": "has no experts",
       "shared": "has no experts"}  # fmt: skip
ORDER = [("in", "attn"), ("in", "attn.o"), ("out", "attn.o"), ("out", "attn"), ("in", "mlp"), ("in", "mlp.down"),
         ("in", "mlp.down")]  # fmt: skip


def parts(**changes: Any) -> BlockParts:
    found = BlockParts("attn", [("attn.o", 1.0), ("attn", 1.0)], ["attn.o", "attn.v"], ["mlp.down"], WHY, ORDER)
    return found._replace(**changes)


def joined(monkeypatch: pytest.MonkeyPatch, *blocks: BlockParts) -> Layout:
    monkeypatch.setattr(layouts, "find_parts", lambda model: list(blocks))
    return find_layout(make_llama(10))


EXPERTS = {site: f"block {{}} of llama {WHY['experts']}" for site in ("router", "expert_act", "shared_act")}


def refused_of(block: BlockLayout, layer: int) -> dict[str, str]:
    """Without what only models with experts have."""
    assert {site: block.refused[site] for site in EXPERTS} == {
        site: reason.format(layer) for site, reason in EXPERTS.items()
    }
    return {site: reason for site, reason in block.refused.items() if site not in EXPERTS}


def test_a_part_is_where_all_blocks_have_it_or_where_its_own_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = joined(monkeypatch, parts(), parts(added=[("attn", 1.0)], heads=["attn.v", "attn.o"]))
    order = (("in", "attn.o"), ("out", "attn"), ("in", "mlp.down"))
    assert found.blocks == "model.layers"
    for layer, block in enumerate(found.layers):
        assert block[:8] == ("attn", "mlp.down", "attn.o", "attn", 1.0, "", "", order)
        assert refused_of(block, layer) == {}
    elsewhere = joined(monkeypatch, parts(), parts(neurons=["mlp.up"], added=[("attn.o", 0.5)], heads=["attn.q"]))
    assert [block.mlp_down for block in elsewhere.layers] == ["mlp.down", "mlp.up"]
    assert [(block.attention_added, block.attention_scale) for block in elsewhere.layers] == [
        ("attn.o", 1.0), ("attn.o", 0.5)
    ]  # fmt: skip
    assert [block.attention_out for block in elsewhere.layers] == ["attn.o", "attn.q"]
    for site in ("attn_out", "head_out", "mlp_act", "attn_pattern"):
        found.require(site)
        elsewhere.require(site, 1)


@pytest.mark.parametrize(("changes", "site", "reason"), [
    ({"added": []}, "attn_out", "block 1 of llama adds nothing"),
    ({"heads": []}, "head_out", "block 1 of llama has no matrix"),
    ({"neurons": []}, "mlp_act", "block 1 of llama adds more"),
    ({"attention": ""}, "attn_pattern", "block 1 of llama has not one attention"),
])  # fmt: skip
def test_what_a_block_lacks_is_refused_there_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], site: str, reason: str
) -> None:
    found = joined(monkeypatch, parts(), parts(**changes))
    assert refused_of(found.layers[0], 0) == {}
    assert refused_of(found.layers[1], 1) == {site: reason}
    assert found.refused == {site: reason} | {each: why.format(0) for each, why in EXPERTS.items()}
    assert found.layers_of(site) == [0]
    found.require(site, 0)
    for layer in (None, 1):
        with pytest.raises(ValueError, match=f"^model: no {site}: {reason}; layers 0 have it$"):
            found.require(site, layer)
    block = found.layers[1]
    fields = {"attn_out": (block.attention_added, block.attention_scale), "head_out": block.attention_out,
              "mlp_act": block.mlp_down, "attn_pattern": block.attention}  # fmt: skip
    assert fields[site] == (("", 1.0) if site == "attn_out" else "")
    with pytest.raises(ValueError, match=r"^model: no router: block 0 of llama has no experts$"):
        found.require("router")


def test_a_layout_is_compared_with_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama(10)
    found = joined(monkeypatch, parts(), parts())
    check_layout(model, found)
    check_layout(model, Layout("model.layers", (BlockLayout(), BlockLayout())))  # says nothing
    for changes, said in (
        ({"attention": "mlp"}, "attention of block 1 of llama is not mlp, expected attn"),
        ({"attention_out": "attn"}, "attention_out of block 1 of llama is not attn, expected attn.o, attn.v"),
        ({"mlp_down": "mlp.up"}, "mlp_down of block 1 of llama is not mlp.up, expected mlp.down"),
        ({"experts": "mlp"}, "experts of block 1 of llama is not mlp, expected none"),
        ({"shared_down": "mlp.down"}, "shared_down of block 1 of llama is not mlp.down, expected none"),
        ({"attention_scale": 2.0},
         r"attention_added of block 1 of llama is not \('attn.o', 2.0\), expected \('attn.o', 1.0\), \('attn', 1.0\)"),
    ):  # fmt: skip
        wrong = found._replace(layers=(found.layers[0], found.layers[1]._replace(**changes)))
        with pytest.raises(ValueError, match=f"^model: {said}$"):
            check_layout(model, wrong)
    joined(monkeypatch, parts(), parts(neurons=[]))
    with pytest.raises(ValueError, match=r"mlp_down of block 1 of llama is not mlp.down, expected none"):
        check_layout(model, found)


def test_the_blocks_are_the_one_list_of_as_many_modules_as_there_are_layers() -> None:
    model = make_gpt2(10)
    assert find_block_list(model) == "transformer.h"
    assert [name for name, _ in model_blocks(model)] == ["transformer.h.0", "transformer.h.1"]
    assert [block for _, block in model_blocks(model)] == list(model.transformer.h)
    model.other = nn.ModuleList([nn.Identity()] * 3)  # of another length
    assert find_block_list(model) == "transformer.h"
    model.more = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert find_block_list(model) == "transformer.h"  # what no token passes, as the layers of images, is no block
    model = make_gpt2(10)
    model.more = nn.ModuleList([nn.Identity(), nn.Identity()])
    model.transformer.h[1].register_forward_hook(lambda *_: [each(None) for each in model.more] and None)
    named = r"\(transformer.h, more\)"
    with pytest.raises(
        ValueError, match=rf"^model: gpt2 has 2 lists of 2 blocks {named} that tokens pass, expected one$"
    ):
        find_block_list(model)
    model.config.n_layer = 7
    with pytest.raises(ValueError, match=r"gpt2 has 0 lists of 7 blocks that tokens pass, expected one"):
        model_blocks(model)


def test_parts_are_found_once_and_again_when_a_module_was_exchanged() -> None:
    model = make_llama(10)
    found = find_parts(model)
    assert find_parts(model) is found
    model.model.layers[0].mlp.act_fn = nn.Tanh()
    assert find_parts(model) is not found
    assert find_parts(make_llama(10)) is not found


def test_a_model_that_peft_holds_is_the_one_inside() -> None:
    plain = make_gpt2(10)
    assert inside_peft(plain) is plain
    held = add_adapter(plain, AdapterConfig(adapter="lora"), base="", seed=0)
    assert inside_peft(held) is held.get_base_model()


def test_the_first_tensor_is_taken_and_put_back() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert first_tensor(one) is one
    assert first_tensor((one, two)) is first_tensor([one, two]) is one
    assert [first_tensor(value) for value in ((), [], None, ("a", one), 3)] == [None] * 5
    assert with_first((one, two, 3), two) == (two, two, 3)
    assert with_first([one, two], two) == [two, two]
    assert with_first(one, two) is two


def test_tolerance_follows_the_type_of_number() -> None:
    model = make_gpt2(10)
    found = {
        dtype: tolerance_of(model.to(dtype)) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    assert list(found.values()) == [1e-4, 1e-4, 5e-3, 2e-2]


def test_a_model_is_run_on_what_it_takes() -> None:
    model = make_gpt2(10)
    assert run_settings(model, logits_to_keep=1) == {"use_cache": False, "logits_to_keep": 1}
    assert run_settings(model, use_cache=True) == {"use_cache": True}
    model.forward = lambda input_ids, use_cache=None: input_ids  # takes nothing else
    assert run_settings(model, logits_to_keep=1) == {"use_cache": False}
    model.forward = lambda input_ids: input_ids
    assert run_settings(model, logits_to_keep=1) == {}
    rows = torch.zeros(1, 3, dtype=torch.long)
    assert run(model, rows) is rows

    def failing(input_ids: Any) -> Any:
        raise RuntimeError("a\n  b " + 300 * "c")

    model.forward = failing
    with pytest.raises(
        ValueError, match=r"^model: gpt2 cannot be run on rows of tokens alone \(RuntimeError: a b c+\)$"
    ) as it:
        run(model, rows)
    assert str(it.value).count("c") == 200 - len("RuntimeError: a b ") + "cannot".count("c")


def test_rows_longer_than_the_context_take_its_last_position_again() -> None:
    model = make_gpt2(10)
    rows = torch.zeros(2, 34, dtype=torch.long)
    assert within_context(model, rows[:, :32]) == {}
    assert within_context(model, rows)["position_ids"].tolist() == [[*range(32), 31, 31]]
    for limit in (None, "many"):
        endless: Any = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=limit))
        assert within_context(endless, rows) == {}


@pytest.mark.parametrize(("pad", "tokens"), [(None, [0, 1]), (0, [1, 2]), (1, [0, 2]), (2, [0, 1]), (9, [0, 1])])
def test_probed_rows_are_of_two_tokens_but_padding(pad: int | None, tokens: list[int]) -> None:
    model = make_gpt2(10)
    model.config.pad_token_id = pad
    assert probe_tokens(model).tolist() == [[*tokens, *tokens]]
    assert probe_tokens(model, 3).tolist() == [[*tokens, tokens[0]]]


@pytest.mark.parametrize(("order", "said"), [([1, 0], "1, 0"), ([0, 0, 1], "0, 0, 1"), ([0], "0")])
def test_blocks_that_do_not_run_each_once_and_in_order_are_refused(order: list[int], said: str) -> None:
    model = make_gpt2(10)
    blocks = list(model.transformer.h)

    def forward(input_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        stream = model.transformer.wte(input_ids)
        for number in order:
            found = blocks[number](stream)
            stream = found[0] if isinstance(found, tuple) else found
        return stream

    model.forward = forward
    with pytest.raises(ValueError, match=f"^model: gpt2 runs blocks {said}, expected each once, in order$"):
        find_parts(model)
