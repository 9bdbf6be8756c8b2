"""Sides of the stream: by hand, with kinds by chance as the control, and attacks told apart by their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ftmech_hf.analysis.separation import side_of
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.safety.clusters import (
    ClustersConfig,
    asked_prompts,
    chance_rows,
    describe_sides,
    equally_many,
    measure_clusters,
    own_sides,
    prompt_states,
    sides_by_chance,
)
from ftmech_hf.tasks import RowStream, SafetyConfig
from ftmech_hf.tasks.safety import ATTACKS, OUTPUT
from tests.conftest import make_gpt2

TASK = SafetyConfig()


def test_kinds_of_other_sizes_have_no_sides_where_nothing_sets_them_apart() -> None:
    """Of ten times as many prompts of one kind, means by chance put nearly all on the side of the more exact mean."""
    generator = torch.Generator().manual_seed(0)
    fitted, shown = ([[torch.randn(number, 200, generator=generator)] for number in (400, 40)] for _ in range(2))
    ((unequal,), _), ((equal,), _) = own_sides(shown, fitted), own_sides(equally_many(shown), equally_many(fitted))
    assert unequal.mean() > 0.8
    assert 0.3 < equal.mean() < 0.7
    assert len(equal) == 80


def test_states_are_those_where_the_first_token_is_predicted() -> None:
    model = make_gpt2(len(TASK.vocabulary))
    rows = RowStream(TASK.asking("unsafe", "instructed"), seed=0, split="test").rows(0, 7)
    (found,) = prompt_states(model, asked_prompts(rows), batch_size=3)  # of two layers all but the last
    with torch.no_grad():
        states = model(torch.from_numpy(rows.token_ids), output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, states[1][:, OUTPUT.start - 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, states[1][:, OUTPUT.start], atol=1e-2)  # what must fail: the next place


def test_rows_are_described_in_groups() -> None:
    sides = torch.tensor([2.0, -1.0, 1.0, -4.0])
    found = describe_sides(sides, np.array([True, True, True, False]), 2.0)
    assert (found["rows"], found["tau"]) == (3, pytest.approx(1 / 3))
    assert found["safe_side"] == pytest.approx(2 / 3)
    assert describe_sides(sides, np.zeros(4, bool), 2.0)["rows"] == 0


def test_every_mixture_has_its_sides_in_every_layer(tmp_path: Path) -> None:
    model = make_gpt2(len(TASK.vocabulary))
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(build_tokenizer(TASK.vocabulary), tmp_path / "model")
    config = ClustersConfig(model=str(tmp_path / "model"), eval_rows=200, output_dir=str(tmp_path / "run"))
    measure_clusters(config, TASK)
    made = FinishedRun(tmp_path / "run")
    table = made.table[made.table["kinds"] == "own"].set_index(["mixture", "layer", "answers"])
    assert len(table) == (2 + len(ATTACKS)) * 3
    assert (table.loc[("misgen", 0, "failed"), "rows"], table.loc[("misgen", 0, "succeeded"), "rows"]) == (200, 0)
    assert made.summary["layer"] == 0
    fitted, shown = (
        [
            prompt_states(
                model, asked_prompts(RowStream(TASK.asking(kind, "instructed"), seed=0, split=split).rows(0, 200))
            )[0]
            for kind in ("safe", "unsafe")
        ]
        for split in ("probe", "test")
    )
    near, far = (np.linalg.norm(shown[1].numpy() - each.numpy().mean(0), axis=1) for each in fitted)
    assert table.loc[("unsafe", 0, "all"), "safe_side"] == pytest.approx((far > near).mean())
    # What must fail: means of kinds by chance say nothing of any kind. One choice may lie either way, many do not.
    real = [float((side_of(each, *fitted)[0] > 0).double().mean()) for each in shown]
    by_chance, generator = [], torch.Generator().manual_seed(0)
    for _ in range(100):
        mixed = torch.cat(fitted)[torch.randperm(400, generator=generator)]
        sides = [(side_of(each, mixed[:200], mixed[200:])[0] > 0).double().mean() for each in shown]
        by_chance.append(float(sides[0] - sides[1]))
    assert real[0] - real[1] > 0.2 > abs(np.mean(by_chance))
    dealt = made.table[made.table["kinds"] == "by chance"].set_index("mixture")
    assert list(dealt["rows"]) == [100, 100]
    assert list(dealt["answers"]) == ["all", "all"]
    both, _ = sides_by_chance([[each] for each in shown], [[each] for each in fitted], seed=0, draws=100)
    assert dealt.loc["safe", "safe_side"] == pytest.approx(both[:, 0, :200].mean())
    assert dealt.loc["unsafe", "safe_side"] == pytest.approx(1 - both[:, 0, 200:].mean())
    assert max(abs(dealt["safe_side"] - 0.5)) < 0.15 < max(abs(np.array(real) - 0.5))


def test_a_draw_deals_whole_prompts_and_has_a_seed_of_its_own() -> None:
    """Kinds far apart: a draw has all prompts on their own side or all on the other, and the same in all layers."""
    near = torch.tensor([[3.0], [3.1], [3.2]])
    kinds = [[sign * near, sign * near * 5] for sign in (1, -1)]
    right, tau = sides_by_chance(kinds, kinds, seed=0, draws=60)
    assert right.shape == (60, 2, 6)
    assert (right == right[:, :1, :1]).all()
    assert 15 < right[:, 0, 0].sum() < 45
    assert np.array_equal(tau[:, 0] > 0, right[:, 0, 0])
    assert np.array_equal(sides_by_chance(kinds, kinds, seed=10, draws=50)[0], right[10:])
    rows = list(chance_rows(right[right[:, 0, 0]]))
    assert {(row["mixture"], row["layer"]): row["safe_side"] for row in rows} == {
        ("safe", 0): 1.0, ("unsafe", 0): 0.0, ("safe", 1): 1.0, ("unsafe", 1): 0.0
    }  # fmt: skip
