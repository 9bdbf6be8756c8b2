"""A stage that dies: at every change of a file in turn, from its first to the last of replacing an older run.

Whatever is left, the same command goes on from the last checkpoint and ends bit for bit as if nothing had happened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.jobs import trained_model
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import CHECKPOINTS, MANIFEST, RunDir, damaged_files, is_finished, working_folder
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.checkpoint import find_checkpoints
from ftmech_hf.training.settings import TrainConfig
from tests.runs.deaths import mortal

TASK = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)
STEPS = 7
TRAIN: dict[str, Any] = {
    "steps": STEPS, "batch_size": 4, "num_evals": 2, "eval_rows": 4, "final_eval_rows": 8, "checkpoint_every": 2,
    "snapshots": [3], "optimizer": "adamw", "mixed_precision": "no",
}  # fmt: skip
TIMES = ("seconds", "training_seconds", "evaluation_seconds", "cpu_seconds", "peak_gb")


def stage(kind: str, folder: Path, *, seed: int = 0, fresh: bool = False, seen: list[int] | None = None) -> RunDir:
    """Pretrain a model, or tune one with an adapter; ``seen`` gets the step it starts from and all that it does."""

    def progress(step: int, steps: int, text: str) -> None:
        if seen is not None:
            seen.append(step)

    train, place = TrainConfig(**TRAIN, seed=seed), str(folder)
    if kind == "full":
        small = PretrainConfig(n_layer=1, n_embd=16, n_head=2, dropout=0.1, output_dir=place, fresh=fresh)
        return pretrain(small, TASK, train, progress=progress)
    origin = FinetuneConfig(model=str(folder.parents[1] / "origin"), output_dir=place, fresh=fresh)
    adapter = AdapterConfig(adapter="lora", lora_rank=2, lora_dropout=0.1)
    return finetune(origin, TASK, train, adapter, progress=progress)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a run but the times."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    env = json.loads(found.pop("env.json"))
    sums = json.loads(found.pop(MANIFEST))
    assert {name for name in sums if name != "env.json"} == {name for name in found if not name.endswith(MANIFEST)}
    found["env.json"] = json.dumps({key: value for key, value in env.items() if key not in TIMES}).encode()
    return {
        name: text for name, text in found.items() if name not in ("config.yaml", "README.md")
    }  # they have the place


@pytest.fixture(scope="module", params=["full", "lora"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, int]:
    """(kind, a folder with the run as it should be and an older one, how many files are changed to replace that)."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "lora":
        stage("full", root / "origin")
    stage(request.param, root / "old" / "run", seed=1)
    shutil.copytree(root / "old", root / "whole")
    with mortal(root / "whole") as one:
        stage(request.param, root / "whole" / "run", fresh=True)
    assert [path.name for path in (root / "whole").iterdir()] == ["run"]
    return request.param, root, len(one.done)


def die_and_go_on(kind: str, root: Path, moment: int) -> str:
    """Returns where it died."""
    folder = root / f"dies-{moment}"
    shutil.copytree(root / "old", folder)
    path, before, after = folder / "run", list[int](), list[int]()
    with mortal(folder, moment) as one:
        stage(kind, path, fresh=True, seen=before)
    old, new = (files(root / each / "run") for each in ("old", "whole"))
    assert is_finished(path)  # the one or the other, at any time
    assert files(path) in (old, new)
    kept = find_checkpoints(working_folder(path) / CHECKPOINTS)
    whole = (working_folder(path) / MANIFEST).exists() or files(path) == new
    begun = working_folder(path).exists() or whole
    run = stage(kind, path, fresh=not begun, seen=after)
    assert run.finished
    assert damaged_files(path) == []
    assert files(path) == new
    load_model(str(path))
    start = int(kept[-1].name.removeprefix("step-")) if kept else 0
    assert after == ([] if whole else list(range(start, STEPS + 1)))  # no step twice after a checkpoint
    assert whole or start >= max(before, default=0) - TRAIN["checkpoint_every"]
    assert [each.name for each in folder.iterdir()] == ["run"]
    shutil.rmtree(folder)
    return one.done[moment - 1][1]


def test_a_stage_that_dies_goes_on_and_ends_the_same(made: tuple[str, Path, int]) -> None:
    kind, root, number = made
    assert number > 60
    for moment in (*range(4, number - 30, 23), *range(number - 30, number + 1, 6)):
        die_and_go_on(kind, root, moment)


@pytest.mark.slow
def test_a_stage_that_dies_at_any_moment_goes_on_and_ends_the_same(made: tuple[str, Path, int]) -> None:
    kind, root, number = made
    places = [die_and_go_on(kind, root, moment) for moment in range(1, number + 1)]
    assert {"run.partial", "run", ".run.lock", ".run.replaced"} <= {Path(place).name for place in places}
    assert any("README.md" in place for place in places)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_goes_wrong_after_training_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise error("in the card")

    folder = tmp_path / "here" / "run"
    with monkeypatch.context() as patched:
        patched.setattr(trained_model, "write_model_card", fail)
        with pytest.raises(error, match="in the card"):
            stage("full", folder)
    seen: list[int] = []
    stage("full", folder, seen=seen)
    assert seen == [STEPS]  # where it starts, which is its end
    stage("full", tmp_path / "whole" / "run")
    assert files(folder) == files(tmp_path / "whole" / "run")
