from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ftmech_hf.training.launch import asked_processes, check_environment, native_precision, noted_environment
from ftmech_hf.training.loop import start_accelerator
from ftmech_hf.training.settings import TrainConfig
from recipes import finetune, pretrain
from tests.processes import GUARD
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
    done = subprocess.run([*command, *script], capture_output=True, text=True, timeout=GUARD, env=env)
    assert done.returncode != 0
    assert "error: num_processes: accelerate launch was asked for 2 processes and started 1" in done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr
    assert not list(tmp_path.iterdir())


REFUSED = [
    (
        {"ACCELERATE_USE_DEEPSPEED": "true"},
        "ACCELERATE_USE_DEEPSPEED: true, expected it unset or false; DeepSpeed is not",
    ),
    (
        {"ACCELERATE_USE_MEGATRON_LM": "1"},
        "ACCELERATE_USE_MEGATRON_LM: 1, expected it unset or false; Megatron-LM is not",
    ),
    (
        {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
        "ACCELERATE_USE_PARALLELISM_CONFIG: true, expected it unset or false",
    ),
    ({"ACCELERATE_USE_SAGEMAKER": "true"}, "ACCELERATE_USE_SAGEMAKER: true, expected it unset or false"),
    ({"ACCELERATE_USE_FSDP": "true"}, r"FSDP_VERSION: 1 \(the default\), expected 2"),
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP_VERSION: 1, expected 2"),
    ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND: INDUCTOR, expected it unset or no"),
    (
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        r"ACCELERATE_GRADIENT_ACCUMULATION_STEPS: 4, expected it unset or as .* \(gradient_accumulation_steps: 1\)",
    ),
]
"""What ``accelerate launch``, or its config file, puts into the environment."""


@pytest.mark.parametrize(("variables", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_the_environment_asks_for_is_refused_by_name_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = ["--output_dir", str(tmp_path / "run")]
    for recipe, more in ((pretrain, []), (finetune, ["--model", str(tmp_path / "none")])):  # before it looks for it
        with pytest.raises(SystemExit):
            recipe.main([*TINY, *more, *output])
        assert re.fullmatch(f"error: {message}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_what_accelerate_launch_always_sets_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    always = {
        "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_USE_CPU": "False", "ACCELERATE_USE_DEEPSPEED": "false",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2",
    }  # fmt: skip
    for name, value in always.items():
        monkeypatch.setenv(name, value)
    check_environment(2)
    accelerator = start_accelerator(TrainConfig(mixed_precision="no", gradient_accumulation_steps=2))
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 1)
    assert accelerator.state.dynamo_plugin.backend.value == "NO"


def test_what_rounds_otherwise_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    noted = noted_environment()
    assert noted["NVIDIA_TF32_OVERRIDE"] == noted["ACCELERATE_USE_CPU"] == "1"
    assert "HF_TOKEN" not in noted


def test_the_native_precision_is_that_of_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is there and not used says nothing."""
    capable = torch.cpu.get_capabilities()
    on_cpu = "bf16" if any(capable.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "no"
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert native_precision(torch.device("cuda")) == ("bf16" if able else "no")
        assert native_precision(torch.device("cpu")) == on_cpu
        assert native_precision(torch.device("mps")) == "no"


@pytest.mark.cuda
def test_a_machine_with_a_gpu_trains_on_the_cpu_if_asked(tmp_path: Path) -> None:
    for asked, device in (("1", "cpu"), ("0", "cuda")):
        script = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), *TINY, "--output_dir", str(tmp_path / asked)]
        env = {**os.environ, "ACCELERATE_USE_CPU": asked, "PYTHONPATH": str(ROOT)}
        subprocess.run(script, check=True, env=env, timeout=GUARD)
        facts = json.loads((tmp_path / asked / "env.json").read_text())
        assert facts["mixed_precision"] == native_precision(torch.device(device))
        assert facts["device"].startswith(device)


def test_processes_do_not_wait_for_gradients_that_an_objective_does_not_give() -> None:
    """Who compares the output of one layer has none above it; others pay nothing for that."""
    for objective, unused in (("rmu", True), ("npo", False), ("answer_only", False)):
        accelerator = start_accelerator(TrainConfig(objective=objective))
        assert accelerator.ddp_handler is not None
        assert accelerator.ddp_handler.find_unused_parameters == unused
