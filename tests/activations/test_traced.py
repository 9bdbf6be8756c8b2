from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftmech_hf.activations import (
    SITES,
    WRITABLE,
    ActivationStore,
    TracedModel,
    find_layout,
    find_units,
    model_blocks,
    patterns,
    traced,
)
from ftmech_hf.activations.positions import token_places
from ftmech_hf.activations.sites import EXPERT_SITES, SiteReader
from ftmech_hf.activations.store import StoreWriter
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.training.evaluation import answer_logits
from tests.conftest import make_gpt2, make_llama
from tests.placed import place
from tests.simulated_gpu import simulated_gpu

DENSE = tuple(site for site in SITES if site not in EXPERT_SITES)


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 40, (10, 12))


def down_projections(model: PreTrainedModel) -> list[nn.Module]:
    path = find_layout(model).layers[0].mlp_down
    return [block.get_submodule(path) for _, block in model_blocks(model)]


def test_the_stream_is_hf_hidden_states(any_model: PreTrainedModel, rows: Tensor) -> None:
    found = TracedModel(any_model).collect(rows, ["resid_pre", "resid_post"], positions=5, batch_size=10)
    with torch.no_grad():
        hidden = any_model(rows, output_hidden_states=True).hidden_states
    for layer in range(2):
        assert torch.equal(found["resid_pre", layer], hidden[layer][:, 5])
    assert torch.equal(found["resid_post", 0], hidden[1][:, 5])
    # the last hidden state has gone through the final norm, the last stream has not
    assert not torch.allclose(found["resid_post", 1], hidden[2][:, 5], atol=1e-3)
    paths = {"gpt2": "transformer.ln_f", "llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm"}
    norm = any_model.get_submodule(paths[any_model.config.model_type])
    assert torch.allclose(norm(found["resid_post", 1]), hidden[2][:, 5], atol=1e-6)


def test_every_site_is_what_a_forward_hook_sees(any_model: PreTrainedModel, rows: Tensor) -> None:
    found = TracedModel(any_model).collect(rows, DENSE, positions=-1, batch_size=10)
    seen: dict[tuple[str, int], Tensor] = {}
    handles = []
    for layer, ((_, block), down) in enumerate(zip(model_blocks(any_model), down_projections(any_model), strict=True)):
        attention = block.get_submodule(find_layout(any_model).layers[layer].attention)

        def attention_hook(module: nn.Module, args: object, output: tuple[Tensor, Tensor], layer: int = layer) -> None:
            seen["attn_out", layer], seen["attn_pattern", layer] = output[0][:, -1], output[1][:, :, -1]

        def down_hook(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> None:
            seen["mlp_act", layer] = args[0][:, -1]

        def heads_hook(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> None:
            seen["head_out", layer] = args[0][:, -1]

        heads = block.get_submodule(find_layout(any_model).layers[layer].attention_out)
        handles += [attention.register_forward_hook(attention_hook), down.register_forward_pre_hook(down_hook)]
        handles.append(heads.register_forward_pre_hook(heads_hook))
    with torch.no_grad():
        any_model(rows)
    for handle in handles:
        handle.remove()
    assert len(seen) == 8
    for key, value in seen.items():
        assert torch.equal(found[key], value), key
    assert torch.allclose(found["attn_pattern", 0].sum(-1), torch.ones(()), atol=1e-5)


def test_batches_agree_to_rounding_and_layers_can_be_chosen(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    whole = traced.collect(rows, ["resid_post", "mlp_act"])
    parts = traced.collect(rows, ["resid_post", "mlp_act"], batch_size=3)
    assert all(torch.allclose(whole[key], parts[key], atol=1e-5) for key in whole)
    assert list(traced.collect(rows, ["mlp_act"], layers=[1])) == [("mlp_act", 1)]


def test_later_blocks_are_not_computed(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    calls = []
    handle = model_blocks(any_model)[1][1].register_forward_pre_hook(lambda *_: calls.append(1))
    traced.collect(rows, ["resid_post"], layers=[0])
    assert calls == []
    traced.collect(rows, ["resid_post"], layers=[1])
    assert calls == [1]
    handle.remove()


def test_a_mask_is_a_zeroed_input_of_the_down_projection(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    mask = torch.rand(2, traced.num_neurons) > 0.5
    masked = traced.masked_logits(rows[:, :-2], mask)
    clean = answer_logits(any_model, rows)
    assert torch.allclose(traced.masked_logits(rows[:, :-2], torch.ones_like(mask)), clean, atol=1e-5)
    assert not torch.allclose(masked, clean, atol=1e-3)  # a write that silently did nothing would pass the next line
    with torch.no_grad():
        for kept, down in zip(mask, down_projections(any_model), strict=True):
            weight = down.weight
            weight.mul_(kept[:, None] if any_model.config.model_type == "gpt2" else kept[None, :])
    assert torch.allclose(answer_logits(any_model, rows), masked, atol=1e-5)


def test_a_split_model_is_masked_where_its_blocks_are(rows: Tensor) -> None:
    model = make_llama(40)
    mask = torch.rand(2, TracedModel(model).num_neurons, generator=torch.Generator().manual_seed(0))
    expected = TracedModel(model).masked_logits(rows[:, :-2], mask)
    with simulated_gpu():
        for devices in (("cpu", "gpu"), ("gpu", "cpu")):
            placed = TracedModel(place(model, *devices))
            assert torch.equal(placed.masked_logits(rows[:, :-2], mask).cpu(), expected)


def test_patterns_of_long_rows_are_read_a_few_rows_at_a_time(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block makes (B, H, T, T) of them, of which one position is kept."""
    model, seen = make_llama(40), list[int]()
    opened = TracedModel(model)
    expected = opened.collect(rows, ["attn_pattern", "mlp_act"])
    heads, tokens = model.config.num_attention_heads, rows.shape[1]
    monkeypatch.setattr(patterns, "PATTERN_BYTES", 4 * heads * tokens**2 * 3)
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    found = opened.collect(rows, ["attn_pattern", "mlp_act"])
    assert seen == [3, 3, 3, 1]
    opened.collect(rows, ["mlp_act"])
    assert seen[4:] == [10]
    handle.remove()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_a_mask_leaves_the_model_as_it_was(any_model: PreTrainedModel, rows: Tensor) -> None:
    before = answer_logits(any_model, rows)
    traced = TracedModel(any_model)
    traced.masked_logits(rows[:, :-2], torch.zeros(2, traced.num_neurons))
    assert torch.equal(answer_logits(any_model, rows), before)


def test_bad_requests_are_refused(rows: Tensor) -> None:
    traced = TracedModel(make_gpt2(40, attn="sdpa"))
    with pytest.raises(ValueError, match="sites: unknown 'layer_output', expected some of resid_pre"):
        traced.collect(rows, ["layer_output"])
    with pytest.raises(ValueError, match=r"layers: \[2\], expected some of 0 to 1"):
        traced.collect(rows, ["resid_post"], layers=[2])
    with pytest.raises(ValueError, match='attn_pattern needs a model loaded with attn_implementation="eager"'):
        traced.collect(rows, ["attn_pattern"])
    with pytest.raises(ValueError, match=r"mlp_mask: \(2, 3\), expected \(2, 64\)"):
        traced.masked_logits(rows, torch.ones(2, 3))


class Lookalike(nn.Module):
    """What passes for an instance of the model that it holds, as what torch.compile makes does."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return PreTrainedModel


@pytest.mark.parametrize("wrap", [nn.DataParallel, Lookalike, lambda model: model.lm_head])
def test_what_is_no_model_or_wraps_one_is_refused_by_name(wrap: Callable[[Any], Any]) -> None:
    wrapped = wrap(make_llama(40))
    with pytest.raises(ValueError, match=rf"^model: {type(wrapped).__name__}, expected a model of transformers"):
        TracedModel(wrapped)


WRONG_PARTS = [
    ("attention_out", "self_attn.q_proj"),
    ("attention_out", "self_attn.v_proj"),
    ("attention_out", "mlp.down_proj"),
    ("mlp_down", "mlp.gate_proj"),
    ("mlp_down", "mlp.up_proj"),
    ("mlp_down", "self_attn.o_proj"),
    ("mlp_down", "mlp.c_proj"),
    ("attention", "mlp"),
    ("attention", "self_attn.q_proj"),
    ("attention_added", "mlp"),
    ("attention_added", "self_attn.q_proj"),
    ("attention_scale", 0.5),
    ("experts", "mlp"),
    ("shared_down", "mlp.down_proj"),
]


@pytest.mark.parametrize(("part", "wrong"), WRONG_PARTS)
def test_the_door_does_not_open_with_a_wrong_part(part: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama(40)
    right = find_layout(model)
    first, *others = right.layers
    assert first[:7] == ("self_attn", "mlp.down_proj", "self_attn.o_proj", "self_attn", 1.0, "", "")
    assert set(first.refused) == set(EXPERT_SITES)
    layout = right._replace(layers=(first._replace(**{part: wrong}), *others))
    monkeypatch.setattr(traced, "find_layout", lambda model: layout)
    with pytest.raises(ValueError, match=rf"^model: \w+ of block 0 of llama is not .*{wrong}"):
        TracedModel(model)


def test_the_stream_is_compared_with_the_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama(40)

    def other_states(_: nn.Module, args: Any, output: Any, change: Any) -> Any:
        if output.hidden_states is not None:
            output.hidden_states = change(output.hidden_states)
        return output

    changes = {
        "resid_pre of layer 0": lambda states: (states[0] + 1e-3, *states[1:]),
        "resid_post of layer 0": lambda states: (states[0], states[1] * 1.001, *states[2:]),
        "gives no hidden states": lambda states: states[:2],
    }
    for message, change in changes.items():
        hook = model.register_forward_hook(lambda *a, change=change: other_states(*a, change=change))
        with pytest.raises(ValueError, match=message):
            TracedModel(model)
        hook.remove()
    assert TracedModel(model).sites == DENSE
    # and what the door reads is compared, not only what the model says
    read = SiteReader.read

    def shifted(self: SiteReader, inputs: Any, sites: Any, layers: Any) -> Any:
        return {key: value + (key == ("resid_post", 0)) for key, value in read(self, inputs, sites, layers).items()}

    monkeypatch.setattr(SiteReader, "read", shifted)
    with pytest.raises(ValueError, match="resid_post of layer 0 of llama is not the model's hidden state"):
        TracedModel(model)


def test_a_model_without_the_parts_is_refused_with_the_reason() -> None:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=40, is_decoder=True
    )
    model = BertLMHeadModel(config)
    model.bert.extra = nn.ModuleList([nn.Identity(), nn.Identity()])
    model.bert.register_forward_pre_hook(lambda *_: [each(None) for each in model.bert.extra] and None)
    with pytest.raises(ValueError, match="model: bert has 2 lists of 2 blocks"):
        TracedModel(model)
    gpt2 = make_gpt2(40)
    del gpt2.transformer.h[0].attn
    with pytest.raises(ValueError, match=r"model: gpt2 cannot be run on rows of tokens alone .AttributeError: "):
        find_layout(gpt2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_the_row_alone(any_model: PreTrainedModel, rows: Tensor, side: str) -> None:
    opened = TracedModel(any_model)
    assert opened.refuses_padding == ""
    lengths = [12, 7, 9]
    padded, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.long)
    for number, length in enumerate(lengths):
        place = slice(12 - length, 12) if side == "left" else slice(0, length)
        padded[number, place], mask[number, place] = rows[number, :length], 1
    together = opened.collect(padded, DENSE, positions=[-1, 0, 3], attention_mask=mask)
    for number, length in enumerate(lengths):
        alone = opened.collect(rows[number : number + 1, :length], DENSE, positions=[-1, 0, 3])
        for key, value in alone.items():
            found = together[key][number]
            if key[0] == "attn_pattern":
                found = found[..., 12 - length :] if side == "left" else found[..., :length]
            assert torch.allclose(found, value[0], atol=1e-4), key


def test_a_model_that_cannot_be_padded_says_so(any_model: PreTrainedModel, rows: Tensor) -> None:
    opened = TracedModel(any_model)
    opened.reader.takes_position_ids = False
    opened.refuses_padding = opened._check_padding()
    if any_model.config.model_type == "gpt2":  # the others' positions are relative
        assert "other activations to a row padded on the left: it takes no position_ids" in opened.refuses_padding
        with pytest.raises(ValueError, match="attention_mask: gpt2 gives other activations"):
            opened.collect(rows, ["resid_post"], attention_mask=torch.ones_like(rows))
    broken = torch.ones_like(rows)
    broken[0, 4] = 0
    with pytest.raises(ValueError, match="padding in the middle of a row"):
        TracedModel(any_model).collect(rows, ["resid_post"], attention_mask=broken)
    with pytest.raises(ValueError, match=r"positions: \[12\], but the shortest row has 12 tokens"):
        TracedModel(any_model).collect(rows, ["resid_post"], positions=[12])


def test_a_store_holds_what_was_collected(tmp_path: Path, any_model: PreTrainedModel, rows: Tensor) -> None:
    opened = TracedModel(any_model)
    options: dict[str, Any] = {"positions": [2, -1], "batch_size": 4}
    store = opened.collect_to(tmp_path / "store", rows, ["resid_post", "mlp_act"], model_hash="abc", **options)
    memory = opened.collect(rows, ["resid_post", "mlp_act"], **options)
    assert set(store) == set(memory)
    for key, value in memory.items():
        assert isinstance(store[key], np.memmap)
        assert torch.equal(torch.from_numpy(np.array(store[key])), value)
    again = ActivationStore(tmp_path / "store")
    assert again.facts == {
        "sites": ["resid_post", "mlp_act"], "layers": [0, 1], "positions": [2, -1], "model": "abc", "rows": 10,
    }  # fmt: skip
    with pytest.raises(ValueError, match="store exists; choose another folder"):
        opened.collect_to(tmp_path / "store", rows, ["resid_post"])
    with pytest.raises(KeyError):
        store["attn_out", 0]
    file = tmp_path / "store" / "mlp_act.0.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"damaged: mlp_act.0.npy"):
        ActivationStore(tmp_path / "store")


def test_an_interrupted_collection_leaves_no_store(
    tmp_path: Path, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = TracedModel(make_gpt2(40))
    whole = opened.reader.read

    def fail(*args: Any) -> Any:
        if fail.calls:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        fail.calls = 1  # type: ignore[attr-defined]
        return whole(*args)

    fail.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(opened.reader, "read", fail)
    with pytest.raises(KeyboardInterrupt):
        opened.collect_to(tmp_path / "store", rows, ["resid_post"], batch_size=4)
    with pytest.raises(ValueError, match="holds none"):
        ActivationStore(tmp_path / "store")
    monkeypatch.undo()
    assert len(opened.collect_to(tmp_path / "store", rows, ["resid_post"])["resid_post", 1]) == 10


@pytest.mark.parametrize("site", [site for site in WRITABLE if site in DENSE])
def test_a_write_is_what_nnsight_writes(any_model: PreTrainedModel, rows: Tensor, site: str) -> None:
    opened = TracedModel(any_model)
    width = opened.collect(rows, [site])[site, 1].shape[-1]
    added = torch.linspace(-1, 1, width)
    with torch.no_grad():
        clean = any_model(rows).logits
        with opened.intervene({(site, 1): lambda value: value + added}):
            written = any_model(rows).logits
        with opened.reader.traced.trace(input_ids=rows):
            block, parts = opened.reader.blocks[1], opened.layout.layers[1]
            if site == "resid_pre":
                block.input = block.input + added
            elif site in ("mlp_act", "head_out"):
                path = parts.mlp_down if site == "mlp_act" else parts.attention_out
                matrix = block.get(path)
                matrix.input = matrix.input + added
            elif site == "attn_out":
                attention = block.get(parts.attention)
                output = attention.output
                attention.output = (output[0] + added, *output[1:])
            else:
                output = block.output
                block.output = (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added
            traced_logits = opened.reader.traced.output.logits.save()
        assert torch.equal(written, traced_logits)
        assert (written - clean).norm() > 1e-3 * clean.norm()  # a write that silently did nothing
        assert torch.equal(any_model(rows).logits, clean)


def test_a_tensor_replaces_what_is_there(any_model: PreTrainedModel, rows: Tensor) -> None:
    opened = TracedModel(any_model)
    donor = opened.collect(rows, ["resid_post"], positions=list(range(12)))["resid_post", 1]
    other = torch.randint(3, 40, rows.shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected = any_model(rows).logits
        with opened.intervene({("resid_post", 1): donor}):
            assert torch.equal(any_model(other).logits, expected)
        with opened.intervene({("mlp_act", 0): torch.zeros(())}):
            zeroed = any_model(rows).logits
    mask = torch.ones(2, opened.num_neurons)
    mask[0] = 0
    assert torch.allclose(zeroed[:, -1], opened.masked_logits(rows, mask), atol=1e-5)


def test_bad_writes_are_refused_and_always_undone(rows: Tensor) -> None:
    model = make_gpt2(40)
    opened = TracedModel(model)
    with torch.no_grad():
        clean = model(rows).logits
    for writes, message in (
        ({("attn_pattern", 0): torch.abs}, "unknown site 'attn_pattern', expected one of resid_pre"),
        ({("resid_post", 2): torch.abs}, "layer 2 of resid_post, expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message), opened.intervene(writes):  # type: ignore[arg-type]
            pass
    written = pytest.raises(ValueError, match=r"has shape \(10, 12, 16\), but \(10, 12\) was written")
    with torch.no_grad(), written, opened.intervene({("resid_post", 0): lambda value: value[..., 0]}):
        model(rows)
    model.transformer.h[0].mlp.forward = lambda hidden: hidden
    passed_by = pytest.raises(RuntimeError, match="the model ran, but never passed")
    with passed_by, opened.intervene({("mlp_act", 0): torch.abs}):
        model(rows)
    del model.transformer.h[0].mlp.forward
    with torch.no_grad():
        assert torch.equal(model(rows).logits, clean)


def test_an_unmerged_adapter_is_opened_as_it_computes(any_model: PreTrainedModel, rows: Tensor) -> None:
    layout = find_layout(any_model)
    targets = [path.rsplit(".", 1)[-1] for path in (layout.layers[0].mlp_down, layout.layers[0].attention_out)]
    is_conv = any_model.config.model_type == "gpt2"
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, fan_in_fan_out=is_conv)
    before = TracedModel(any_model).collect(rows, DENSE)
    torch.manual_seed(3)
    with quiet_peft():
        tuned = get_peft_model(any_model, config)
    opened = TracedModel(tuned)
    assert opened.layout == layout
    found = opened.collect(rows, DENSE)
    assert not torch.allclose(found["resid_post", 1], before["resid_post", 1], atol=1e-2)
    with pytest.raises(ValueError, match="its adapter is not merged"):
        find_units(tuned, "row")
    with quiet_peft():
        whole = tuned.merge_and_unload()
    merged = TracedModel(whole).collect(rows, DENSE)
    for key, value in found.items():
        assert torch.allclose(value, merged[key], atol=1e-4), key


def test_tokens_in_front_of_a_row_are_refused(rows: Tensor) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with quiet_peft():
        tuned = get_peft_model(make_gpt2(40), config)
    with pytest.raises(ValueError, match="PROMPT_TUNING adds tokens in front of a row"):
        TracedModel(tuned)


def test_positions_count_real_tokens_whichever_side_is_padded() -> None:
    ids = torch.zeros(3, 6, dtype=torch.long)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    wanted = torch.tensor([0, -1, 2, -4])
    assert token_places(wanted, ids, mask).tolist() == [[2, 5, 4, 2], [0, 3, 2, 0], [0, 5, 2, 2]]
    assert token_places(wanted, ids, None).tolist() == [[0, 5, 2, 2]] * 3
    for positions, mask_, message in (
        ([4], mask, r"positions: \[4\], but the shortest row has 4 tokens"),
        ([0, -5], mask, r"positions: \[0, -5\], but the shortest row has 4 tokens"),
        ([0], mask[:2], r"attention_mask: \(2, 6\), expected \(3, 6\)"),
        (
            [0],
            torch.tensor([[1, 0, 1, 1, 1, 1]] * 3),
            "attention_mask: padding in the middle of a row, expected",
        ),
        ([0], torch.tensor([[0, 1, 1, 1, 1, 0]] * 3), "attention_mask: padding in the middle of a row"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            token_places(torch.tensor(positions), ids, mask_)
    with pytest.raises(ValueError, match=r"^token_ids: \(6,\), expected rows \(B, T\)$"):
        token_places(wanted, ids[0], None)


def test_a_mistake_leaves_nothing_in_the_way_of_the_right_call(tmp_path: Path, rows: Tensor) -> None:
    opened = TracedModel(make_llama(40))
    for settings, message in (
        ({"sites": ["resid_pots"]}, "sites: unknown 'resid_pots'"),
        ({"sites": []}, "sites: none, expected some of"),
        ({"positions": []}, "positions: none, expected at least one"),
        ({"batch_size": 0}, "batch_size: 0, expected at least 1"),
    ):
        given: dict[str, Any] = {"sites": ["resid_post"], **settings}
        with pytest.raises(ValueError, match=f"^{message}") as kept:  # as a notebook keeps it
            opened.collect_to(tmp_path / "store", rows, **given)
        with pytest.raises(ValueError, match=f"^{message}"):
            opened.collect(rows, **given)
        assert not list(tmp_path.iterdir()), kept
    with pytest.raises(ValueError, match="token_ids: of no rows"):
        opened.collect(rows[:0], ["resid_post"])

    def stop_half_way() -> None:
        with StoreWriter(tmp_path / "half", 4, {"sites": [], "layers": []}) as writer:
            writer.append(("resid_post", 0), np.zeros((2, 1, 3), np.float32))
            raise MemoryError

    with pytest.raises(MemoryError):
        stop_half_way()
    assert not [each for each in tmp_path.iterdir() if each.suffix != ".lock"]
    assert len(opened.collect_to(tmp_path / "half", rows, ["resid_post"])) == 2
    with (
        opened.intervene({("resid_post", 0): torch.zeros(7)}),
        pytest.raises(ValueError, match=r"^intervene: resid_post has shape .* but \(7,\) was written"),
    ):
        opened.model(rows)


def test_a_store_says_what_was_collected(tmp_path: Path, rows: Tensor) -> None:
    opened = TracedModel(make_llama(40))
    store = opened.collect_to(tmp_path / "one", rows, ["mlp_act"], model_hash="abc")
    expected = {"sites": ["mlp_act"], "layers": [0, 1], "positions": [-1], "model": "abc", "rows": len(rows)}
    assert store.facts == expected
    few = opened.collect_to(tmp_path / "two", rows, ["resid_pre"], layers=[1], positions=[0, 2], batch_size=3)
    assert few.facts == {**expected, "sites": ["resid_pre"], "layers": [1], "positions": [0, 2], "model": ""}
    found = opened.collect(rows, ["resid_pre"], layers=[1], positions=[0, 2])["resid_pre", 1]
    assert torch.allclose(torch.from_numpy(np.array(few["resid_pre", 1])), found, atol=1e-5)
    with pytest.raises(ValueError, match=r"^sites: attn_pattern is not stored; its length is a row's$"):
        opened.collect_to(tmp_path / "three", rows, ["resid_pre", "attn_pattern"])


def test_neurons_are_refused_where_blocks_have_more_or_less_of_them(rows: Tensor) -> None:
    model = make_llama(40)
    assert TracedModel(model).num_neurons == 24
    config = type(model.config)(**{**model.config.to_dict(), "intermediate_size": 30})
    model.model.layers[1].mlp = type(model.model.layers[1].mlp)(config)
    opened = TracedModel(model)
    reason = "blocks have 24 to 30 neurons, expected as many in each"
    assert (opened.num_neurons, opened.refused["mlp_act"]) == (0, reason)
    assert "mlp_act" not in opened.sites
    with pytest.raises(ValueError, match=f"^sites: mlp_act {reason}$"):
        opened.masked_logits(rows, torch.ones(2, 24))
    with pytest.raises(ValueError, match=f"^sites: mlp_act {reason}$"):
        opened.collect(rows, ["resid_pre", "mlp_act"])


@pytest.mark.parametrize("bare", [False, True])
def test_a_model_that_gives_no_hidden_states_is_refused(bare: bool) -> None:
    model = make_llama(40)
    inside = model.forward

    def forward(input_ids: Tensor, **settings: Any) -> Any:
        output = inside(input_ids, **{**settings, "output_hidden_states": False})
        return SimpleNamespace(logits=output.logits) if bare else output

    model.forward = forward  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^model: llama gives no hidden states to compare its blocks' stream with$"):
        TracedModel(model)


def storages() -> dict[int, int]:
    """Place -> bytes of the storages of all tensors that are alive."""
    alive = [each for each in gc.get_objects() if issubclass(type(each), Tensor) and not each.is_meta]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in alive}


def peak_of(model: PreTrainedModel, call: Callable[[], object]) -> int:
    """Bytes that are alive when the last of a model's blocks is called, beside what was there before."""
    gc.collect()
    known = storages().keys()
    peaks: list[int] = []

    def look(*_: object) -> None:
        peaks.append(sum(size for place, size in storages().items() if place not in known))

    handle = model_blocks(model)[-1][1].register_forward_pre_hook(look)  # a trace ends in the last block
    call()
    handle.remove()
    return peaks[0]


def test_what_is_not_wanted_of_a_block_does_not_outlive_it() -> None:
    """One position of all layers: beside the forward pass no more than twice the result; whole values are far more."""
    config = LlamaConfig(**{**make_llama(40).config.to_dict(), "num_hidden_layers": 12, "max_position_embeddings": 256})
    model = LlamaForCausalLM(config).eval()
    rows = torch.randint(0, 40, (4, 200))
    door = TracedModel(model)

    def plain() -> None:
        with torch.no_grad():
            model(rows, use_cache=False, logits_to_keep=1)

    forward = peak_of(model, plain)
    found: dict[tuple[str, int], Tensor] = {}
    peak = peak_of(model, lambda: found.update(door.collect(rows, ["resid_post"])))
    result = sum(each.numel() * each.element_size() for each in found.values())
    assert result == 12 * 4 * 16 * 4
    assert peak <= forward + 2 * result
    whole = peak_of(model, lambda: door.reader.read(door.reader.inputs(rows, None), ["resid_post"], range(12)))
    assert whole > forward + 100 * result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_that_rounds_otherwise_is_no_fault_in_half_precision(dtype: torch.dtype) -> None:
    """Longer rows are added up in another order on a GPU: by as much as bfloat16 rounds, and no more."""
    model, lengths = make_gpt2(40).to(dtype), list[int]()

    def otherwise(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        lengths.append(output.shape[1])
        return output * (1 + 2**-7 * (output.shape[1] > min(lengths)))

    model.transformer.h[0].mlp.register_forward_hook(otherwise)
    assert bool(TracedModel(model).refuses_padding) == (dtype == torch.float32)
