"""Every site of many architectures, beside plain hooks on the parts that their authors' code names."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from ftmech_hf.activations import TracedModel, Unit, ablated_losses, find_layout, find_units
from ftmech_hf.activations.row_lengths import keeping_limit, padding_limit
from ftmech_hf.activations.sites import EXPERT_SITES
from ftmech_hf.analysis.pruning import pruned
from ftmech_hf.jobs.caching import make_cache
from ftmech_hf.jobs.generation import continue_rows
from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.models.small import small_model
from tests.architectures import ARCHITECTURES, HEADS, LAYERS, NEURONS, VOCABULARY, WIDTH, make, shaken

LENGTH = 11
WITHOUT_PATTERNS: set[str] = set()
STREAM = {"resid_pre", "resid_post"}


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def first(value: Any) -> Tensor:
    return (value[0] if isinstance(value, tuple | list) else value).detach().clone()


class Seen(dict[tuple[str, int], Tensor]):
    """What plain hooks on parts named by hand see while a model runs."""

    def __init__(self, name: str, model: nn.Module, rows: Tensor) -> None:
        self.name = ARCHITECTURES[name]
        handles = []
        for layer, block in enumerate(model.get_submodule(self.name.blocks)):  # type: ignore[arg-type]
            reading = {"resid_pre": block, "head_out": self.name.heads, "mlp_act": self.name.neurons,
                       "sum": self.name.sum_at}  # fmt: skip
            for site, path in reading.items():
                part = block.get_submodule(path) if isinstance(path, str) and path else path
                if part:
                    hook = self.reads(site, layer)
                    handles.append(part.register_forward_pre_hook(hook, with_kwargs=True))
            for site, path in {"resid_post": "", "made": self.name.heads}.items():
                if site == "resid_post" or path:
                    handles.append(block.get_submodule(path).register_forward_hook(self.returns(site, layer)))
        with torch.no_grad():
            self.output = model(rows, use_cache=False)
        for handle in handles:
            handle.remove()
        for layer in range(LAYERS):
            if self.name.sum_at:
                self["attn_out", layer] = self["sum", layer] - self["resid_pre", layer]
            elif self.name.heads:
                self["attn_out", layer] = self["made", layer]

    def reads(self, site: str, layer: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            value = first(args if args else kwargs["hidden_states"])
            self[site, layer] = value if value.ndim == 3 else value.view(3, -1, value.shape[-1])

        return hook

    def returns(self, site: str, layer: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            self[site, layer] = first(output)

        return hook


@functools.cache
def made(name: str, attn: str = "") -> PreTrainedModel:
    """A model that several tests look at and none changes: its parts are found, and tried, once."""
    return make(name, **({"attn": attn} if attn else {}))


def expected_sites(name: str) -> set[str]:
    architecture = ARCHITECTURES[name]
    sites = set(STREAM)
    if architecture.heads:
        sites |= {"head_out", "attn_out"}
    if architecture.experts and not architecture.dense:
        sites |= {"router", "expert_act", "shared_act"} if architecture.shared else {"router", "expert_act"}
    return sites | {"mlp_act"} if architecture.neurons else sites


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_site_is_what_hooks_on_parts_named_by_hand_see(name: str, rows: Tensor) -> None:
    model = made(name)
    seen = Seen(name, model, rows)
    opened = TracedModel(model)
    assert set(opened.sites) - {"attn_pattern"} == expected_sites(name)
    plain = sorted(expected_sites(name) - set(EXPERT_SITES))
    found = opened.collect(rows, plain, positions=list(range(LENGTH)), batch_size=3)
    for (site, layer), value in found.items():
        assert value.shape == seen[site, layer].shape
        assert torch.allclose(value, seen[site, layer], atol=2e-5), (site, layer)
    assert opened.num_neurons == (found["mlp_act", 0].shape[-1] if ARCHITECTURES[name].neurons else 0)
    with torch.no_grad():
        hidden = model(rows, output_hidden_states=True, use_cache=False).hidden_states
    assert all(torch.allclose(found["resid_post", layer], hidden[layer + 1], atol=2e-5) for layer in range(LAYERS - 1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_patterns_are_the_models_own_or_refused(name: str, rows: Tensor) -> None:
    model = made(name)
    opened = TracedModel(model)
    if "attn_pattern" in opened.refused:
        assert (
            name in {"mamba", "rwkv", "gpt_neo", "openai-gpt", "codegen", "gpt_oss"}
            or model.config._attn_implementation != "eager"
        )
        with pytest.raises(ValueError, match="sites: attn_pattern "):
            opened.collect(rows, ["attn_pattern"])
        return
    found = opened.collect(rows, ["attn_pattern"], positions=list(range(LENGTH)), batch_size=3)
    with torch.no_grad():
        attentions = model(rows, output_attentions=True, use_cache=False).attentions
    for layer in range(LAYERS):
        assert found["attn_pattern", layer].shape == (3, HEADS, LENGTH, LENGTH)
        assert torch.allclose(found["attn_pattern", layer], attentions[layer], atol=2e-5)
        assert torch.allclose(found["attn_pattern", layer].sum(-1), torch.ones(()), atol=1e-5)
        assert found["attn_pattern", layer].triu(1).abs().max() == 0


@pytest.mark.parametrize("name", [name for name, each in ARCHITECTURES.items() if each.heads])
def test_what_is_written_at_attn_out_arrives_in_the_stream(name: str, rows: Tensor) -> None:
    model, architecture = made(name), ARCHITECTURES[name]
    opened = TracedModel(model)
    clean = Seen(name, model, rows)
    added = torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))
    for layer in range(LAYERS):
        with opened.intervene({("attn_out", layer): lambda value: value + added}):
            seen = Seen(name, model, rows)
        site = "sum" if architecture.sum_at else "resid_post"
        assert torch.allclose(seen[site, layer], clean[site, layer] + added, atol=2e-5)
        with opened.intervene({("attn_out", layer): torch.zeros(())}):
            seen = Seen(name, model, rows)
        if architecture.sum_at:
            assert torch.allclose(seen["sum", layer], clean["resid_pre", layer], atol=2e-5)


@pytest.mark.parametrize("name", [name for name, each in ARCHITECTURES.items() if each.neurons])
def test_what_is_written_at_mlp_act_and_head_out_is_what_the_matrix_reads(name: str, rows: Tensor) -> None:
    model = made(name)
    opened = TracedModel(model)
    for site, width in (("mlp_act", opened.num_neurons), ("head_out", 0)):
        clean = opened.collect(rows, [site], layers=[1], positions=list(range(LENGTH)))[site, 1]
        assert width in (0, clean.shape[-1])
        written = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        with opened.intervene({(site, 1): written}):
            seen = Seen(name, model, rows)
        assert torch.equal(seen[site, 1], written)
        assert not torch.allclose(seen["resid_post", 1], Seen(name, model, rows)["resid_post", 1], atol=1e-2)


@pytest.mark.parametrize("name", ["granite", "llama"])
def test_what_is_written_in_place_is_written_and_gradients_reach_what_is_read(name: str, rows: Tensor) -> None:
    """Granite adds a multiple of what its attention gives, so that what a writer sees is no part of the model."""
    opened = TracedModel(make(name))

    def zero(value: Tensor) -> Tensor:
        value[:] = 0
        return value

    def after(write: Any) -> Tensor:
        with opened.intervene({("attn_out", 0): write}), torch.no_grad():
            return opened.model(rows).logits

    plain = after(lambda value: value)
    with torch.no_grad():
        assert torch.equal(plain, opened.model(rows).logits)  # what is only read stays, to the bit
    torch.testing.assert_close(after(zero), after(lambda value: 0 * value))
    assert not torch.allclose(after(zero), plain, atol=1e-3)
    seen: list[Tensor] = []

    def followed(value: Tensor) -> Tensor:
        seen.append(value)
        value.retain_grad()
        return value

    with opened.intervene({("attn_out", 0): followed}):
        opened.model(rows).logits.square().sum().backward()
    assert seen[0].grad is not None
    assert seen[0].grad.abs().max() > 0


@pytest.mark.parametrize("name", ["opt", "bloom", "granite", "gemma2", "mpt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_the_rows_alone(name: str, side: str, rows: Tensor) -> None:
    opened = TracedModel(made(name))
    assert opened.refuses_padding == ""
    pad, real = torch.zeros_like(rows[:, :3]), torch.ones_like(rows)
    ids = torch.cat([pad, rows] if side == "left" else [rows, pad], 1)
    mask = torch.cat([pad, real] if side == "left" else [real, pad], 1)
    sites = sorted(expected_sites(name))
    padded = opened.collect(ids, sites, positions=[0, 4, -1], attention_mask=mask)
    for key, value in opened.collect(rows, sites, positions=[0, 4, -1]).items():
        assert torch.allclose(padded[key], value, atol=1e-4), key


def test_a_site_that_cannot_be_shown_is_refused_by_name_and_the_others_are_there(rows: Tensor) -> None:
    opened = TracedModel(make("qwen2_moe"))
    reason = r"block 0 of qwen2_moe adds something .*; it has weights in mlp.gate, mlp.experts"
    for ask in (
        lambda: opened.collect(rows, ["resid_post", "mlp_act"]),
        lambda: opened.intervene({("mlp_act", 0): torch.abs}).__enter__(),
        lambda: opened.masked_logits(rows, torch.ones(LAYERS, NEURONS)),
    ):
        with pytest.raises(ValueError, match=reason):
            ask()
    assert opened.collect(rows, ["attn_out"])["attn_out", 1].shape == (3, WIDTH)
    assert find_layout(opened.model).layers[0].mlp_down == ""


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])  # their first hidden state is behind a block
def test_a_model_whose_stream_is_not_its_hidden_states_is_refused(kind: str) -> None:
    config = CONFIG_MAPPING[kind](vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, pad_token_id=0)
    with pytest.raises(ValueError, match=rf"^model: resid_pre of layer 0 of {kind} is not the model's hidden state$"):
        TracedModel(AutoModelForCausalLM.from_config(config))


def loss_of(model: nn.Module, rows: Tensor, answers: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(rows, use_cache=False).logits[:, -1], answers))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("number", [1, HEADS, 3])  # of rows; some models' masks have an axis of as many heads
def test_exact_ablation_is_one_pass_per_unit(name: str, number: int) -> None:
    model = made(name, "sdpa")
    generator = torch.Generator().manual_seed(number)
    rows = torch.randint(3, VOCABULARY, (number, 6), generator=generator)
    answers = torch.randint(3, VOCABULARY, (number,), generator=generator)
    units: list[Unit] = ["head", "activation"]
    for unit in units:
        groups = find_units(model, unit)
        # 16 at once split what one row asks for, and 64 what three do, so that parts are put together in both
        whole, losses = ablated_losses(model, rows, answers, unit, max_rows=16 if number == 1 else 64)
        assert whole == pytest.approx(loss_of(model, rows, answers), abs=1e-5)
        moved = 0.0
        for group, values in losses.items():
            for chosen in (0, len(values) - 1):
                mask = {group: torch.arange(len(values)) != chosen}
                with pruned({group: groups[group]}, mask):
                    expected = loss_of(model, rows, answers)
                assert float(values[chosen]) == pytest.approx(expected, abs=1e-5), (group, chosen)
                moved = max(moved, abs(expected - whole))
        assert moved > 1e-4


@pytest.mark.parametrize("name", ["opt", "bloom", "mpt", "openai-gpt", "bert", "granite"])
def test_exact_ablation_of_rows_is_one_pass_per_row(name: str) -> None:
    model = made(name, "sdpa")
    rows = torch.randint(3, VOCABULARY, (HEADS, 6), generator=torch.Generator().manual_seed(5))
    groups = find_units(model, "row")
    _, losses = ablated_losses(model, rows[:, :-1], rows[:, -1], "row")
    for group, values in losses.items():
        mask = {group: torch.arange(len(values)) != 3}
        with pruned({group: groups[group]}, mask):
            assert float(values[3]) == pytest.approx(loss_of(model, rows[:, :-1], rows[:, -1]), abs=1e-5), group


def test_heads_are_counted_on_tensors() -> None:
    model = make("llama")
    assert find_units(model, "head")["head.1"].num_units == HEADS
    for wrong, message in (
        (2, "2 slices of what self_attn.o_proj reads in block 0 of llama are not one head each"),
        (8, "8 slices of what self_attn.o_proj reads are halves of heads in llama"),
        (5, "32 inputs of self_attn.o_proj in block 0 of llama, expected a multiple of 5"),
    ):
        model = make("llama")
        model.config.num_attention_heads = wrong
        with pytest.raises(ValueError, match=f"^model: .*{message}"):
            find_units(model, "head")
    config = CONFIG_MAPPING["diffllama"](**ARCHITECTURES["llama"].settings)  # its heads come in pairs
    with pytest.raises(ValueError, match=r"4 slices .* are halves of heads in diffllama"):
        find_units(AutoModelForCausalLM.from_config(config), "head")


def test_padding_is_compared_at_every_site() -> None:
    """RoFormer moves with its padding; behind the norm of its last block that is all but gone."""
    settings = {**ARCHITECTURES["bert"].settings, "embedding_size": WIDTH}
    torch.manual_seed(0)
    model = shaken(AutoModelForCausalLM.from_config(CONFIG_MAPPING["roformer"](**settings)))
    opened = TracedModel(model)
    assert "roformer gives other activations to a row padded on the left" in opened.refuses_padding


@pytest.mark.parametrize("seed", range(8))
def test_attention_that_chooses_its_tokens_may_choose_others_in_a_padded_row(seed: int) -> None:
    """Whatever the weights are; a trial finds it in two of three."""
    model = small_model("glm_moe_dsa")
    torch.manual_seed(seed)
    reason = "glm_moe_dsa chooses 4 tokens to attend to, which may be others where a row is padded"
    opened = TracedModel(shaken(model))
    assert opened.refuses_padding == reason
    with pytest.raises(ValueError, match=f"^attention_mask: {reason}$"):
        opened.collect(torch.ones(1, 3, dtype=torch.long), ["resid_post"], attention_mask=torch.ones(1, 3))


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"index_topk": 2048}, 2048),
        ({"indexer_budget": 512}, 512),
        ({"index_topk_blocks": 16, "index_block_size": 128}, 2048),
        ({"index_topk": 2048, "sparse_topk_blocks": 4, "sparse_block_size": 64}, 256),
        ({"index_topk": None, "indexer_budget": 0}, None),
        ({"attn_temperature_tuning": True, "floor_scale": 8192}, 8191),
        ({"attn_temperature_tuning": False, "floor_scale": 8192}, None),
        ({"log_scaling_n_floor": 128_000}, 127_999),
        ({"log_scaling_n_floor": None}, None),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 4096}}, 4096),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 9}}}, 9),
        (
            {
                "rope_parameters": {
                    kind: {"rope_type": "longrope", "original_max_position_embeddings": size}
                    for kind, size in (("full_attention", 20), ("sliding_attention", 7))
                }
            },
            7,
        ),
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 8192}}, None),
        ({}, None),
    ],
)
def test_how_long_padded_rows_may_be_is_in_the_config(settings: dict[str, Any], number: int | None) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(**settings))
    found = padding_limit(model)
    assert (found and found.tokens) == number
    kept = keeping_limit(model)  # what is stretched is not kept either
    assert (kept and kept.tokens) == (number if "rope" in str(settings) else None)


def phi3_of_long_texts() -> Phi3ForCausalLM:
    """Like Phi-3 of 128 thousand positions, whose first 4 thousand are its original ones; here 16."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "long_factor": [4.0, 8.0, 12.0, 16.0], "original_max_position_embeddings": 16}  # fmt: skip
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=128, original_max_position_embeddings=16,
        rope_parameters=rope, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return Phi3ForCausalLM(config).eval()


@torch.no_grad()
def test_positions_that_a_long_row_stretches_for_all_of_a_batch() -> None:
    """A trial of short rows passes; a short row beside a long one has other activations, and is refused."""
    model = phi3_of_long_texts()
    opened = TracedModel(model)
    assert opened.refuses_padding == ""
    rows = torch.randint(1, 64, (2, 20))
    mask = torch.ones_like(rows)
    mask[0, :12] = 0
    message = "phi3 has other positions for all rows of a batch if one has more than 16"
    with pytest.raises(ValueError, match=f"^attention_mask: {message}$"):
        opened.collect(rows, ["resid_post"], attention_mask=mask)
    alone = opened.collect(rows[:1, 12:], ["resid_post"])
    short = opened.collect(rows[:, 4:], ["resid_post"], attention_mask=mask[:, 4:])
    for key, value in alone.items():
        torch.testing.assert_close(short[key][:1], value, atol=1e-4, rtol=1e-4)
    assert padded_inputs(model, mask[:, 4:])["position_ids"][0].max() == 7
    with pytest.raises(ValueError, match=r"phi3 has other positions .*give it prompts of one length"):
        padded_inputs(model, mask)


@torch.no_grad()
def test_texts_that_grow_beyond_a_models_original_positions_are_read_whole() -> None:
    """What its cache holds was read with other positions; transformers' own generate begins anew there, too."""
    model = phi3_of_long_texts()
    assert make_cache(model, 16) is not None
    assert make_cache(model, 17) is None
    prompts = [torch.randint(1, 64, (length,)).tolist() for length in (12, 12, 9, 18)]
    written = continue_rows(model, prompts, eos=None, seed=0, max_new_tokens=10, temperature=0)
    for prompt, found in zip(prompts, written, strict=True):
        text = list(prompt)
        for _ in range(10):
            text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
        assert found == text[len(prompt) :]
