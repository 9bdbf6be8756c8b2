"""Saved probes belong to the weights that they were fitted to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ftmech_hf.analysis.probing import LinearProbe
from ftmech_hf.jobs.saved_probes import load_probes, save_probes
from ftmech_hf.models.identity import model_hash
from ftmech_hf.runs import RunDir
from tests.conftest import make_gpt2


def run_of(path: Path, seed: int) -> None:
    run = RunDir.open(path, "pretrain", {"steps": 1}, fresh=path.exists())
    make_gpt2(8, seed=seed).save_pretrained(run.working)
    run.finish()


@pytest.mark.parametrize("ours", [True, False])
def test_probes_are_not_loaded_for_other_weights_in_the_same_folder(tmp_path: Path, ours: bool) -> None:
    model, probes = tmp_path / "model", tmp_path / "probes"

    def make(seed: int) -> None:
        if ours:  # a run whose settings are the same, as one made again under another version
            run_of(model, seed)
        else:
            make_gpt2(8, seed=seed).save_pretrained(model, max_shard_size="4KB")

    make(0)
    parts = {name: torch.zeros(2, 3) for name in LinearProbe._fields}
    save_probes(probes, {("resid_post[0]", "a"): LinearProbe(**parts)}, model_hash(str(model)), {})
    assert [*load_probes(probes, str(model))] == [("resid_post[0]", "a")]
    shutil.copytree(model, tmp_path / "copy")
    load_probes(probes, str(tmp_path / "copy"))
    make(1)
    with pytest.raises(
        ValueError, match=r"probes: .*probes belong to the model .*, but .*model (has other weights|is )"
    ):
        load_probes(probes, str(model))


def test_probes_are_applied_where_they_were_fitted(tmp_path: Path) -> None:
    run_of(tmp_path / "model", 0)
    for kept, said in (({"positions": [0]}, r"\[0\]"), ({"last_tokens": 4}, "others")):
        save_probes(tmp_path / "probes", {}, model_hash(str(tmp_path / "model")), kept)
        assert load_probes(tmp_path / "probes", str(tmp_path / "model")) == {}
        with pytest.raises(ValueError, match=rf"were fitted at positions {said} of prompts, expected \[-1\]"):
            load_probes(tmp_path / "probes", str(tmp_path / "model"), positions=[-1])
    save_probes(tmp_path / "probes", {}, model_hash(str(tmp_path / "model")), {"positions": [-1]})
    assert load_probes(tmp_path / "probes", str(tmp_path / "model"), positions=[-1]) == {}


def test_a_name_with_a_dot_is_a_name_of_its_own(tmp_path: Path) -> None:
    run_of(tmp_path / "model", 0)
    names = ("qwen2.5-base", "qwen2.5-ft", "qwen2", "v1.json")
    for number, name in enumerate(names):
        parts = {part: torch.full((2, 3), float(number)) for part in LinearProbe._fields}
        save_probes(tmp_path / name, {("x", name): LinearProbe(**parts)}, model_hash(str(tmp_path / "model")), {})
    for number, name in enumerate(names):
        for suffix in ("", ".json", ".safetensors"):
            found = load_probes(tmp_path / f"{name}{suffix}", str(tmp_path / "model"))
            assert {key: float(probe[0][0, 0]) for key, probe in found.items()} == {("x", name): number}
    with pytest.raises(ValueError, match=r"probes: no .*qwen2\.7\.json"):
        load_probes(tmp_path / "qwen2.7", str(tmp_path / "model"))


def test_probes_from_before_weights_were_kept_are_known_by_the_run(tmp_path: Path) -> None:
    run_of(tmp_path / "model", 0)
    save_probes(tmp_path / "probes", {}, model_hash(str(tmp_path / "model")), {})
    path = tmp_path / "probes.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "content"}))
    run_of(tmp_path / "model", 1)
    assert load_probes(tmp_path / "probes", str(tmp_path / "model")) == {}
