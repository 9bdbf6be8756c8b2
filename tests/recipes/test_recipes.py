"""Recipes as users run them, small."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.activations import TracedModel
from ftmech_hf.config import parse_config
from ftmech_hf.jobs.attention import AttentionConfig
from ftmech_hf.jobs.compiling import CompileConfig
from ftmech_hf.jobs.exact_distribution import TruthConfig
from ftmech_hf.jobs.fit_judge import FitJudgeConfig
from ftmech_hf.jobs.interpolation import InterpolateConfig
from ftmech_hf.jobs.make_dataset import MakeDatasetConfig
from ftmech_hf.jobs.make_stories import MakeStoriesConfig
from ftmech_hf.jobs.probing import ProbeConfig
from ftmech_hf.jobs.pruning import PruneConfig
from ftmech_hf.jobs.saved_probes import load_probes
from ftmech_hf.jobs.study import Study
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import damaged_files, read_metrics
from ftmech_hf.studies import load_study
from ftmech_hf.studies.compare.inputs import CompareConfig
from ftmech_hf.studies.continual.plan import ContinualConfig
from ftmech_hf.studies.continual.stories.plan import StorySequenceConfig
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.studies.real.plan import RealConfig
from ftmech_hf.studies.retrieval.plan import RetrievalConfig
from ftmech_hf.studies.safety.plan import SafetyStudyConfig
from ftmech_hf.studies.sweep.plan import SECTIONS, SweepConfig
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tracr.instrument_score import InstrumentsConfig
from ftmech_hf.studies.tracr.plan import TracrConfig
from ftmech_hf.tasks import (
    Capability,
    CounterConfig,
    PcfgConfig,
    PcfgShape,
    RowStream,
    StoriesConfig,
    for_capability,
)
from ftmech_hf.tasks.library.task import LibraryConfig
from ftmech_hf.tasks.safety import SafetyConfig
from ftmech_hf.training.objectives import NextToken
from ftmech_hf.training.objectives.documents import Documents
from ftmech_hf.training.settings import TrainConfig
from recipes import finetune, pretrain, probe, prune, reverse_finetune, truth
from recipes.compile_program import ArtefactConfig
from tests.conftest import run_python
from tests.recipes.commands import TOUR
from tests.recipes.conftest import CONFIGS, RECIPES, TINY


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


def test_no_recipe_hides_a_package() -> None:
    """A script's own folder is the first place that is searched: ``recipes/tracr.py`` would hide tracr."""
    elsewhere = [path for path in sys.path if path and Path(path).resolve() not in (RECIPES, RECIPES.parent)]

    def is_package(name: str) -> bool:
        return name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere) is not None

    assert is_package("tracr")
    assert is_package("random")
    modules = [path.stem for path in RECIPES.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert [name for name in modules if name != "__init__" and is_package(name)] == []


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


def test_a_checkpoint_needs_none_of_our_code(chain: Path, tmp_path: Path) -> None:
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
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    first, second = (run_python(code, str(chain / "pretrain"), env=env, cwd=tmp_path) for _ in range(2))
    assert first.startswith("GPT2LMHeadModel 39 ")
    assert first == second


def test_no_recipe_writes_where_a_study_keeps_its_runs() -> None:
    """A folder of ours is one run, or one of many runs, and neither is written over the other."""
    places: dict[str, set[str]] = {"output_dir": set(), "runs_dir": set()}
    for path in CONFIGS.glob("*/*.yaml"):
        settings = yaml.safe_load(path.read_text())
        for name, known in places.items():
            known |= {settings[name]} if name in settings else set()
    declared = re.compile(r'output_dir: str(?: \| None)? = field\(\s*default="([^"]+)"')
    for path in (RECIPES.parent / "ftmech_hf").rglob("*.py"):
        places["output_dir"] |= {*declared.findall(path.read_text())}
    assert {"runs/nano", "runs/retrieval"} < places["runs_dir"]
    assert {"runs/pretrain", "runs/diagnose", "runs/grounded-answers"} < places["output_dir"]
    assert places["output_dir"] & places["runs_dir"] == set()


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
    from ftmech_hf.studies.pcfg.plan import ReproduceConfig

    types = {
        "pretrain": (PretrainConfig, PcfgConfig, TrainConfig, NextToken),
        "finetune": (FinetuneConfig, PcfgConfig, TrainConfig),
        "reverse_finetune": (FinetuneConfig, PcfgConfig, TrainConfig),
        "prune": (PruneConfig, PcfgShape),
        "probe": (ProbeConfig, PcfgShape),
        "attention": (AttentionConfig, PcfgShape),
        "reproduce": (ReproduceConfig, PcfgShape),
        "make_dataset": (MakeDatasetConfig, PcfgConfig),
        "truth": (TruthConfig, PcfgConfig),
        "interpolate": (InterpolateConfig, PcfgConfig),
        "diagnose": (DiagnoseConfig, CaseConfig, PcfgShape),
        "compare": (CompareConfig,),
        **{
            name: declared.configs
            for name in ("compare_organisms", "organisms")
            if isinstance(declared := load_study(name), Study)
        },
        "real": (RealConfig, CaseConfig),
        "continual": (ContinualConfig, PcfgShape),
        "continual_stories": (StorySequenceConfig, StoriesConfig),
        "retrieval": (RetrievalConfig,),
        "safety": (SafetyStudyConfig,),
        "safety_dataset": (MakeDatasetConfig, SafetyConfig),
        "make_stories": (MakeStoriesConfig,),
        "compile_program": (ArtefactConfig, CompileConfig, CounterConfig),
        "instruments": (InstrumentsConfig,),
        "stories": (StoriesStudyConfig, StoriesConfig),
        "fit_judge": (FitJudgeConfig,),
        "tracr": (TracrConfig,),
        "tracr_grid": (TracrConfig,),
        "sweep": (SweepConfig,),
    }["sweep" if path.stem.startswith("sweep_") else path.stem.removeprefix("stories_").removeprefix("library_")]
    if path.stem.startswith("stories_"):
        instead: dict[type, type] = {PcfgConfig: StoriesConfig, NextToken: Documents}
        types = tuple(instead.get(kind, kind) for kind in types)
    if path.stem.startswith("library_"):
        types = tuple(LibraryConfig if kind is PcfgConfig else kind for kind in types)
    parse_config(*types, argv=["--config", str(path)], sections=SECTIONS if types == (SweepConfig,) else ())
    text = path.read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["scale"] == path.parent.name


def test_no_two_configs_leave_their_results_in_one_folder() -> None:
    """Whoever follows the READMEs runs one after the other; the second would refuse the folder of the first."""
    folders = [yaml.safe_load(path.read_text())["output_dir"] for path in sorted(CONFIGS.glob("*/*.yaml"))
               if "output_dir:" in path.read_text()]  # fmt: skip
    assert len(folders) > 30
    assert sorted(folders) == sorted(set(folders))


def test_a_run_of_another_config_is_left_untouched(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (chain / "pretrain").iterdir()}
    with pytest.raises(SystemExit):
        pretrain.main([*TOUR["pretrain"], "--output_dir", str(chain / "pretrain"), *TINY, "--seed", "5"])
    errors = capsys.readouterr().err
    assert "holds a run of another config" in errors
    assert "seed: 0 there, 5 asked" in errors
    assert {path: path.stat().st_mtime_ns for path in (chain / "pretrain").iterdir()} == before


def test_another_scales_model_is_refused(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        finetune.main(["--model", str(chain / "pretrain"), "--scale", "paper", "--operators", "count",
                       "--output_dir", str(tmp_path / "out")])  # fmt: skip
    assert "was trained on another vocabulary than this task's" in capsys.readouterr().err


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
    assert summary["exact"]["num_units"] == len(pd.read_parquet(where / "importance.parquet")) == 3 * 384
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
    rows = RowStream(for_capability(task, Capability("count", "a")), seed=0, split="test").rows(0, 40)
    stream = TracedModel(load_model(str(chain / "pretrain"))).collect(
        torch.from_numpy(rows.token_ids[:, :-2]), ["resid_post"]
    )
    for (site, label), each in probes.items():
        if site != "embedding":
            right = task.answers("count", task.texts(rows.token_ids), task.symbols.index(label))
            found = each.predict(stream["resid_post", int(site.split()[1])]).numpy()
            assert (found == right).mean() == pytest.approx(table.loc[("base", site, label), "accuracy"], abs=0.026)
    summary = json.loads((chain / "probe" / "summary.json").read_text())
    over = summary["base"]["over_random"]
    assert over["value"] == pytest.approx(summary["base"]["accuracy"] - summary["random init"]["accuracy"])
    assert over["low"] < over["value"] < over["high"]
    assert summary["base"]["over_finetuned"]["value"] == pytest.approx(
        summary["base"]["accuracy"] - summary["finetuned"]["accuracy"]
    )
    of_a = table.xs("a", level="label")  # the best site is the best on the rows that choose
    assert summary["base"]["best_site"] == of_a.loc["base"]["chosen"].astype(float).idxmax()


def test_maps_of_three_models_and_how_far_they_moved(chain: Path) -> None:
    folder = chain / "attention"
    maps = load_file(folder / "maps.safetensors")
    assert maps["reversed.attn_pattern"].shape == (3, 4, 39, 39)
    assert maps["base.mlp_act"].shape == (3, 39, 384)
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
    assert summary["control"]["over_control"]["value"] == 0
    over = summary["tuned"]["over_control"]["value"]
    assert over == pytest.approx(summary["tuned"]["accuracy"] - summary["control"]["accuracy"])
