"""Runs become repositories, whole."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi, ModelCard

from ftmech_hf.hub import Origin, PublishConfig, Target, publish, pull, save
from ftmech_hf.hub.repo_folder import open_run, repo_kind
from ftmech_hf.jobs.card import check_card
from ftmech_hf.runs import FinishedRun, damaged_files
from recipes import make_stories
from tests.hub.server import USER, Fault, HubServer


def config(runs: Path, name: str, **more: object) -> PublishConfig:
    return PublishConfig(run=str(runs / name), repo_id=f"{USER}/{name}", **more)  # type: ignore[arg-type]


def push(api: HfApi, runs: Path, name: str, *, kind: str = "model", **more: object) -> dict[str, object]:
    target = Target(f"{USER}/{name}", kind, api=api, attempts=2, wait=0.01)  # type: ignore[arg-type]
    return dict(publish(config(runs, name, **more), target=target))


def there(hub: HubServer, kind: str, name: str, branch: str = "main") -> dict[str, bytes]:
    files = hub.repos[kind, f"{USER}/{name}"].history(branch)[0].files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def here(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "kind"), [("base", "model"), ("tuned", "model"), ("rows", "dataset"), ("prune", "dataset")]
)
def test_a_dry_run_writes_what_a_push_sends(
    name: str, kind: str, runs: Path, hub: HubServer, api: HfApi, tmp_path: Path
) -> None:
    written = publish(config(runs, name, dry_run=True, output_dir=str(tmp_path / "out")))
    assert hub.requests == []
    done = push(api, runs, name, kind=kind)
    assert list(done) == list(written)
    assert list(written) == (["step-2", "step-4", "main"] if name == "base" else ["main"])
    for revision, folder in written.items():
        assert isinstance(folder, Path)
        assert there(hub, kind, name, revision) == here(folder)
        assert damaged_files(folder) == []
        check_card((folder / "README.md").read_text(), kind)  # type: ignore[arg-type]


def test_main_is_one_commit_and_nothing_changes_the_second_time(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs, "base")
    repo = hub.repos["model", f"{USER}/base"]
    assert len(repo.history()) == 2
    before = dict(repo.branches)
    push(api, runs, "base")
    assert repo.branches == before


def test_what_is_pushed_is_put_into_a_collection_once(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs, "base", collection="What is hidden")
    push(api, runs, "rows", kind="dataset", collection="What is hidden")
    push(api, runs, "base", collection="What is hidden")
    (found,) = hub.collections.values()
    assert (found["title"], found["owner"]["name"], found["private"]) == ("What is hidden", USER, False)
    assert [(each["type"], each["id"]) for each in found["items"]] == [
        ("model", f"{USER}/base"), ("dataset", f"{USER}/rows"),
    ]  # fmt: skip
    push(api, runs, "tuned", collection="Mine", private=True)
    assert [each["private"] for each in hub.collections.values()] == [False, True]


def test_what_did_not_get_there_is_in_no_collection(runs: Path, hub: HubServer, api: HfApi) -> None:
    hub.faults = [Fault("POST", "/commit/main", "error", times=99, status=503)]
    with pytest.raises(OSError, match="503"):
        push(api, runs, "tuned", collection="What is hidden")
    assert hub.collections == {}


def test_what_broke_halfway_is_completed_by_the_same_command(runs: Path, hub: HubServer, api: HfApi) -> None:
    hub.faults = [Fault("POST", "/commit/main", "error", times=99, status=503)]
    with pytest.raises(OSError, match="cannot push"):
        push(api, runs, "base")
    assert there(hub, "model", "base") == {}, "nobody finds a run of which a part is missing"
    snapshots = {name: hub.repos["model", f"{USER}/base"].branches[name] for name in ("step-2", "step-4")}
    hub.faults = []
    push(api, runs, "base")
    assert {**hub.repos["model", f"{USER}/base"].branches, **snapshots} == hub.repos["model", f"{USER}/base"].branches
    assert "model.safetensors" in there(hub, "model", "base")


def test_another_run_is_only_replaced_by_force(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs, "tuned")
    other = Target(f"{USER}/tuned", "model", api=api)
    one = PublishConfig(run=str(runs / "base"), repo_id=f"{USER}/tuned")
    with pytest.raises(ValueError, match=r"holds a finetune with config hash .*, and this is a pretrain .*--force"):
        publish(one, target=other)
    publish(PublishConfig(run=str(runs / "base"), repo_id=f"{USER}/tuned", force=True), target=other)
    assert json.loads(there(hub, "model", "tuned")["env.json"])["kind"] == "pretrain"


def test_an_adapter_names_its_base_on_the_hub(runs: Path, hub: HubServer, api: HfApi) -> None:
    with pytest.raises(ValueError, match=r"base_model: not given, and the adapter belongs to .*publish that first"):
        push(api, runs, "lora")
    push(api, runs, "base")
    push(api, runs, "lora", base_model=f"{USER}/base")
    settings = json.loads(there(hub, "model", "lora")["adapter_config.json"])
    assert (settings["base_model_name_or_path"], settings["revision"]) == (f"{USER}/base", None)
    header = ModelCard(there(hub, "model", "lora")["README.md"].decode()).data.to_dict()
    assert (header["base_model"], header["base_model_relation"]) == (f"{USER}/base", "adapter")
    assert header["library_name"] == "peft"
    assert str(runs) not in there(hub, "model", "lora")["config.yaml"].decode()


def test_a_base_that_is_not_the_base_is_refused(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs, "tuned")
    with pytest.raises(ValueError, match=r"base_model: someone/tuned holds a run with config hash"):
        push(api, runs, "lora", base_model=f"{USER}/tuned")
    with pytest.raises(ValueError, match=r"base_model: .* is a pretrain and started from no model"):
        push(api, runs, "base", base_model=f"{USER}/tuned")


def test_a_card_names_a_model_further_back_where_what_it_started_from_is_not_published(
    runs: Path, tmp_path: Path
) -> None:
    """Whoever makes it again needs that run all the same."""
    origin = Origin(ancestor=f"{USER}/base", start=f", which is `{USER}/base` after 2 earlier fine-tunings")
    tree = save(runs / "tuned", tmp_path / "out", f"{USER}/tuned", origin)["main"]
    card = ModelCard.load(tree / "README.md")
    header = card.data.to_dict()
    assert (header["base_model"], header["base_model_relation"]) == (f"{USER}/base", "finetune")
    start = FinishedRun(runs / "tuned").inputs["model"]
    assert f"hash `{start}`, which is `{USER}/base` after 2 earlier fine-tunings.\n" in card.text
    assert " --model FOLDER_OF_THAT_RUN" in card.text


def test_a_card_says_what_the_runs_files_say(runs: Path, tmp_path: Path) -> None:
    origin = Origin(base_model=f"{USER}/base", datasets=[f"{USER}/rows"])
    tree = save(runs / "tuned", tmp_path / "out", f"{USER}/tuned", origin)["main"]
    card = ModelCard.load(tree / "README.md")
    header = card.data.to_dict()
    assert (header["base_model_relation"], header["datasets"]) == ("finetune", [f"{USER}/rows"])
    results = {each.metric_name: each for each in card.data.eval_results}
    for row in FinishedRun(runs / "tuned").accuracy:
        found = results[f"answer accuracy, {row['name']}"]
        assert found.metric_value == pytest.approx(row["value"], abs=1e-6)
        assert found.metric_args["confidence_interval"] == pytest.approx([row["low"], row["high"]], abs=1e-6)
    summary = json.loads((runs / "prune" / "summary.json").read_text())
    shares = [f"{100 * summary[name]:.1f} %" for name in ("accuracy", "random_accuracy")]
    rows, of_random = summary["rows"], summary["random_rows"]
    assert (
        f"{shares[0]} of {rows} prompts; with as many random ones, on {of_random} of them, in {shares[1]}" in card.text
    )
    assert "with shuffled labels" in card.text
    for picture in ("training_curve.png", "pruning_row.png", "probing.png"):
        assert (tree / picture).stat().st_size > 5000
        assert f"({picture})" in card.text
    env = json.loads((runs / "tuned" / "env.json").read_text())
    assert env["hash"] in card.text
    assert "recipes/finetune.py --config config.yaml" in card.text
    settings = yaml.safe_load((tree / "config.yaml").read_text())
    assert (settings["model"], settings["output_dir"]) == (f"{USER}/base", "runs/tuned")


def test_a_card_that_the_hub_would_not_understand_is_an_error() -> None:
    with pytest.raises(ValueError, match="no license"):
        check_card("---\ntags: [x]\n---\n", "model")
    with pytest.raises(ValueError, match="model_index"):
        check_card("---\nlicense: mit\ntags: [x]\nmodel-index: [{name: x, results: [{task: {}}]}]\n---\n", "model")
    with pytest.raises(ValueError, match="Repo id"):
        check_card("---\nlicense: mit\ntags: [x]\nbase_model: /tmp/a/b\n---\n", "model")


def test_a_datasets_card_names_its_repository(runs: Path, tmp_path: Path) -> None:
    tree = save(runs / "rows", tmp_path / "out", f"{USER}/rows")["main"]
    card = DatasetCard.load(tree / "README.md")
    assert f'load_dataset("{USER}/rows", "pretrain-low")' in card.text
    assert str(runs) not in card.text
    assert [each["config_name"] for each in card.data.configs] == ["pretrain-low", "count_b-c1"]


def test_what_is_no_finished_run_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run: .* is no finished run \(no env.json\)"):
        save(tmp_path, tmp_path / "out", "a/b")
    (tmp_path / "broken").mkdir()
    for path in (runs / "tuned").iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"broken is damaged: metrics.jsonl"):
        save(tmp_path / "broken", tmp_path / "out", "a/b")
    (tmp_path / "broken" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        save(tmp_path / "broken", tmp_path / "out", "a/b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repo_id": "alone"}, "repo_id: 'alone', expected USER/NAME"),
        ({"repo_id": "a/b/c"}, "repo_id: "),
        ({"repo_id": "a/b--c"}, "repo_id: "),
        ({"base_model": "/tmp/x"}, "base_model: "),
        ({"datasets": ["x"]}, "datasets: 'x', expected USER/NAME"),
        ({"collection": " "}, "collection: ' ', expected a title"),
        ({"base_revision": "step-1"}, "base_revision: step-1, but no base_model"),
        ({"analyses": ["/nowhere"]}, "analyses: /nowhere is no finished run"),
        ({"dry_run": False}, r"output_dir: .*out, but only a dry run \(--dry_run true\) writes there"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str, runs: Path, tmp_path: Path) -> None:
    base = {"run": str(runs / "tuned"), "repo_id": "a/b", "dry_run": True, "output_dir": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=message):
        publish(PublishConfig(**{**base, **settings}))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_pulled_run_is_a_finished_run(runs: Path, hub: HubServer, api: HfApi) -> None:
    push(api, runs, "base")
    folder = pull(f"{USER}/base", api=api)
    assert damaged_files(folder) == []
    assert (
        json.loads((folder / "env.json").read_text())["hash"]
        == json.loads((runs / "base/env.json").read_text())["hash"]
    )
    step = pull(f"{USER}/base", revision="step-2", api=api)
    assert (step / "model.safetensors").read_bytes() == (runs / "base/snapshots/step-2/model.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == (runs / "base" / "model.safetensors").read_bytes()


def test_a_folder_of_many_runs_is_published_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "model.safetensors").write_bytes(b"x")
    pd.DataFrame({"seed": [0, 1], "value": [0.5, 0.6]}).to_parquet(folder / "table.parquet")
    env = {"kind": "sweep", "hash": "abc", "versions": {"torch": "2"}, "command": f"sweep.py {Path.home()}/x.yaml"}
    (folder / "env.json").write_text(json.dumps(env))
    settings = {"output_dir": str(folder), "models": [f"base={folder}/base", "other=USER/NAME"], "lr": 0.1}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    tree = save(folder, tmp_path / "out", f"{USER}/sweep")["main"]
    assert {path.name for path in tree.iterdir()} == {
        "table.parquet", "env.json", "config.yaml", "README.md", "manifest.json",
    }  # fmt: skip
    kept = yaml.safe_load((tree / "config.yaml").read_text())
    assert kept == {"output_dir": "runs/sweep", "models": ["base=(local path)", "other=USER/NAME"], "lr": 0.1}
    assert "sweep.py '(local path)'" in (tree / "README.md").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in tree.glob("*.[jyR]*"))


def test_every_template_is_installed() -> None:
    root = Path(__file__).parents[2]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    templates = {f"model_cards/{path.name}" for path in (root / "model_cards").glob("*.j2")}
    assert set(listed["force-include"]) == templates


def test_stories_are_a_dataset_with_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    make_stories.main(["--rows", "train=60", "test=20", "--vocab_size", "300", "--output_dir", str(folder)])
    assert repo_kind(open_run(folder)) == "dataset"
    tree = save(folder, tmp_path / "out", f"{USER}/stories")["main"]
    card = DatasetCard.load(tree / "README.md")
    assert f'load_dataset("{USER}/stories"' in card.text
    assert f'folder = snapshot_download("{USER}/stories", repo_type="dataset")\n' in card.text
    assert 'AutoTokenizer.from_pretrained(f"{folder}/tokenizer")' in card.text
    assert "from huggingface_hub import snapshot_download" in card.text
    assert (tree / "tokenizer" / "tokenizer.json").is_file()
    assert str(tmp_path) not in card.text
