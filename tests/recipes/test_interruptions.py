"""Recipes that are stopped, that find the disk full, and that run in two processes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftmech_hf.runs import damaged_files, read_metrics
from tests.conftest import listen_to_ctrl_c
from tests.recipes.conftest import CONFIGS, RECIPES, TINY, run_recipe


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recipe_goes_on_and_ends_the_same(how: signal.Signals, tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--output_dir", str(tmp_path / "run")]
    argv[argv.index("--steps=6")] = "--steps=60"
    command = [sys.executable, str(RECIPES / "pretrain.py"), *argv]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_ctrl_c) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run.partial").glob("checkpoints/step-*[0-9]")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "interrupted: nothing finished was lost" in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
    for folder in ("run", "whole"):
        assert run_recipe("pretrain", *argv[:-1], str(tmp_path / folder)).returncode == 0
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "weights"), [("pretrain", "model.safetensors"), ("finetune", "adapter_model.safetensors")]
)
def test_twenty_kills_at_random_moments_change_nothing(recipe: str, weights: str, chain: Path, tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / f"{recipe}.yaml"), *TINY, "--gradient_accumulation_steps=2"]
    argv[argv.index("--steps=6")] = "--steps=300"
    if recipe == "finetune":
        argv += ["--model", str(chain / "pretrain"), "--adapter", "lora", "--lora_dropout", "0.1"]
    argv += ["--output_dir", str(tmp_path / "whole")]
    assert run_recipe(recipe, *argv).returncode == 0
    argv[-1] = str(tmp_path / "run")
    command = [sys.executable, str(RECIPES / f"{recipe}.py"), *argv]
    rng = random.Random(0)
    kills = 0
    while kills < 20 and not (tmp_path / "run").exists():
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            partial, before = tmp_path / "run.partial" / "metrics.jsonl", time.time()
            while not (partial.exists() and partial.stat().st_mtime > before) and process.poll() is None:
                time.sleep(0.01)  # until training has begun again: killing an import proves nothing
            time.sleep(rng.uniform(0, 0.4))
            process.kill()
        kills += 1
    assert kills > 5
    assert run_recipe(recipe, *argv).returncode == 0
    for name in ("metrics.jsonl", weights):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    def limit() -> None:  # a write beyond this size fails as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--output_dir", str(tmp_path / "run")]
    done = run_recipe("pretrain", *argv, preexec_fn=limit)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    assert run_recipe("pretrain", *argv).returncode == 0
    assert damaged_files(tmp_path / "run") == []


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--mixed_precision=no", "--output_dir"]
    assert run_recipe("pretrain", *argv, str(tmp_path / "one")).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(RECIPES / "pretrain.py"), *argv, str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    assert damaged_files(tmp_path / "two") == []
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    # the same rows, summed in another order: rounding, which training amplifies
    assert [line.get("loss", 0) for line in one] == pytest.approx([line.get("loss", 0) for line in two], rel=1e-3)
    alone = json.loads((tmp_path / "one" / "env.json").read_text())["hash"]
    assert alone == json.loads((tmp_path / "two" / "env.json").read_text())["hash"]
