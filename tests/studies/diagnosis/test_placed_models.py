"""Models whose parts accelerate has placed, as ``device_map="auto"`` does, are diagnosed like those that are whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pandas as pd
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import PreTrainedModel

from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.simulated_gpu import simulated_gpu
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import ask, make_base, make_never, make_rows, make_wrapped

FEW = CaseConfig(
    rows=40, fit_rows=64, patch_rows=16, reverse_lr=1e-3, reverse_steps=4, most_reverse_steps=4, repeats=2,
    random_masks=2, null_steps=0, prune_sizes=[0, 2], max_layers=2,
)  # fmt: skip
QUICK = ("behaviour", "pruning", "revival", "probing", "patching", "logit lens", "path", "weights")


def place(model: PreTrainedModel, first: str = "cpu", second: str = "cpu") -> PreTrainedModel:
    """Parts on one device and another in turn, with the hooks that carry values there."""
    layers = [f"model.layers.{layer}" for layer in range(model.config.num_hidden_layers)]
    chain = ["model.embed_tokens", *layers, "model.norm"]
    parts = {part: (first, second)[number % 2] for number, part in enumerate(chain)}
    parts |= {"model.rotary_emb": first, "lm_head": parts["model.norm"]}
    # accelerate takes the CPU for a place to compute on by its name alone, and "gpu" for none
    where = {part: "cpu" if device == "cpu" else torch.device(device, 0) for part, device in parts.items()}
    placed: PreTrainedModel = dispatch_model(copy.deepcopy(model), where, main_device="cpu", force_hooks=True)
    return placed


def compare(placed: Mapping[str, PreTrainedModel], models: Mapping[str, PreTrainedModel], *methods: str) -> None:
    tables = [
        pd.DataFrame(measured(Case(given, ask(make_rows()), None, FEW, 0), *methods).rows())
        for given in (models, placed)
    ]
    assert len(tables[0]) > 50
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-6, atol=1e-6)


def test_a_model_whose_parts_were_placed_gives_the_same_numbers() -> None:
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")}
    placed = {name: plain_model(place(model), name) for name, model in models.items()}
    assert hasattr(placed[BASE].model.layers[0], "_hf_hook")
    compare(placed, models, *QUICK)


def test_models_whose_parts_are_on_two_devices_give_the_same_numbers() -> None:
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")}
    with simulated_gpu():
        placed = {name: place(model, "cpu", "gpu") for name, model in models.items()}
        assert {each.device.type for each in placed[BASE].parameters()} == {"cpu", "gpu"}
        compare(placed, models, *QUICK)


def test_a_model_whose_weights_are_elsewhere_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"^model: 21 of its weights are offloaded .* load it without cpu_offload"):
        plain_model(cpu_offload(copy.deepcopy(make_base("llama"))), "base")
