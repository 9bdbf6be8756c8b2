"""Every interval of a diagnosis is as much wider as rows that belong together are right together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ftmech_hf.analysis.attribution import PlacedUnit
from ftmech_hf.analysis.input_gradients import InputGradientsResult
from ftmech_hf.analysis.intruders import IntrudersResult
from ftmech_hf.analysis.logit_lens import LensResult
from ftmech_hf.analysis.patching import PatchingResult
from ftmech_hf.analysis.pruning import PruningResult
from ftmech_hf.analysis.restoring import Part, RestoringResult, TriedPart
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import written_answers
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.pruning_sweep import SweepResult
from ftmech_hf.statistics.clusters import Groups, halves_of_rows, share_right
from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, SELF_DISTILLED, Case
from ftmech_hf.studies.diagnosis.method import MethodResult
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.attack_grid import NONE, Attack, Attacked, AttackGridMethodResult
from ftmech_hf.studies.diagnosis.methods.attribution import AttributionMethodResult
from ftmech_hf.studies.diagnosis.methods.behaviour import BehaviourMethodResult, by_token
from ftmech_hf.studies.diagnosis.methods.change import ChangeMethodResult
from ftmech_hf.studies.diagnosis.methods.direction import MOVED, OUT, DirectionEdit, DirectionMethodResult
from ftmech_hf.studies.diagnosis.methods.halves import Cuts, cuts_by_exchange
from ftmech_hf.studies.diagnosis.methods.intruders import IntrudersMethodResult
from ftmech_hf.studies.diagnosis.methods.logit_lens import LensMethodResult
from ftmech_hf.studies.diagnosis.methods.null_models import NullModelsMethodResult
from ftmech_hf.studies.diagnosis.methods.patching import BACK, FORTH, PatchingMethodResult, Way
from ftmech_hf.studies.diagnosis.methods.path import PathMethodResult
from ftmech_hf.studies.diagnosis.methods.pruning import PruningMethodResult
from ftmech_hf.studies.diagnosis.methods.sensitivity import SensitivityMethodResult
from ftmech_hf.studies.diagnosis.methods.separation import measure_separation
from ftmech_hf.studies.diagnosis.methods.tampering import Noise, TamperingMethodResult
from ftmech_hf.studies.diagnosis.methods.unlearning import UnlearningMethodResult, measure_depths
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import FEW, make_case, measured
from tests.studies.planted import ask, make_base, make_rows, make_wrapped

ROWS, SIZE = 96, 8
ABOUT = np.arange(ROWS) // (2 * SIZE) * 2 + np.arange(ROWS) % 2
"""Twelve groups; all rows of one are right or wrong together. Every other group has every other row, as halves do."""


def right(groups_right: int) -> NDArray[np.bool_]:
    return groups_right > ABOUT


def by_kind(groups: Groups) -> dict[str, Groups]:
    return {"capability": groups, "other": groups}


def kinds(groups_right: int) -> dict[str, NDArray[np.bool_]]:
    return {"capability": right(groups_right), "other": right(groups_right + 1)}


def draws(*groups_right: int) -> NDArray[np.bool_]:
    return np.array([right(each) for each in groups_right])


def behaviour(groups: Groups) -> MethodResult:
    found = {(name, kind): right(4) for name in (BASE, FINETUNED, NULL) for kind in ("capability", "other")}
    return BehaviourMethodResult(right=found, chance={"capability": 0.1, "other": 0.1}, control=True, same_tokens=True,
                                 few=ROWS, examples=[], groups=by_kind(groups))  # fmt: skip


def null_models(groups: Groups) -> MethodResult:
    return NullModelsMethodResult(right={(SELF_DISTILLED, "capability"): right(4)}, groups=by_kind(groups))


def attribution(groups: Groups) -> MethodResult:
    units = [PlacedUnit("mlp_act", 0, unit) for unit in range(3)]
    strong = {"capability": right(11), "other": right(9)}
    return AttributionMethodResult(right={0: kinds(1), 2: strong}, by_chance={2: draws(1, 1, 1)}, strongest=units,
                                   groups=by_kind(groups))  # fmt: skip


def direction(groups: Groups) -> MethodResult:
    edit = DirectionEdit({0: 0.5}, 0, kinds(9), draws(2, 2, 3))
    return DirectionMethodResult(edits={(MOVED, OUT): edit}, ends=(right(10), right(2)), groups=by_kind(groups))


def tampering(groups: Groups) -> MethodResult:
    noise = Noise({0.1: 0.5}, 0.1, draws(*[6] * 8), right(3), groups)
    return TamperingMethodResult(rounded={(FINETUNED, 4): right(5)}, noise={FINETUNED: noise}, groups=groups)


def intruders(groups: Groups) -> MethodResult:
    return IntrudersMethodResult(found=IntrudersResult({}), numbers={FINETUNED: 2}, of=3, curve={0.0: 0.5},
                                 scale=0.0, right=kinds(9), by_chance=draws(2, 2, 3), plain=right(2),
                                 groups=by_kind(groups))  # fmt: skip


def change(groups: Groups) -> MethodResult:
    search = RestoringResult(tried=[TriedPart(Part("mlp of block 0", 1), 0.2, 0.9)], enough=0.8)
    return ChangeMethodResult(
        scores={("taken back", 1.0): kinds(6)}, search=search, restored=kinds(9), by_chance=[right(2), right(3)],
        ends=(right(10), right(2)), groups=by_kind(groups),
    )  # fmt: skip


def attack_grid(groups: Groups) -> MethodResult:
    attacks = Attack("adapter", NONE, 0.1, 0.0, right(2)), Attack("adapter", 1.0, 0.9, 0.0, right(8))
    return AttackGridMethodResult(models={FINETUNED: Attacked(attacks, "what was taught")}, groups=groups)


def patching(groups: Groups) -> MethodResult:
    places = [(site, layer) for site in ("resid_post", "attn_out") for layer in (0, 1)]
    some = np.arange(0, ROWS, 3)
    likely = right(5).astype(np.float32) - 2

    def patched(groups_right: int) -> PatchingResult:
        return PatchingResult(
            {place: right(groups_right) for place in places}, {place: right(2)[some] for place in places}, some,
            right(2), dict.fromkeys(places, likely), likely,
        )  # fmt: skip

    ways = [BACK, FORTH, Way(BASE, NULL), Way(NULL, BASE)]
    return PatchingMethodResult(found={way: patched(number) for way, number in zip(ways, (9, 8, 3, 2), strict=True)},
                                num_blocks=3, cuts=Cuts(0, 1), groups=by_kind(groups))  # fmt: skip


def unlearning(groups: Groups) -> MethodResult:
    base, layers = np.zeros(ROWS), {0: right(3) - 1.0, 1: right(6) - 1.0}
    ways = {Way(NULL, BASE): np.full(ROWS, -1.0), Way(FINETUNED, BASE): None}
    found = {
        way: PatchingResult({}, {}, np.arange(0), right(2), {
            ("resid_post", layer): each if values is None else values for layer, each in layers.items()}, base)
        for way, values in ways.items()
    }  # fmt: skip
    return UnlearningMethodResult(depths=measure_depths(found, [FINETUNED], groups=groups, seed=0))


def sensitivity(groups: Groups) -> MethodResult:
    base = np.ones(ROWS, np.float32)
    norms = InputGradientsResult({BASE: base, FINETUNED: base + right(4), NULL: base})
    return SensitivityMethodResult(found={"capability": norms}, groups=by_kind(groups))


def path(groups: Groups) -> MethodResult:
    line = f"{BASE}, {NULL}"
    there = {"capability": draws(9, 6, 3)}
    return PathMethodResult(positions={line: [0.0, 0.5, 1.0]}, right={line: there}, groups=by_kind(groups))


def pruning(groups: Groups) -> MethodResult:
    def sweep(*groups_right: int) -> SweepResult:
        curve = [{"method": "importance" if number < 2 else "random", "num_pruned": 2 * (number > 0), "draw": 0}
                 for number in range(len(groups_right))]  # fmt: skip
        scores = [{"capability": torch.from_numpy(right(each))} for each in groups_right]
        return SweepResult(PruningResult("row", curve, 2, "validation", {}, ["a[0]"]), {}, scores)

    return PruningMethodResult(finetuned=sweep(2, 9, 2, 3), null=sweep(2, 3), groups=by_kind(groups))


def logit_lens(groups: Groups) -> MethodResult:
    layers = np.array([right(3), right(8)])
    found = LensResult({"right answer": layers}, {"right answer": -layers.astype(np.float32)}, {"right answer": 0.1})
    return LensMethodResult(found={FINETUNED: found}, majority={"right answer": 0.1}, groups=groups)


MADE: tuple[Callable[[Groups], MethodResult], ...] = (
    behaviour, null_models, attribution, direction, tampering, intruders, change, attack_grid, patching, pruning,
    logit_lens, unlearning, path, sensitivity,
)  # fmt: skip


def shares_in(value: Any) -> Iterator[Share]:
    if isinstance(value, Share):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from shares_in(vars(value))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from shares_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from shares_in(each)


def said(result: MethodResult) -> list[Share]:
    """All intervals of shares that a method says: in the table, to the rule and in the summary."""
    rows = [
        Share(each["value"], each["low"], each["high"])
        for each in result.rows()
        if each["low"] is not None and each["quantity"] != "gradient norm"  # whose ends are quartiles
    ]
    depths = result.depths if isinstance(result, UnlearningMethodResult) else {}
    return [*rows, *shares_in(result.evidence() or {}), *shares_in(result.summary()), *shares_in(depths)]


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_every_interval_that_a_method_says_knows_which_rows_belong_together(
    make: Callable[[Groups], MethodResult],
) -> None:
    """Rows of a group are right together, so that an interval of rows on their own is far too narrow."""
    alone, together, apart = (said(make(groups)) for groups in (None, ABOUT, np.arange(ROWS)))
    assert len(alone) == len(together) == len(apart) >= 1
    for one, other in zip(alone, apart, strict=True):
        assert other == pytest.approx(one), "groups of one row each say as much as none"
    for narrow, wide in zip(alone, together, strict=True):
        assert wide.value == narrow.value
        assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low), narrow


def test_the_best_part_is_said_of_the_rows_between() -> None:
    """Chosen on every other group, reported on those between, and beside another question's on those that have one."""
    found = patching(ABOUT)
    between = np.flatnonzero(ABOUT % 2 == 1)
    assert isinstance(found, PatchingMethodResult)
    part = found.best_part()
    assert part is not None
    assert part.accuracy == share_right(right(9)[between], ABOUT[between])
    assert part.alone == share_right(right(2)[between], ABOUT[between])
    odd = np.array([row for row in range(0, ROWS, 3) if row in between])
    assert part.other_row == share_right(right(2)[odd], ABOUT[odd])
    assert part.other_row != share_interval(int(right(2)[odd].sum()), len(odd))
    (shown,) = {each["low"] for each in found.rows() if each["quantity"] == "other row" and each["model"] == str(BACK)}
    assert shown == share_right(right(2)[::3], ABOUT[::3]).low


def grouped_questions() -> Behavior:
    """Questions of which those with one answer belong together."""
    asked = ask(make_rows())
    parts = {"train": asked.train, "validation": asked.validation, "test": asked.test}
    with_groups = {
        name: dataclasses.replace(rows, groups=rows.first_answers.numpy(), other=rows.token_ids[:, 0])
        for name, rows in parts.items()
    }
    test = with_groups.pop("test")
    return dataclasses.replace(asked, tests={**asked.tests, "test": test}, **with_groups)


def test_every_method_takes_the_groups_of_the_rows_that_it_asks() -> None:
    asked = grouped_questions()
    assert asked.test.groups is not None
    case = make_case(
        make_wrapped("llama"), asked, rows=64, fit_rows=160, patch_rows=24, random_masks=2, repeats=2, reverse_steps=2,
        most_reverse_steps=2, prune_sizes=[0, 1], max_layers=1,
    )  # fmt: skip
    few = asked.test.groups[:24].tolist()
    expected: dict[str, list[int]] = {
        "behaviour": asked.test.groups.tolist(), "null models": asked.test.groups.tolist(),
        **dict.fromkeys(
            ("patching", "pruning", "logit lens", "change", "direction", "attribution", "intruders", "tampering",
             "attack grid", "path", "sensitivity"), few,
        ),
    }  # fmt: skip
    found: dict[str, Any] = dict(measured(case, *METHODS).by_method)
    taken = {
        name: result.groups["capability"] if isinstance(result.groups, Mapping) else result.groups
        for name, result in found.items()
        if hasattr(result, "groups")
    }
    assert {name: groups.tolist() for name, groups in taken.items()} == expected
    unlearned, depths = found["unlearning"].depths, found["patching"].found
    expected_depths = measure_depths(depths, [*unlearned], groups=asked.test.groups[:24], seed=case.seed)
    assert {name: each.depth for name, each in unlearned.items()} == {
        name: each.depth for name, each in expected_depths.items()
    }
    assert {name: each.groups.tolist() for name, each in found["tampering"].noise.items()} == {
        FINETUNED: few, NULL: few,
    }  # fmt: skip


@pytest.mark.parametrize("two_kinds", [True, False], ids=["kinds of questions", "answers"])
def test_kinds_apart_take_the_groups_of_the_rows_that_they_measure(two_kinds: bool) -> None:
    """Of both kinds the later half of as many rows as there are of the rarer one; here what is about one place."""
    about = np.arange(200) // 7
    asked, others = (
        dataclasses.replace(each, tests={"test": dataclasses.replace(each.test, groups=about)})
        for each in (ask(make_rows()), ask(make_rows(shift=1, seed=2)))
    )
    models = {BASE: make_base("llama"), FINETUNED: make_base("llama"), NULL: make_base("llama")}
    case = Case(models, asked, others if two_kinds else None, FEW, 0)
    answers = asked.test.first_answers
    kinds = [about, about]
    if not two_kinds:
        kinds = [about[(answers == answer).numpy()] for answer in torch.bincount(answers).topk(2).indices]
    number = min(map(len, kinds))
    for each in measure_separation(case).found.values():
        assert each.groups is not None
        halves = [len(halves_of_rows(number, kind[:number])[1]) for kind in kinds]
        assert len(each.groups) == sum(halves)
        first, second = each.groups[: halves[0]], each.groups[halves[0] :]
        for found, expected in zip((first, second), kinds, strict=True):
            _, measured_rows = halves_of_rows(number, expected[:number])
            counts, right_counts = (np.unique(of, return_counts=True)[1] for of in (found, expected[measured_rows]))
            assert counts.tolist() == right_counts.tolist()
        assert not {*first} & {*second}


def test_what_an_exchange_follows_is_of_groups_too() -> None:
    followed = cuts_by_exchange(make_case(make_wrapped("llama"), grouped_questions())).followed
    alone = cuts_by_exchange(make_case(make_wrapped("llama"), ask(make_rows()))).followed
    assert followed is not None
    assert alone is not None
    assert {layer: each.value for layer, each in followed.items()} == {
        layer: each.value for layer, each in alone.items()
    }
    assert any(followed[layer] != alone[layer] for layer in followed)


def test_answers_by_token_are_of_groups_too() -> None:
    """Answers of one token and of two, ten of a group: the second token is asked of the longer ones alone."""
    token_ids = torch.arange(80).reshape(40, 2) % 7 + 1
    ids = torch.cat([torch.full((40, 2), 9), token_ids, torch.full((40, 1), 8)], 1)
    answer = torch.tensor([[False, False, number % 2 == 0, True, False] for number in range(40)])
    rows = AnswerRows(token_ids=ids, answer=answer, groups=np.arange(40) // 10)
    questions = dataclasses.replace(ask(make_rows()), tests={"test": rows})
    model = make_llama(10)
    alone = by_token(model, dataclasses.replace(questions, tests={"test": dataclasses.replace(rows, groups=None)}), "x")
    found = by_token(model, questions, "x")
    given, _ = written_answers(model, rows)
    for number, longer in ((0, slice(None)), (1, slice(0, None, 2))):
        at = [0 if longer_one and number == 0 else 1 for longer_one in answer[:, 2].tolist()]
        right = np.array([int(given[row, column]) == int(ids[row, 2 + column]) for row, column in enumerate(at)])[
            longer
        ]
        assert found[number].right == share_right(right, (np.arange(40) // 10)[longer])
        assert found[number].right.value == alone[number].right.value
