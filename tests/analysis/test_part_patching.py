from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import find_layout
from ftmech_hf.activations.patches import Part, patched_logits, record_activations
from ftmech_hf.analysis.part_patching import PartPatchingResult, Source, patch_parts

PARTS = [Part("mlp_act", 0, 2, 7, 3), Part("head_out", 1, 0, 8, 9), Part("resid_post", 1, 0, 16, 4),
         Part("mlp_act", 0, 0, 16, 9), Part("resid_post", 0, 0, 8, 9)]  # fmt: skip


def some_rows(seed: int, number: int = 7) -> Tensor:
    return torch.randint(3, 40, (number, 12), generator=torch.Generator().manual_seed(seed))


def by_hand(model: PreTrainedModel, rows: Tensor, given: Tensor, part: Part) -> Tensor:
    """Logits of one row after another, with a part of its own."""
    found = []
    for row, values in zip(rows, given, strict=True):

        def write(value: Tensor, values: Tensor = values) -> Tensor:
            value = value.clone()
            value[0, part.position, part.first : part.end] = values[part.position, part.first : part.end]
            return value

        found.append(patched_logits(model, row[None], {(part.site, part.layer): write})[0, -1])
    return torch.stack(found)


@pytest.mark.parametrize("source", ["other row", "zero", "mean"])
def test_each_part_by_hand(any_model: PreTrainedModel, source: Source) -> None:
    model, rows, others = any_model.double(), some_rows(1), some_rows(2)
    result = patch_parts(model, rows, others, PARTS, source=source, batch_size=11)
    clean, elsewhere = (patched_logits(model, each, {})[:, -1] for each in (rows, others))
    own, other = clean.argmax(-1), elsewhere.argmax(-1)
    every = torch.arange(len(rows))
    assert list(result.changed) == list(result.effect) == PARTS
    assert len({*result.effect.values()}) == len(PARTS)
    for part in PARTS:
        place = part.site, part.layer
        given = record_activations(model, others[:, :-2], [place])[place]
        if source != "other row":
            given = given.mean(0, keepdim=True).expand_as(given) * (source == "mean")
        logits = by_hand(model, rows, given, part)
        fall = (clean[every, own] - clean[every, other]) - (logits[every, own] - logits[every, other])
        assert result.effect[part] == pytest.approx(float(fall.mean()), abs=1e-5)
        assert result.changed[part] == pytest.approx(float((logits.argmax(-1) != own).double().mean()))


def test_the_whole_stream_at_the_end_is_the_other_rows_answer(any_model: PreTrainedModel) -> None:
    """And an exchange with oneself, or of what has been read already, changes nothing."""
    rows, others = some_rows(1, 30), some_rows(2, 30)
    width = any_model.config.get_text_config().hidden_size
    last = len(find_layout(any_model).layers) - 1
    whole, read = Part("resid_post", last, 0, width, 9), Part("resid_post", last, 0, width, 3)
    own, other = (patched_logits(any_model, each, {})[:, -1].argmax(-1) for each in (rows, others))
    differ = float((own != other).double().mean())
    result = patch_parts(any_model, rows, others, [whole, read])
    assert result.changed[whole] == pytest.approx(differ)
    assert differ > 0.3
    assert result.changed[read] == 0
    assert result.effect[read] == pytest.approx(0, abs=1e-5)
    assert patch_parts(any_model, rows, rows, [whole]).changed[whole] == 0


def test_faults_are_named_and_the_table_is_tidy(any_model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="source: 'noise', expected one of other row, zero, mean"):
        patch_parts(any_model, some_rows(1), some_rows(2), PARTS, source="noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"other_ids: of shape \(3, 12\), expected \(7, 12\)"):
        patch_parts(any_model, some_rows(1), some_rows(2, 3), PARTS)
    result = PartPatchingResult({PARTS[0]: 0.5, PARTS[1]: 0.0}, {PARTS[0]: 1.0, PARTS[1]: 0.1})
    assert result.summary() == {"parts": 2, "carry": 1}
    assert result.rows()[0] == {"site": "mlp_act", "layer": 0, "first": 2, "end": 7, "position": 3, "changed": 0.5,
                                "effect": 1.0}  # fmt: skip
