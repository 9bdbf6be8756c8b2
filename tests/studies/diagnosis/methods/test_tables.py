"""What a method's result says in the table, to the rule and in the summary: each number in the place of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import Share, mean_interval, paired_difference
from ftmech_hf.studies.diagnosis.evidence import (
    BehaviourEvidence,
    HalvesEvidence,
    PruningEvidence,
    ReadingEvidence,
    RevivalEvidence,
)
from ftmech_hf.studies.diagnosis.method import MethodResult
from ftmech_hf.studies.diagnosis.methods.unlearning import UnlearningMethodResult, measure_depths
from tests.studies.diagnosis.methods.results import (
    EXAMPLE,
    NUMBER,
    TOKENS,
    behaviour,
    first_right,
    patching,
    probing,
    pruning,
    revival,
    share,
)

EMPTY = {
    "model": "",
    "questions": "",
    "site": "",
    "layer": None,
    "x": None,
    "low": None,
    "high": None,
    "reference": False,
}


def line(analysis: str, quantity: str, value: Share | float, **cells: Any) -> dict[str, Any]:
    numbers = value._asdict() if isinstance(value, Share) else {"value": value}
    return {**EMPTY, "analysis": analysis, "quantity": quantity, **numbers, **cells}


def same(result: MethodResult, expected: list[dict[str, Any]]) -> None:
    """In any order; NaN is like NaN."""

    def sortable(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(str(sorted(row.items(), key=str)) for row in rows)

    assert sortable(result.rows()) == sortable(expected)


def test_what_the_models_answer() -> None:
    result = behaviour()
    same(result, [
        line("behaviour", "accuracy", share(number), model=model, questions=kind, reference=model == "reference")
        for model, kind, number in (
            ("base", "capability", 38), ("fine-tuned", "capability", 9), ("reference", "capability", 4),
            ("base", "other", 7), ("fine-tuned", "other", 39), ("reference", "other", 3),
        )
    ] + [
        line("behaviour", "chance", 0.2, questions="capability", reference=True),
        line("behaviour", "chance", 0.3, questions="other", reference=True),
        line("behaviour", "accuracy by token", share(11), model="fine-tuned", questions="capability", x=2),
        line("behaviour", "accuracy by token", share(2), model="reference", questions="capability", x=1,
             reference=True),
        line("behaviour", "log-probability by token", -0.75, model="fine-tuned", questions="capability", x=2),
        line("behaviour", "log-probability by token", -3.5, model="reference", questions="capability", x=1,
             reference=True),
    ])  # fmt: skip
    assert result.evidence() == BehaviourEvidence(
        chance=0.2, base=share(38), finetuned=share(9), null=share(4), control=True, same_tokens=False,
        drop=paired_difference(first_right(38), first_right(9)), few_base=38 / 39,
    )  # fmt: skip
    assert result.summary() == {"examples": [EXAMPLE._asdict()], "tokens": [each._asdict() for each in TOKENS]}
    assert EXAMPLE._asdict() == {"question": "1+1=", "right": "2", "base": "2", "finetuned": "3", "base_right": True,
                                 "finetuned_right": False, "place": 5, "reversed": None,
                                 "reversed_right": None}  # fmt: skip


def test_what_is_read() -> None:
    result = probing()
    read = {
        "base": (30, 39),
        "fine-tuned": (28, 37),
        "reference": (6, 11),
        "random weights 2": (5, 10),
        "random weights 3": (4, 8),
    }
    same(result, [
        line("probing", "probe", share(number), model=model, questions="capability", layer=layer,
             reference=model not in ("base", "fine-tuned"))
        for model, numbers in read.items() for layer, number in enumerate(numbers)
    ] + [
        line("probing", "input embeddings", share(13), questions="capability", reference=True),
        line("probing", "shuffled labels", 0.1, model="base", layer=0, reference=True),
        line("probing", "shuffled labels", 0.11, model="base", layer=1, reference=True),
    ])  # fmt: skip
    assert result.evidence() == ReadingEvidence(read=share(37), read_base=share(39), read_null=share(11))
    assert probing(None).evidence() == ReadingEvidence(read=None, read_base=None, read_null=share(11))
    assert result.summary() == {"read_null_in": "reference", "read_layer": 1, "answers_seen": 0.75,
                                "rows_per_answer": 25.0}  # fmt: skip


def test_what_patches_bring_back() -> None:
    result = patching()
    whole = {
        "base into fine-tuned": (36, 35, 8, 20, 12, 10), "fine-tuned into base": (33, 34, 30, 31, 29, 28),
        "reference into base": (3, 2), "base into reference": (1, 6),
    }  # fmt: skip
    expected = []
    for way, numbers in whole.items():
        places = [(site, layer) for site in ("resid_post", "attn_out", "mlp_act") for layer in (0, 1)]
        for (site, layer), number in zip(places, numbers, strict=False):
            cells = {"model": way, "questions": "capability", "site": site, "layer": layer}
            expected.append(line("patching", "same row", share(number), **cells, reference="reference" in way))
            if "reference" not in way:
                expected.append(line("patching", "other row", share(number // 5, 8), **cells, reference=True))
            if way.endswith("into base"):
                likely = mean_interval([-1.0] * number + [-2.0] * (NUMBER - number))  # of which so many are right
                expected.append(line("patching", "log-probability", likely, **cells, reference="reference" in way))
    same(result, expected)
    assert result.evidence() == HalvesEvidence(
        late=share(36), late_null=share(1), early=share(34), early_null=share(2), late_blocks=2, early_blocks=2,
        num_blocks=3,
    )  # fmt: skip
    assert patching(None, None).evidence() == HalvesEvidence(num_blocks=3)
    # on every other row attention of block 1 has most, of which 20 are the first rows: 10 of each half
    assert result.summary() == {"best_part": {
        "site": "attn_out", "layer": 1, "places": 4, "accuracy": share(10, 20), "alone": share(2, 20),
        "other_row": share(2, 4),
    }, "cuts": (0, 1), "followed": None, "not_exchanged": {}}  # fmt: skip


def test_how_deeply_it_is_unlearned() -> None:
    """Of 40 rows 33 and 34 keep their nat with the fine-tuned model's stream, 3 and 2 with the reference's."""
    result = UnlearningMethodResult(depths=measure_depths(patching().found, ["fine-tuned"], seed=0))
    depth = result.depths["fine-tuned"].depth
    assert depth.value == pytest.approx((7 + 6) / (37 + 38))
    assert depth.low < depth.value < depth.high
    cells: dict[str, Any] = {"questions": "capability"}
    same(result, [line("unlearning", "unlearning depth", depth, model="fine-tuned", **cells)] + [
        line("unlearning", "fall of log-probability", fall / 40, model=model, layer=layer, **cells,
             reference=model == "reference")
        for model, falls in {"fine-tuned": (7, 6), "reference": (37, 38)}.items() for layer, fall in enumerate(falls)
    ])  # fmt: skip
    assert result.summary() == {"unlearning_depth": {"fine-tuned": depth._asdict()}}
    assert result.evidence() is None


def test_what_is_left_after_pruning() -> None:
    result = pruning()
    numbers = [
        ("fine-tuned", "importance", 0, 9), ("fine-tuned", "importance", 2, 35), ("fine-tuned", "random", 2, 8),
        ("fine-tuned", "random", 2, 12), ("reference", "importance", 0, 4), ("reference", "importance", 2, 7),
    ]  # fmt: skip
    same(result, [
        line("pruning", f"{method} rows", share(number - (kind == "other")), model=model, questions=kind, x=size,
             reference=method == "random" or model == "reference")
        for model, method, size, number in numbers
        for kind in (("capability", "other") if (model, method) == ("fine-tuned", "importance") else ("capability",))
    ])  # fmt: skip
    draws = [first_right(8), first_right(12)]
    assert result.evidence() == PruningEvidence(
        pruned=share(35), pruned_random=mean_over_draws(draws), pruned_null=share(7)
    )
    assert result.summary() == {"best_k": 2, "pruned_rows": ["a[0]", "b[1]"]}


def test_how_fast_it_comes_back() -> None:
    result = revival()
    runs = {
        ("fine-tuned", 0): {0: 0.1, 4: 0.95},
        ("fine-tuned", 1): {0: 0.2, 8: 0.96},
        ("reference", 0): {0: 0.3, 16: 0.4},
    }
    same(result, [
        line("revival", f"repetition {number}", value, model=model, questions="capability", x=step,
             reference=model == "reference")
        for (model, number), points in runs.items() for step, value in points.items()
    ] + [line("revival", "threshold", 0.9, reference=True)])  # fmt: skip
    assert result.evidence() == RevivalEvidence(revival=result.finetuned, revival_null=result.null)
    assert result.summary() == {}


def test_bounds_of_what_was_not_followed_to_its_end() -> None:
    result = revival()
    assert result.finetuned.bounds == [(4, 4), (8, 8)]
    assert result.null.bounds == [(20, math.inf), (16, 16)]
    assert (result.finetuned.slowest, result.finetuned.fastest) == (8, 4)
    assert (result.null.slowest, result.null.fastest) == (None, 16)
    assert [result.finetuned.is_faster_than(result.null, times) for times in (2, 2.01)] == [True, False]
