from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftmech_hf.training.launch import asked_processes
from tests.recipes.conftest import TINY

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("accelerate launch --num_processes 2 train.py", 2),
        ("/x/python /x/bin/accelerate launch --num-processes=4 --cpu train.py --num_processes 9", 4),
        ("accelerate launch train.py --num_processes 2", None),
        ("accelerate launch --num_processes two train.py", None),
        ("accelerate config --num_processes 2", None),
        ("torchrun --nproc_per_node 2 train.py", None),
        ("bash", None),
    ],
)
def test_what_a_command_line_asks_for(command: str, asked: int | None) -> None:
    assert asked_processes(command.split()) == asked


def test_a_config_file_asks_too(tmp_path: Path) -> None:
    path = tmp_path / "ddp.yaml"
    path.write_text(yaml.safe_dump({"num_processes": 3}))
    assert asked_processes(["accelerate", "launch", "--config_file", str(path), "train.py"]) == 3
    path.write_text("nothing")
    assert asked_processes(["accelerate", "launch", "--config_file", str(path), "train.py"]) is None
    assert asked_processes(["accelerate", "launch", "--config_file", str(tmp_path / "no.yaml"), "train.py"]) is None


def test_fewer_processes_than_asked_for_stop_the_run(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2"]
    script = [str(ROOT / "recipes" / "pretrain.py"), *TINY, "--output_dir", str(tmp_path / "run")]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *script], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode != 0
    assert "error: num_processes: accelerate launch was asked for 2 processes and started 1" in done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr
    assert not list(tmp_path.iterdir())
