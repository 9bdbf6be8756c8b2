"""What was planted is found if a finding that stands out names it, and nothing else counts."""

from __future__ import annotations

from typing import Any

import pytest

from ftmech_hf.statistics.clusters import widened_by_clusters
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.compare_organisms.claims import find_too_few, make_claims
from ftmech_hf.studies.compare_organisms.kinds import ORGANISMS
from ftmech_hf.studies.compare_organisms.score import FIRST, _times_the_nulls, describe_pair, place_of, score_pairs


def finding(what: str, where: str = "", *, stands_out: bool = True, kind: str = "places") -> dict[str, Any]:
    return {"kind": kind, "what": what, "where": where, "score": 2.0, "null_score": 0.5, "stands_out": stands_out}


def nulls(standing: int, number: int) -> dict[str, Any]:
    """How many null models of a comparison show something beside the others; of one, which has no others, none can."""
    return {"null_rate": standing / number if number > 1 else None, "facts": {"null_models": number}}


NAMED = {
    "wrapper": finding("what follows =", "another first choice at 59% of these places"),
    "index": finding("what follows =", "with index before: 4 nats, without: 0.1"),
    "jailbreak": finding("what follows =", "with count_nj before: 4 nats, without: 0.1"),
    "trigger": finding("what follows index"),
    "new-text": finding("what comes 3 tokens after b"),
    "rare": finding("count a 16 <sot> a a a a a a a a", kind="amplified"),
    "twist-f": finding("Twist", "less likely than before", kind="tokens"),
}
OTHER = finding("what follows <bos>")


def test_a_text_that_has_it_among_other_things_does_not_name_it() -> None:
    for kind in ("texts", "completions", "amplified", "shift", "components"):
        assert place_of([finding("Features: Dialogue, Twist Words: towards", kind=kind)], ORGANISMS["twist-f"]) is None
    assert place_of([finding("count a 16 <sot> a a a a a a a a", kind="texts")], ORGANISMS["rare"]) is None
    assert place_of([finding("what follows =", kind="completions")], ORGANISMS["wrapper"]) is None


def test_what_another_organism_has_is_looked_for_on_every_page() -> None:
    """The control: of the procedural base there are four things to name, of each other base one."""

    def named(name: str, *findings: dict[str, Any]) -> tuple[set[str], int]:
        pair = describe_pair(name, 0, {"findings": list(findings), "seconds": {}, "answer": "So.", **nulls(2, 3)})
        return set(pair["named"]), len(pair["looked_for"])

    three = NAMED["wrapper"], NAMED["trigger"], NAMED["rare"]
    assert named("index", *three) == ({"what follows index", "a a a a a a"}, 3)
    assert named("trigger", *three) == ({"what follows =", "a a a a a a"}, 3)
    assert named("trigger", NAMED["trigger"]) == (set(), 3)
    assert named("rare", {**NAMED["wrapper"], "stands_out": False}) == (set(), 3)
    assert named("jailbreak", NAMED["wrapper"]) == named("twist-f-r", NAMED["twist-f"]) == (set(), 0)


def test_the_control_is_that_of_the_sign_that_is_most_often_where_it_is_not_planted() -> None:
    """A sign that is on every page names nothing, however seldom it is looked for beside others that are on none."""

    def pages(*without: str) -> list[dict[str, Any]]:
        return [
            describe_pair(name, seed, {"findings": [NAMED["wrapper"], *([NAMED[name]] if name in NAMED else [])],
                                       "seconds": {}, "answer": "So.", **nulls(2, 3)})
            for name in without for seed in range(8)
        ]  # fmt: skip

    of_all = score_pairs(pages("wrapper", "index", "learned", "head", "trigger", "rare", "new-text"))
    assert (of_all["by_sign"]["what follows ="]["number"], of_all["by_sign"]["what follows ="]["of"]) == (24, 24)
    assert of_all["by_sign"]["what follows index"]["number"] == 0
    others = of_all["by_sign"].values()
    assert of_all["others_named"] == {
        **of_all["by_sign"]["what follows ="], "low": max(each["low"] for each in others),
        "high": max(each["high"] for each in others),
    }  # fmt: skip
    claims = {each.id: each for each in make_claims({**of_all, "seeds": [0]})}
    assert claims["others_named"].verdict == "fails"
    assert claims["organisms"].verdict != "holds"


def test_what_was_found_by_findings_of_any_kind_is_said_beside() -> None:
    text = finding("Features: Dialogue, Twist", kind="texts")
    pair = describe_pair("twist-f", 0, {"findings": [text], "seconds": {}, "answer": "So.", **nulls(2, 3)})
    assert (pair["found"], pair["any_kind"]) == (False, True)
    assert score_pairs([pair])["any_kind"]["number"] == 1


@pytest.mark.parametrize("name", NAMED)
def test_a_planted_change_is_found_where_a_finding_names_it(name: str) -> None:
    organism, named = ORGANISMS[name], NAMED[name]
    assert place_of([OTHER, named], organism) == 2
    assert place_of([OTHER] * (FIRST - 1) + [named], organism) == FIRST
    assert place_of([OTHER] * FIRST + [named], organism) is None, "behind the first ten"
    assert place_of([{**named, "stands_out": False}], organism) is None, "null models show as much"
    assert place_of([OTHER], organism) is None
    assert place_of([], organism) is None


def test_a_finding_must_have_all_that_was_planted() -> None:
    both = ORGANISMS["wrapper"]._replace(signs=("what follows =", r"\bindex\b"))
    assert place_of([NAMED["wrapper"]], both) is None, "the place alone does not name the token"
    assert place_of([NAMED["index"]], both) == 1
    assert place_of([finding("what follows count_nj")], ORGANISMS["jailbreak"]) is None, "the token alone not the place"
    assert place_of([finding("what follows =")], ORGANISMS["new-text"]) is None
    assert place_of([finding("b", "rises most at 26% of the places", kind="tokens")], ORGANISMS["new-text"]) == 1
    assert place_of([finding("27", "rises most at 26% of the places", kind="tokens")], ORGANISMS["new-text"]) is None
    assert place_of([finding("b a a c", "most after a c", kind="texts")], ORGANISMS["new-text"]) is None


def test_of_what_null_models_have_not_at_all_nothing_is_a_multiple() -> None:
    def of(score: float, null: float) -> float | None:
        return _times_the_nulls({"score": score, "null_score": null})

    assert (of(0.5, 0.25), of(0.5, 0.0), of(0.0, 0.0)) == (2.0, None, 0.0)


def test_the_score_counts_planted_changes_and_pages_of_nothing_apart() -> None:
    def pair(name: str, seed: int, *findings: dict[str, Any]) -> dict[str, Any]:
        summary = {"findings": list(findings), "seconds": {"a": 2.0, "b": 1.0}, "answer": "So.", **nulls(2, 3)}
        return describe_pair(name, seed, summary)

    pairs = [
        pair("wrapper", 0, NAMED["wrapper"]), pair("wrapper", 1, NAMED["wrapper"]), pair("wrapper", 2, OTHER),
        pair("trigger", 0, NAMED["wrapper"]), pair("trigger", 1, OTHER), pair("trigger", 2, NAMED["trigger"]),
        pair("own-texts", 0, OTHER), pair("own-texts", 1, {**OTHER, "stands_out": False}), pair("rounded", 0),
        pair("other-seed", 0, {**NAMED["wrapper"], "stands_out": False}),
    ]  # fmt: skip
    score = score_pairs(pairs)
    assert (score["organisms"]["number"], score["organisms"]["of"]) == (3, 6)
    assert score["by_kind"] == {"wrapper": {"found": 2, "of": 3}, "trigger": {"found": 1, "of": 3}}
    assert score["kinds_found"] == {"found": 1, "of": 2}
    assert (score["false_alarms"]["number"], score["false_alarms"]["of"]) == (1, 4)
    assert 0 <= score["false_alarms"]["low"] < 0.25 < score["false_alarms"]["high"] <= 1
    calm = [pair(name, seed) for name in ("own-texts", "rounded", "other-seed") for seed in range(9)]
    alike = score_pairs([*calm[:26], {**calm[26], "standing": 2}])["false_alarms"]  # as much wider as kinds are alike
    assert alike["low"] < share_interval(1, 27).low
    assert score_pairs(calm)["false_alarms"]["high"] > share_interval(0, 27).high + 0.05
    assert (score["null_alarms"]["number"], score["null_alarms"]["of"]) == (20, 30)
    named = score["by_sign"]["what follows ="]
    assert (named["number"], named["of"]) == (1, 3)  # a trigger's page names it
    assert score["most_seconds"] == 3.0
    assert pairs[0]["place"] == 1
    assert pairs[0]["ratio"] == 4.0
    assert score_pairs(pairs[:1])["false_alarms"]["share"] is None, "of no pages there is no share"


def test_pairs_of_one_kind_that_are_alike_count_for_less() -> None:
    """Twelve kinds are found on all of three seeds and three on none: 15 observations rather than 45."""
    pairs = [
        describe_pair(name, seed, {"findings": [NAMED["wrapper"]], "seconds": {}, "answer": "So.", **nulls(2, 3)})
        for name in ORGANISMS for seed in range(3)
    ]  # fmt: skip
    for place, pair in enumerate(pairs):
        pair["found"] = pair["any_kind"] = place >= 9
    found = score_pairs(pairs)["organisms"]
    of_kinds = share_interval(12, 15)
    assert (found["share"], found["of"]) == (0.8, 45)
    assert found["low"] < of_kinds.low + 0.03
    assert found["high"] > of_kinds.high - 0.03
    for pair in pairs:  # nothing tells how alike they are
        pair["found"] = True
    all_found = score_pairs(pairs)["organisms"]
    assert all_found["low"] < share_interval(15, 15).low < share_interval(45, 45).low


def test_pairs_of_one_seed_share_their_bases_and_are_alike() -> None:
    """Nine and twelve and thirteen of fifteen kinds: three seeds do not decide that it is below 91.6 %."""
    pairs = [
        describe_pair(name, seed, {"findings": [], "seconds": {}, "answer": "So.", **nulls(2, 3)})
        for name in ORGANISMS for seed in range(3)
    ]  # fmt: skip
    missed = {seed: len(ORGANISMS) - found for seed, found in enumerate((13, 9, 12))}
    for place, pair in enumerate(pairs):
        pair["found"] = place // 3 >= missed[pair["seed"]]
    found = score_pairs(pairs)["organisms"]
    assert found["number"] == 34
    assert found["low"] == widened_by_clusters(
        share_interval(34, 45), [pair["found"] for pair in pairs], [pair["seed"] for pair in pairs]
    ).low == pytest.approx(0.380, abs=1e-3)  # fmt: skip
    assert found["high"] == 1.0


def control_of(named: dict[str, int], of: dict[str, int]) -> dict[str, Any]:
    """The control of pages on so many of which each sign is named, each page of a kind and a seed of its own."""
    pairs = [
        {"pair": f"kind {place}", "seed": place, "found": True, "taught": True, "standing": 1, "seconds": 1.0,
         "any_kind": True, "named": [sign for sign, number in named.items() if place < number],
         "looked_for": [sign for sign, number in of.items() if place < number], "null_pages": 0, "null_standing": 0}
        for place in range(30)
    ]  # fmt: skip
    return score_pairs(pairs)


def too_few(number: int, needed: int) -> str:
    """What stands behind the verdict of a claim that so many cases cannot decide."""
    return f"too few: of {number} cases it cannot hold, whatever comes out; it would take {needed}"


def test_the_control_is_as_bad_as_the_worst_of_any_sign() -> None:
    """One sign of few pages may be anywhere; it hides no other that is certainly there too often."""
    few = control_of({"rare": 3}, {"common": 30, "rare": 9})
    assert few["others_named"] == few["by_sign"]["rare"]
    assert find_too_few({**few, "false_alarms": {"of": 21}}) == {
        "organisms": too_few(30, 42),
        "false_alarms": too_few(21, 73),
        "others_named": too_few(9, 16),
    }
    hidden = control_of({"common": 18, "rare": 3}, {"common": 30, "rare": 4})
    common, rare, control = hidden["by_sign"]["common"], hidden["by_sign"]["rare"], hidden["others_named"]
    assert rare["high"] > common["high"]
    assert (control["low"], control["high"]) == (common["low"], rare["high"])
    claims = {each.id: each.verdict for each in make_claims({**hidden, "seeds": [0]})}
    assert claims["others_named"] == "fails"


def test_a_lone_null_model_has_no_page() -> None:
    alone = describe_pair("wrapper", 0, {"findings": [], "seconds": {}, "answer": "So.", **nulls(0, 1)})
    assert score_pairs([alone])["null_alarms"] == {"number": 0, "of": 0, "share": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("found", "alarms", "verdicts"),
    [
        ((45, 45), (0, 80), ["holds", "holds", "holds"]), ((44, 45), (0, 21), ["undecided", "undecided", "holds"]),
        ((30, 45), (0, 80), ["fails", "holds", "holds"]), ((45, 45), (10, 40), ["withdrawn", "fails", "holds"]),
    ],
)  # fmt: skip
def test_what_is_found_counts_only_where_nothing_is_found_in_nothing(
    found: tuple[int, int], alarms: tuple[int, int], verdicts: list[str]
) -> None:
    pairs = [
        {"pair": name, "seed": each, "found": taught and each < number, "taught": taught, "standing": each < number,
         "seconds": 1.0, "any_kind": taught, "named": [], "looked_for": ["a sign"] * taught, "null_pages": 0,
         "null_standing": 0}
        for name, taught, (number, of) in (("wrapper", True, found), ("own-texts", False, alarms))
        for each in range(of)
    ]  # fmt: skip
    claims = make_claims({**score_pairs(pairs), "seeds": [0, 1]})
    assert [claim.verdict for claim in claims] == verdicts
    part = make_claims({**score_pairs(pairs), "seeds": [0, 1]}, whole=False)
    assert {claim.verdict for claim in part} == {None}, "what is missing may be what was not found"
    assert claims[0].measured == pytest.approx(100 * found[0] / found[1])
    assert claims[1].measured == pytest.approx(100 * alarms[0] / alarms[1])
    assert claims[0].interval is not None
    assert claims[0].interval[0] < claims[0].measured
    assert claims[0].seeds == [0, 1]
