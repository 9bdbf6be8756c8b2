"""Dictionaries of differences against values by hand, and planted directions, of which each must be one latent."""

from __future__ import annotations

import importlib.util
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ftmech_hf.analysis.difference_components import components_of
from ftmech_hf.analysis.difference_dictionary import (
    LEAST_ACTIVE,
    DictionaryResult,
    Latent,
    active_latents,
    learn_dictionary,
    null_bar,
    score_latents,
)

HAS_SAE_LENS = importlib.util.find_spec("sae_lens") is not None
needs_sae_lens = pytest.mark.skipif(not HAS_SAE_LENS, reason="the extra dictionaries is not installed")

WIDTH, NUMBER, LEARNED, PLACES, NULLS = 32, 6, 8000, 12000, 19


class Planted(NamedTuple):
    """Differences (P, D), the directions that were added (K, D), and where, bool (P, K)."""

    differences: Tensor
    directions: Tensor
    fires: Tensor


def planted(seed: int, *, there: bool = True) -> Planted:
    """Small noise, and six directions, each at 2 to 5 % of the places with a size between 0.5 and 1.5."""
    drawn = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(NUMBER, WIDTH, generator=drawn), dim=1)
    fires = torch.rand(PLACES, NUMBER, generator=drawn) < torch.linspace(0.02, 0.05, NUMBER)
    sizes = 0.5 + torch.rand(PLACES, NUMBER, generator=drawn)
    noise = 0.1 * torch.randn(PLACES, WIDTH, generator=drawn)
    return Planted(noise + (sizes * fires) @ directions if there else noise, directions, fires)


def nulls(number: int, first: int = 1000) -> list[Tensor]:
    return [planted(first + each, there=False).differences for each in range(number)]


def agreement(latent: Latent, fires: Tensor) -> float:
    """F1 of the held-out places at which a latent is active, for those where its direction was added."""
    active = torch.zeros_like(fires)
    active[latent.places] = True
    return 2 * float((active & fires).sum()) / float(active.sum() + fires.sum())


def result(*shares: float) -> DictionaryResult:
    along = torch.eye(4)
    latents = [Latent(along[each], 0.5, share, torch.tensor([0])) for each, share in enumerate(shares)]
    return DictionaryResult(latents, sum(shares), 0.25, 2)


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(ModuleNotFoundError, match=r"^a dictionary needs .*sae-lens: pip install 'ftmech_hf\[dictionar"):
        learn_dictionary(torch.eye(4), torch.eye(4), active=1.0)


def test_what_latents_explain_is_by_hand() -> None:
    differences = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 2.0]])  # squares: 9 + 1 + 0 + 5
    directions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    activations = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    found, explained = score_latents(differences, activations, directions, torch.zeros(2))
    assert explained == pytest.approx(1 - 1 / 15), "of 15, the 1 that the first place is short of"
    first, second = found
    torch.testing.assert_close(first.direction, directions[1])
    torch.testing.assert_close(second.direction, directions[0])
    assert (first.rate, first.places.tolist()) == (0.5, [0, 3])
    assert (second.rate, second.places.tolist()) == (0.5, [3, 1]), "the most active first"
    assert first.share == pytest.approx((9 - 1 + 1) / 15), "9 for 1 is left without it, and 1 for 0"
    assert second.share == pytest.approx((1 + 4) / 15)


def test_what_is_added_everywhere_counts_for_no_latent_and_a_wrong_latent_explains_less_than_nothing() -> None:
    differences, offset = torch.tensor([[1.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 1.0])
    found, explained = score_latents(differences, torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0, 1.0]]), offset)
    assert explained == pytest.approx(1.0)
    assert found[0].share == pytest.approx(4 / 12)
    wrong, explained = score_latents(differences, torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0, -1.0]]), offset)
    assert explained == pytest.approx(1 - 16 / 12)
    assert wrong[0].share == pytest.approx((4 - 16) / 12)


def test_rows_summary_and_what_is_above_a_bar() -> None:
    some = result(0.3, 0.1)
    assert some.rows() == [{"number": 0, "rate": 0.5, "share": 0.3}, {"number": 1, "rate": 0.5, "share": 0.1}]
    assert some.summary() == {"latents": 2, "explained": 0.4, "largest": 0.3, "active": 0.25, "places": 2}
    assert [each.share for each in some.above(0.1)] == [0.3], "beyond it, not at it"
    assert some.above(0.3) == []
    assert null_bar([result(0.1), some, result()]) == 0.3
    assert result().largest == 0.0
    with pytest.raises(ValueError, match="nulls: none"):
        null_bar([])


def test_the_nearest_latent_points_the_same_way() -> None:
    latent, cosine = result(0.3, 0.1).nearest(torch.tensor([0.3, 0.4, 0.0, 0.0]))
    assert (latent.share, cosine) == (0.1, pytest.approx(0.8))
    latent, cosine = result(0.3, 0.1).nearest(torch.tensor([-3.0, 0.0, 0.0, 0.0]))
    assert (latent.share, cosine) == (0.1, 0.0), "the opposite of a latent's direction is not what it adds"
    with pytest.raises(ValueError, match="latents: none is active"):
        result().nearest(torch.ones(4))


def test_as_many_are_active_as_differ_more_than_nulls_do() -> None:
    along = torch.eye(8).repeat(250, 1)
    null = torch.cat([along, -along])  # around 0, each as far as any other
    some = null.clone()
    some[:200] *= 3
    some[2000:2200] *= 3
    assert active_latents(some, [null]) == pytest.approx(0.125)
    assert active_latents(5 * some + 3, [null]) == pytest.approx(0.125), "in whatever unit, around whatever mean"
    assert active_latents(null, [null]) == LEAST_ACTIVE
    with pytest.raises(ValueError, match="nulls: none"):
        active_latents(some, [])


def test_what_cannot_be_learned_from_is_refused() -> None:
    rows = torch.eye(4)
    for before, after in ((rows, rows[:, :3]), (rows[:0], rows), (rows, rows[:0])):
        with pytest.raises(ValueError, match="differences: "):
            learn_dictionary(before, after, active=1.0)
    for active in (0.001, 5.0):
        with pytest.raises(ValueError, match="active: "):
            learn_dictionary(rows, rows, active=active)


def test_no_difference_has_no_latents() -> None:
    found = learn_dictionary(torch.ones(10, 4), torch.ones(5, 4), active=1.0)
    assert found.summary() == {"latents": 0, "explained": 0.0, "largest": 0.0, "active": 1.0, "places": 5}


class Known:
    """A dictionary of known directions (M, D), with what is asked of SAELens' ones."""

    def __init__(self, directions: Tensor) -> None:
        self.W_dec, self.b_dec = directions, torch.zeros(directions.shape[1])

    def encode(self, rows: Tensor) -> Tensor:
        return (rows @ self.W_dec.T).relu()

    def __call__(self, rows: Tensor) -> Tensor:
        return self.encode(rows) @ self.W_dec + self.b_dec


def test_the_start_that_explains_most_of_what_it_was_learned_from_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, seeds = torch.eye(3), list[int]()

    def learn(rows: Tensor, *, seed: int, **settings: object) -> Known:
        seeds.append(seed)
        assert float(rows.mean(0).abs().max()) < 1e-6
        assert float(rows.square().mean()) == pytest.approx(1.0)
        assert settings["latents"] == 3
        return Known(axes[[len(seeds) % 2]])  # the second of three, and no other, is of the first axis

    monkeypatch.setattr("ftmech_hf.analysis.difference_dictionary._learn", learn)
    around = torch.tensor([5.0, -3.0, 1.0])
    before = around + 2 * torch.cat([axes[[0]], -axes[[0]], 0.1 * axes[[1]], -0.1 * axes[[1]]])
    after = around + torch.cat([axes[[0]], 3 * axes[[1]], -axes[[0]]])
    found = learn_dictionary(before, after, active=1.0)
    assert len(set(seeds)) == 3
    (latent,) = found.latents
    torch.testing.assert_close(latent.direction, axes[0])
    assert (latent.places.tolist(), found.places) == ([0], 3)
    assert found.explained == pytest.approx(1 / 11), "of the squares 1, 9 and 1 of held-out places, around that mean"


def test_principal_components_mix_what_is_planted_at_different_places() -> None:
    made = planted(0)
    base = torch.ones_like(made.differences)
    found = components_of(base, base + made.differences, torch.zeros(PLACES, 2), number=NUMBER)
    nearest = (made.directions @ torch.stack([each.direction for each in found]).T).abs().amax(1)
    assert float(nearest.max()) < 0.95


@needs_sae_lens
def test_each_planted_direction_is_a_latent_that_is_active_where_it_was_added() -> None:
    made, (none,) = planted(0), nulls(1)
    before, after = made.differences[:LEARNED], made.differences[LEARNED:]
    state = torch.get_rng_state()
    found = learn_dictionary(before, after, active=active_latents(before, [none[:LEARNED]]))
    for direction, fires in zip(made.directions, made.fires[LEARNED:].T, strict=True):
        latent, cosine = found.nearest(direction)
        assert cosine > 0.95
        assert agreement(latent, fires) > 0.85
        assert latent.share > 0.02
    assert found.places == PLACES - LEARNED
    assert [each.share for each in found.latents] == sorted((each.share for each in found.latents), reverse=True)
    null = learn_dictionary(none[:LEARNED], none[LEARNED:], active=found.active, starts=1)
    assert null.largest < 0.01
    assert torch.equal(torch.get_rng_state(), state), "no draw of the caller's is used up"


@needs_sae_lens
def test_the_same_seed_learns_the_same_whatever_is_held_out() -> None:
    rows = planted(0).differences
    one, again, other, elsewhere = (
        learn_dictionary(rows[:500], held, active=0.2, steps=20, batch_size=64, seed=seed)
        for held, seed in ((rows[500:1000], 0), (rows[500:1000], 0), (rows[500:1000], 1), (rows[1000:1500], 0))
    )
    assert one.rows() == again.rows()
    assert one.rows() != other.rows()
    assert one.rows() != elsewhere.rows()
    assert one.nearest(elsewhere.latents[0].direction)[1] == pytest.approx(1.0, abs=1e-6)


@needs_sae_lens
@pytest.mark.slow
def test_over_seeds_all_that_is_planted_is_above_the_bar_of_nulls_and_of_other_nulls_hardly_any_is() -> None:
    beside = nulls(NULLS)
    active = active_latents(planted(0).differences[:LEARNED], [each[:LEARNED] for each in beside])

    def learned(differences: Tensor, seed: int) -> DictionaryResult:
        return learn_dictionary(differences[:LEARNED], differences[LEARNED:], active=active, seed=seed)

    bar = null_bar([learned(each, seed) for seed, each in enumerate(beside)])
    alarms = sum(bool(learned(each, seed).above(bar)) for seed, each in enumerate(nulls(20, first=2000), NULLS))
    assert alarms <= 3, "of 20, of which one is expected: more are there once in sixty times"
    for seed in range(5):
        made = planted(seed)
        found = learned(made.differences, seed)
        above = DictionaryResult(found.above(bar), found.explained, found.active, found.places)
        nearest = [above.nearest(each) for each in made.directions]
        assert min(cosine for _, cosine in nearest) > 0.95
        assert len({latent.share for latent, _ in nearest}) == NUMBER, "a latent each"
