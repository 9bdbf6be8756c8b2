"""Publishing what the nano recipes leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.hub import save
from ftmech_hf.hub.repo_folder import open_run, repo_kind
from recipes import publish

USER = "someone"


def test_a_model_between_two_models_is_a_model(chain: Path, tmp_path: Path) -> None:
    tree = save(chain / "interpolate", tmp_path / "out", f"{USER}/between")["main"]
    assert repo_kind(open_run(chain / "interpolate")) == "model"
    assert "AutoModelForCausalLM.from_pretrained" in (tree / "README.md").read_text()
    assert (tree / "model.safetensors").is_file()
    assert not (tree / "table.parquet").exists()


def test_a_dry_run_says_what_it_would_push(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["--run", str(chain / "finetune"), "--repo_id", f"{USER}/tuned", "--dry_run", "--output_dir", str(out)]
    publish.main([*argv, "--base_model", f"{USER}/base"])
    assert f"would push {USER}/tuned@main: {out / 'main'}" in capsys.readouterr().out
    assert (out / "main" / "pruning_row.png").is_file()
    with pytest.raises(SystemExit):
        publish.main(argv)
    assert "exists; choose another folder, or remove it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        publish.main(["--repo_id", "x/y"])
    assert "the following arguments are required: --run" in capsys.readouterr().err
