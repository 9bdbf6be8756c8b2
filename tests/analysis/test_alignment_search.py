"""The directions of a planted variable are found; random ones, other answers and other models have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.patches import patched_logits
from ftmech_hf.analysis.alignment_search import (
    AlignmentResult,
    Exchanges,
    Position,
    interchange_accuracy,
    random_directions,
    search_alignment,
    subspace_cosines,
)
from ftmech_hf.models.conversion import compile_program
from ftmech_hf.studies.tracr import known_directions
from ftmech_hf.studies.tracr.known_directions import known_variables, search_known
from ftmech_hf.studies.tracr.known_parts import draw_texts
from ftmech_hf.tasks.small_programs import SMALL_PROGRAMS


def some_rows(seed: int, number: int = 40) -> Tensor:
    return torch.randint(3, 40, (number, 9), generator=torch.Generator().manual_seed(seed))


def test_the_directions_of_a_known_variable_are_found_and_no_others() -> None:
    program = SMALL_PROGRAMS["two_steps_back"]
    model, vocabulary = compile_program(program)
    texts = draw_texts(program, vocabulary, 128, np.random.default_rng(0))
    (variable,) = known_variables(program, model, texts, np.roll(np.arange(128), 1))
    assert (variable.name, variable.where) == ("previous", Position("resid_post", 0, 4))
    names = model.config.residual_names
    used = {names[row] for row in (variable.directions != 0).any(1).nonzero()[:, 0].tolist()}
    assert used == {"previous:a", "previous:b", "previous:c"}
    found = search_known(model, variable, seed=0)
    assert found["known"] == 1
    assert found["found"] >= 0.97
    assert found["cosine"] > 0.95
    for control in ("random", "random_model", "shuffled", "alone"):
        assert found[control] < 0.9, control
    assert found["random"] < 0.6
    elsewhere = search_alignment(model, variable.exchanges, variable.where._replace(position=2), rank=2)
    assert interchange_accuracy(model, variable.exchanges, variable.where._replace(position=2),
                                elsewhere.directions).mean() < 0.6  # fmt: skip


def test_controls_search_from_as_many_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    program = SMALL_PROGRAMS["two_steps_back"]
    model, vocabulary = compile_program(program)
    texts = draw_texts(program, vocabulary, 32, np.random.default_rng(0))
    (variable,) = known_variables(program, model, texts, np.roll(np.arange(32), 1))
    asked: list[tuple[int, int]] = []

    def searched(
        model: PreTrainedModel, exchanges: Exchanges, where: Position, *, rank: int, seed: int, starts: int
    ) -> AlignmentResult:
        asked.append((seed, starts))
        return search_alignment(model, exchanges, where, rank=rank, seed=seed, starts=starts, steps=1)

    monkeypatch.setattr(known_directions, "search_alignment", searched)
    search_known(model, variable, seed=5, starts=3)
    assert asked == [(5, 3)] * 3


def test_an_exchange_of_everything_and_of_nothing(any_model: PreTrainedModel) -> None:
    """All directions of the last stream at the last position are the other row's answer."""
    rows, others = some_rows(1), some_rows(2)
    own, other = (patched_logits(any_model, each, {})[:, -1].argmax(-1) for each in (rows, others))
    width = any_model.config.get_text_config().hidden_size
    whole, none = torch.eye(width), torch.zeros(width, 1)
    for where in (Position("resid_post", 1, -1), Position("resid_post", 1, 6)):
        assert interchange_accuracy(any_model, Exchanges(rows, others, other), where, whole, batch_size=7).all()
        assert interchange_accuracy(any_model, Exchanges(rows, others, own), where, none, batch_size=7).all()
    before = Position("resid_post", 1, 2)  # nothing reads the last stream there
    assert interchange_accuracy(any_model, Exchanges(rows, others, own), before, whole).all()


def test_only_the_directions_are_learned_on_any_model(any_model: PreTrainedModel) -> None:
    rows, others = some_rows(1), some_rows(2)
    other = patched_logits(any_model, others, {})[:, -1].argmax(-1)
    for parameter in any_model.parameters():
        parameter.requires_grad_(False)
    kept = {name: value.clone() for name, value in any_model.state_dict().items()}
    where, ask = Position("resid_post", 1, -1), {"rank": 3, "steps": 20, "batch_size": 16}
    found = search_alignment(any_model, Exchanges(rows, others, other), where, **ask)
    assert torch.allclose(found.directions.T @ found.directions, torch.eye(3), atol=1e-5)
    assert np.mean(found.losses[-5:]) < np.mean(found.losses[:5])
    assert all(torch.equal(value, kept[name]) for name, value in any_model.state_dict().items())
    again = search_alignment(any_model, Exchanges(rows, others, other), where, **ask)
    assert torch.equal(found.directions, again.directions)
    more = search_alignment(any_model, Exchanges(rows, others, other), where, starts=3, **ask)
    with pytest.MonkeyPatch.context() as patch:
        ends = iter((found.losses[-1], found.losses[-1] - 2, found.losses[-1] - 1))
        patch.setattr(
            "ftmech_hf.analysis.alignment_search._search",
            lambda *given: dataclasses.replace(found, losses=[9.0, *[next(ends)] * 10]),
        )
        best = search_alignment(any_model, Exchanges(rows, others, other), where, starts=3, **ask)
    assert best.losses[-1] == found.losses[-1] - 2, "the lowest of three, which is the second"
    assert np.mean(more.losses[-10:]) <= np.mean(found.losses[-10:])


def test_angles_and_random_subspaces() -> None:
    axes = torch.eye(5)
    assert torch.allclose(subspace_cosines(axes[:, :2], axes[:, :2] @ torch.tensor([[1.0, 2.0], [0.5, -1.0]])),
                          torch.ones(2, dtype=torch.float64))  # fmt: skip
    tilted = (axes[:, [0]] + axes[:, [3]]) / 2
    assert subspace_cosines(axes[:, :2], tilted).tolist() == pytest.approx([0.5**0.5])
    assert subspace_cosines(axes[:, :2], axes[:, 2:4]).tolist() == pytest.approx([0, 0])
    drawn = random_directions(5, 2, 1)
    assert torch.allclose(drawn.T @ drawn, torch.eye(2), atol=1e-6)
    assert not torch.allclose(drawn, random_directions(5, 2, 2))


def test_faults_are_named(any_model: PreTrainedModel) -> None:
    rows = some_rows(1)
    with pytest.raises(ValueError, match="rank: 6, expected 1 to 5"):
        random_directions(5, 6, 0)
    with pytest.raises(ValueError, match="exchanges: no rows"):
        search_alignment(any_model, Exchanges(rows[:0], rows[:0], rows[:0, 0]), Position("resid_post", 0, -1), rank=1)
    for position in (7, -8):
        with pytest.raises(ValueError, match=f"position: {position}, but prompts have 7 tokens"):
            search_alignment(any_model, Exchanges(rows, rows, rows[:, 0]), Position("resid_post", 0, position), rank=1)
    result = AlignmentResult(torch.eye(3)[:, :2], [2.0, 1.5])
    assert result.summary() == {"rank": 2, "loss": 1.5}
    assert result.rows() == [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.5}]
