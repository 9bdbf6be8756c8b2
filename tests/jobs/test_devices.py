"""Jobs compute where models are: on a GPU, or on one that is simulated, whose numbers are the CPU's."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest
import torch

from ftmech_hf.models.loading import load_model
from tests.loading import loaded_alone
from tests.recipes.conftest import CONFIGS
from tests.simulated_gpu import simulated_gpu

FEW = {
    "attention": ["--rows=8"],
    "interpolate": ["--eval_rows=32"],
    "probe": ["--fit_rows=80", "--test_rows=40"],
    "prune": ["--sizes", "0", "5", "--score_rows=32", "--eval_rows=32"],
}
"""Job -> settings by which it takes no time."""


def measured(job: str, runs: Path, folder: Path, device: str) -> pd.DataFrame:
    """The table of a job that computed on this device."""
    models = ["--model", str(runs / "tuned")]
    if job != "prune":
        models = ["--models", f"base={runs / 'base'}", f"finetuned={runs / 'tuned'}"]
    config, place, few = str(CONFIGS / "nano" / f"{job}.yaml"), folder / device, FEW.get(job, ["--rows=8"])
    recipe = importlib.import_module(f"recipes.{job}")
    recipe.main(["--config", config, *models, *few, "--device", device, "--output_dir", str(place)])
    return pd.read_parquet(place / "table.parquet")


@pytest.mark.parametrize("job", FEW)
def test_a_job_computes_on_the_device_of_its_models(job: str, runs: Path, tmp_path: Path) -> None:
    expected = measured(job, runs, tmp_path, "cpu")
    with simulated_gpu() as seen:
        found = measured(job, runs, tmp_path, "auto")
    assert seen.waits
    assert not seen.doubles
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("job", ["attention", "probe", "truth"])
def test_a_job_has_one_model_at_a_time(job: str, runs: Path, tmp_path: Path) -> None:
    with loaded_alone():
        measured(job, runs, tmp_path, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("job", FEW)
def test_a_job_finds_the_same_on_a_gpu(job: str, runs: Path, tmp_path: Path) -> None:
    expected, found = (measured(job, runs, tmp_path, device) for device in ("cpu", "auto"))
    numbers = expected.select_dtypes("number").columns
    pd.testing.assert_frame_equal(found.drop(columns=numbers), expected.drop(columns=numbers))
    # a row or two are answered otherwise where two answers are as likely as each other
    assert (found[numbers] - expected[numbers]).abs().mean().max() < 0.05


def test_what_a_gpu_refuses_is_refused_by_the_simulated_one(runs: Path) -> None:
    row = torch.tensor([[3, 4, 5]])
    with simulated_gpu():
        model = load_model(str(runs / "base"))
        assert model.device == torch.device("gpu", 0)
        there = torch.ones(3, device=model.device)
        for fault, error in (
            (lambda: model(row), "same device"),
            (lambda: there + torch.ones(3), "same device"),
            (lambda: torch.ones(3).add_(there.sum()), "same device"),
            (lambda: torch.randn(3, device=model.device, generator=torch.Generator()), "device type for generator"),
        ):
            with pytest.raises(RuntimeError, match=error):
                fault()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
        # and what one takes: a number of the CPU, and its indices
        assert (there * torch.tensor(2.0))[torch.tensor([0, 1])].tolist() == [2.0, 2.0]
        with torch.no_grad():
            logits = load_model(str(runs / "base"), device="cpu")(row).logits
            torch.testing.assert_close(model(row.to(model.device)).logits.cpu(), logits)
