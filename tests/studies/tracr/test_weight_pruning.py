from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from ftmech_hf.jobs.compiling import save_compiled
from ftmech_hf.models.conversion import load_artefact
from ftmech_hf.studies.tracr.weight_pruning import DissectConfig, dissect
from ftmech_hf.tasks import MaxIdentifierConfig

TASK = MaxIdentifierConfig()


def hidden_by_one_weight(folder: Path) -> str:
    """A program whose answer one planted weight hides: a neuron that always fires makes every answer z."""
    model, vocabulary = load_artefact("max_identifier_5_26x10")
    names = model.config.residual_names
    output = next(number for number, name in enumerate(names) if name.endswith(":z"))
    with torch.no_grad():
        down = model.get_parameter("blocks.1.mlp.down_proj.weight")
        up = model.get_parameter("blocks.1.mlp.up_proj.weight")
        up[20, names.index("one")] = 1.0
        down[output, 20] = 5.0
    save_compiled(model, vocabulary, folder)
    return str(folder)


def test_it_finds_the_one_weight_that_hides_the_answer(tmp_path: Path) -> None:
    model = hidden_by_one_weight(tmp_path / "model")
    config = DissectConfig(
        task="max_identifier",
        model=model,
        sizes=[0, 1, 2],
        eval_rows=64,
        score_rows=32,
        output_dir=str(tmp_path / "out"),
    )
    run = dissect(config, TASK)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["before"]["o_pt"] < 0.1
    assert summary["one_weight"]["o_pt"] == 1
    assert summary["best_k"] == 1
    # direction 25 is the answer z; without its input the neuron is as silent as without its output
    assert summary["pruned"][0] in ("blocks.1.mlp.down_proj[25, 20]", "blocks.1.mlp.up_proj[20, 38]")
    assert summary["random"] < 0.1  # the control
    table = pd.read_parquet(run.path / "table.parquet")
    assert set(table["unit"]) == {"weight"}
    mass = summary["attention"][2]
    assert mass["5"] > 0.9
    assert sum(mass.values()) == pytest.approx(1)
    assert len(summary["pattern"]) == 3
    assert summary["tokens"][0] == "<bos>"


def test_impossible_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"sizes: \[0\], expected"):
        DissectConfig(sizes=[0])
    with pytest.raises(ValueError, match="num_random: 0, expected at least 1"):
        DissectConfig(num_random=0)
