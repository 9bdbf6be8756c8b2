"""Experts and their router, beside what their authors' code computes, and written by hand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ftmech_hf.activations import TracedModel, Units, ablated_losses, find_units, model_blocks
from ftmech_hf.activations.ablation import _Ablation
from ftmech_hf.activations.experts import RoutedCall, spread
from ftmech_hf.analysis.pruning import gradient_importance, pruned
from ftmech_hf.config.notices import Notice
from tests.activations.test_sites import loss_of
from tests.architectures import ARCHITECTURES, LAYERS, VOCABULARY, WIDTH, make

MIXTURES = [name for name, each in ARCHITECTURES.items() if each.experts]
LENGTH, LAYER = 7, 2


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def experts_of(name: str, model: nn.Module) -> Any:
    blocks: Any = model.get_submodule(ARCHITECTURES[name].blocks)
    return blocks[LAYER].get_submodule(ARCHITECTURES[name].experts)


class Products(TorchFunctionMode):
    """What is multiplied by each expert's last matrix."""

    def __init__(self, experts: Any) -> None:
        self.places = {each.data_ptr(): number for number, each in enumerate(experts.down_proj)}
        self.seen: dict[int, Tensor] = {}
        super().__init__()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in ("linear", "matmul", "__matmul__"):
            number = self.places.get(args[1].data_ptr())
            if number is not None:
                self.seen[number] = args[0].detach().clone()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_and_experts_are_what_their_authors_code_computes(name: str, rows: Tensor) -> None:
    model = make(name)
    model.set_experts_implementation("eager")
    experts, calls = experts_of(name, model), []
    opened = TracedModel(model)
    layers = list(range(ARCHITECTURES[name].dense, LAYERS))
    assert opened.layers_of("router") == opened.layers_of("expert_act") == layers
    assert opened.layers_of("shared_act") == (layers if ARCHITECTURES[name].shared else [])
    found = opened.collect(rows, ["router", "expert_act"], layers=[LAYER], positions=list(range(LENGTH)))
    hook = experts.register_forward_pre_hook(lambda _, args: calls.append([each.detach() for each in args]))
    with torch.no_grad(), Products(experts) as products:
        model(rows, use_cache=False)
    hook.remove()
    ((_, chosen, weights),) = calls
    number = len(experts.down_proj)
    router, acts = found["router", LAYER].flatten(0, 1), found["expert_act", LAYER].flatten(0, 1)
    acts = acts.unflatten(1, (number, -1))
    assert router.shape == (3 * LENGTH, number)
    for expert in range(number):
        places, tokens = (expert == chosen.T).nonzero(as_tuple=True)
        assert torch.allclose(router[tokens, expert], weights[tokens, places], atol=1e-6)
        others = torch.ones(3 * LENGTH, dtype=torch.bool)
        others[tokens] = False
        assert not router[others, expert].any()
        assert not acts[others, expert].any()
        if len(tokens):
            assert torch.allclose(acts[tokens, expert], products.seen[expert], atol=1e-5)
    assert acts.any()


@pytest.mark.parametrize("name", [name for name in MIXTURES if ARCHITECTURES[name].shared])
def test_the_shared_expert_is_what_its_last_matrix_reads(name: str, rows: Tensor) -> None:
    model = make(name)
    opened, seen = TracedModel(model), []
    blocks: Any = model.get_submodule(ARCHITECTURES[name].blocks)
    found = opened.collect(rows, ["shared_act"], layers=[LAYER], positions=[0, -1])["shared_act", LAYER]
    last = blocks[LAYER].get_submodule(ARCHITECTURES[name].shared)
    hook = last.register_forward_hook(lambda _, args, output: seen.append(args[0].detach().reshape(3, LENGTH, -1)))
    with torch.no_grad():
        model(rows, use_cache=False)
        clean = seen[0]
        assert torch.allclose(found, clean[:, [0, -1]], atol=1e-5)
        with opened.intervene({("shared_act", LAYER): lambda value: 2 * value}):
            model(rows, use_cache=False)
    hook.remove()
    assert torch.allclose(seen[1], 2 * clean, atol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_what_is_written_at_the_router_and_experts_is_what_they_add_up(name: str, rows: Tensor) -> None:
    model = make(name)
    experts, outputs = experts_of(name, model), []
    opened, number = TracedModel(model), len(experts.down_proj)
    transposed = name == "gpt_oss"
    neurons = experts.down_proj.shape[1 if transposed else 2]
    given = torch.randn(neurons, generator=torch.Generator().manual_seed(3))
    hook = experts.register_forward_hook(lambda _, args, output: outputs.append(output.detach().reshape(3, -1, WIDTH)))
    for expert in (0, number - 1):
        router = torch.zeros(number)
        router[expert] = 0.7
        weight = experts.down_proj[expert].detach()
        bias = experts.down_proj_bias[expert].detach() if transposed else 0
        expected = 0.7 * (given @ (weight if transposed else weight.T) + bias)
        with torch.no_grad(), opened.intervene(
            {("router", LAYER): router, ("expert_act", LAYER): given.repeat(number)}
        ):  # fmt: skip
            model(rows, use_cache=False)
        assert torch.allclose(outputs.pop(), expected.expand(3, LENGTH, WIDTH), atol=1e-5)
    with torch.no_grad():
        clean = model(rows, use_cache=False).logits
        with opened.intervene({("router", LAYER): lambda value: value, ("expert_act", LAYER): lambda value: value}):
            assert torch.allclose(model(rows, use_cache=False).logits, clean, atol=1e-5)  # to look is not to write
        with opened.intervene({("router", LAYER): torch.zeros(())}):
            assert not torch.allclose(model(rows, use_cache=False).logits, clean, atol=1e-2)
    hook.remove()


@pytest.mark.parametrize("name", MIXTURES)
def test_rows_are_all_matrices_of_the_blocks(name: str) -> None:
    model = make(name)
    units = find_units(model, "row")
    sizes = [
        weight.numel()
        for _, block in model_blocks(model) for path, weight in block.named_parameters()
        if weight.ndim > 1 and "bias" not in path
    ]  # fmt: skip
    assert sum(group.weight.numel() for group in units.values()) == sum(sizes)
    assert sum(group.num_units for group in find_units(model, "weight").values()) == sum(sizes)


@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3"])
def test_the_loss_without_a_row_of_an_expert_or_the_router_is_one_pass(name: str, rows: Tensor) -> None:
    model = make(name)
    units, blocks, path = find_units(model, "row"), model_blocks(model), ARCHITECTURES[name].experts
    block, moved = blocks[LAYER][0], 0.0
    with torch.no_grad():
        ablation = _Ablation(model, rows[:, :-1], rows[:, -1])
    router = next(each for each in units if each.startswith(block) and units[each].weight.shape[0] in (4, 8))
    for group in (router, f"{block}.{path}.gate_up_proj.0", f"{block}.{path}.down_proj.3"):
        part = units[group]
        with torch.no_grad():
            losses = {group: ablation.losses(part, 16, ablation.find_way(part)[0])}
        for number in (0, part.num_units - 1):
            moved = max(moved, check_one(model, units, rows, losses, group, number))
    assert moved > 1e-4


def check_one(model: Any, units: Units, rows: Tensor, losses: dict[str, Tensor], group: str, number: int) -> float:
    """Compares the loss without a unit with a pass of the model without it; how far that is from the whole model's."""
    with pruned({group: units[group]}, {group: torch.arange(len(losses[group])) != number}):
        expected = loss_of(model, rows[:, :-1], rows[:, -1])
    assert float(losses[group][number]) == pytest.approx(expected, abs=1e-5), (group, number)
    return abs(expected - loss_of(model, rows[:, :-1], rows[:, -1]))


@pytest.mark.parametrize("name", ["gpt_oss", "qwen2_moe"])
def test_a_row_of_an_expert_is_what_a_hand_would_zero(name: str, rows: Tensor) -> None:
    """Zeroed by writing at the site: neuron 1 of expert 2, and output 5 of all experts' first matrices."""
    model = make(name)
    opened, experts = TracedModel(model), experts_of(name, model)
    group = f"expert_act.{LAYER}.2"
    units = find_units(model, "activation")
    kept = torch.ones(len(experts.down_proj), units[group].num_units)
    kept[2, 1] = 0
    with torch.no_grad(), opened.intervene({("expert_act", LAYER): lambda value: value * kept.flatten()}):
        expected = model(rows, use_cache=False).logits
    with torch.no_grad(), pruned({group: units[group]}, {group: kept[2].bool()}):
        assert torch.allclose(model(rows, use_cache=False).logits, expected, atol=1e-5)


def test_the_importance_of_experts_is_gradient_times_weight(rows: Tensor) -> None:
    model = make("mixtral")
    units = find_units(model, "activation")

    def loss(batch: Tensor) -> Tensor:
        logits = model(batch[:, :-1], use_cache=False).logits[:, -1]
        return nn.functional.cross_entropy(logits, batch[:, -1])

    found = gradient_importance(units, loss, rows)
    weight = experts_of("mixtral", model).down_proj
    (gradient,) = torch.autograd.grad(loss(rows), [weight])
    expected = (gradient * weight).sum(1).detach()
    for expert in range(4):
        assert torch.allclose(found[f"expert_act.{LAYER}.{expert}"], expected[expert], atol=1e-6)
    assert expected.abs().max() > 1e-4


@pytest.mark.parametrize(("change", "reason"), [
    (lambda output, tokens: output + tokens.sin(), "do not return the sum of their outputs times the router's weights"),
    (lambda output, tokens: (output, tokens), "return something else than one vector for each token"),
])  # fmt: skip
def test_experts_that_compute_something_else_are_refused(change: Any, reason: str) -> None:
    model = make("olmoe")
    block: Any = model_blocks(model)[1][1]
    experts, inside = block.mlp.experts, block.mlp.experts.forward
    experts.forward = lambda tokens, *routed: change(inside(tokens, *routed), tokens)
    if "something else" in reason:
        block.mlp.forward = lambda hidden: (
            hidden
            + experts(hidden.flatten(0, 1), *reversed(block.mlp.gate(hidden.flatten(0, 1))[1:]))[0].view(hidden.shape)
        )
    opened = TracedModel(model)
    assert opened.layers_of("router") == [0, 2]
    assert opened.refused["router"] == f"block 1 of olmoe has experts in mlp.experts that {reason}"
    with pytest.raises(ValueError, match=r"^sites: expert_act block 1 of olmoe .*; layers 0, 2 have it$"):
        opened.collect(torch.ones(1, 4, dtype=torch.long), ["expert_act"])


def test_a_call_is_sorted_out_by_what_it_is_given() -> None:
    model = make("gpt_oss")
    experts = experts_of("gpt_oss", model)
    tokens, chosen, weights = torch.randn(2, 3, WIDTH), torch.zeros(6, 2, dtype=torch.long), torch.rand(6, 2)
    call = RoutedCall.of(experts, (tokens,), {"routing_weights": weights, "router_indices": chosen})
    assert call.tokens.shape == (6, WIDTH)
    assert call.chosen is not weights
    assert torch.equal(call.weights, weights)
    for wrong in ((tokens, chosen), (tokens, weights, weights), (tokens, chosen, weights[:3])):
        with pytest.raises(TypeError, match="expected tokens, the experts of each, and their weights"):
            RoutedCall.of(experts, wrong, {})


def test_what_is_spread_over_experts_is_zero_for_the_others() -> None:
    dense = spread(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[2, 0]]), 4)
    assert dense.flatten().tolist() == [2.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(("name", "notice"), [("olmoe", None), ("qwen2_moe", None), ("normed", "mlp.shared_expert.")])
def test_an_expert_that_cannot_be_seen_by_itself_is_named(name: str, notice: str | None) -> None:
    """Behind a norm, what the shared expert adds is no longer one matrix's output."""
    model = make("qwen2_moe" if notice else name)
    if notice:
        for _, block in model_blocks(model):
            mlp: Any = block.mlp
            inside, norm = mlp.forward, nn.LayerNorm(WIDTH)
            mlp.forward = lambda hidden, inside=inside, norm=norm: norm(inside(hidden))
    opened = TracedModel(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        units = find_units(model, "activation")
    assert {name.split(".")[0] for name in units} == {"expert_act"} | ({"shared_act"} if name == "qwen2_moe" else set())
    assert [str(each.message) for each in said if issubclass(each.category, Notice)] == [
        f"neurons of routed experts alone have units: {opened.refused['shared_act']}" for _ in [notice] if notice
    ]
    if notice:
        assert f"{notice}down_proj, which could not be seen" in opened.refused["shared_act"]
    elif name == "olmoe":
        assert opened.refused["shared_act"].endswith(" has, beside its routed experts, no expert that all tokens pass")


def test_neurons_of_experts_are_ablated_without_a_pass_of_each(rows: Tensor) -> None:
    """What a neuron adds to the stream is known: its own block is not run again for it."""
    model, calls = make("mixtral"), []
    hook = experts_of("mixtral", model).register_forward_hook(lambda *_: calls.append(1))
    number = sum(group.num_units for group in find_units(model, "activation").values() if group.layer == LAYER)
    del calls[:]
    ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")
    hook.remove()
    assert number > 150
    assert len(calls) < 150  # the trials, and of the blocks before, copies of rows, of which many pass at a time
