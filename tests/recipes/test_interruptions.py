"""Recipes that are stopped, that find the disk full, and that run in two processes."""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from ftmech_hf.runs import damaged_files, is_finished, read_metrics, working_folder
from ftmech_hf.training import loop
from ftmech_hf.training.checkpoint import find_checkpoints
from recipes import pretrain
from tests.processes import forked, run_forked, wait_until
from tests.recipes.conftest import CONFIGS, RECIPES, SMALL, TINY, run_recipe

SIXTY_STEPS = [
    "--config", str(CONFIGS / "nano" / "pretrain.yaml"), *(word.replace("--steps=6", "--steps=60") for word in TINY),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run_recipe("pretrain", *SIXTY_STEPS, "--output_dir", str(folder)).returncode == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recipe_goes_on_and_ends_the_same(how: signal.Signals, whole: Path, tmp_path: Path) -> None:
    argv = [*SIXTY_STEPS, "--output_dir", str(tmp_path / "run")]
    with forked([str(RECIPES / "pretrain.py"), *argv], tmp_path / "errors") as process:
        wait_until(lambda: list((tmp_path / "run.partial").glob("checkpoints/step-*[0-9]")), process)
        process.send_signal(how)
        wait_until(lambda: process.poll() is not None)
    assert process.returncode != 0
    errors = (tmp_path / "errors").read_text()
    if how == signal.SIGINT:
        assert "interrupted: nothing finished was lost" in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
    assert run_recipe("pretrain", *argv).returncode == 0
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def _train_and_tell(recipe: str, argv: list[str], told: str) -> None:
    """What a recipe does, in a process that writes down each step before it does it."""
    step = loop._Training._step

    def tell(self: loop._Training, number: int) -> torch.Tensor:
        with Path(told).open("a") as file:
            file.write(f"{os.getpid()} {number}\n")
        return step(self, number)

    loop._Training._step = tell  # type: ignore[method-assign]
    importlib.import_module(f"recipes.{recipe}").main(argv)


def _newest(path: Path) -> int:
    kept = find_checkpoints(working_folder(path) / "checkpoints")
    return int(kept[-1].name.removeprefix("step-")) if kept else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "weights"), [("pretrain", "model.safetensors"), ("finetune", "adapter_model.safetensors")]
)
def test_fifty_kills_at_random_moments_change_nothing(recipe: str, weights: str, tmp_path: Path) -> None:
    """Of processes that replace an older run: at any moment of their lives, of which writing is as long as training."""
    argv = ["--config", str(CONFIGS / "nano" / f"{recipe}.yaml"), *TINY, "--gradient_accumulation_steps=2"]
    argv[argv.index("--steps=6")] = "--steps=24"
    argv[argv.index("--checkpoint_every=2")] = "--checkpoint_every=5"
    if recipe == "finetune":
        base = [
            "--config",
            str(CONFIGS / "nano" / "pretrain.yaml"),
            *TINY,
            *SMALL,
            "--output_dir",
            str(tmp_path / "base"),
        ]
        assert run_recipe("pretrain", *base).returncode == 0
        argv += ["--model", str(tmp_path / "base"), "--adapter", "lora", "--lora_dropout", "0.1"]
    else:
        argv += [*SMALL, "--dropout", "0.1"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"recipes.{recipe}", "tests.recipes.test_interruptions"])

    def begin(path: Path, *more: str) -> multiprocessing.process.BaseProcess:
        options = [*argv, "--output_dir", str(path), *more]
        process = context.Process(target=_train_and_tell, args=(recipe, options, str(path.parent / "told")))
        process.start()
        return process

    begin(tmp_path / "old" / "run", "--seed", "1").join()
    (tmp_path / "old" / "told").unlink()
    before = time.monotonic()
    begin(tmp_path / "whole" / "run").join()
    life = time.monotonic() - before
    old, whole = ((tmp_path / name / "run" / "metrics.jsonl").read_bytes() for name in ("old", "whole"))
    rng, kills, after_training = random.Random(0), 0, 0
    for number in itertools.count():
        path = tmp_path / str(number) / "run"
        shutil.copytree(tmp_path / "old", path.parent)
        while (path / "metrics.jsonl").read_bytes() == old:
            newest = _newest(path)
            process = begin(path, *(() if working_folder(path).exists() else ("--fresh",)))
            began = time.monotonic()
            process.join(rng.uniform(0, 1.1 * life) if kills < 50 else None)
            life = time.monotonic() - began if process.exitcode == 0 else life  # the machine may be less busy by now
            process.kill()
            process.join()
            told = (path.parent / "told").read_text() if (path.parent / "told").exists() else ""
            steps = [int(line.split()[1]) for line in told.splitlines() if line.split()[0] == str(process.pid)]
            assert steps == list(range(newest, newest + len(steps)))  # none that a checkpoint has
            assert is_finished(path)  # the old one or the new one
            kills += process.exitcode == -signal.SIGKILL
            after_training += process.exitcode == -signal.SIGKILL and _newest(path) == 24
        begin(path).join()  # what is left to be done by the last, if it was killed just now
        for name in ("metrics.jsonl", weights):
            assert (path / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
        assert (path / "metrics.jsonl").read_bytes() == whole
        assert damaged_files(path) == []
        assert sorted(each.name for each in path.parent.iterdir()) == ["run", "told"]
        if kills >= 50:
            break
    print(f"{recipe}: {kills} kills of {number + 1} runs, {after_training} of them after the last step")
    assert 0 < after_training < kills


def _limit_files() -> None:
    """A write beyond this size fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--output_dir", str(tmp_path / "run")]
    done = run_recipe("pretrain", *argv, before=_limit_files)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    pretrain.main(argv)
    assert damaged_files(tmp_path / "run") == []


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--mixed_precision=no", "--output_dir"]
    pretrain.main([*argv, str(tmp_path / "one")])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(RECIPES / "pretrain.py"), *argv, str(tmp_path / "two")]
    done = run_forked(command, env={**os.environ, "ACCELERATE_USE_CPU": "1"})
    assert done.returncode == 0, done.stderr
    assert damaged_files(tmp_path / "two") == []
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    # the same rows, summed in another order: rounding, which training amplifies
    assert [line.get("loss", 0) for line in one] == pytest.approx([line.get("loss", 0) for line in two], rel=1e-3)
    alone = json.loads((tmp_path / "one" / "env.json").read_text())["hash"]
    assert alone == json.loads((tmp_path / "two" / "env.json").read_text())["hash"]
