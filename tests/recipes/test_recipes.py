"""Recipes as users run them, small."""

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

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.activations import TracedModel
from ftmech_hf.config import parse_config
from ftmech_hf.models.loading import load_model
from ftmech_hf.report.dataset import MakeDatasetConfig
from ftmech_hf.report.stories import MakeStoriesConfig
from ftmech_hf.runs import damaged_files, read_metrics
from ftmech_hf.stories import StoriesStudyConfig
from ftmech_hf.studies import (
    AttentionConfig,
    DiagnoseConfig,
    ExaminationConfig,
    InterpolateConfig,
    ProbeConfig,
    PruneConfig,
    TruthConfig,
    load_probes,
)
from ftmech_hf.studies.common import capability_rows
from ftmech_hf.studies.stories import FitJudgeConfig
from ftmech_hf.sweeps import SECTIONS, SweepConfig
from ftmech_hf.tasks import Capability, CounterConfig, PcfgConfig, PcfgShape, StoriesConfig
from ftmech_hf.tracr import TracrConfig
from ftmech_hf.training.compiled import CompileConfig
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stages import FinetuneConfig, PretrainConfig
from recipes import finetune, pretrain, probe, prune, reverse_finetune, truth
from recipes.compile_program import ArtefactConfig
from tests.conftest import listen_to_ctrl_c
from tests.recipes.conftest import CONFIGS, TINY

ROOT = Path(__file__).parents[2]


def run_recipe(name: str, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_every_recipe_leaves_a_whole_run(chain: Path) -> None:
    for name in ("pretrain", "finetune", "reverse_finetune", "prune", "probe", "attention", "interpolate"):
        assert damaged_files(chain / name) == []
        env = json.loads((chain / name / "env.json").read_text())
        assert env["kind"] == name
        assert env["versions"]["torch"]
    assert len(read_metrics(chain / "pretrain")) == 3
    for name in ("prune", "probe", "attention", "interpolate"):
        assert (chain / f"{name}.png").stat().st_size > 5000
        assert len(pd.read_parquet(chain / name / "table.parquet")) > 2
    assert "accuracy/count_b_cte1" in pd.read_parquet(chain / "finetune" / "table.parquet").columns


def test_the_ends_of_an_interpolation_are_its_models(chain: Path) -> None:
    table = pd.read_parquet(chain / "interpolate" / "table.parquet").set_index("alpha")
    tuned = read_metrics(chain / "finetune")[-1]
    assert table.loc[1.0, "count_b_cte1"] == tuned["accuracy/count_b_cte1"]
    ends = [load_model(str(chain / name)).state_dict() for name in ("pretrain", "finetune", "interpolate")]
    for first, second, between in zip(*(end.values() for end in ends), strict=True):
        assert torch.allclose(between, (first + second) / 2, atol=1e-6)


def test_inputs_are_recorded_and_change_the_hash(chain: Path) -> None:
    env = {name: json.loads((chain / name / "env.json").read_text()) for name in ("pretrain", "finetune", "prune")}
    assert env["finetune"]["inputs"] == {"model": env["pretrain"]["hash"]}
    assert env["prune"]["inputs"] == {"model": env["finetune"]["hash"]}


def test_a_checkpoint_needs_none_of_our_code(chain: Path) -> None:
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = "<bos> count a 16 <sot> " + "a b c a " * 8 + "<eot> ="
batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    print(type(model).__name__, batch["input_ids"].shape[1], model(**batch).logits.double().sum().item())
assert not any(name.startswith("ftmech") for name in sys.modules)
"""
    command = [sys.executable, "-I", "-c", code, str(chain / "pretrain")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first.startswith("GPT2LMHeadModel 39 ")
    assert first == second


def test_a_finished_run_is_not_run_again_and_its_config_can_be_used_again(chain: Path) -> None:
    before = (chain / "pretrain" / "manifest.json").stat().st_mtime_ns
    pretrain.main(["--config", str(chain / "pretrain" / "config.yaml")])
    assert (chain / "pretrain" / "manifest.json").stat().st_mtime_ns == before


def test_the_card_says_what_the_run_says(chain: Path) -> None:
    card = (chain / "finetune" / "README.md").read_text()
    assert json.loads((chain / "finetune" / "env.json").read_text())["hash"] in card
    accuracy = read_metrics(chain / "finetune")[-1]["accuracy/count_a"]
    assert f"| `count_a` | {100 * accuracy:.1f} % |" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_parses_and_begins_by_saying_what_it_shows(path: Path) -> None:
    from ftmech_hf.reproduction import ReproduceConfig

    types = {
        "pretrain": (PretrainConfig, PcfgConfig, TrainConfig),
        "finetune": (FinetuneConfig, PcfgConfig, TrainConfig),
        "reverse_finetune": (FinetuneConfig, PcfgConfig, TrainConfig),
        "prune": (PruneConfig, PcfgShape),
        "probe": (ProbeConfig, PcfgShape),
        "attention": (AttentionConfig, PcfgShape),
        "reproduce": (ReproduceConfig, PcfgShape),
        "make_dataset": (MakeDatasetConfig, PcfgConfig),
        "truth": (TruthConfig, PcfgConfig),
        "interpolate": (InterpolateConfig, PcfgConfig),
        "diagnose": (DiagnoseConfig, ExaminationConfig, PcfgShape),
        "make_stories": (MakeStoriesConfig,),
        "compile_program": (ArtefactConfig, CompileConfig, CounterConfig),
        "stories": (StoriesStudyConfig, StoriesConfig),
        "fit_judge": (FitJudgeConfig,),
        "tracr": (TracrConfig,),
        "tracr_grid": (TracrConfig,),
        "sweep": (SweepConfig,),
    }["sweep" if path.stem.startswith("sweep_") else path.stem.removeprefix("stories_")]
    if path.stem.startswith("stories_"):
        types = tuple(StoriesConfig if kind is PcfgConfig else kind for kind in types)
    parse_config(*types, argv=["--config", str(path)], sections=SECTIONS if types == (SweepConfig,) else ())
    text = path.read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["scale"] == path.parent.name


@pytest.mark.parametrize(
    ("recipe", "argv", "message"),
    [
        ("pretrain", ["--setps", "5"], "error: unknown argument '--setps'; did you mean 'steps'?"),
        ("pretrain", ["--text_length", "60"], "error: n_positions: 64 of preset 'nano' are too few for"),
        ("finetune", ["--model", "runs/nowhere"], "error: model: no folder runs/nowhere; train it first"),
        ("pretrain", ["--operators", "count", "--correlation=1", "--correlation_offset=14"],
         "error: correlation: 1024 of 1024 rows should be correlated with offset 14, but"),
        ("finetune", ["--split", "test"], "error: argument --split: invalid choice: 'test'"),
        ("prune", ["--sizes", "-1"], "error: sizes: [-1], expected numbers of 0 or more"),
        ("prune", ["--unit", "weight", "--exact_rows", "8"], "error: unit: weight has too many units to ablate each"),
        ("prune", ["--sizes", "0", "30"], "error: sizes: [0, 30], expected at least one from 1 to max_best_k: 15"),
        ("probe", ["--label_operands", "d"], "error: label_operands: 'd', expected some of a, b, c"),
        ("probe", ["--models", "base"], "error: models: 'base', expected entries like finetuned=runs/finetune"),
        ("pretrain", ["--task", "pcgf"], "error: task: unknown 'pcgf', expected one of pcfg"),
        ("make_dataset", ["--rows", "train=x"], "error: rows: 'train=x', expected entries like train=100000"),
        ("make_dataset", ["--variants", "count_d"], "error: variants: 'count_d', expected default, pretrain-PRIOR"),
        ("truth", ["--operators", "count", "--correlation", "1"], "error: truth: known for untouched rows only"),
        ("reproduce", ["--seeds", "0", "0"], "error: seeds: [0, 0], expected at least one, none negative, none twice"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_an_exit_code(recipe: str, argv: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = run_recipe(recipe, *argv, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_of_another_config_is_left_untouched(chain: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (chain / "pretrain").iterdir()}
    done = run_recipe("pretrain", "--output_dir", str(chain / "pretrain"), *TINY, "--seed", "5")
    assert done.returncode == 2
    assert "holds a run of another config" in done.stderr
    assert "seed: 0 there, 5 asked" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (chain / "pretrain").iterdir()} == before


def test_another_scales_model_is_refused(chain: Path, tmp_path: Path) -> None:
    done = run_recipe("finetune", "--model", str(chain / "pretrain"), "--scale", "paper", "--operators", "count",
                      "--output_dir", str(tmp_path / "out"))  # fmt: skip
    assert done.returncode == 2
    assert "was trained on another vocabulary than this task's" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recipe_goes_on_and_ends_the_same(how: signal.Signals, chain: Path, tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--output_dir", str(tmp_path / "run")]
    argv[argv.index("--steps=6")] = "--steps=60"
    command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), *argv]
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
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *argv]
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


def test_an_adapter_is_a_model_to_every_recipe(chain: Path, tmp_path: Path) -> None:
    def argv(name: str, *more: str) -> list[str]:
        return ["--config", str(CONFIGS / "nano" / f"{name}.yaml"), "--output_dir", str(tmp_path / name), *more]

    tuned = str(tmp_path / "finetune")
    finetune.main(argv("finetune", *TINY, "--model", str(chain / "pretrain"), "--adapter", "lora"))
    reverse_finetune.main(argv("reverse_finetune", *TINY, "--model", tuned))
    prune.main(argv("prune", "--model", tuned, "--sizes", "0", "5", "--score_rows", "32", "--eval_rows", "32"))
    truth.main(argv("truth", "--models", f"base={chain / 'pretrain'}", f"tuned={tuned}", "--rows", "16"))
    table = pd.read_parquet(tmp_path / "truth" / "table.parquet")
    assert set(table["model"]) == {"base", "tuned", "random init"}
    whole = table[table["part"] == "whole row"]
    assert (whole["loss"] > whole["lowest_loss"]).all()
    assert (whole["kl"] > 0).all()


def test_a_pruned_model_is_an_ordinary_one(chain: Path, tmp_path: Path) -> None:
    """Its weights are the tuned model's, but for zeros; it loads with nothing of ours, and every recipe takes it."""
    where = tmp_path / "pruned"
    few = ["--sizes", "2", "3", "--score_rows", "32", "--eval_rows", "32", "--exact_rows", "4", "--unit", "activation"]
    tuned = str(chain / "finetune")
    prune.main(["--model", tuned, "--output_dir", str(where), *few, "--schedule", "iterative", "--save_pruned", "true"])
    summary = json.loads((where / "summary.json").read_text())
    model, original = AutoModelForCausalLM.from_pretrained(where), load_model(tuned)
    changed = {
        name: (before != after).any(1).nonzero().flatten().tolist()
        for (name, before), after in zip(original.state_dict().items(), model.state_dict().values(), strict=True)
        if before.ndim == 2 and (before != after).any()
    }
    named = {f"mlp_act.{name.split('.')[2]}[{row}]" for name, rows in changed.items() for row in rows}
    assert named == set(summary["pruned"])
    assert len(named) == summary["best_k"]
    assert AutoTokenizer.from_pretrained(where).get_vocab() == AutoTokenizer.from_pretrained(tuned).get_vocab()
    card = (where / "README.md").read_text()
    assert all(f"- `{name}`" in card for name in named)
    assert summary["exact"]["num_units"] == len(pd.read_parquet(where / "importance.parquet")) == 3 * 512
    assert summary["exact"]["shuffled_correlation"] < 0.2 < summary["exact"]["rank_correlation"]
    finetune.main(["--model", str(where), "--output_dir", str(tmp_path / "on"), "--operators", "count", *TINY])


def test_probes_belong_to_their_model(chain: Path) -> None:
    probes = load_probes(chain / "probe" / "probes" / "base", str(chain / "pretrain"))
    table = pd.read_parquet(chain / "probe" / "table.parquet").set_index(["model", "site", "label"])
    assert {("base", *key) for key in probes} == {key for key in table.index if key[0] == "base"}
    with pytest.raises(ValueError, match=r"belong to the model \w+, but .*finetune is \w+"):
        load_probes(chain / "probe" / "probes" / "base", str(chain / "finetune"))
    with pytest.raises(ValueError, match="probes: no "):
        load_probes(chain / "probe" / "probes" / "other", str(chain / "finetune"))
    # the probe gives on the same rows the accuracy that the table says
    task = PcfgShape()
    rows = capability_rows(task, Capability("count", "a"), "test", 0, 40)
    stream = TracedModel(load_model(str(chain / "pretrain"))).collect(
        torch.from_numpy(rows.token_ids[:, :-2]), ["resid_post"]
    )
    for (site, label), each in probes.items():
        if site != "embedding":
            right = task.answers("count", task.texts(rows.token_ids), task.symbols.index(label))
            found = each.predict(stream["resid_post", int(site.split()[1])]).numpy()
            assert (found == right).mean() == pytest.approx(table.loc[("base", site, label), "accuracy"], abs=0.026)
    summary = json.loads((chain / "probe" / "summary.json").read_text())
    assert summary["base"]["over_random"] == summary["base"]["accuracy"] - summary["random init"]["accuracy"]


def test_maps_of_three_models_and_how_far_they_moved(chain: Path) -> None:
    folder = chain / "attention"
    maps = load_file(folder / "maps.safetensors")
    assert maps["reversed.attn_pattern"].shape == (3, 4, 39, 39)
    assert maps["base.mlp_act"].shape == (3, 39, 512)
    change = pd.read_parquet(folder / "change.parquet")
    assert set(change["model"]) == {"finetuned", "reversed"}
    assert len(change) == 2 * (3 * 4 + 3)
    assert (change["null"] > 0).all()
    assert (chain / "attention-mlp.png").stat().st_size > 5000


def test_several_positions_and_a_control_among_the_models(chain: Path, tmp_path: Path) -> None:
    few = ["--fit_rows", "60", "--test_rows", "30", "--positions", "-1", "-3", "--label_operands", "b"]
    models = ["--models", f"control={chain / 'pretrain'}", f"tuned={chain / 'finetune'}"]
    probe.main([*models, *few, "--method", "ridge", "--output_dir", str(tmp_path / "ridge")])
    table = pd.read_parquet(tmp_path / "ridge" / "table.parquet")
    assert set(table["label"]) == {"b"}
    assert len(table) == 3 * 2 * 4
    assert "block 2, token -3" in set(table["site"])
    summary = json.loads((tmp_path / "ridge" / "summary.json").read_text())
    assert summary["control"]["over_control"] == 0
    assert summary["tuned"]["over_control"] == summary["tuned"]["accuracy"] - summary["control"]["accuracy"]


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "pretrain.yaml"), *TINY, "--mixed_precision=no", "--output_dir"]
    assert run_recipe("pretrain", *argv, str(tmp_path / "one")).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "recipes" / "pretrain.py"), *argv, str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    assert damaged_files(tmp_path / "two") == []
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    # the same rows, summed in another order: rounding, which training amplifies
    assert [line.get("loss", 0) for line in one] == pytest.approx([line.get("loss", 0) for line in two], rel=1e-3)
    alone = json.loads((tmp_path / "one" / "env.json").read_text())["hash"]
    assert alone == json.loads((tmp_path / "two" / "env.json").read_text())["hash"]


def test_reproduce_runs_reports_and_is_found_again(tmp_path: Path) -> None:
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
    first = run_recipe("reproduce", *argv, env={**os.environ, "COLUMNS": "150"})
    assert first.returncode == 0, first.stderr
    assert f"report: {output / 'report.html'}" in first.stdout
    claims = json.loads((output / "claims.json").read_text())
    assert len(claims) == 14
    assert not all(claim["holds"] for claim in claims)  # three steps teach nothing
    assert all(claim["seeds"] == [0, 1] and len(claim["values"]) == 2 for claim in claims)
    page = (output / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 7
    assert "does not hold" in page
    assert not any(word in page for word in ('src="http', "<script", "<link"))
    runs = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert len(runs) == 24
    assert all(damaged_files(made / name) == [] for name in runs)

    started = time.monotonic()
    again = run_recipe("reproduce", *argv)
    assert again.returncode == 0
    assert time.monotonic() - started < 60
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == runs
    assert json.loads((output / "claims.json").read_text()) == claims
