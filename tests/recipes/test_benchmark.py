from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.local_pool import fork_context
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.launch import native_precision
from recipes import benchmark
from recipes.benchmarks import accuracy, analysis, data, limits, sweep, train
from recipes.readme.benchmarks import accuracy_block, analysis_block, explorer_block, gpu_speed_block, sweep_speed_block
from tests.conftest import make_gpt2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine comes to is measured once, and other processes are copies of one: nobody reads the time."""
    monkeypatch.setattr(limits, "_best", functools.partial(limits._best, times=1))
    for module in (analysis, data):
        monkeypatch.setattr(module, "multiprocessing", SimpleNamespace(get_context=lambda _: fork_context()))
    few = functools.partial(sweep.TrainConfig, eval_rows=8, final_eval_rows=8)
    monkeypatch.setattr(sweep, "TrainConfig", few)


def test_every_contender_is_measured_and_ours_is_the_unit(tmp_path: Path) -> None:
    """What it measures is never asserted: a loaded machine must not fail a test."""
    path = tmp_path / "benchmark.json"
    benchmark.main(["train", "--steps", "2", "--rounds", "1", "--batch_size", "4", "--json", str(path)])
    result = json.loads(path.read_text())
    assert {(row["contender"], row["precision"]) for row in result["rows"]} == {
        (name, precision) for name in train.CONTENDERS for precision in ("fp32", "bf16")
    }
    assert all(row["ours_over_this"] == 1 for row in result["rows"] if row["contender"] == "ours")
    assert all(row["tokens_per_second"] > 0 for row in result["rows"])
    assert result["versions"]["torch"]


def _note_process(
    model: PreTrainedModel, task: PcfgConfig, config: train.BenchmarkConfig, precision: str, tick: train.Clock
) -> None:
    Path(config.json).with_name(f"{os.getpid()}.process").touch()
    for _ in range(config.last_step):
        tick()


def test_each_contender_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ours sets for its process, so that freed memory is kept, would make the others faster, too."""
    monkeypatch.setattr(train, "CONTENDERS", dict.fromkeys(train.CONTENDERS, _note_process))
    config = train.BenchmarkConfig(steps=1, rounds=1, batch_size=2, precisions=["fp32"], json=str(tmp_path / "numbers"))
    assert len(list(train.measure(config, PcfgConfig()))) == 3
    seen = {each.stem for each in tmp_path.glob("*.process")}
    assert len(seen - {str(os.getpid())}) == 3


def test_what_takes_part_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours always does, and shares are of what this machine's products and copies come to."""
    path = tmp_path / "benchmark.json"
    few = ["--steps", "1", "--rounds", "1", "--batch_size", "2", "--json", str(path)]
    benchmark.main(["train", "--precisions", "fp32", "--contenders", "bare PyTorch", *few])
    result = json.loads(path.read_text())
    assert [row["contender"] for row in result["rows"]] == ["ours", "bare PyTorch"]
    for row in result["rows"]:
        assert row["tokens_per_second"] == pytest.approx(2 * 40 / row["ms_per_step"] * 1000, rel=0.02)
        assert row["device"]
        assert row["share_of_bandwidth"] > 0
    block = gpu_speed_block(result)
    assert block.count("\n|") == 3
    assert "bare PyTorch" in block
    with pytest.raises(SystemExit):
        benchmark.main(["train", "--contenders", "keras"])
    assert "contenders: unknown 'keras', expected some of ours, bare PyTorch, HF Trainer" in capsys.readouterr().err


def test_a_step_moves_at_least_what_it_keeps() -> None:
    """Weights and moments, and what is kept for the backward pass, which grows with the rows."""
    rows = torch.zeros(3, 5, dtype=torch.int64)
    model = make_gpt2(40)
    least = [limits.least_bytes(model, each, "no") for each in (rows, rows.repeat(2, 1))]
    weights = 28 * model.num_parameters()
    assert weights < least[0] < least[1]
    assert (least[1] - weights) / (least[0] - weights) == pytest.approx(2, rel=0.5)  # weights are kept, too


def test_making_rows_is_measured_in_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    benchmark.main(["data", "--seconds", "0.01", "--parquet_rows", "2000", "--batch_size", "4", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 7
    for row in rows:
        assert abs(row["per_second"] / row["that_per_second"] / row["ratio"] - 1) < 0.1
    # training as it is done here: bf16 where it must be emulated is slower, so that rows would seem faster
    precision = limits.precision_name(native_precision(torch.device("cpu")))
    consumed = {row["against"] for row in rows if row["against"].startswith("training")}
    assert consumed == {f"training, all cores, {precision}"}


def test_models_at_once_beside_one_model(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    few = ["--steps", "2", "--batch_size", "4", "--pretrained", "2", "--tuned", "3"]
    benchmark.main(["stacked", *few, "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    stacks = [("a base model", 1), ("base models", 2), ("fine-tunings", 3)]
    assert [(row["what"], row["models"]) for row in rows] == stacks
    for row in rows:
        assert row["milliseconds_a_model"] == pytest.approx(row["milliseconds_a_step"] / row["models"], abs=0.01)
        each = row["bare_milliseconds"] / row["milliseconds_a_model"]
        assert row["faster_than_bare"] == pytest.approx(each, rel=0.02)
    with pytest.raises(SystemExit):
        benchmark.main(["stacked", "--tuned", "0", "--json", str(path)])


def test_the_hash_of_a_benchmark_is_of_what_it_measures(tmp_path: Path) -> None:
    """Settings and bytes, and never where the numbers go or where a model lies."""

    def hashed(name: str = "train", task: PcfgConfig | None = None, **settings: Any) -> str:
        return benchmark.hash_of(name, train.BenchmarkConfig(**settings), task or PcfgConfig())

    others = [
        hashed(), hashed("data"), hashed(seed=1), hashed(rounds=4), hashed(task=PcfgConfig(base_operand="c")),
    ]  # fmt: skip
    assert len({*others}) == len(others)
    assert hashed(json=str(tmp_path / "elsewhere")) == hashed()
    for name, seed in (("one", 0), ("copy", 0), ("other", 1)):
        build_model(find_preset("nano", n_embd=16), 40, seed=seed).save_pretrained(tmp_path / name)
    one, copy, other = (
        benchmark.hash_of("analysis", analysis.BenchmarkConfig(model=str(tmp_path / name)), PcfgConfig())
        for name in ("one", "copy", "other")
    )
    assert one == copy
    assert one != other


@pytest.mark.parametrize("name", benchmark.BENCHMARKS)
def test_a_benchmark_draws_with_the_seeds_that_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config_type, _ = benchmark.BENCHMARKS[name]
    seed: dict[str, Any] = {"seeds": [3, 5]} if name == "accuracy" else {"seed": 3}
    seeds = {"accuracy": [3, 5], "sweep": [*range(3, 11)]}
    assert config_type(**seed).seeds == seeds.get(name, [3])
    with pytest.raises(SystemExit):
        benchmark.main([name, f"--{next(iter(seed))}", "-1"])
    assert re.search(r"seeds?: \[?-1\]?, expected ", capsys.readouterr().err)


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["speed"])
    assert (
        "benchmark: expected one of train, accuracy, data, stacked, sweep, analysis, explorer as the first word, "
        "got 'speed'" in capsys.readouterr().err
    )


def test_the_time_to_an_accuracy_is_that_of_each_recipe_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    few = ["--steps", "3", "--check_every", "1", "--eval_rows", "16", "--json", str(path)]
    benchmark.main(["accuracy", "--accuracy", "0.99", "--seeds", "0", *few])
    rows = json.loads(path.read_text())["rows"]
    assert [row["recipe"] for row in rows] == [*accuracy.RECIPES] * 2
    assert [(row["steps"], row["reached"], row["low"]) for row in rows] == [([3], 0, None)] * len(rows)
    assert " | — |" in accuracy_block(json.loads(path.read_text()))
    benchmark.main(["accuracy", "--accuracy", "0.0001", "--seeds", "3", "5", "--mixtures", "counting", *few])
    rows = json.loads(path.read_text())["rows"]
    assert [len(row["seconds"]) for row in rows] == [2] * len(accuracy.RECIPES)
    for row in rows:
        assert row["reached"] == sum(value > 0 for value in row["accuracy"])
        assert row["low"] <= row["faster_by"] <= row["high"]
        if row["recipe"] == accuracy.UNIT:
            assert row["faster_by"] == row["low"] == row["high"] == 1


def test_the_time_of_who_gave_up_is_a_bound() -> None:
    known = {
        "rows": "r",
        "precision": "fp32",
        "steps": [1, 2],
        "seconds": [1.0, 2.0],
        "low": 1.0,
        "high": 9.0,
    }
    both = [{**known, "recipe": name, "reached": 2, "faster_by": 3.0} for name in ("ours", accuracy.UNIT)]
    facts = {"threads": 2, "machine": "m", "versions": {}, "seeds": [0, 1], "hash": "0123456789ab"}
    assert "Seeds 0, 1; 2 threads, m; config hash `0123456789ab`; " in accuracy_block({"rows": both, **facts})
    assert "| r | ours | fp32 | 1, 2 |" in accuracy_block({"rows": both, **facts})
    assert "| 2 of 2 | 3.0 x (1.0 to 9.0) |" in accuracy_block({"rows": both, **facts})
    assert "more than 3.0 x" in accuracy_block({"rows": [both[0], {**both[1], "reached": 1}], **facts})
    assert "less than 3.0 x" in accuracy_block({"rows": [{**both[0], "reached": 1}, both[1]], **facts})


@pytest.mark.parametrize(
    ("commands", "pairs"), [("false", 1), pytest.param("true", 2, marks=pytest.mark.slow)], ids=["warm", "typed"]
)
def test_runs_side_by_side_and_one_after_the_other_are_measured(commands: str, pairs: int, tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    few = ["--runs", "2", "--steps", "1", "--rounds", "1", "--commands", commands]
    benchmark.main(["sweep", *few, "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["runs"] for row in rows] == [2] * 2 * pairs
    for ours, other in zip(rows[::2], rows[1::2], strict=True):
        assert ours["least"] == ours["ours_is_faster_by"] == ours["most"] == 1
        assert other["seconds"] > 0
        assert other["least"] == other["ours_is_faster_by"] == other["most"]  # of one round
    block = sweep_speed_block(json.loads(path.read_text()))
    assert "1.00 x (1.00 to 1.00) |" in block


def test_ways_to_run_take_turns_and_ratios_are_those_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is slower for a round is so for both."""
    took = iter([10.0, 11.0, 20.0, 26.0, 12.0, 12.0])
    monkeypatch.setattr(sweep, "_seconds", lambda *_: next(took))
    ours, other = sweep.measure(sweep.BenchmarkConfig(commands=False), PcfgConfig())
    assert (ours["seconds"], other["seconds"]) == (12, 12)
    assert [other[name] for name in ("least", "ours_is_faster_by", "most")] == [1, 1.1, 1.3]


def test_reading_activations_is_measured_in_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    few = ["--repeats", "1", "--stored_rows", "300", "--traces", "10", "--probe_rows", "100", "--probe_seeds", "1"]
    small = build_model(find_preset("nano", n_embd=16), len(PcfgConfig().vocabulary), seed=0)
    small.save_pretrained(tmp_path / "model")
    few += ["--model", str(tmp_path / "model"), "--ablation_rows", "2"]
    benchmark.main(["analysis", *few, "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 17
    assert rows[0]["ratio"] == 1
    assert all(row["value"] > 0 for row in rows[:8])
    (loss,) = (row["value"] for row in rows if row["what"] == "largest difference of a loss")
    assert loss < 1e-3
    block = analysis_block({**json.loads(path.read_text())})
    assert block.count("\n|") == 18


def test_the_explorer_is_waited_for_as_in_a_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi", reason="the explorer's page is not measured: no gradio")
    path = tmp_path / "benchmark.json"
    benchmark.main(["explorer", "--starts", "1", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["times"] for row in rows] == [1, 7, 7, 6, 7]
    assert [row["cpu_seconds"] is not None for row in rows] == [True, *[False] * 4]
    assert all(0 < row["median_seconds"] <= row["most_seconds"] for row in rows)
    block = explorer_block(json.loads(path.read_text()))
    assert block.count("\n|") == 6
    assert "| nano | scale of the weight change | " in block
    with pytest.raises(SystemExit):
        benchmark.main(["explorer", "--base", "x", "--json", str(path)])
    assert "finetuned: expected --base and --finetuned together" in capsys.readouterr().err
