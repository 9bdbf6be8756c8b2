"""Models whose parts accelerate has placed, as ``device_map="auto"`` does, are diagnosed like those that are whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pandas as pd
import pytest
from accelerate import cpu_offload
from transformers import PreTrainedModel

from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.placed import place
from tests.simulated_gpu import simulated_gpu
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import ask, make_base, make_never, make_rows, make_wrapped

FEW = CaseConfig(
    rows=40, fit_rows=64, patch_rows=16, reverse_lr=1e-3, reverse_steps=4, most_reverse_steps=4, repeats=2,
    random_masks=2, null_steps=0, prune_sizes=[0, 2], max_layers=2,
)  # fmt: skip
QUICK = ("behaviour", "pruning", "revival", "probing", "patching", "logit lens", "path", "weights")
DEVICES = ("cpu", "gpu")


def compare(placed: Mapping[str, PreTrainedModel], models: Mapping[str, PreTrainedModel], *methods: str) -> None:
    """Measure both; the reference takes the place of the base of another seed, too."""
    tables = [
        pd.DataFrame(measured(Case(given, ask(make_rows()), None, FEW, 0, other_seed=given[NULL]), *methods).rows())
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
        # what is first of the base and the reference is second of the fine-tuned model: nothing may count on the same
        placed = {name: place(model, *DEVICES[:: -1 if name == FINETUNED else 1]) for name, model in models.items()}
        assert {each.device.type for each in placed[BASE].parameters()} == set(DEVICES)
        compare(placed, models, *QUICK, "change", "intruders", "direction", "attribution")


def test_a_model_whose_weights_are_elsewhere_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"^model: 21 of its weights are offloaded .* load it without cpu_offload"):
        plain_model(cpu_offload(copy.deepcopy(make_base("llama"))), "base")
