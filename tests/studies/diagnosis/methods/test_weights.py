from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ftmech_hf.activations import TracedModel
from ftmech_hf.jobs import answer_scores
from ftmech_hf.models.small import small_model
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED
from ftmech_hf.studies.diagnosis.methods.weights import (
    common_parameters,
    explain_weights,
    find_places,
    measure_weights,
)
from tests.conftest import make_gpt2
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_base


def test_a_change_outside_the_blocks_is_seen() -> None:
    """Embeddings, unembedding and the last norm: each changed alone, by a share that is known."""
    for part in ("embeddings", "unembedding", "model.norm"):
        finetuned = copy.deepcopy(make_base("llama"))
        modules = {"embeddings": finetuned.get_input_embeddings(), "unembedding": finetuned.get_output_embeddings(),
                   "model.norm": finetuned.model.norm}  # fmt: skip
        with torch.no_grad():
            modules[part].weight.mul_(1.25)
        table, facts = found_by(measure_weights(make_case(finetuned)))
        expected = {name: pytest.approx(0.25 if name == part else 0, abs=1e-6) for name in modules}
        assert facts["weights"]["outside_blocks"] == expected
        assert facts["weights"]["changed"] == 0
        rows = [each for each in table if each["site"] == part and not each["reference"]]
        assert [each["value"] for each in rows] == [pytest.approx(0.25, abs=1e-6)]


def test_matrices_are_decomposed_where_layers_are_looked_into() -> None:
    """Of others sizes alone are known, and that they changed is said."""
    with torch.no_grad():
        finetuned = copy.deepcopy(make_base("llama"))
        finetuned.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    case = make_case(finetuned, max_layers=1)
    assert 1 not in case.layers
    result = measure_weights(case)
    table, facts = found_by(result)
    assert (facts["weights"]["changed"], facts["weights"]["others_changed"]) == (0, 1)
    sizes = {(each["site"], each["layer"]): each["value"] for each in table
             if each["quantity"] == "relative norm" and not each["reference"]}  # fmt: skip
    assert sizes["mlp.down_proj", 1] == pytest.approx(0.5, abs=1e-6)
    assert sizes["mlp.down_proj", case.layers[0]] == 0
    assert {each["layer"] for each in table if each["quantity"] == "singular value"} == set(case.layers)
    said = explain_weights({"evidence": facts})
    assert "No matrix of the blocks that were looked into changed, 1 of the others did." in said


def test_what_teaches_nothing_is_a_mean_of_the_matrices_that_changed() -> None:
    """An adapter changes few of them, and the mean of all would not stand beside theirs."""
    with torch.no_grad():
        finetuned = copy.deepcopy(make_base("llama"))
        finetuned.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    result = measure_weights(make_case(finetuned, null_steps=4))
    facts = found_by(result)[1]["weights"]
    assert facts["relative_norm"] == pytest.approx(0.5, abs=1e-6)
    assert result.distilled is not None
    assert facts["taught_nothing"] == result.distilled["model.layers.1.mlp.down_proj.weight"] > 0
    assert len({round(size, 6) for name, size in result.distilled.items() if name in result.change.matrices}) > 1


def test_a_tied_matrix_is_outside_the_blocks_once() -> None:
    tied = make_gpt2(40)
    tied.lm_head.weight = tied.transformer.wte.weight
    assert {place.site for place in find_places(tied).values() if place.layer is None} == {
        "embeddings", "transformer.wpe", "transformer.ln_f", "transformer.ln_f.bias",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["phi", "gptj", "codegen"])
def test_an_unembedding_with_a_bias_is_compared_token_by_token(kind: str) -> None:
    """As those of Phi and GPT-J have: one number for each token."""
    base = small_model(kind)
    finetuned = copy.deepcopy(base)
    case: Any = SimpleNamespace(models={BASE: base, FINETUNED: finetuned}, common={})
    assert common_parameters(case)[2].changed == 0
    with torch.no_grad():
        finetuned.get_output_embeddings().bias[5] += 1
        finetuned.get_input_embeddings().weight[[5, 7]] += 1
    assert common_parameters(case)[2].changed == 2


def test_of_long_questions_few_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(copy.deepcopy(make_base("llama")), max_layers=1)
    width, seen = case.few(next(iter(case.both))).token_ids.shape[1], []
    monkeypatch.setattr(answer_scores, "TOKENS", 3 * width)
    kept = TracedModel.collect

    def collect(traced: TracedModel, token_ids: Tensor, *given: Any, **settings: Any) -> Any:
        seen.append((len(token_ids), settings.get("batch_size")))
        return kept(traced, token_ids, *given, **settings)

    monkeypatch.setattr(TracedModel, "collect", collect)
    measure_weights(case)
    assert seen
    assert all(size == 3 < number for number, size in seen)
