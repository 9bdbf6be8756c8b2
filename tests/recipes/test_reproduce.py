"""The reproduction as a user runs it, small."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ftmech_hf.runs import damaged_files, read_metrics
from ftmech_hf.studies.pcfg import plan
from recipes import reproduce
from tests.pictures import draw_nothing


def test_reproduce_runs_reports_and_is_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    small = {"ProbeConfig": {"test_rows": 40, "num_shuffles": 1, "num_tasks": 1}, "AttentionConfig": {"rows": 8},
             "PruneConfig": {"score_rows": 32, "random_rows": 8, "num_random_at_best": 2}}  # fmt: skip
    for name, settings in small.items():
        monkeypatch.setattr(plan, name, functools.partial(getattr(plan, name), **settings))
    output, made = tmp_path / "reproduce", tmp_path / "shared"
    argv = [
        "--seeds",
        "0",
        "1",
        f"--output_dir={output}",
        f"--runs_dir={made}",
        "--workers=2",
        "--batch_size=8",
        "--eval_rows=16",
    ]
    argv += [f"--{name}_steps=3" for name in ("low", "high", "finetune", "reverse")]
    argv += ["--final_eval_rows=32", "--prune_eval_rows=8", "--probe_fit_rows=60"]
    reproduce.main(argv)
    assert f"report: {output / 'report.html'}" in capsys.readouterr().out
    claims = json.loads((output / "claims.json").read_text())
    assert len(claims) == 15
    assert "fails" in {claim["verdict"] for claim in claims}  # three steps teach nothing
    assert all(claim["seeds"] == [0, 1] and len(claim["values"]) == 2 for claim in claims)
    page = (output / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 7
    assert "✗ fails" in page
    assert not any(word in page for word in ('src="http', "<script src", "<link"))
    runs = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert len(runs) == 28
    assert all(damaged_files(made / name) == [] for name in runs)

    check_seeds(made)
    draw_nothing(monkeypatch)  # once was enough
    reproduce.main(argv)
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == runs
    assert json.loads((output / "claims.json").read_text()) == claims

    # One run that cannot be made keeps nothing else out of the report.
    (place,) = made.glob("finetuned-low-seed1-*")
    shutil.rmtree(place)
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    (output / "report.html").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as broken:
        reproduce.main(argv)
    assert broken.value.code == 2
    shown = capsys.readouterr()
    # Those that were made from its weights cannot be compared with them now.
    assert shown.err.splitlines()[-1].startswith(
        "error: 1 of 6 runs failed; 5 that need them were not begun; first finetuned-low-seed1: output_dir:"
    )
    assert "failed: finetuned-low-seed1: output_dir:" in shown.out
    assert "not judged" in shown.out
    page = (output / "report.html").read_text()
    assert "1 run is missing" in page
    assert "<b>finetuned-low-seed1</b> failed: output_dir:" in page
    kept = {claim["id"]: claim for claim in json.loads((output / "claims.json").read_text())}
    assert kept["low_a"]["seeds"] == [0]
    assert [kept[c["id"]] == c for c in claims] == [not c["id"].startswith("low_") for c in claims]
    assert (place / "notes.txt").read_text() == "mine"


def check_seeds(made: Path) -> None:
    """Two seeds are two experiments: other weights from the first step on, other rows, each run on its own seed's."""
    runs = {name: next(made.glob(f"{name}-*")) for name in (path.name[:-13] for path in made.iterdir())}
    envs = {name: json.loads((folder / "env.json").read_text()) for name, folder in runs.items()}
    assert len({env["hash"] for env in envs.values()}) == 28
    for name, env in envs.items():
        seed = name[-1]
        assert f"seed: {seed}\n" in (runs[name] / "config.yaml").read_text()
        for taken in env["inputs"].values():
            assert [other[-1] for other in envs if envs[other]["hash"] == taken] == [seed], name
    for name in (name for name in runs if name.endswith("seed0") and (runs[name] / "model.safetensors").is_file()):
        pair = [runs[name[:-1] + seed] for seed in "01"]
        one, other = (load_file(folder / "model.safetensors") for folder in pair)
        assert min(float((one[key] - other[key]).abs().max()) for key in one if one[key].ndim == 2) > 0.01, name
        losses = [read_metrics(folder)[1]["loss"] for folder in pair]  # of the first step
        assert losses[0] != losses[1], name
