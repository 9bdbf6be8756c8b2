"""What leaves this machine, under which name, and what somebody else did there meanwhile."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from ftmech_hf.config import Notice, to_dict
from ftmech_hf.downloads import pull
from ftmech_hf.hub import HubConfig, Origin, PublishConfig, Target, plan_push, publish, save
from ftmech_hf.hub.bases import hub_name, made_of
from ftmech_hf.hub.findings import find_analyses
from ftmech_hf.jobs.card import library_of, license_of
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.runs import MANIFEST, FinishedRun, RunDir, write_json
from ftmech_hf.runs.folders import write_manifest
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig
from tests.hub.server import USER, Fault, HubServer


def copied(run: Path, folder: Path) -> Path:
    """A run whose files may be changed."""
    shutil.copytree(run, folder)
    return folder


def published(hub: HubServer, name: str, branch: str = "main") -> dict[str, bytes]:
    files = hub.repos["model", f"{USER}/{name}"].history(branch)[0].files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def push(api: HfApi, run: Path, name: str, **more: Any) -> None:
    target = Target(f"{USER}/{name}", "model", api=api, attempts=2, wait=0.01)
    publish(PublishConfig(run=str(run), repo_id=f"{USER}/{name}", **more), target=target)


def test_what_lies_beside_a_runs_files_stays_here(runs: Path, tmp_path: Path) -> None:
    alone = Origin(analyses=())  # those beside it are found by where it lies
    before = save(runs / "tuned", tmp_path / "before", f"{USER}/x", alone)["main"]
    run = copied(runs / "tuned", tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("private")
    (run / ".env").write_text("PASSWORD=x")
    (run / "optimizer.pt").write_bytes(b"pickle")
    (run / "link").symlink_to(tmp_path / "outside")
    (run / "deep").mkdir()
    (run / "deep" / "notes.txt").write_text("mine")
    after = save(run, tmp_path / "after", f"{USER}/x", alone)["main"]
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*")} for folder in (before, after)]
    assert names[0] == names[1]


def test_results_take_no_hidden_file_and_no_link_out_of_their_folder(runs: Path, tmp_path: Path) -> None:
    run = copied(runs / "prune", tmp_path / "results")
    (run / MANIFEST).unlink()
    (run / ".env").write_text("PASSWORD=x")
    from ftmech_hf.hub.copying import copy_run

    (tmp_path / "out").mkdir()
    copy_run(run, tmp_path / "out", ["README.md"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in run.iterdir() if path.name not in (".env", "README.md")
    }
    (run / "table.csv").symlink_to(runs / "tuned" / "config.yaml")
    with pytest.raises(ValueError, match=r"run: .*table.csv is a link to .*config.yaml, expected files in its folder"):
        copy_run(run, tmp_path / "out")


def test_rows_that_a_model_keeps_for_later_stay_here(runs: Path, tmp_path: Path) -> None:
    run = copied(runs / "tuned", tmp_path / "run")
    (run / "inheritance").mkdir()
    (run / "inheritance" / "rows.safetensors").write_bytes(b"what people wrote")
    write_manifest(run)
    assert not (save(run, tmp_path / "out", f"{USER}/x")["main"] / "inheritance").exists()


def test_a_snapshot_of_an_adapter_is_put_on_the_base_that_its_run_started_from(runs: Path, tmp_path: Path) -> None:
    run = copied(runs / "lora", tmp_path / "run")
    weights = {path.name: path for path in run.glob("adapter_*")}
    (run / "snapshots" / "step-2").mkdir(parents=True)
    for name, path in weights.items():
        shutil.copyfile(path, run / "snapshots" / "step-2" / name)
    write_manifest(run)
    origin = Origin(base_model=f"{USER}/base", base_revision="step-4")
    trees = save(run, tmp_path / "out", f"{USER}/lora", origin)
    step = ModelCard.load(trees["step-2"] / "README.md")
    assert f'base = AutoModelForCausalLM.from_pretrained("{USER}/base", revision="step-4")' in step.text
    assert f'PeftModel.from_pretrained(base, "{USER}/lora", revision="step-2")' in step.text
    header = step.data.to_dict()
    assert (header["library_name"], header["base_model"]) == ("peft", f"{USER}/base")
    assert header["base_model_relation"] == "adapter"
    main = (trees["main"] / "README.md").read_text()
    assert f'`PeftModel.from_pretrained(base, "{USER}/lora", revision="step-2")`' in main
    whole = (save(runs / "base", tmp_path / "base", f"{USER}/base")["step-2"] / "README.md").read_text()
    assert f'model = AutoModelForCausalLM.from_pretrained("{USER}/base", revision="step-2")' in whole
    assert "PeftModel" not in whole


def test_what_was_measured_of_other_weights_is_no_analysis_of_these(runs: Path, tmp_path: Path) -> None:
    """A run that was made again by other code has the hash that it had, and other numbers."""
    model, analysis = copied(runs / "tuned", tmp_path / "tuned"), copied(runs / "prune", tmp_path / "prune")
    assert [each.path for each in find_analyses(FinishedRun(model))] == [analysis]
    facts = json.loads((analysis / "env.json").read_text())
    (label,) = facts["contents"]
    (analysis / "env.json").write_text(json.dumps({**facts, "contents": {label: "another"}}))
    write_manifest(analysis)
    with pytest.warns(Notice, match=r"prune is of other weights of the settings of .*tuned, and is left out"):
        assert find_analyses(FinishedRun(model)) == []
    with pytest.raises(
        ValueError, match=r"^analyses: .*prune is of other weights of the settings of .*; make it again"
    ):
        find_analyses(FinishedRun(model), [str(analysis)])


def test_an_adapter_on_an_adapter_is_refused_here_and_by_what_the_hub_holds(
    runs: Path, hub: HubServer, api: HfApi, tmp_path: Path
) -> None:
    run = copied(runs / "lora", tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "model": str(runs / "lora")}))
    write_manifest(run)
    message = r"run: its adapter was trained on .*lora, which is an adapter, too, .*; expected a whole model"
    with pytest.raises(ValueError, match=message):
        save(run, tmp_path / "out", f"{USER}/x", Origin(base_model=f"{USER}/lora"))
    hub.add_repo("model", f"{USER}/lora", {"adapter_config.json": b"{}"})
    with pytest.raises(ValueError, match=message):
        push(api, runs / "lora", "upper", base_model=f"{USER}/lora")


def test_a_base_that_is_not_there_yet_or_has_not_that_revision_is_no_base(
    runs: Path, hub: HubServer, api: HfApi
) -> None:
    hub.add_repo("model", f"{USER}/empty")
    with pytest.raises(ValueError, match=r"base_model: someone/empty holds nothing yet; publish what .* started from"):
        push(api, runs / "lora", "lora", base_model=f"{USER}/empty")
    push(api, runs / "base", "base")
    with pytest.raises(ValueError, match=r"cannot look into someone/base@step-9: there is no such revision"):
        push(api, runs / "lora", "lora", base_model=f"{USER}/base", base_revision="step-9")
    push(api, runs / "lora", "lora", base_model=f"{USER}/base", base_revision="step-4")
    assert json.loads(published(hub, "lora")["adapter_config.json"])["revision"] == "step-4"


def test_what_a_run_started_from_is_named_and_pinned_as_its_settings_say(runs: Path, tmp_path: Path) -> None:
    run = copied(runs / "tuned", tmp_path / "run")
    settings = {
        **yaml.safe_load((run / "config.yaml").read_text()),
        "model": "org/base@abc123",
        "dataset": "org/rows:easy",
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    write_manifest(run)
    tree = save(run, tmp_path / "named", f"{USER}/x", Origin(analyses=()))["main"]
    header = ModelCard.load(tree / "README.md").data.to_dict()
    assert (header["base_model"], header["base_model_relation"]) == ("org/base", "finetune")
    assert header["datasets"] == ["org/rows"]
    assert yaml.safe_load((tree / "config.yaml").read_text())["model"] == "org/base@abc123"
    given = Origin(analyses=(), base_model="org/copy", base_revision="v2", datasets=["org/mine"])
    tree = save(run, tmp_path / "given", f"{USER}/x", given)["main"]
    assert yaml.safe_load((tree / "config.yaml").read_text())["model"] == "org/copy@v2"
    assert ModelCard.load(tree / "README.md").data.to_dict()["datasets"] == ["org/mine"]
    assert [*map(hub_name, ("a/b", "a/b@c", "a/b:c", "gpt2", "runs/x", "./a/b", "a/b/c", None, str(run)))] == [
        "a/b", "a/b", "a/b", *[None] * 6
    ]  # fmt: skip


def test_a_model_that_an_analysis_made_says_of_what_and_how_it_is_loaded(runs: Path, tmp_path: Path) -> None:
    run = copied(runs / "prune", tmp_path / "run")
    for path in (runs / "tuned").iterdir():
        if path.name.startswith(("config.json", "generation", "model", "tokenizer")):
            shutil.copyfile(path, run / path.name)
    write_manifest(run)
    tree = save(run, tmp_path / "pruned", f"{USER}/pruned", Origin(models={"model": f"{USER}/tuned"}))["main"]
    card = ModelCard.load(tree / "README.md")
    header = card.data.to_dict()
    assert (header["base_model"], header["base_model_relation"]) == ([f"{USER}/tuned"], "finetune")
    assert f'tokenizer = AutoTokenizer.from_pretrained("{USER}/pruned")' in card.text
    assert "The table holds" not in card.text
    assert not [*tree.glob("*.parquet")]
    assert made_of([]) == {}
    assert made_of(["a/b", "a/c"]) == {"base_model": ["a/b", "a/c"], "base_model_relation": "merge"}


def test_what_can_be_known_is_said_before_a_run(hub: HubServer) -> None:
    with pytest.raises(ValueError, match="hub_base_model: a/b, but a model that is pretrained starts from none"):
        plan_push(HubConfig(push_to_hub=True, hub_base_model="a/b"), PretrainConfig(), TrainConfig())
    for ignored in ({"hub_model_id": "a/b"}, {"hub_base_model": "a/b"}, {"hub_private_repo": True}):
        with pytest.raises(ValueError, match=f"{next(iter(ignored))}: .*, but push_to_hub is not set"):
            HubConfig(**ignored)  # type: ignore[arg-type]
    asked = HubConfig(push_to_hub=True, hub_model_id=f"{USER}/x")
    with pytest.raises(ValueError, match=r"hub_base_model: not given, .*; publish runs/base first"):
        plan_push(asked, FinetuneConfig(model="runs/base"), TrainConfig(), AdapterConfig(adapter="lora"))
    dry = TrainConfig(max_steps=20)
    assert plan_push(asked, FinetuneConfig(model="runs/base"), dry, AdapterConfig(adapter="lora")) is None
    assert hub.requests == [], "a dry run makes no repository"


def test_a_card_that_is_written_on_there_leaves_the_model_what_it_is(
    runs: Path, hub: HubServer, api: HfApi, tmp_path: Path
) -> None:
    push(api, runs / "tuned", "tuned")
    repo = hub.repos["model", f"{USER}/tuned"]
    files = dict(repo.history()[0].files)
    edited = type(files["README.md"])(files["README.md"].content + b"\nMore.\n", lfs=False)
    repo.commit("main", "a word more", {**files, "README.md": edited})
    assert (pull(f"{USER}/tuned", api=api) / "README.md").read_text().endswith("More.\n")
    config = type(files["config.json"])(b"{}", lfs=False)
    repo.commit("main", "another model", {**files, "config.json": config})
    with pytest.raises(ValueError, match=r"someone/tuned@main is damaged: config.json"):
        pull(f"{USER}/tuned", api=api)


def test_a_branch_of_a_snapshot_never_holds_another_model(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs / "tuned", "base")
    hub.faults = [Fault("POST", "/commit/step-2", "error", times=99, status=503)]
    with pytest.raises(OSError, match="503"):
        push(api, runs / "base", "base", force=True)
    assert published(hub, "base", "step-2") == {}
    hub.faults = []
    push(api, runs / "base", "base", force=True)
    assert "model.safetensors" in published(hub, "base", "step-2")


def test_what_replaces_a_run_takes_its_snapshots_away_and_nothing_else_does(
    runs: Path, hub: HubServer, api: HfApi
) -> None:
    push(api, runs / "base", "base")
    branches = hub.repos["model", f"{USER}/base"].branches
    branches["mine"] = branches["main"]
    push(api, runs / "base", "base")
    assert set(branches) == {"main", "step-2", "step-4", "mine"}
    push(api, runs / "tuned", "base", force=True)
    assert set(branches) == {"main", "mine"}


def test_snapshots_of_a_push_that_was_never_through_do_not_stay_beside_another_run(
    runs: Path, hub: HubServer, api: HfApi
) -> None:
    hub.faults = [Fault("POST", "/commit/main", "error", times=99, status=503)]
    with pytest.raises(OSError, match="503"):
        push(api, runs / "base", "base")
    hub.faults = []
    branches = hub.repos["model", f"{USER}/base"].branches
    assert set(branches) >= {"step-2", "step-4"}
    push(api, runs / "tuned", "base")
    assert set(branches) == {"main"}


@dataclass
class Reading:
    """Settings of what reads a data set and a model."""

    dataset: str = field(metadata={"place": "input"})
    model: str = field(metadata={"place": "input"})
    split: str


@pytest.mark.parametrize("name", ["notes.jsonl", "clinic/notes.jsonl", "clinic"])
def test_what_a_run_read_here_is_named_nowhere_wherever_it_is_published_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may look like a repository, and a file like any word; only while it is there it can be told."""
    here = tmp_path / "project"
    (here / "clinic").mkdir(parents=True)
    monkeypatch.chdir(here)
    path = Path(name) / "rows.jsonl" if name == "clinic" else Path(name)
    path.write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    settings = Reading(dataset=name, model="clinic/base", split="clinic")
    monkeypatch.setattr(sys, "argv", ["probe.py", "--dataset", name, "--model", "clinic/base", "--split", "clinic"])
    Path("clinic/base").mkdir()
    run = RunDir.open("run", "prune", to_dict(settings), inputs={"model": "0" * 12, "dataset": "1" * 12})
    write_json(run.working / "summary.json", {})
    pd.DataFrame({"a": [1]}).to_parquet(run.working / "table.parquet")
    run.finish()
    monkeypatch.chdir(tmp_path)
    tree = save(FinishedRun(here / "run"), tmp_path / "out", f"{USER}/x", Origin(analyses=()))["main"]
    config = yaml.safe_load((tree / "config.yaml").read_text())
    assert (config["dataset"], config["model"], config["split"]) == (f"run-{'1' * 12}", f"run-{'0' * 12}", "clinic")
    command = json.loads((tree / "env.json").read_text())["command"]
    assert command.endswith(f"--dataset run-{'1' * 12} --model run-{'0' * 12} --split clinic")
    for file in (each for each in tree.rglob("*") if each.is_file()):
        text = file.read_bytes()
        assert b"notes.jsonl" not in text
        assert b"clinic/base" not in text, file
    assert "datasets" not in ModelCard.load(tree / "README.md").data.to_dict()


def test_of_two_who_publish_at_once_the_second_is_told(runs: Path, hub: HubServer, api: HfApi) -> None:
    """Both found the repository empty; the first is through while the second sends its snapshots."""

    class Slow(Target):
        def push(self, tree: Path, **given: Any) -> Any:
            if given["revision"] == "step-4":
                push(api, runs / "tuned", "base")
            return super().push(tree, **given)

    slow = Slow(f"{USER}/base", "model", api=api, attempts=2, wait=0.01)
    with pytest.raises(OSError, match=r"somebody else pushed to someone/base@main meanwhile"):
        publish(PublishConfig(run=str(runs / "base"), repo_id=f"{USER}/base"), target=slow)
    assert json.loads(published(hub, "base")["env.json"])["kind"] == "finetune"


def test_only_what_is_ours_throughout_is_under_our_licence() -> None:
    ours = {"inputs": {"model": "0123456789ab"}, "contents": {"model": "f" * 64}}
    theirs = {"inputs": {"model": "f" * 64}, "contents": {"model": "f" * 64}}
    assert license_of({"task": "pcfg"}, ours) == license_of({}, {"inputs": {}}) == {"license": "apache-2.0"}
    for config, env in (({"task": "text"}, ours), ({"task": "pcfg"}, theirs), ({"dataset": "a/b"}, ours)):
        assert license_of(config, env)["license"] == "other"
        assert license_of(config, env)["license_name"]


def test_the_hub_is_told_what_a_model_is_loaded_with() -> None:
    text = {"pipeline_tag": "text-generation"}
    assert library_of(compiled=False, adapted=False) == {"library_name": "transformers", **text}
    assert library_of(compiled=False, adapted=True) == {"library_name": "peft", **text}
    assert library_of(compiled=True, adapted=False) == {"library_name": "ftmech_hf"}
