"""Shortcuts of ablation are believed where they give what a model gives whose weights are really zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import UnitGroup, ablated_losses, ablation, find_units
from ftmech_hf.activations.ablation import TRIAL_ROWS, _Ablation
from ftmech_hf.activations.agreement import same_logits
from ftmech_hf.models.small import small_model
from tests.conftest import make_gpt2, make_llama


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, 40, (5, 9), generator=torch.Generator().manual_seed(1))


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """With weights so large that all parts of it matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def loss_without(model: PreTrainedModel, rows: Tensor, group: UnitGroup, unit: int) -> float:
    """Of the whole model, with the unit's weights zeroed by hand."""
    weight, places = group.weight.detach(), group.places(torch.tensor([unit])).flatten()
    kept = weight.index_select(group.axis, places)
    weight.index_fill_(group.axis, places, 0)
    try:
        with torch.no_grad():
            logits = model(rows[:, :-1], use_cache=False).logits[:, -1]
        return float(F.cross_entropy(logits, rows[:, -1]))
    finally:
        weight.index_copy_(group.axis, places, kept)


def check(model: PreTrainedModel, rows: Tensor, part: str, monkeypatch: pytest.MonkeyPatch, step: int = 1) -> float:
    """Compares the losses without units of some groups; the largest change by any of them."""
    before = copy.deepcopy(model.state_dict())
    units = {name: group for name, group in find_units(model, "row").items() if part in name}
    assert units
    monkeypatch.setattr(ablation, "find_units", lambda *_: units)  # of the others the losses take long
    whole, losses = ablated_losses(model, rows[:, :-1], rows[:, -1], "row")
    moved = 0.0
    for name, group in units.items():
        for unit in range(0, group.num_units, step):
            expected = loss_without(model, rows, group, unit)
            assert float(losses[name][unit]) == pytest.approx(expected, abs=1e-3), (name, unit)
            moved = max(moved, abs(expected - whole))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    return moved


@pytest.mark.filterwarnings("ignore::ftmech_hf.config.notices.Notice")
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("mamba", "dt_proj"),
        ("phimoe", "mlp.router"),
        ("zamba2", "v_proj"),
        ("zaya", "0.self_attn.qkv_proj.v_proj_current"),
    ],
)
def test_what_no_hook_changes_and_what_passes_beside_the_stream(
    kind: str, part: str, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that is read beside its module's call, one of several blocks, and a state of the blocks before."""
    assert check(shaken(small_model(kind)), rows, part, monkeypatch) > 2e-3


class ReadsBeside(nn.Module):
    """An MLP that multiplies what it returns by what the weight of another module says of its rows."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.gate = inside, nn.Linear(16, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.inside(hidden)
        return found * (1 + F.linear(hidden, self.gate.weight)) + 0 * self.gate(hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_read_beside_its_module(
    rows: Tensor, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 it does too little to be compared, but more than nothing."""
    model = make_gpt2(40)
    for block in model.transformer.h:
        block.mlp = ReadsBeside(block.mlp)
    if dtype == torch.bfloat16:
        for block in model.transformer.h:
            block.mlp.gate.weight.detach().mul_(0.05)
    model = model.to(dtype)
    ways = ways_of(model, rows)
    assert {way for name, way in ways.items() if "gate" in name} == {"model"}
    assert {way for name, way in ways.items() if "attn" in name} == {"block"}
    if dtype == torch.float32:
        assert check(model, rows, "gate", monkeypatch) > 1e-3


def ways_of(model: PreTrainedModel, rows: Tensor) -> dict[str, str]:
    with torch.no_grad():
        ablation = _Ablation(model, rows[:, :-1], rows[:, -1])
        return {name: ablation.find_way(group)[0] for name, group in find_units(model, "row").items()}


def test_it_is_seen_up_to_which_block_anything_passes_beside_the_stream(rows: Tensor) -> None:
    """A router's state, in ZAYA: halves of units may send tokens where the whole model does, and single ones not."""
    zaya = shaken(small_model("zaya"))
    with torch.no_grad():
        for model, expected in ((make_llama(40), 0), (zaya, 3), (small_model("zamba2"), 0)):
            assert _Ablation(model, rows[:, :-1], rows[:, -1]).find_fed() == expected
    layers = {(name.split(".")[2], way) for name, way in ways_of(zaya, rows).items()}
    assert layers == {("0", "model"), ("1", "model"), ("2", "model"), ("3", "block")}


def test_ordinary_models_need_no_pass_of_the_whole_for_each_unit(any_model: PreTrainedModel, rows: Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert set(ways_of(any_model.to(dtype), rows).values()) == {"block"}


def test_an_expert_that_a_few_rows_are_not_sent_to_is_tried_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of what changes nothing in these."""
    model = small_model("mixtral")
    rows = torch.full((TRIAL_ROWS + 4, 9), 5)
    rows[TRIAL_ROWS:] = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(1))
    tried: list[tuple[int, bool]] = []
    inner = _Ablation._try_ways

    def recorded(self: _Ablation, group: UnitGroup) -> Any:
        found = inner(self, group)
        if group.expert is not None:
            tried.append((len(self.token_ids), found[1]))
        return found

    monkeypatch.setattr(_Ablation, "_try_ways", recorded)
    ways_of(model, rows)
    assert (TRIAL_ROWS, True) in tried
    assert tried.count((TRIAL_ROWS, False)) == sum(number > TRIAL_ROWS for number, _ in tried) > 0
    assert (len(rows), True) in tried


def test_every_unit_is_in_a_trial_and_none_alone(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    zeroed: list[Tensor] = []
    inner = _Ablation.logits_zeroed
    monkeypatch.setattr(
        _Ablation, "logits_zeroed", lambda self, *given: (zeroed.append(given[1]), inner(self, *given))[1]
    )
    model = make_llama(40)
    units = find_units(model, "activation")
    ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")
    assert len(zeroed) == 2 * len(units)
    for group, one, other in zip(units.values(), zeroed[::2], zeroed[1::2], strict=True):
        assert len(one) == len(other) == group.num_units // 2
        assert torch.cat([one, other]).sort().values.tolist() == list(range(group.num_units))


def test_what_cannot_be_told_of_some_rows_is_asked_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that no token is sent to an expert in nothing is known; of what is known nothing is asked again."""
    model = small_model("mixtral")
    rows = torch.full((12, 9), 5)
    rows[8:] = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(1))
    asked: list[tuple[int, int | None, bool]] = []
    inner = _Ablation.find_way

    def recorded(self: _Ablation, group: UnitGroup) -> Any:
        found = inner(self, group)
        asked.append((group.layer, group.expert, found[1]))
        return found

    monkeypatch.setattr(_Ablation, "find_way", recorded)
    ablated_losses(model, rows[:, :-1], rows[:, -1], "activation", max_rows=4)
    number = len(find_units(model, "activation"))
    assert len(asked) > number
    first, again = asked[:number], asked[number : number + sum(not told for *_, told in asked[:number])]
    assert [each[:2] for each in again] == [each[:2] for each in first if not each[2]]


def test_nan_is_never_the_same(rows: Tensor) -> None:
    model = make_gpt2(40)
    logits = torch.tensor([[0.0, 1.0, -3.0]])
    assert same_logits(model, logits + 1e-5, logits)
    assert not same_logits(model, logits + 1e-2, logits)
    assert not same_logits(model, logits[:, :2], logits)
    nan = logits.clone()
    nan[0, 1] = float("nan")
    assert not same_logits(model, nan, logits)
    assert not same_logits(model, logits, nan)
    assert not same_logits(model, nan, nan)
    assert not same_logits(model, torch.tensor([[0.0, 1.0, -1e4]]), logits)
    assert same_logits(model, torch.full((2, 1), 7.0), torch.full((2, 1), 7.0 + 5e-7))
