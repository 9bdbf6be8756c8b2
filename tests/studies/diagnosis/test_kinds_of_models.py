"""A pair of any architecture is looked into by all methods; what it lacks is named, and experts are matrices."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.models.loading import random_twin
from ftmech_hf.models.small import small_model
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.patching import explain_patching, measure_patching
from ftmech_hf.studies.diagnosis.methods.probing import Places, ProbingMethodResult
from ftmech_hf.studies.diagnosis.methods.weights import measure_weights
from ftmech_hf.training.low_rank import adapter_in_place
from tests.studies.diagnosis.cases import measured

FEW = CaseConfig(
    rows=8, fit_rows=24, patch_rows=6, null_steps=0, thorough=True, reverse_steps=1, most_reverse_steps=1, repeats=2,
    random_masks=2, prune_sizes=[0, 2], max_layers=1, reverse_batch_size=4, reverse_by="adapter",
)  # fmt: skip


def pair(kind: str) -> tuple[Case, PreTrainedModel, PreTrainedModel]:
    """A small model of random weights, a copy of it to change, and questions about the first token."""
    base = small_model(kind)
    tuned = copy.deepcopy(base)
    torch.manual_seed(0)
    rows = torch.randint(4, 8, (68, 7))  # of four words, so that most answers occur more than once
    rows[:, -2] = rows[:, 1]
    answer = torch.zeros_like(rows, dtype=torch.bool)
    answer[:, -2] = True
    whole = AnswerRows(token_ids=rows, answer=answer)
    asked = Behavior(
        name="first", train=whole[:24], validation=whole[24:40], tests={"test": whole[40:56]}, again=whole[56:]
    )
    return Case({BASE: base, FINETUNED: tuned, NULL: random_twin(base, 3)}, asked, None, FEW, 0), base, tuned


def test_an_expert_is_a_matrix_whose_change_is_measured() -> None:
    """One of them is made twice as large: that is a change of its own size, and nothing else changed."""
    case, base, tuned = pair("mixtral")
    layer = case.layers[0]
    with torch.no_grad():
        tuned.model.layers[layer].mlp.experts.down_proj[1] *= 2
    found = measure_weights(case)
    name = f"model.layers.{layer}.mlp.experts.down_proj.1"
    assert found.change.matrices[name].relative_norm == pytest.approx(1.0)
    assert {each for each, change in found.change.matrices.items() if change.relative_norm > 0} == {name}
    experts = base.config.num_local_experts
    assert sum(f".{layer}.mlp.experts." in each for each in found.change.matrices) == 2 * experts
    assert (found.places[name].site, found.places[name].layer) == ("mlp.experts.down_proj.1", layer)
    assert found.action == []  # what the last matrix of an MLP reads is no site where there are experts


def test_what_an_architecture_lacks_is_not_exchanged_and_named() -> None:
    case, _, _ = pair("mixtral")
    probing = ProbingMethodResult(readings={}, places=Places(0, (NULL, 0), 0, 0), answers_seen=1, rows_per_answer=9)
    found = measure_patching(case, probing)
    assert {site for way in found.found.values() for site, _ in way.right} == {"resid_post", "attn_out"}
    assert list(found.missing) == ["mlp_act"]
    best = found.best_part()
    assert best is not None
    assert (best.site, best.places) == ("attn_out", len(case.layers))
    said = explain_patching({"evidence": {**found.summary(), "best_part": {
        **best._asdict(), **{name: getattr(best, name)._asdict() for name in ("accuracy", "alone", "other_row")},
    }}})  # fmt: skip
    assert f"The MLP cannot be exchanged by itself: {found.missing['mlp_act']}." in said


def test_where_neither_attention_nor_mlp_can_be_exchanged_only_the_stream_is() -> None:
    case, _, _ = pair("falcon_h1")
    probing = ProbingMethodResult(readings={}, places=Places(0, (NULL, 0), 0, 0), answers_seen=1, rows_per_answer=9)
    found = measure_patching(case, probing)
    assert {site for way in found.found.values() for site, _ in way.right} == {"resid_post"}
    assert (found.best_part(), list(found.missing)) == (None, ["attn_out", "mlp_act"])
    said = explain_patching({"evidence": found.summary()})
    assert "The attention cannot be exchanged by itself: " in said
    assert "the best" not in said


@pytest.mark.parametrize(("kind", "none_on"), [("mixtral", "experts"), ("falcon_h1", "out_proj")])
def test_an_adapter_to_train_back_is_put_on_what_peft_takes(kind: str, none_on: str) -> None:
    model = small_model(kind)
    assert any(none_on in name for name, _ in model.named_modules())
    with adapter_in_place(model, seed=0):
        trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert len(trained) >= 2 * model.config.num_hidden_layers
        assert not any(none_on in name for name in trained)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixtral", "opt", "bamba", "qwen3_next", "gpt_oss", "deepseek_v3", "falcon_h1"])
def test_all_methods_look_into_a_pair_of_every_kind(kind: str) -> None:
    case, _, tuned = pair(kind)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.05 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0)
    names = [name for name, method in METHODS.items() if not method.asked_by]
    found = measured(case, *names)
    assert {each["analysis"] for each in found.rows()} >= set(names) - {"null models"}
