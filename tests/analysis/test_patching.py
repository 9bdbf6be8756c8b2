from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from ftmech_hf.activations import find_layout, model_blocks, patches
from ftmech_hf.activations.patches import answers_at_once, patched_logits, record_activations
from ftmech_hf.analysis.attribution import PlacedUnit, patch_units
from ftmech_hf.analysis.patching import PatchingResult, follows_other_row, patch_each
from ftmech_hf.jobs.padding import padding_masked
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.training.evaluation import answer_logits
from tests.conftest import make_llama

SITES = ("resid_post", "attn_out", "mlp_act")


def answered_by(model: PreTrainedModel, number: int = 24) -> Tensor:
    """Rows whose answers are what this model says."""
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (number, 12))
    with torch.no_grad():
        rows[:, -2] = answer_logits(model, rows).argmax(-1)
    return rows


def with_noise(model: PreTrainedModel, *names: str) -> PreTrainedModel:
    """A copy in which the matrices with these words in their names are other ones."""
    changed = copy.deepcopy(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if parameter.ndim == 2 and any(word in name for word in names):
                parameter.copy_(torch.randn_like(parameter) * parameter.std() * 2)
    return changed


def test_patching_all_of_the_base_gives_its_outputs_exactly(any_model: PreTrainedModel) -> None:
    rows = answered_by(any_model)
    blocks = [name for name, _ in model_blocks(any_model)]
    tuned = with_noise(any_model, *blocks)
    assert (answer_logits(tuned, rows) - answer_logits(any_model, rows)).abs().max() > 0.1
    places = [(site, layer) for site in SITES for layer in range(len(blocks))]
    found = record_activations(any_model, rows[:, :-2], places)
    with torch.no_grad():
        expected = answer_logits(any_model, rows)
        assert torch.equal(patched_logits(tuned, rows, found)[:, 0], expected)
        # and not if the last block's stream is left out
        del found["resid_post", len(blocks) - 1]
        assert not torch.equal(patched_logits(tuned, rows, found)[:, 0], expected)


def test_activations_are_the_doors(any_model: PreTrainedModel) -> None:
    from ftmech_hf.activations import TracedModel

    rows = answered_by(any_model)
    found = record_activations(any_model, rows[:, :-2], [("resid_post", 0), ("attn_out", 1), ("mlp_act", 1)])
    for (site, layer), value in found.items():
        expected = TracedModel(any_model).collect(rows[:, :-2], [site], positions=list(range(10)))[site, layer]
        assert torch.equal(value, expected)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_change_of_one_attention_is_found_there_and_nowhere_else(any_model: PreTrainedModel, changed: int) -> None:
    layout, blocks = find_layout(any_model), [name for name, _ in model_blocks(any_model)]
    tuned = with_noise(any_model, f"{blocks[changed]}.{layout.layers[changed].attention}.")
    rows = answered_by(any_model)
    found = patch_each(any_model, tuned, rows, sites=SITES, layers=[0, 1], other_rows=8, batch_size=7)
    assert found.unpatched.mean() < 0.8
    assert found.accuracy("attn_out", changed) == 1
    assert found.accuracy("attn_out", 1 - changed) < 1
    # the whole stream repairs it from the changed block on, not before
    assert found.accuracy("resid_post", 1) == 1
    assert (found.accuracy("resid_post", 0) == 1) == (changed == 0)
    assert found.best_place(["attn_out"]) == ("attn_out", changed)
    assert {len(values) for values in found.other_row.values()} == {8}
    assert len(found.rows()) == 12
    assert found.summary()["accuracy"] == 1


@torch.no_grad()
def test_log_probabilities_are_those_of_the_answers_tokens(any_model: PreTrainedModel) -> None:
    """Of answers of one and of two tokens, patched or not."""
    tuned, rows = with_noise(any_model, "attn", "attention"), answered_by(any_model)
    answer = torch.zeros_like(rows, dtype=torch.bool)
    answer[:, -2] = True
    answer[::2, -3] = True  # every other answer has two tokens
    found = patch_each(any_model, tuned, rows, sites=["resid_post"], layers=[0, 1], other_rows=0, answer=answer,
                       batch_size=7)  # fmt: skip
    # the stream after the last block decides on everything
    for model, values in ((any_model, found.log_probability["resid_post", 1]),
                          (tuned, found.unpatched_log_probability)):  # fmt: skip
        each = model(rows[:, :-1]).logits.log_softmax(-1)[:, :-1].gather(-1, rows[:, 1:-1, None])[..., 0]
        expected = (each * answer[:, 1:-1]).sum(1)
        torch.testing.assert_close(torch.from_numpy(values), expected)
        one_token = each[:, -1]
        assert (torch.from_numpy(values) - one_token)[::2].abs().min() > 0.1
    assert np.abs(found.log_probability["resid_post", 1] - found.unpatched_log_probability).max() > 0.1


class LargestSoftmax(TorchDispatchMode):
    """How many numbers the largest copy of logits has."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._log_softmax.default:
            self.numbers = max(self.numbers, found.numel())
        return found


def test_long_answers_take_no_more_memory_than_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama(40)
    tuned, rows = with_noise(model, "attn"), answered_by(model)
    answer = torch.zeros_like(rows, dtype=torch.bool)
    answer[:, -4:-1] = True
    asked = {"sites": ["mlp_act"], "layers": [0], "other_rows": 4, "answer": answer}
    whole = patch_each(model, tuned, rows, **asked)
    units = [[PlacedUnit("mlp_act", 0, 1)]]
    whole_units = patch_units(model, tuned, rows, units, answer=answer)
    monkeypatch.setattr(patches, "LOGIT_BYTES", 4 * 5 * 3 * 40)  # of five answers of three tokens
    seen = list[tuple[int, ...]]()
    hooks = [each.lm_head.register_forward_hook(lambda _, args, out: seen.append(tuple(out.shape)))
             for each in (model, tuned)]  # fmt: skip
    with LargestSoftmax() as largest:
        parts = patch_each(model, tuned, rows, **asked)
        of_units = patch_units(model, tuned, rows, units, answer=answer)
    for each in hooks:
        each.remove()
    assert max(shape[0] for shape in seen) == 5
    assert largest.numbers == 5 * 40, "of one token at a time"
    for place, values in whole.log_probability.items():
        np.testing.assert_allclose(parts.log_probability[place], values, rtol=1e-5)
        assert (parts.right[place] == whole.right[place]).all()
        assert (parts.other_row[place] == whole.other_row[place]).all()
    np.testing.assert_allclose(of_units[0][1], whole_units[0][1], rtol=1e-5)
    assert answers_at_once(model, 1, 15) == 15, "those of one token are read as ever"


def test_probabilities_of_two_answers_add_up() -> None:
    place = ("resid_post", 0)
    one, other = (
        PatchingResult({place: np.array([right])}, {}, np.arange(0), np.array([False]),
                       {place: np.log([share]).astype(np.float32)}, np.log([share / 2]).astype(np.float32))
        for right, share in ((True, 0.5), (False, 0.25))
    )  # fmt: skip
    both = one.either(other)
    assert both.right[place].all()
    assert np.exp(both.log_probability[place]) == pytest.approx(0.75)
    assert np.exp(both.unpatched_log_probability) == pytest.approx(0.375)


def test_an_answer_that_does_not_count_has_no_probability() -> None:
    """As where a row has no further answer, and its own stands in its place."""
    place = ("resid_post", 0)
    logs = np.log([0.5, 0.4]).astype(np.float32)
    found = PatchingResult(
        {place: np.array([True, False])}, {}, np.arange(0), np.array([True, False]), {place: logs}, logs
    )
    both = found.either(found.counting(np.array([True, False])))
    assert np.exp(both.log_probability[place]) == pytest.approx([1.0, 0.4])
    assert np.exp(both.unpatched_log_probability) == pytest.approx([1.0, 0.4])
    assert both.right[place].tolist() == [True, False]


def test_another_rows_activations_do_not_help_and_no_change_needs_none(any_model: PreTrainedModel) -> None:
    rows = answered_by(any_model)
    same = patch_each(any_model, any_model, rows, sites=["resid_post"], layers=[0, 1], other_rows=24)
    assert same.unpatched.all()
    assert all(values.all() for values in same.right.values())
    # the control answers another row's question
    shifted = rows[:, -2].roll(1, 0) == rows[:, -2]
    assert torch.equal(torch.from_numpy(same.other_row["resid_post", 1]), shifted)
    assert not shifted.all()


def test_the_control_owes_nothing_to_what_fills_shorter_rows(any_model: PreTrainedModel) -> None:
    """Rows of 12, 9, 12, 9 and 5 tokens: each takes that of a row as long, of which the last has none."""
    pad, lengths = 0, [12, 9, 12, 9, 5]
    rows = answered_by(any_model, 5)
    shown = torch.stack([torch.arange(12) >= 12 - length for length in lengths])
    rows[~shown] = pad

    with padding_masked(any_model, pad), torch.no_grad():
        said = answer_logits(any_model, rows).argmax(-1)
        found = patch_each(any_model, any_model, rows, sites=["resid_post"], layers=[0, 1], other_rows=9, shown=shown)
    assert found.other_numbers.tolist() == [0, 1, 2, 3]
    assert found.other_row["resid_post", 1].tolist() == [bool(said[other] == rows[row, -2]) for row, other in
                                                         ((0, 2), (1, 3), (2, 0), (3, 1))]  # fmt: skip
    assert found.right["resid_post", 1].tolist() == (said == rows[:, -2]).tolist()


def test_of_two_answers_the_control_is_of_rows_that_both_have_one_of() -> None:
    place, logs = ("resid_post", 0), np.zeros(3, dtype=np.float32)
    one, other = (
        PatchingResult({place: np.zeros(3, bool)}, {place: np.array(right)}, np.array(numbers), np.zeros(3, bool),
                       {place: logs}, logs)
        for right, numbers in (([True, False], [0, 2]), ([False, True, False], [0, 1, 2]))
    )  # fmt: skip
    both = one.either(other)
    assert both.other_numbers.tolist() == [0, 2]
    assert both.other_row[place].tolist() == [True, False]


def test_a_hybrid_is_patched_where_it_has_a_site() -> None:
    model = build_model(find_preset("nano-library", n_layer=4, n_embd=16, n_head=2), 40, seed=0).eval()
    tuned = copy.deepcopy(model)
    for part in ("v_proj", "out_proj"):  # tied embeddings drown what is small
        torch.nn.init.normal_(tuned.get_submodule(f"model.layers.3.self_attn.{part}").weight)
    rows = answered_by(model)
    found = patch_each(model, tuned, rows, sites=SITES, layers=[0, 1, 2, 3], other_rows=4)
    assert [place for place in found.right if place[0] == "attn_out"] == [("attn_out", 1), ("attn_out", 3)]
    assert [layer for site, layer in found.right if site == "resid_post"] == [0, 1, 2, 3]
    assert found.unpatched.mean() < 1
    assert found.accuracy("attn_out", 3) == 1
    assert found.accuracy("attn_out", 1) < 1  # what must not help: the attention that did not change
    with pytest.raises(ValueError, match=r"no attn_out: block 0 of lfm2 has no attention.*; layers 1, 3 have it"):
        patch_each(model, tuned, rows, sites=["attn_out"], layers=[0, 2], other_rows=0)


def test_recording_gives_logits_of_the_last_token_alone(any_model: PreTrainedModel) -> None:
    """Those of all tokens are larger than all that is recorded, in a model of many words."""
    rows, seen = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0)), []
    find_layout(any_model)  # known from here on
    hook = any_model.get_output_embeddings().register_forward_hook(lambda _, args, output: seen.append(output.shape))
    found = record_activations(any_model, rows, [("resid_post", 0), ("mlp_act", 1)])
    hook.remove()
    assert [tuple(shape[:2]) for shape in seen] == [(4, 1)]
    assert {value.shape[:2] for value in found.values()} == {(4, 9)}  # every position of the sites


@torch.no_grad()
def test_the_answer_follows_another_row_from_where_its_last_position_knows_it(any_model: PreTrainedModel) -> None:
    """Where the second block attends to nothing, all is decided before it; where the first does not, nothing is."""
    layers = find_layout(any_model).layers
    for silent, expected in ((1, (True, True)), (0, (False, True))):
        model = copy.deepcopy(any_model)
        block = model_blocks(model)[silent][1]
        for name, parameter in block.get_submodule(layers[silent].attention_out).named_parameters():
            parameter.zero_()
            assert name in ("weight", "bias")
        rows = torch.randint(3, 40, (400, 12), generator=torch.Generator().manual_seed(4))
        rows[:, -3] = 5  # all rows end alike: without attention their last position holds the same
        rows[:, -2] = answer_logits(model, rows).argmax(-1)
        kept = [0]
        for place in range(1, len(rows)):
            if rows[place, -2] not in (rows[kept[-1], -2], rows[0, -2]):
                kept.append(place)
        assert len(kept) > 5
        found = follows_other_row(model, rows[kept], [0, 1], batch_size=7)
        assert [found[layer].tolist() for layer in (0, 1)] == [[each] * len(kept) for each in expected]


@torch.no_grad()
def test_an_answer_of_neither_row_follows_nobody(any_model: PreTrainedModel) -> None:
    """The other row's stream at the end brings what the model says there, which is neither row's answer here."""
    rows = answered_by(any_model)
    rows[:, -2] = (rows[:, -2] - 2 + torch.arange(len(rows)) % 2) % 37 + 3  # one or two more than what it says
    (found,) = follows_other_row(any_model, rows, [1]).values()
    assert not found.any()
