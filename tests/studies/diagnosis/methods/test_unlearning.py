from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ftmech_hf.analysis.patching import PatchingResult
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL
from ftmech_hf.studies.diagnosis.methods.patching import BACK, FORTH, Way, measure_patching
from ftmech_hf.studies.diagnosis.methods.probing import Places, ProbingMethodResult
from ftmech_hf.studies.diagnosis.methods.unlearning import draw_unlearning, measure_depths, measure_unlearning
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_wrapped


def test_the_depth_of_a_wrapper_lies_between_a_copy_and_the_control() -> None:
    """Of the stream's places alone: what a copy of the base has lost is nothing, the reference all."""
    case = make_case(make_wrapped("llama"), patch_rows=60)
    places = Places(0, (NULL, 0), 0, 0)
    probing = ProbingMethodResult(readings={}, places=places, answers_seen=1, rows_per_answer=9)
    found = measure_patching(case, probing)
    result = measure_unlearning(case, found)
    streams = found.found[FORTH].log_probability
    control = found.found[Way(NULL, BASE)].log_probability
    base = found.found[FORTH].unpatched_log_probability
    falls = [(float((base - control["resid_post", layer]).mean()), float((base - streams["resid_post", layer]).mean()))
             for layer in case.layers]  # fmt: skip
    counted = [(fall, min(max(own / fall, 0), 1)) for fall, own in falls if fall > 0.05]
    expected = sum(fall * share for fall, share in counted) / sum(fall for fall, _ in counted)
    assert result.depths[FINETUNED].depth.value == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected < 0.95
    depths = {name: each.depth.value for name, each in result.depths.items()}
    copy = {**found.found, FORTH: found.found[BACK], Way("copy", BASE): PatchingResult(
        {}, {}, np.arange(0), found.found[FORTH].unpatched, dict.fromkeys(streams, base), base)}  # fmt: skip
    assert measure_depths(copy, ["copy", NULL], seed=0)["copy"].depth == (0, 0, 0)
    assert measure_depths(copy, ["copy", NULL], seed=0)[NULL].depth == (1, 1, 1)
    assert set(depths) == {FINETUNED, *case.null_models}
    table, facts = found_by(result)
    own = [each for each in table if each["quantity"] == "unlearning depth" and not each["reference"]]
    assert [(each["model"], each["value"]) for each in own] == [(FINETUNED, depths[FINETUNED])]
    assert facts["unlearning_depth"][FINETUNED]["value"] == depths[FINETUNED]
    figure, axes = plt.subplots()
    draw_unlearning(axes, pd.DataFrame(table), "control")
    drawn = {str(each.get_label()): list(each.get_ydata()) for each in axes.lines}
    assert drawn["control's stream"] == pytest.approx([fall for fall, _ in falls], abs=1e-5)
    assert drawn["the fine-tuned model's stream"] == pytest.approx([own for _, own in falls], abs=1e-5)
    plt.close(figure)
