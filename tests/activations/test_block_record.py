"""What is kept of one block's forward pass, and which of a block's modules are matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftmech_hf.activations.block_record import BlockRecord, fit_factors, norms
from ftmech_hf.activations.matrices import find_adapted, find_matrices, is_inside, num_inputs
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from tests.conftest import make_gpt2


def test_values_are_kept_by_row_as_copies_in_float32() -> None:
    record = BlockRecord(3, 4, ["a"], ["b"])
    value = torch.arange(60, dtype=torch.bfloat16).reshape(3, 4, 5).requires_grad_()
    record.keep("in", "a", value)
    record.keep("out", "a", value.flatten(0, 1))  # all rows behind each other
    with torch.no_grad():
        value += 1
    for kept in (record.read["a"], record.wrote["a"]):
        assert torch.equal(kept, torch.arange(60.0).reshape(3, 4, 5))
        assert kept.dtype == torch.float32
        assert not kept.requires_grad
    assert record.order == [("in", "a"), ("out", "a")]


@pytest.mark.parametrize("shape", [(4, 3, 5), (3, 5, 5), (11, 5), (3, 4), (3, 4, 5, 1), (12,), (2, 4, 5)])
def test_what_has_no_row_for_each_row_is_not_kept(shape: tuple[int, ...]) -> None:
    record = BlockRecord(3, 4, [], [])
    assert record.rows(torch.zeros(shape)) is None
    record.keep("out", "a", torch.zeros(shape))
    record.keep("out", "b", None)
    assert record.wrote == {}
    assert record.order == [("out", "a"), ("out", "b")]


def test_a_module_that_is_called_twice_has_no_one_value() -> None:
    record = BlockRecord(1, 2, [], [])
    for _ in range(3):
        record.keep("in", "a", torch.zeros(1, 2, 3))
    record.keep("out", "a", torch.zeros(1, 2, 3))
    assert (list(record.read), list(record.wrote)) == ([], ["a"])
    assert record.order == [("in", "a")] * 3 + [("out", "a")]


def test_copies_are_those_of_what_was_moved_and_then_of_what_was_held() -> None:
    record = BlockRecord(6, 2, ("a", "b"), ("a", "c"))
    assert (record.moved, record.held) == (["a", "b"], ["a", "c"])
    assert [record.changed_in(copy) for copy in range(7)] == [None, None, "a", "b", "a", "c", None]


def test_streams_are_what_has_the_shape_of_the_stream() -> None:
    record = BlockRecord(1, 2, [], [])
    record.entered = torch.zeros(1, 2, 4)
    for path, width in (("a", 4), ("b", 5), ("c", 4)):
        record.keep("out", path, torch.zeros(1, 2, width))
    assert record.streams() == ["a", "c"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"q": nn.Linear(4, 6), "norm": nn.LayerNorm(6)})
        self.mlp = Conv1D(7, 4)  # 4 numbers in, 7 out
        self.embed = nn.Embedding(3, 4)


def test_matrices_multiply_what_they_read() -> None:
    block = Block()
    assert find_matrices(block) == ["attn.q", "mlp"]
    assert [num_inputs(block.get_submodule(path)) for path in find_matrices(block)] == [4, 4]
    assert find_adapted(block) == []


def test_a_matrix_with_an_adapter_is_the_module_that_holds_both() -> None:
    plain = make_gpt2(40)
    block = plain.transformer.h[0]
    expected = find_matrices(block)
    inputs = {path: num_inputs(block.get_submodule(path)) for path in expected}
    model = add_adapter(make_gpt2(40), AdapterConfig(adapter="lora", lora_rank=3), base="", seed=0)
    adapted = model.get_base_model().transformer.h[0]
    assert find_matrices(adapted) == expected
    assert {path: num_inputs(adapted.get_submodule(path)) for path in expected} == inputs
    assert set(find_adapted(adapted)) <= set(expected)
    assert find_adapted(adapted)


def test_a_path_leads_into_a_module_and_not_into_one_that_begins_alike() -> None:
    assert is_inside("mlp.up", ["attn", "mlp"])
    assert not is_inside("mlp", ["mlp"])
    assert not is_inside("mlp2.up", ["mlp"])
    assert not is_inside("mlp.up", [])


def test_factors_are_those_of_least_squares() -> None:
    """Beside the same from the normal equations of all values, for one part and for two."""
    generator = torch.Generator().manual_seed(0)
    one, two, wanted = (torch.randn(3, 4, 5, generator=generator) for _ in range(3))
    for parts in ([one], [one, two]):
        columns = torch.stack([part.flatten() for part in parts], 1).double()
        expected = torch.linalg.lstsq(columns, wanted.double().flatten()[:, None]).solution.flatten()
        assert fit_factors(wanted, parts) == pytest.approx(expected.tolist(), rel=1e-9)
    assert fit_factors(0.3 * one + 2 * two, [one, two]) == pytest.approx([0.3, 2.0], rel=1e-6)
    assert fit_factors(wanted, [torch.zeros(3, 4, 5)]) == [0.0]


def test_a_norm_is_of_each_copy() -> None:
    assert norms(torch.tensor([[[3.0], [4.0]], [[0.0], [0.0]]])).tolist() == [5.0, 0.0]
