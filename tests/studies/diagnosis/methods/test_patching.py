from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.analysis.patching import patch_each
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.whole_words import WritesWords
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.methods.attribution import measure_attribution
from ftmech_hf.studies.diagnosis.methods.patching import BACK, FORTH, measure_patching
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


def halves(first: Case, donor: str, receiver: str, blocks: int) -> PreTrainedModel:
    """A model made of the first blocks (and embeddings) of one and all else of another."""
    kept = ("model.embed_tokens", *(f"model.layers.{layer}." for layer in range(blocks)))
    weights = first.models[donor].state_dict()
    model = make_llama(40)
    model.load_state_dict(
        {name: weights[name] if name.startswith(kept) else value
         for name, value in first.models[receiver].state_dict().items()}
    )  # fmt: skip
    return model


def stitched(first: Case, donor: str, receiver: str, blocks: int) -> torch.Tensor:
    """Right answers of such a model."""
    rows, model = first.few("capability").token_ids, halves(first, donor, receiver, blocks)
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


class Letters:
    """A tokenizer whose odd tokens are letters and whose even ones are spaces."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join("a" if token % 2 else " " for token in token_ids)


def test_an_answer_under_a_patch_is_no_longer_word_either() -> None:
    """The rule is that of all answers, in halves and of single neurons; rows without a place for more stand."""
    words: Any = Letters()
    plain = make_case(make_wrapped("llama"), patch_rows=150)
    questions = dataclasses.replace(plain.capability, score=WritesWords(words))
    case = make_case(make_wrapped("llama"), questions, patch_rows=150)
    probing = ProbingMethodResult(readings={}, places=Places(0, (NULL, 0), 0, 0), answers_seen=1, rows_per_answer=9)
    found, every = measure_patching(case, probing), measure_patching(plain, probing)
    for way in (BACK, FORTH):
        expected = case.few_right(case.models[way.receiver], "capability")
        assert found.found[way].unpatched.tolist() == expected.tolist()
        # with the other's whole stream it is that model, up to the last norm and the unembedding
        other = case.few_right(halves(case, way.donor, way.receiver, 2), "capability")
        assert found.found[way].right["resid_post", 1].tolist() == other.tolist()
        np.testing.assert_allclose(
            found.found[way].log_probability["mlp_act", 0], every.found[way].log_probability["mlp_act", 0], atol=1e-5
        )
    late, of_all = found.evidence().late, every.evidence().late
    assert late is not None
    assert of_all is not None
    assert 0 < late.value < of_all.value
    assert 0 < found.found[FORTH].unpatched.sum() < every.found[FORTH].unpatched.sum()
    attributed = measure_attribution(case)
    alone = case.few_right(case.models[FINETUNED], "capability")
    assert attributed.right[0]["capability"].tolist() == alone.tolist()
    for model in case.models.values():
        model.config.max_position_embeddings = case.few("capability").token_ids.shape[1] - 2
    assert case.stands("capability", case.few("capability")) is None
    assert plain.stands("capability", case.few("capability")) is None


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
