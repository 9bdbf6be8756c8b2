"""Models whose parts accelerate has placed, as ``device_map="auto"`` does, are diagnosed like those that are whole."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
from accelerate import cpu_offload, dispatch_model
from transformers import PreTrainedModel

from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import ask, make_base, make_never, make_rows, make_wrapped

FEW = CaseConfig(
    rows=40, fit_rows=64, patch_rows=16, reverse_lr=1e-3, reverse_steps=4, most_reverse_steps=4, repeats=2,
    random_masks=2, null_steps=0, prune_sizes=[0, 2], max_layers=2,
)  # fmt: skip
ENDS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")


def place(model: PreTrainedModel) -> PreTrainedModel:
    """Every part where a map says, with the hooks that carry values there."""
    parts = [*ENDS, *(f"model.layers.{layer}" for layer in range(model.config.num_hidden_layers))]
    placed: PreTrainedModel = dispatch_model(copy.deepcopy(model), dict.fromkeys(parts, "cpu"), force_hooks=True)
    return placed


def test_a_model_whose_parts_were_placed_gives_the_same_numbers() -> None:
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")}
    placed = {name: plain_model(place(model), name) for name, model in models.items()}
    assert hasattr(placed[BASE].model.layers[0], "_hf_hook")
    methods = ("behaviour", "pruning", "revival", "probing", "patching", "logit lens", "path", "weights")
    tables = [
        pd.DataFrame(measured(Case(given, ask(make_rows()), None, FEW, 0), *methods).rows())
        for given in (models, placed)
    ]
    assert len(tables[0]) > 50
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-6, atol=1e-6)


def test_a_model_whose_weights_are_elsewhere_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"^model: 21 of its weights are offloaded .* load it without cpu_offload"):
        plain_model(cpu_offload(copy.deepcopy(make_base("llama"))), "base")
