"""What models answer, against models that are asked by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ftmech_hf.statistics.clusters import paired_lead, share_right
from ftmech_hf.statistics.intervals import Share, paired_difference, share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from ftmech_hf.studies.diagnosis.methods.patching import BACK, FORTH
from tests.studies.diagnosis.cases import found_by, make_case, measured, right
from tests.studies.planted import ask, make_rows, make_wrapped


def test_behaviour_is_what_each_model_answers() -> None:
    case = make_case(make_wrapped("llama"))
    table, facts = found_by(measure_behaviour(case))
    hits = {name: right(model, case.capability.test.token_ids) for name, model in case.models.items()}
    for key, name in (("base", BASE), ("finetuned", FINETUNED), ("null", NULL)):
        assert facts[key] == share_interval(int(hits[name].sum()), 200)
    assert facts["drop"] == paired_difference(hits[BASE], hits[FINETUNED])
    assert facts["drop"].value > 0.8
    most = case.capability.train.token_ids[:, -2].bincount().argmax()
    assert facts["chance"] == pytest.approx(float((case.capability.test.token_ids[:, -2] == most).double().mean()))
    assert (facts["control"], facts["same_tokens"]) == (True, True)
    assert {each["reference"] for each in table if each["model"] in (BASE, FINETUNED)} == {False}


def test_rows_of_a_group_that_are_alike_count_as_fewer() -> None:
    """What three questions about one thing tell is what one tells, where they are right or wrong together."""
    rng = np.random.default_rng(0)
    one, other = rng.random(60) < 0.8, rng.random(60) < 0.5
    groups = np.repeat(np.arange(60), 3)
    lead, alone = paired_lead(one.repeat(3), other.repeat(3), groups), paired_difference(one, other)
    assert lead.value == pytest.approx(alone.value)
    assert lead.high - lead.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert share_right(one.repeat(3), groups).low == pytest.approx(share_right(one).low, abs=0.02)
    taken_for_independent = paired_difference(one.repeat(3), other.repeat(3))
    assert lead.low < taken_for_independent.low - 0.04
    # What is not alike is as sure as it was, and so is what has no groups.
    mixed = rng.permutation(180)
    apart = paired_lead(one.repeat(3)[mixed], other.repeat(3)[mixed], groups)
    assert apart.high - apart.low < 1.2 * (taken_for_independent.high - taken_for_independent.low)
    assert paired_lead(one, other, None) == alone


def test_a_fall_that_few_groups_show_is_less_sure() -> None:
    case = make_case(make_wrapped("llama"))
    found = measure_behaviour(case)
    assert found.groups == {"capability": None}
    groups = np.arange(200) // 20
    right = {**found.right, (FINETUNED, "capability"): groups % 2 == 0}
    alone = dataclasses.replace(found, right=right)
    grouped = dataclasses.replace(alone, groups={"capability": groups})
    before, after = alone.evidence(), grouped.evidence()
    assert after.finetuned.value == before.finetuned.value
    for name in ("base", "finetuned", "drop"):
        narrow, wide = getattr(before, name), getattr(after, name)
        assert wide.low <= narrow.low <= narrow.high <= wide.high, name
    assert after.drop.high - after.drop.low > 2 * (before.drop.high - before.drop.low)
    (bar,) = (each for each in grouped.rows() if each["model"] == FINETUNED and each["questions"] == "capability")
    assert (bar["low"], bar["high"]) == pytest.approx(after.finetuned[1:])


def test_every_sign_is_as_sure_as_its_groups_let_it_be() -> None:
    """Of rows that belong together: after pruning, of halves and of what is read, as of answers."""
    asked = ask(make_rows())
    groups, of_others = (part.first_answers.numpy() for part in (asked.test, asked.validation))  # asked for one answer
    grouped = dataclasses.replace(
        asked, tests={**asked.tests, "test": dataclasses.replace(asked.test, groups=groups)},
        validation=dataclasses.replace(asked.validation, groups=of_others),
    )  # fmt: skip
    settings: dict[str, Any] = {"prune_sizes": [0, 1], "random_masks": 2, "max_layers": 2}
    found: list[Any] = [
        measured(make_case(make_wrapped("llama"), each, **settings), "probing", "patching", "pruning").by_method
        for each in (asked, grouped)
    ]
    alone, together = found
    pruning = together["pruning"]
    best, best_null = (
        each.at_best("importance", "capability")[0].numpy() for each in (pruning.finetuned, pruning.null)
    )
    told = pruning.evidence()
    assert (told.pruned, told.pruned_null) == (share_right(best, groups[:100]), share_right(best_null, groups[:100]))
    assert told.pruned != alone["pruning"].evidence().pruned
    shown = next(each for each in pruning.rows() if each["x"] == 0)
    swept = zip(pruning.finetuned.pruning.curve, pruning.finetuned.scores, strict=True)
    whole = next(scores["capability"].numpy() for entry, scores in swept if entry["num_pruned"] == 0)
    assert Share(shown["value"], shown["low"], shown["high"]) == share_right(whole, groups[:100])
    patching = together["patching"]
    late, early, _ = patching.cuts
    cut = late if late is not None else early
    assert cut is not None
    way = BACK if late is not None else FORTH
    assert patching._halves(way, cut) == share_right(patching.found[way].right["resid_post", cut], groups[:100])
    reading, before = (each["probing"].readings[NULL] for each in (together, alone))
    for layer in reading:
        assert reading[layer].reported.value == before[layer].reported.value
    assert any(reading[layer].reported != before[layer].reported for layer in reading)
    assert any(reading[layer].chosen != before[layer].chosen for layer in reading)
