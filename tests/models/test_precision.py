"""On a device without float64, as Apple's, what needs that is computed on the CPU, and is the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.activations.patches import Part as ComputedPart
from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.analysis.part_patching import patch_parts
from ftmech_hf.analysis.restoring import BLOCKS, Part, WeightChange, find_places
from ftmech_hf.explorer.edits import Edit, EditedModel
from ftmech_hf.jobs.generation import Amplified, continue_rows
from ftmech_hf.models import precision
from ftmech_hf.studies.compare.nulls import null_models
from tests.conftest import make_llama
from tests.simulated_gpu import simulated_gpu

IDS = torch.randint(3, 38, (8, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS, dtype=torch.bool)


def measured(base: PreTrainedModel, tuned: PreTrainedModel) -> dict[str, Any]:
    """What samples, sums up and takes matrices apart."""
    outputs = compare_outputs(base, {"": tuned}, IDS, MASK, tokens=38)[""]
    (null,) = null_models(base, tuned, IDS, MASK, number=1, seed=0, steps=2, batch_size=4)
    parts = patch_parts(base, IDS, IDS.flip(0), [ComputedPart("mlp_act", 1, 0, 3, 1)], source="mean")
    with EditedModel(base, tuned).edited(Edit(directions=2)) as model:
        edited = model.model.layers[1].mlp.up_proj.weight.detach().cpu()
    return {
        "written": continue_rows(tuned, [[3, 4], [5]], eos=2, seed=0, max_new_tokens=9),
        "amplified": continue_rows(tuned, [[3, 4], [5]], eos=2, seed=0, max_new_tokens=9,
                                   amplified=Amplified(base, 1.0), tokens=38),
        "outputs": (outputs.rows(), outputs.summary()),
        "null": torch.cat([each.detach().flatten() for each in null.parameters()]).cpu(),
        "parts": (parts.changed, parts.effect),
        "change": WeightChange(base, tuned, find_places(tuned)).size(Part(BLOCKS, 1)),
        "edited": edited.tolist(),
    }  # fmt: skip


def test_nothing_is_computed_in_float64_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_llama(40, seed=0), make_llama(40, seed=1)
    expected = measured(base, tuned)
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", ("gpu",))
    with simulated_gpu() as seen:
        found = measured(*(copy.deepcopy(each).to("gpu") for each in (base, tuned)))
    assert not seen.doubles
    assert seen.waits
    # optimizers of several kinds of devices take steps that differ in their last digits
    torch.testing.assert_close(found.pop("null"), expected.pop("null"), atol=1e-5, rtol=0)
    for what, value in expected.items():
        assert found[what] == value, what
