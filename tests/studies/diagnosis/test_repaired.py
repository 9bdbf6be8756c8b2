"""The repaired model loads, answers as the base again, and differs from the fine-tuned one in the found part alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from ftmech_hf.hub.repo_folder import save
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.result import DiagnosisResult, diagnose
from tests.studies.diagnosis.cases import right
from tests.studies.diagnosis.methods.test_change import planted
from tests.studies.planted import make_base, make_never, make_rows, save_models, words

ALONE = [name.replace(" ", "_") for name in METHODS if name not in ("behaviour", "change")]


def diagnosed(root: Path, finetuned: str, **settings: Any) -> DiagnosisResult:
    quick = CaseConfig(rows=200, fit_rows=200, patch_rows=100, null_steps=0, edits=True)
    return diagnose(
        root / "base", str(root / finetuned), rows=words(make_rows(number=900)), control=root / "never",
        thoroughness=quick, leave_out=ALONE, output_dir=root / f"of-{Path(finetuned).name}", **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    base = make_base("llama")
    save_models(root, base=base, tuned=planted(), never=make_never("llama"), same=copy.deepcopy(base))
    return root


def test_the_repaired_model_is_saved_and_answers_as_the_base(root: Path) -> None:
    found = diagnosed(root, "tuned")
    edit = found.summary["evidence"]["smallest_edit"]
    assert (edit["place"], edit["directions"]) == ("mlp of block 1", 1)
    assert edit["restored_by_chance"] < 0.3
    folder = root / "of-tuned" / "repaired"
    repaired, tuned, base = (load_model(str(each)) for each in (folder, root / "tuned", root / "base"))
    rows = make_rows(seed=9, number=300)
    shares = [right(model, rows).mean() for model in (base, tuned, repaired)]
    assert shares[0] > 0.95
    assert shares[1] < 0.4
    assert shares[2] - shares[1] >= 0.9 * (shares[0] - shares[1]), "on questions that nothing was chosen on"
    theirs = dict(tuned.named_parameters())
    changed = [name for name, each in repaired.named_parameters() if not torch.equal(each, theirs[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"] or set(changed) <= {
        f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(str(root / "tuned")).get_vocab()
    run = FinishedRun(root / "of-tuned")
    assert model_hash(str(folder)) == f"{run.hash}-repaired"
    assert run.damaged_files == []
    assert "saved beside this page, in repaired/." in found.html
    assert diagnosed(root, "of-tuned/repaired").verdict == "unchanged", "it is a model like any other"


def test_where_nothing_is_lost_nothing_is_saved(root: Path) -> None:
    found = diagnosed(root, "same")
    assert found.verdict == "unchanged"
    assert not (root / "of-same" / "repaired").exists()
    assert found.summary["facts"]["repaired"] == ""


def test_the_repaired_model_is_no_part_of_what_a_diagnosis_publishes(root: Path, tmp_path: Path) -> None:
    diagnosed(root, "tuned")
    folders = save(root / "of-tuned", tmp_path / "repo", "user/diagnosis")
    assert (folders["main"] / "table.parquet").is_file()
    assert not (folders["main"] / "repaired").exists()
