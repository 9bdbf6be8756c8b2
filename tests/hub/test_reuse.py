"""What is published is of use to people who have never heard of this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ftmech_hf.models.loading import load_model
from tests.conftest import client_env, run_python
from tests.hub.server import TOKEN, USER, HubServer, serve
from tests.processes import run_fresh
from tests.recipes.conftest import CONFIGS, SMALL, TINY

ROOT = Path(__file__).parents[2]
PROMPT = "<bos> count a 16 <sot> " + "a b c a " * 8 + "<eot> ="

CLEAN = """
import json, sys
sys.modules["ftmech_hf"] = None  # to import it is an error
user, prompt = sys.argv[1:]
found = {}

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

model = AutoModelForCausalLM.from_pretrained(f"{user}/base")
tokenizer = AutoTokenizer.from_pretrained(f"{user}/base")
batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
found["ids"] = batch["input_ids"][0].tolist()
with torch.no_grad():
    found["AutoModelForCausalLM"] = model(**batch).logits[0].tolist()
    step = AutoModelForCausalLM.from_pretrained(f"{user}/base", revision="step-2")
    found["revision"] = step(**batch).logits[0].tolist()
    features = AutoModel.from_pretrained(f"{user}/base")
    found["AutoModel"] = features(**batch).last_hidden_state[0].tolist()
    found["hidden"] = model(**batch, output_hidden_states=True).hidden_states[-1][0].tolist()

generate = pipeline("text-generation", model=f"{user}/base")
found["pipeline"] = generate(prompt, max_new_tokens=1, do_sample=False, return_full_text=False)[0]["generated_text"]
found["greedy"] = tokenizer.decode(model(**batch).logits[0, -1].argmax())

from datasets import get_dataset_config_names, load_dataset

found["configs"] = get_dataset_config_names(f"{user}/rows")
rows = load_dataset(f"{user}/rows", "count_b-c1")
found["rows"] = [rows.num_rows, rows["train"][0]]
found["analysis"] = load_dataset(f"{user}/prune")["train"].column_names

from peft import PeftModel

adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(f"{user}/base"), f"{user}/lora")
with torch.no_grad():
    found["PeftModel"] = adapted(**batch).logits[0].tolist()

from nnsight import NNsight

traced = NNsight(model)
with traced.trace(input_ids=batch["input_ids"]):
    stream = traced.transformer.h[0].output.save()
    seen = traced.lm_head.output.save()
found["nnsight"] = seen[0].tolist()
found["stream"] = list(stream.shape)
found["modules"] = sorted(name for name in sys.modules if name.startswith("ftmech") and sys.modules[name])
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with serve() as hub:
        yield hub


@pytest.fixture(scope="module")
def published(runs: Path, server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything pushed by the recipe, as a user would, in one process; where its cache is."""
    home = tmp_path_factory.mktemp("home")
    code = f"""
from recipes import publish
for name, more in {{"base": [], "lora": ["--base_model", "{USER}/base"], "tuned": ["--base_model", "{USER}/base"],
                   "rows": [], "prune": []}}.items():
    publish.main(["--run", "{runs}/" + name, "--repo_id", "{USER}/" + name, *more])
"""
    env = client_env(server, home)
    assert run_python(code, env=env).count("pushed http") == 7
    return home


@pytest.fixture(scope="module")
def found(published: Path, server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a clean process gets: another cache, another folder, and no ftmech_hf."""
    place = tmp_path_factory.mktemp("clean")
    env = {**client_env(server, place / "home"), "HF_TOKEN": "", "PYTHONPATH": ""}
    result: dict[str, object] = json.loads(run_python(CLEAN, USER, PROMPT, env=env, cwd=place).split("RESULT")[1])
    return result


def logits(model: torch.nn.Module, found: dict[str, object]) -> list[list[float]]:
    with torch.no_grad():
        values: list[list[float]] = model(torch.tensor([found["ids"]])).logits[0].tolist()
    return values


def test_nothing_of_ours_was_imported(found: dict[str, object]) -> None:
    assert found["modules"] == []


def test_auto_model_gives_the_same_logits_bit_for_bit(found: dict[str, object], runs: Path) -> None:
    assert found["AutoModelForCausalLM"] == logits(load_model(str(runs / "base")), found)


def test_a_revision_is_the_snapshot(found: dict[str, object], runs: Path) -> None:
    assert found["revision"] == logits(load_model(str(runs / "base" / "snapshots" / "step-2")), found)
    assert found["revision"] != found["AutoModelForCausalLM"]


def test_auto_model_gives_the_features_under_the_logits(found: dict[str, object]) -> None:
    assert found["AutoModel"] == found["hidden"]


def test_the_pipeline_answers(found: dict[str, object]) -> None:
    assert str(found["pipeline"]).strip() == found["greedy"]


def test_load_dataset_finds_configs_and_rows(found: dict[str, object]) -> None:
    assert found["configs"] == ["pretrain-low", "count_b-c1"]
    number, row = found["rows"]  # type: ignore[misc]
    assert number == {"train": 60, "test": 20}
    assert row["prompt"].startswith("<bos> count b 16 <sot> ")
    assert row["correlated"]
    assert "num_pruned" in found["analysis"]  # type: ignore[operator]


def test_peft_finds_the_adapter_and_its_base(found: dict[str, object], runs: Path) -> None:
    merged = torch.tensor(logits(load_model(str(runs / "lora")), found))
    assert torch.allclose(torch.tensor(found["PeftModel"]), merged, atol=1e-5)
    assert found["PeftModel"] != found["AutoModelForCausalLM"]


def test_nnsight_traces_it(found: dict[str, object]) -> None:
    assert torch.allclose(torch.tensor(found["nnsight"]), torch.tensor(found["AutoModelForCausalLM"]), atol=1e-6)
    assert found["stream"] == [1, 39, 16]


def test_our_loaders_take_it_from_the_hub_too(published: Path, server: HubServer, runs: Path) -> None:
    """A model, a revision and an adapter on its base, by name; and the identity of the run is that of the folder."""
    code = """
import json, sys
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model
names = ["base", "base@step-2", "lora"]
print("RESULT" + json.dumps([[model_hash(f"{sys.argv[1]}/{name}"),
      load_model(f"{sys.argv[1]}/{name}").lm_head.weight.double().sum().item()] for name in names]))
"""
    printed = run_python(code, USER, env=client_env(server, published))
    folders = [runs / "base", runs / "base" / "snapshots" / "step-2", runs / "lora"]
    sums = [load_model(str(folder)).lm_head.weight.double().sum().item() for folder in folders]
    hashes = [json.loads((folder / "env.json").read_text())["hash"] for folder in folders]
    assert json.loads(printed.split("RESULT")[1]) == [list(pair) for pair in zip(hashes, sums, strict=True)]


def test_a_recipe_pushes_its_run_and_no_token_is_anywhere(server: HubServer, tmp_path: Path) -> None:
    """With the loudest logging there is; the token is planted on the command line of the parent as well."""

    where = tmp_path / "runs" / "pushed"
    argv = [
        "--config",
        str(CONFIGS / "nano" / "pretrain.yaml"),
        *TINY,
        *SMALL,
        "--output_dir",
        str(where),
        "--push_to_hub",
    ]
    env = client_env(server, tmp_path / "home", HF_DEBUG="1")
    recipe = str(ROOT / "recipes" / "pretrain.py")
    done = run_fresh([recipe, *argv], env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"pushed {server.url}/{USER}/pushed main" in done.stdout
    repo = server.repos["model", f"{USER}/pushed"]
    assert len(repo.history()) == 2
    told = [done.stdout, done.stderr, *(blob.content.decode("latin-1") for blob in repo.history()[0].files.values())]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert all(TOKEN not in text for text in told)

    failed = run_fresh([recipe, *argv], env={**env, "HF_TOKEN": "hf_expired00000000000000"}, cwd=tmp_path)
    assert failed.returncode == 2
    assert "error: push_to_hub: cannot ask the Hub who we are: the Hub does not accept the token (401)" in failed.stderr
    assert "hf_expired" not in failed.stdout + failed.stderr
