from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ftmech_hf.analysis.patching import patch_each
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.methods.patching import BACK, measure_patching
from ftmech_hf.studies.diagnosis.methods.probing import Places, ProbingMethodResult
from ftmech_hf.tasks.text.tokens import Whole
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_wrapped


def patched(case: Case, late: int | None, early: int | None) -> dict[str, Any]:
    """What patching finds where probing found the places where halves meet."""
    places = Places(0, (NULL, 0), late, early)
    probing = ProbingMethodResult(readings={}, places=places, answers_seen=1, rows_per_answer=9)
    return found_by(measure_patching(case, probing))[1]


def stitched(first: Case, donor: str, receiver: str, blocks: int) -> torch.Tensor:
    """Right answers of a model made of the first blocks (and embeddings) of one and all else of another."""
    kept = ("model.embed_tokens", *(f"model.layers.{layer}." for layer in range(blocks)))
    weights = first.models[donor].state_dict()
    model = make_llama(40)
    model.load_state_dict(
        {name: weights[name] if name.startswith(kept) else value
         for name, value in first.models[receiver].state_dict().items()}
    )  # fmt: skip
    rows = first.few("capability").token_ids
    with torch.no_grad():
        return model(rows[:, :-2]).logits[:, -1].argmax(-1) == rows[:, -2]


def test_halves_are_what_a_model_of_two_halves_answers() -> None:
    case = make_case(make_wrapped("llama"), patch_rows=150)
    facts = patched(case, 0, 0)
    for name, donor, receiver in (
        ("early", FINETUNED, BASE), ("early_null", NULL, BASE), ("late", BASE, FINETUNED), ("late_null", BASE, NULL),
    ):  # fmt: skip
        right = stitched(case, donor, receiver, 1)
        assert facts[name] == share_interval(int(right.sum()), len(right))
    assert (facts["early_blocks"], facts["late_blocks"], facts["num_blocks"]) == (1, 1, 2)
    assert len({facts[name].value for name in ("early", "early_null", "late", "late_null")}) == 4
    # neither half, and blocks by side
    none = patched(case, None, 1)
    assert (none["late"], none["late_null"], none["late_blocks"], none["early_blocks"]) == (None, None, None, 2)


def test_the_best_part_is_chosen_on_other_rows_than_it_is_reported_on() -> None:
    case = make_case(make_wrapped("llama"), patch_rows=150)
    facts = patched(case, 0, 0)
    part = facts["best_part"]
    assert part["places"] == 4
    found = patch_each(case.models[BASE], case.models[FINETUNED], case.few("capability").token_ids,
                                sites=["attn_out", "mlp_act"], layers=[0, 1], other_rows=64)  # fmt: skip
    chosen = max(found.right, key=lambda place: found.right[place][::2].mean())
    assert (part["site"], part["layer"]) == chosen
    right, rest = found.right[chosen][1::2], found.unpatched[1::2]
    assert part["accuracy"] == share_interval(int(right.sum()), len(right))
    assert part["alone"] == share_interval(int(rest.sum()), len(rest))
    other = found.other_row[chosen][1::2]  # of the first rows those that did not choose
    assert part["other_row"] == share_interval(int(other.sum()), len(other))


def test_halves_say_nothing_where_answers_are_judged_otherwise() -> None:
    """As of choices, or of all that is written: a patched model is judged by its most likely tokens alone."""
    case = make_case(make_wrapped("llama"), patch_rows=20)
    probing = ProbingMethodResult(readings={}, places=Places(0, (NULL, 0), 0, 0), answers_seen=1, rows_per_answer=9)
    assert case.capability.is_begun_with
    found = measure_patching(case, probing)
    assert found.evidence().late is not None
    case.capability = dataclasses.replace(case.capability, score=lambda model, rows: torch.ones(len(rows)))
    other = measure_patching(case, probing)
    assert [getattr(other.evidence(), name) for name in ("late", "late_null", "early", "early_null")] == [None] * 4
    assert other.rows() == found.rows()


def test_every_accepted_answer_is_right_under_a_patch() -> None:
    case = make_case(make_wrapped("llama"), patch_rows=40)
    told = case.few("capability")
    given = patched_answers(case)
    swapped = told.token_ids.clone()
    swapped[:, -2] = told.token_ids[:, -2].roll(1)  # wrong answers are the rows' own ...
    accepted = [[Whole(tuple(row), 1)] for row in told.token_ids.tolist()]  # ... and the right ones are accepted too
    rows = dataclasses.replace(told, token_ids=swapped)
    for others, wanted in ((accepted, given | patched_answers(with_rows(case, rows))), (None, None)):
        found = patched_answers(with_rows(case, dataclasses.replace(rows, accepted=others)))
        if wanted is None:
            assert not np.array_equal(found, given)  # without them they do not count
        else:
            assert np.array_equal(found, wanted)
            assert given.any()


def with_rows(case: Case, rows: AnswerRows) -> Case:
    asked = dataclasses.replace(case.capability, tests={"test": rows})
    return Case(case.models, asked, None, case.config, case.seed)


def patched_answers(case: Case) -> NDArray[np.bool_]:
    """Whether each row is right with the base's stream in the fine-tuned model, after the first block."""
    places = Places(0, (NULL, 0), 0, 0)
    found = measure_patching(case, ProbingMethodResult(readings={}, places=places, answers_seen=1, rows_per_answer=9))
    return found.found[BACK].right["resid_post", 0]
