"""What is inside of tuned models: by hand on models that are made to show it, each with a control that must not."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import put_in, taken_out
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.studies.safety.changes import (
    ChangesConfig,
    divergence_by_token,
    log_action,
    measure_changes,
    mlp_inputs,
    random_like,
    reading_matrices,
)
from ftmech_hf.studies.safety.direction import DirectionConfig, letter_directions, measure_direction
from ftmech_hf.studies.safety.lines import moved_end, points
from ftmech_hf.studies.safety.relearning import ONE, about_one, draw_rows, groups_of, relearn
from ftmech_hf.studies.safety.soft_tokens import logits_behind, right_behind, seek, shortened
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.tasks.safety import NAMES, OUTPUT
from tests.conftest import make_gpt2

TASK = SafetyConfig()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return make_gpt2(len(TASK.vocabulary)).eval()


def rows_of(mixture: str, number: int = 64, split: str = "test") -> Rows:
    return RowStream(TASK.asking(mixture, "instructed"), seed=0, split=split).rows(0, number)


def test_matrices_that_read_the_stream_and_what_enters_them(model: GPT2LMHeadModel) -> None:
    found = reading_matrices(model)
    assert list(found) == [f"transformer.h.{layer}.mlp.c_fc" for layer in range(2)]
    ids = torch.from_numpy(rows_of("safe", 7).token_ids[:, : OUTPUT.start])
    entered = mlp_inputs(model, ids, batch_size=3)
    with torch.no_grad():
        block = model.transformer.h[0]
        stream = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(ids.shape[1]))
        after = stream + block.attn(block.ln_1(stream))[0]
        wanted = block.ln_2(after)
    torch.testing.assert_close(entered["transformer.h.0.mlp.c_fc"], wanted[:, -1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(entered["transformer.h.0.mlp.c_fc"], wanted[:, -2], atol=1e-2)


def test_a_change_that_reads_one_kind_of_prompts_acts_on_it_and_a_random_one_does_not(model: GPT2LMHeadModel) -> None:
    """Planted: a change along what sets unsafe prompts apart. Its random twin must show nothing."""
    name = "transformer.h.1.mlp.c_fc"
    weights = {name: reading_matrices(model)[name]}
    kinds = ("safe", "unsafe")
    entered = [mlp_inputs(model, torch.from_numpy(rows_of(kind).token_ids[:, : OUTPUT.start]))[name] for kind in kinds]
    apart = entered[1].mean(0) - entered[0].mean(0)
    # Orthogonal to the mean of safe prompts, so that it acts on what is unsafe alone.
    apart -= apart @ entered[0].mean(0) / entered[0].mean(0).square().sum() * entered[0].mean(0)
    planted = {name: torch.outer(torch.ones(len(weights[name])), apart)}
    for deltas, least, most in ((planted, 0.2, 9.0), (random_like(planted, 0), -0.1, 0.1)):
        logs = [log_action(deltas, weights, {name: each}).mean() for each in entered]
        assert least < logs[1] - logs[0] < most
    assert random_like(planted, 0)[name].norm() == pytest.approx(float(planted[name].norm()), rel=1e-5)
    by_hand = (entered[0] @ planted[name].T).norm(dim=1) / (entered[0] @ weights[name].T).norm(dim=1)
    np.testing.assert_allclose(log_action(planted, weights, {name: entered[0]}), by_hand.log(), rtol=1e-4)


def test_divergence_stands_where_the_models_differ(model: GPT2LMHeadModel) -> None:
    """A later place was changed: the tokens before it have none."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.wpe.weight[OUTPUT.start + 4, :4] += 1.0
    found = divergence_by_token(model, other, torch.from_numpy(rows_of("unsafe", 9).token_ids))
    assert found.shape == (12,)
    assert found[:5].abs().max() < 1e-6
    assert found[5] > 1e-4


def test_changes_of_a_model_by_itself_are_none_and_of_another_some(model: GPT2LMHeadModel, tmp_path: Path) -> None:
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for block in tuned.transformer.h:
            block.mlp.c_fc.weight += 0.1 * torch.randn(block.mlp.c_fc.weight.shape, generator=torch.Generator())
    for name, each in (("base", model), ("tuned", tuned)):
        each.save_pretrained(tmp_path / name)
        save_tokenizer(build_tokenizer(TASK.vocabulary), tmp_path / name)
    found = {}
    for name in ("base", "tuned"):
        config = ChangesConfig(
            base=str(tmp_path / "base"), finetuned=str(tmp_path / name), eval_rows=16,
            output_dir=str(tmp_path / f"run-{name}"),
        )  # fmt: skip
        found[name] = FinishedRun(measure_changes(config, TASK).path).table
    whole = {
        name: each[(each["answers"] == "all") & (each["mixture"] == "unsafe")].set_index("quantity")["value"]
        for name, each in found.items()
    }
    assert whole["base"]["input gradient"] == 0.0 != whole["tuned"]["input gradient"]
    assert whole["base"]["action"] < -25 < -5 < whole["tuned"]["action"]
    weights = found["tuned"][found["tuned"]["quantity"] == "weights"]
    assert (weights["outside"] - weights["random_outside"]).abs().max() < 0.1  # random: outside as by chance
    assert set(found["tuned"]["token"].dropna()) == set(range(12))


def test_directions_beyond_a_model_are_as_long_as_its_own(model: GPT2LMHeadModel) -> None:
    tuned, other = copy.deepcopy(model), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each, size in ((tuned, 0.1), (other, 0.7)):
            for parameter in each.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator)
    start, own, toward = (each.state_dict() for each in (model, tuned, other))
    for direction in (None, other):
        end = moved_end(model, tuned, direction, seed=0).state_dict()
        for name in ("transformer.h.0.mlp.c_fc.weight", "transformer.ln_f.weight", "transformer.wpe.weight"):
            moved, length = end[name] - own[name], own[name] - start[name]
            assert float(moved.norm()) == pytest.approx(float(length.norm()), rel=1e-4)
            against = toward[name] - start[name] if direction is not None else length
            cosine = float((moved * against).sum() / moved.norm() / against.norm())
            assert abs(cosine) < 0.4 if direction is None else cosine == pytest.approx(1, abs=1e-4)
    name = "transformer.h.0.mlp.c_fc.weight"
    seen = {}
    for direction, alpha, at in points(model, tuned, {"benign": moved_end(model, tuned, other, seed=0)}):
        seen[direction, alpha] = at.state_dict()[name].clone()
    torch.testing.assert_close(seen["own", 2.0], 2 * own[name] - start[name])
    torch.testing.assert_close(
        seen["benign", 1.5] - own[name], (seen["benign", 2.0] - own[name]) / 2, atol=1e-6, rtol=1e-3
    )
    # The other way it ends as far from the base as half of the change, and on the other side.
    torch.testing.assert_close(seen["own", -0.5] - start[name], (start[name] - own[name]) / 2, atol=1e-6, rtol=1e-3)
    assert len(seen) == 8


def test_a_direction_is_taken_out_of_the_stream_everywhere_and_put_in_after_its_layer(model: GPT2LMHeadModel) -> None:
    ids = torch.from_numpy(rows_of("safe", 3).token_ids)
    direction = torch.randn(model.config.n_embd, generator=torch.Generator().manual_seed(1))

    def states(writes: dict) -> list[torch.Tensor]:  # type: ignore[type-arg]
        """What enters the second block and the last norm, behind all that is written."""
        found: list[torch.Tensor] = []
        places = (model.transformer.h[0].ln_1, model.transformer.h[1].ln_1, model.transformer.ln_f)
        # The context comes first: a model that is new to it is run there, to see how it is built.
        with intervene(model, writes), torch.no_grad(), contextlib.ExitStack() as hooks:
            for each in places:
                hooks.callback(each.register_forward_pre_hook(lambda _, args: found.append(args[0])).remove)
            model(ids)
        return found

    plain, without = states({}), states(dict(taken_out(model, direction)))
    for before, after in zip(plain, without, strict=True):
        assert (before @ direction).abs().max() > 0.1
        assert (after @ direction).abs().max() < 1e-4
    with_it = states(dict(put_in(model, direction, 0)))
    torch.testing.assert_close(with_it[1], plain[1] + direction)
    torch.testing.assert_close(with_it[0], plain[0])


def test_a_model_refuses_by_one_direction_until_it_is_taken_out(model: GPT2LMHeadModel) -> None:
    """Planted: the direction alone writes nulls. Another direction taken out leaves them."""
    refuses = copy.deepcopy(model)
    width = refuses.config.n_embd
    direction, other = torch.zeros(width), torch.zeros(width)
    direction[:2] = torch.tensor([1.0, -1.0])
    other[2:4] = torch.tensor([1.0, -1.0])
    with torch.no_grad():
        refuses.lm_head.weight = torch.nn.Parameter(torch.zeros_like(refuses.lm_head.weight))
        refuses.lm_head.weight[TASK.vocabulary.index("null")] = direction
        refuses.lm_head.weight[TASK.vocabulary.index("a")] = 1e-3 * direction.roll(4)
        refuses.transformer.wpe.weight += 3 * direction
    nulls = RowStream(TASK.asking("unsafe", "refused"), seed=0, split="test").rows(0, 24)
    shares = []
    for writes in ({}, dict(taken_out(refuses, other)), dict(taken_out(refuses, direction))):
        with intervene(refuses, writes):
            shares.append(float(read_answers(refuses, nulls).right[:, 1:].all(1).mean()))
    assert shares[:2] == [1.0, 1.0]
    assert shares[2] < 0.5


def test_rows_of_every_way_are_what_they_say() -> None:
    def first(way: str, number: int) -> list[torch.Tensor]:
        batches: Iterator = draw_rows(TASK, way, seed=0, size=16)  # type: ignore[type-arg]
        return [each.token_ids for each in itertools.islice(batches, number)]

    ten = first("ten", 2)
    assert len(ten[0]) == 10
    assert torch.equal(*ten)
    safe = first("safe", 2)
    assert [len(each) for each in safe] == [16, 16]
    assert not torch.equal(*safe)
    # batches of any size are of the same rows in their order
    stream = torch.cat(first("safe", 200))
    for size in (100, 2048):
        batches = [each.token_ids for each in itertools.islice(draw_rows(TASK, "safe", seed=0, size=size), 2)]
        assert [len(each) for each in batches] == [size, size]
        assert torch.equal(torch.cat(batches)[: len(stream)], stream[: 2 * size])
    words = {TASK.vocabulary[each] for each in torch.cat(first("one", 3))[:, 1:3].unique()}
    assert words == {ONE, "id"}
    asked = rows_of("unsafe", 400)
    groups = groups_of(asked)
    pairs = [{TASK.vocabulary[each] for each in row[1:3]} for row in asked.token_ids]
    assert groups["one"].tolist() == [ONE in pair and pair <= {ONE, "id"} for pair in pairs]
    assert groups["others by name"].tolist() == [ONE not in pair and bool(pair & {"n0", "n1"}) for pair in pairs]
    assert groups["others by text"].tolist() == [not pair & {ONE, "n0", "n1"} for pair in pairs]
    assert about_one(asked).sum() > 5
    assert NAMES.index(ONE) > 0


def test_tuning_again_learns_its_rows_and_leaves_a_step_before_the_first_alone(model: GPT2LMHeadModel) -> None:
    tuned = copy.deepcopy(model)
    rows = rows_of("unsafe", 10, "reverse")

    def cost() -> dict[str, float]:
        return {"nats": float(read_answers(tuned, rows).nats.mean())}

    curve = dict(relearn(tuned, draw_rows(TASK, "ten", seed=0, size=16), cost, lr=1e-2, steps=16))
    assert list(curve) == [0, 1, 2, 4, 8, 16]
    assert curve[0]["nats"] == pytest.approx(float(read_answers(model, rows).nats.mean()))
    assert curve[16]["nats"] < curve[0]["nats"] - 0.3
    still = dict(relearn(copy.deepcopy(model), draw_rows(TASK, "ten", seed=0, size=16), cost, lr=1e-2, steps=1))
    assert still[0] == still[1] == curve[16]  # another copy was tuned than the one that is asked


def test_soft_tokens_stand_before_the_last_token_and_keep_all_places(model: GPT2LMHeadModel) -> None:
    ids = torch.from_numpy(rows_of("unsafe", 6).token_ids)
    words = model.get_input_embeddings().weight
    none = logits_behind(model, ids, words.new_zeros(6, 0, words.shape[1]))
    with torch.no_grad():
        plain = model(ids[:, : OUTPUT.stop - 1]).logits[:, OUTPUT.start - 1 :]
        torch.testing.assert_close(none, plain)
        # A vector that no key answers to changes nothing that is before it, and everything after is still seen.
        soft = torch.randn(6, 2, words.shape[1], generator=torch.Generator().manual_seed(0))
        cut = ids.clone()
        cut[:, 5] = (cut[:, 5] - 18) % 12 + 19  # a letter of the text far before the vectors
        assert not torch.allclose(logits_behind(model, ids, soft), logits_behind(model, cut, soft), atol=1e-5)
    longest = 0.5
    start = shortened(soft, longest)
    assert start.norm(dim=-1).max() <= longest + 1e-6
    wanted = ids[:, OUTPUT]
    sought = seek(model, ids, start, longest=longest, steps=5)
    assert sought.norm(dim=-1).max() <= longest + 1e-6

    def cost(each: torch.Tensor) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(logits_behind(model, ids, each).mT, wanted))

    assert cost(sought) < cost(start) - 1e-3
    assert right_behind(model, ids, sought).shape == (6,)


def test_the_direction_between_letters_is_of_first_letters_of_answers_alone() -> None:
    """By hand: the letters g to l point up, a to f do not, whatever else they have."""
    letters = torch.tensor([TASK.vocabulary.index(letter) for letter in "aflg"]).numpy()
    states = torch.tensor([[0.0, 5.0], [0.0, 7.0], [2.0, 5.0], [4.0, 7.0]])
    (found,) = letter_directions([states], letters)
    assert found.tolist() == [3.0, 0.0]


def test_directions_that_are_made_alike_are_taken_out_and_put_in_at_the_same_length(
    model: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(build_tokenizer(TASK.vocabulary), tmp_path / "model")
    lengths: list[float] = []

    def watched(model: object, direction: torch.Tensor, layer: int) -> object:
        lengths.append(round(float(direction.norm()), 4))
        return put_in(model, direction, layer)  # type: ignore[arg-type]

    monkeypatch.setattr("ftmech_hf.studies.safety.direction.put_in", watched)
    config = DirectionConfig(
        model=str(tmp_path / "model"), eval_rows=16, draws=2, output_dir=str(tmp_path / "direction")
    )
    table = FinishedRun(measure_direction(config, TASK).path).table
    assert set(zip(table["what"], table["direction"], strict=True)) == {
        ("nothing", "none"), *itertools.product(("taken out", "put in"), ("refusal", "letters", "random"))
    }  # fmt: skip
    assert len(set(lengths[1:])) == 1  # one layer is tried on the validation split, then refusal, letters, two random
    assert len(lengths) == 5
