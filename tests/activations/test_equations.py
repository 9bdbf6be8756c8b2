"""What holds between tensors in every copy, and what only seems to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ftmech_hf.activations.block_record import BlockRecord
from ftmech_hf.activations.equations import Equations

COPIES, TOKENS, WIDTH = 5, 3, 4
NO_EXPERTS = "has no experts that are kept in one tensor and called with their tokens"


class Block(nn.Module):
    """Attention, a norm behind it, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q": nn.Linear(4, 4), "o": nn.Linear(4, 4)})
        self.attn_norm = nn.LayerNorm(4)
        self.mlp = nn.ModuleDict({"up": nn.Linear(4, 6), "down": nn.Linear(6, 4)})
        self.cross_attention = nn.Linear(4, 4)  # is not called
        self.conv = nn.Conv1d(2, 2, 2)


def random(seed: int) -> Tensor:
    return torch.randn(COPIES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def equations() -> Equations:
    record = BlockRecord(COPIES, TOKENS, ["self_attn.o", "attn_norm", "mlp.down"], [])
    record.entered, record.left = random(0), random(1)
    for seed, path in enumerate(("self_attn.o", "self_attn", "attn_norm", "mlp.down"), 2):
        record.keep("in", path, random(seed + 10))
        record.keep("out", path, random(seed))
    return Equations(Block(), record, {0.3}, 1e-4)


def test_modules_that_write_the_stream_stand_last_first(equations: Equations) -> None:
    assert equations.written == ["mlp.down", "attn_norm", "self_attn", "self_attn.o"]
    assert equations._inside("self_attn") == ["self_attn.o", "self_attn.q"]
    assert equations._mixers() == ["self_attn"]  # no norm, and not what is not called
    assert equations._no_matrices(["self_attn"]) == ["conv"]
    assert equations._no_matrices(["conv"]) == []


def test_values_are_equal_if_they_are_in_every_copy(equations: Equations) -> None:
    size = torch.ones(COPIES, TOKENS, WIDTH)
    other = size.clone()
    other[3] += 1e-3
    assert equations._equal(other, size, [0, 1, 2, 4])
    assert not equations._equal(other, size, [2, 3])
    assert equations._equal(size * (1 + 1e-4), size * (1 + 1e-6), range(COPIES))
    assert equations._equal(size, size + 1e-5, [0])
    for number in range(10):  # values that are gone by the next round are not taken for each other
        assert equations._equal(size + number, size + number, [0])
        assert not equations._equal(size + number, size + number + 1, [0])
    assert not equations._equal(size, size + 1e-3, [0])
    assert not equations._is_near(size, size + 1e-3)
    assert equations._is_near(size, size + 1e-5)


def test_constants_are_known_and_every_part_matters(equations: Equations) -> None:
    one, two, copies = random(20), random(21), range(COPIES)
    assert equations.constants == {0.3, 1.0}
    assert [equations._nearest(value) for value in (0.3, 0.64, 0.66, 2.0)] == [0.3, 0.3, 1.0, 1.0]
    size = one.abs()
    assert equations._constants(0.3 * one, [one], size, copies) == [0.3]
    assert equations._constants(one + 0.3 * two, [one, two], size, copies) == [1.0, 0.3]
    assert equations._constants(0.5 * one, [one], size, copies) is None  # a constant that nothing names
    assert equations._constants(one, [one, 1e-6 * two], size, copies) is None  # the second does not matter
    wrong = one.clone()
    wrong[2] += 1
    assert equations._constants(wrong, [one], size, copies) is None
    assert equations._constants(wrong, [one], size, [0, 1, 3, 4]) == [1.0]


def test_copies_in_which_something_behind_was_moved_are_left_out(equations: Equations) -> None:
    moved = ["self_attn.o", "attn_norm", "mlp.down"]  # in copies 2, 3 and 4
    assert equations._but_after("self_attn.o", moved) == [0, 1, 2]
    assert equations._but_after("attn_norm", moved) == [0, 1, 2, 3]
    assert equations._but_after("mlp.down", moved) == [0, 1, 2, 3, 4]
    assert equations._but_after("self_attn.o", moved, [1, 2, 3]) == [1, 2]
    assert equations._but_after("self_attn.o", ["mlp.down"]) == [0, 1, 2, 3]


def test_the_chain_is_attention_and_norms_that_read_what_it_writes(equations: Equations) -> None:
    record = equations.record
    assert equations._chain("self_attn") == ["self_attn", "self_attn.o"]
    record.read["attn_norm"] = record.wrote["self_attn"].clone()
    record.read["mlp.down"] = record.wrote["attn_norm"].clone()  # a matrix is no norm
    assert equations._chain("self_attn") == ["attn_norm", "self_attn", "self_attn.o"]


def parts_of(equations: Equations, scale: float, *, mlp: bool = True, norm: bool = False) -> Equations:
    """The stream receives the attention times a constant, and the MLP."""
    record = equations.record
    added = record.wrote["attn_norm" if norm else "self_attn"]
    if norm:
        record.read["attn_norm"] = record.wrote["self_attn"].clone()
    between = record.entered + scale * added
    record.read["mlp.up"] = between
    record.left = between + (record.wrote["mlp.down"] if mlp else 0)
    return equations


def test_what_the_stream_receives_is_found_with_its_constant(equations: Equations) -> None:
    found = parts_of(equations, 0.3).parts()
    assert found.attention == "self_attn"
    assert found.added == [("self_attn", 0.3)]
    assert "added" not in found.why_not
    assert found.order == equations.record.order


def test_a_norm_behind_the_attention_is_what_is_added(equations: Equations) -> None:
    assert parts_of(equations, 1.0, norm=True).parts().added == [("attn_norm", 1.0)]


def test_what_is_not_found_has_its_reason(equations: Equations) -> None:
    found = equations.parts()  # tensors of chance
    assert (found.added, found.heads, found.neurons) == ([], [], [])
    nothing = "adds nothing to the stream that a module inside or behind self_attn returns"
    assert found.why_not == {
        "added": nothing, "heads": nothing,
        "neurons": "adds something beside its attention that is not one matrix's output; it has weights in conv",
        "experts": NO_EXPERTS, "shared": NO_EXPERTS,
    }  # fmt: skip
    assert parts_of(equations, 0.5).parts().added == []
    assert parts_of(equations, 1.0).parts().why_not["heads"] == "has no matrix in self_attn that makes what it adds"


def test_two_attentions_are_named(equations: Equations) -> None:
    equations.record.keep("out", "cross_attention", random(9))
    record = equations.record
    again = Equations(equations.block, record, set(), 1e-4)
    again.matrices.append("cross_attention.x")
    found = again.parts()
    assert found.attention == ""
    assert found.why_not["added"] == "has 2 attentions (self_attn, cross_attention), expected one"
    assert found.why_not["heads"] == found.why_not["added"]


def test_what_carries_something_from_token_to_token_is_no_attention_unless_it_is_called_so() -> None:
    block = Block()
    block.mixer = nn.ModuleDict({"out": nn.Linear(4, 4)})
    record = BlockRecord(COPIES, TOKENS, ["mixer", "mlp.down"], [])
    read, wrote = random(30), random(31)
    read[1, -1] = read[0, -1]  # other tokens were moved, not the last one
    for path, given, returned in (("mixer", read, wrote), ("mlp.down", random(32), random(33))):
        record.keep("in", path, given)
        record.keep("out", path, returned)
    record.entered = random(0)
    record.left = record.entered + wrote + record.wrote["mlp.down"]
    record.read["mlp.up"] = record.entered + wrote
    equations = Equations(block, record, set(), 1e-4)
    assert equations._mixers() == ["mixer"]
    found = equations.parts()
    assert (found.attention, found.added, found.why_not["added"]) == ("", [], "has no attention, but mixer")
    assert "adds something beside its mixer that" in found.why_not["neurons"]
    record.left = record.entered + wrote
    assert equations.parts().why_not["neurons"] == "adds nothing beside its mixer: it has no MLP"
    record.wrote["mixer"][1, -1] = record.wrote["mixer"][0, -1]  # nothing arrives at the last token
    assert equations._mixers() == []
    assert equations.parts().why_not["added"] == "has no attention"
    record.wrote["mixer"], record.read["mixer"] = random(31), random(30)  # it reads something else there
    assert equations._mixers() == []


@pytest.mark.parametrize(("called", "is_attention"), [
    ("SomeAttention", True), ("SomeAttentionDecoderLayer", False), ("SomeMamba", False),
])  # fmt: skip
def test_a_class_that_ends_in_attention_is_one_whatever_its_name(
    equations: Equations, called: str, is_attention: bool
) -> None:
    block = equations.block
    block.mixer = type(called, (nn.Module,), {})()
    block.mixer.out = nn.Linear(4, 4)
    assert equations._is_attention("mixer") is is_attention
    block.attn_norm_again = block.mixer
    assert not equations._is_attention("attn_norm_again")
