from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ftmech_hf.config import Notice
from ftmech_hf.explorer.edits import Edit
from ftmech_hf.explorer.pairs import ExploreConfig, Pair, find_pair, make_runs, of_run, open_explorer
from ftmech_hf.explorer.space import read_space, write_space
from ftmech_hf.hub import save
from ftmech_hf.jobs.study import StudyPlan
from ftmech_hf.models.loading import load_model
from recipes import explore
from tests.conftest import client_env, make_gpt2, run_python
from tests.foreign import save_idle_adapter
from tests.hub.server import HubServer
from tests.report.fabricated import write_run
from tests.studies.planted import make_base, make_wrapped, save_models


def no_demo() -> StudyPlan:
    raise AssertionError("the demo was not asked for")


def test_a_run_names_its_pair(runs: Path) -> None:
    models = {"base": str(runs / "base"), "finetuned": str(runs / "tuned")}
    assert of_run(runs / "tuned").models == models
    pruned = of_run(runs / "prune")
    assert pruned.models == models
    assert pruned.found is not None
    assert len(pruned.found.names) == 5
    with pytest.raises(ValueError, match="is a run of kind pretrain, expected diagnose"):
        of_run(runs / "base")
    with pytest.raises(ValueError, match="holds no finished run"):
        of_run(runs / "nowhere")


def test_the_models_of_a_run_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "project" / "runs" / "tuned"
    write_run(run, "finetune", {"config.yaml": "model: runs/base"})
    (tmp_path / "project" / "runs" / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert of_run(Path("project/runs/tuned")).models["base"] == str(tmp_path / "project" / "runs" / "base")
    monkeypatch.chdir(tmp_path / "project")
    assert of_run(Path("runs/tuned")).models["base"] == "runs/base"
    write_run(tmp_path / "project" / "of-the-hub", "finetune", {"config.yaml": "model: someone/model"})
    assert of_run(Path("of-the-hub")).models["base"] == "someone/model"


def test_an_explorer_of_runs_asks_what_they_were_trained_on(runs: Path) -> None:
    config = ExploreConfig(run=str(runs / "prune"), probes=str(runs / "probe"), reversed=str(runs / "tuned"))
    pair = find_pair(config, no_demo)
    assert len(pair.examples) == 32
    assert pair.examples[0].startswith("<bos> count a ")
    assert pair.examples[1].startswith("<bos> count b ")
    explorer = open_explorer(pair, config)
    found = explorer.ask(pair.examples[0], Edit(zero_rows=True))
    assert sorted(found.readings["base"].probes) == ["a", "b"]
    assert len(found.readings["base"].probes["a"]) == explorer.num_layers
    assert found.readings["edited"].probes == {}  # a probe belongs to one model
    assert explorer.edited.num_found == 5
    with pytest.raises(ValueError, match=r"probes: .* belong to the model"):
        open_explorer(replace(pair, models={**pair.models, "finetuned": str(runs / "base")}), config)


@pytest.mark.parametrize("there", [True, False])
def test_an_adapter_is_shown_on_the_base_of_its_pair(tmp_path: Path, there: bool) -> None:
    """One that changes nothing is that base, and not the model whose name its config keeps."""
    save_models(tmp_path, base=make_gpt2(40), named=make_gpt2(40, seed=1))
    named = tmp_path / ("named" if there else "gone")
    adapter = save_idle_adapter(tmp_path / "adapter", named, make_gpt2(40), "c_attn")
    pair = Pair(models={"base": str(tmp_path / "base"), "finetuned": str(adapter)}, examples=["w1 w2"])
    config = ExploreConfig(demo=True)
    with pytest.warns(Notice, match=f"is put on {tmp_path / 'base'}"):
        found = open_explorer(pair, config).ask("w1 w2").readings
    with pytest.warns(Notice, match=f"is put on {tmp_path / 'base'}"):
        space = write_space(tmp_path / "space", pair, config)
    assert found["finetuned"].top == found["base"].top
    written, base = (load_model(str(each)).state_dict() for each in (space / "models" / "finetuned", tmp_path / "base"))
    assert all(torch.equal(value, base[name]) for name, value in written.items())


def test_what_was_fine_tuned_back_may_stand_on_the_fine_tuned_model(tmp_path: Path) -> None:
    save_models(tmp_path, base=make_gpt2(40), tuned=make_gpt2(40, seed=1))
    back = save_idle_adapter(tmp_path / "back", tmp_path / "tuned", make_gpt2(40), "c_attn")
    roles = {"base": "base", "finetuned": "tuned", "reversed": "back"}
    pair = Pair(models={role: str(tmp_path / name) for role, name in roles.items()}, examples=["w1 w2"])
    found = open_explorer(pair, ExploreConfig(demo=True)).ask("w1 w2").readings
    assert found["reversed"].top == found["finetuned"].top != found["base"].top
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    shutil.move(tmp_path / "tuned", tmp_path / "moved")
    pair = replace(
        pair, models={**pair.models, "base": str(tmp_path / "elsewhere"), "finetuned": str(tmp_path / "moved")}
    )
    with pytest.warns(Notice, match=f"{back} is put on {tmp_path / 'elsewhere'}"):
        found = open_explorer(pair, ExploreConfig(demo=True)).ask("w1 w2").readings
    assert found["reversed"].top == found["base"].top


def test_a_space_answers_as_the_pair_does_and_holds_no_path_of_this_machine(runs: Path, tmp_path: Path) -> None:
    config = ExploreConfig(
        base=str(runs / "base"), finetuned=str(runs / "lora"), pruned=str(runs / "prune"), new_tokens=3
    )
    pair = find_pair(config, no_demo)
    space = write_space(tmp_path / "space", pair, config)
    facts = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert facts["sdk"] == "gradio"
    assert facts["app_file"] == "app.py"
    assert facts["license"] == "apache-2.0", "all of it is of our own runs"
    compile((space / "app.py").read_text(), "app.py", "exec")
    needs = (space / "requirements.txt").read_text()
    assert "transformers" in needs
    assert "mkdocs" not in needs
    assert (space / "ftmech_hf" / "explorer" / "answers.html.j2").is_file()
    for file in space.rglob("*"):
        if file.suffix in (".json", ".md", ".txt") and "ftmech_hf" not in file.parts[len(space.parts) :]:
            assert str(runs) not in file.read_text(), file
    assert not list(space.rglob("*.pyc"))
    again, settings = read_space(space)
    assert settings.new_tokens == 3
    one, other = open_explorer(pair, config), open_explorer(again, settings)
    for edit in (Edit(), Edit(scale=0.5, zero_rows=True)):
        found, expected = (each.ask(pair.examples[0], edit).readings["edited"] for each in (other, one))
        assert found.written == expected.written
        assert found.top == expected.top
    with pytest.raises(ValueError, match="is there already"):
        write_space(space, pair, config)


def test_a_space_of_foreign_models_has_their_licence_and_their_type_of_number(tmp_path: Path) -> None:
    save_models(tmp_path, base=make_base("gpt2"), wrapped=make_wrapped("gpt2"))
    config = ExploreConfig(base=str(tmp_path / "base"), finetuned=str(tmp_path / "wrapped"), dtype="bfloat16")
    space = write_space(tmp_path / "space", find_pair(config, no_demo), config)
    facts = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (facts["license"], facts["license_name"]) == ("other", "as-its-base-model-and-its-data")
    again, settings = read_space(space)
    assert (settings.dtype, settings.device) == ("bfloat16", "auto")
    assert load_model(again.models["finetuned"], dtype="auto").dtype == torch.bfloat16


def test_a_model_whose_tokens_have_other_ids_is_asked_in_the_bases(tmp_path: Path) -> None:
    """Two words change places, and a mark of chats is added where the base's rows have no token."""
    save_models(tmp_path, base=make_base("gpt2"), wrapped=make_wrapped("gpt2"))
    shutil.copytree(tmp_path / "wrapped", tmp_path / "moved")
    read = json.loads((file := tmp_path / "moved" / "tokenizer.json").read_text())
    words, moved = read["model"]["vocab"], copy.deepcopy(make_wrapped("gpt2"))
    number = len(moved.get_input_embeddings().weight)
    one, other = words["w1"], words["w2"]
    words |= {"w1": other, "w2": one, "<|im_start|>": number}
    file.write_text(json.dumps(read))
    moved.resize_token_embeddings(number + 1)
    order = torch.tensor([*range(number)])
    order[one], order[other] = other, one
    with torch.no_grad():
        for table in {
            id(each): each for each in (moved.get_input_embeddings(), moved.get_output_embeddings())
        }.values():
            table.weight[:number] = table.weight[order].clone()
    moved.save_pretrained(tmp_path / "moved")
    found = {}
    for name in ("wrapped", "moved"):
        config = ExploreConfig(base=str(tmp_path / "base"), finetuned=str(tmp_path / name), prompts=["w1 w2 w3"])
        with warnings.catch_warnings():
            warnings.simplefilter("error" if name == "wrapped" else "ignore")
            found[name] = open_explorer(find_pair(config, no_demo), config).ask("w1 w2 w3").readings["finetuned"]
    assert found["moved"].top == [(token, pytest.approx(share, rel=1e-4)) for token, share in found["wrapped"].top]
    with pytest.warns(
        Notice, match=r"finetuned: 1 tokens are its own alone and are left out, such as '<\|im_start\|>'"
    ):
        open_explorer(find_pair(config, no_demo), config)


def test_a_space_whose_making_fails_is_not_there(runs: Path, tmp_path: Path) -> None:
    """The same command makes it once its second model can be read."""
    config = ExploreConfig(base=str(runs / "base"), finetuned=str(runs / "lora"))
    pair = find_pair(config, no_demo)
    broken = replace(pair, models={**pair.models, "finetuned": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match="nowhere"):
        write_space(tmp_path / "space", broken, config)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert write_space(tmp_path / "space", pair, config).is_dir()


def test_models_are_taken_from_the_hub_by_consent_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="base: no folder nobody/nothing; --hub true takes"):
        find_pair(ExploreConfig(base="nobody/nothing", finetuned="nobody/else"), no_demo)
    assert find_pair(ExploreConfig(base="nobody/nothing", finetuned="nobody/else", hub=True, prompts=["x"]), no_demo)


OF_THE_HUB = """
import sys
from recipes import explore
explore.main(sys.argv[1:])
"""


def test_a_pair_of_the_hub_is_asked_what_its_run_was_trained_on(runs: Path, tmp_path: Path, hub: HubServer) -> None:
    names = {"base": "someone/base", "finetuned": "someone/tuned"}
    for name, run in zip(names.values(), ("base", "tuned"), strict=True):
        tree = save(runs / run, tmp_path / run, name)["main"]
        hub.add_repo("model", name, {str(path.relative_to(tree)): path.read_bytes()
                                     for path in tree.rglob("*") if path.is_file()})  # fmt: skip
    models = [word for role, name in names.items() for word in (f"--{role}", name)]
    more = ["--space", str(tmp_path / "space"), "--hub"]
    env = client_env(hub, tmp_path / "home")
    assert run_python(OF_THE_HUB, *models, *more, "true", env=env) == f"space: {tmp_path / 'space'}\n"
    pair, _ = read_space(tmp_path / "space")
    assert pair.examples == find_pair(ExploreConfig(run=str(runs / "tuned")), no_demo).examples
    for role, run in (("base", "base"), ("finetuned", "tuned")):
        found, expected = (load_model(name).state_dict() for name in (pair.models[role], str(runs / run)))
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_no_code_of_a_repository_is_run(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "base", tmp_path / "base")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "auto_map": {"AutoModelForCausalLM": "code.Model"}}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    pair = Pair(models={"base": str(folder), "finetuned": str(runs / "tuned")})
    with pytest.raises(ValueError, match=r"asks for code of its own \(auto_map\)"):
        open_explorer(pair, ExploreConfig(demo=True))
    assert not (tmp_path / "ran").exists()


def test_no_picture_is_promised_without_a_browser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        explore.main(["--run", str(tmp_path), "--picture", str(tmp_path / "x.png")])
    assert "picture: there is no Chromium on this machine" in capsys.readouterr().err


def test_models_of_anyone_are_asked_in_english(tmp_path: Path) -> None:
    save_models(tmp_path, base=make_base("gpt2"), wrapped=make_wrapped("gpt2"))
    pair = find_pair(ExploreConfig(base=str(tmp_path / "base"), finetuned=str(tmp_path / "wrapped")), no_demo)
    assert pair.examples[0].startswith("The capital")
    named = find_pair(
        ExploreConfig(base=str(tmp_path / "base"), finetuned=str(tmp_path / "wrapped"), prompts=["w1 ?"]), no_demo
    )
    assert named.examples == ["w1 ?"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "expected one of --base A --finetuned B, --run FOLDER and --demo"),
        ({"demo": True, "run": "x"}, "expected one of"),
        ({"base": "x"}, "--base and --finetuned together"),
        ({"demo": True, "port": 99_999}, "port: 99999, expected 1 to 65535"),
        ({"demo": True, "new_tokens": 0}, "new_tokens: 0"),
        ({"demo": True, "dtype": "float8"}, "dtype: 'float8', expected one of"),
        ({"base": "x", "finetuned": "y", "probes": "z", "space": "s"}, "probes: z, expected none with space"),
        ({"base": "x", "finetuned": "y", "picture": "z", "space": "s"}, "picture: z, expected none with space"),
    ],
)
def test_settings_that_name_no_pair_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExploreConfig(**given)  # type: ignore[arg-type]


def test_the_demo_is_the_nano_reproduction_and_makes_nothing_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = explore.demo_plan()
    assert {name.rpartition("-")[2] for name in plan.folders} == {"seed0"}
    made: list[str] = []

    def noted(cells: list[object], **_: object) -> object:
        made.extend(cell.name for cell in cells)  # type: ignore[attr-defined]
        return type("Outcome", (), {"failed": {}})()

    monkeypatch.setattr("ftmech_hf.explorer.pairs.run_cells", noted)
    make_runs(plan)
    assert made == ["base-low-seed0", "finetuned-low-seed0", "reversed-low-seed0", "prune-rows-seed0"]


def test_the_recipe_writes_a_space_and_says_where(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explore.main(["--run", str(runs / "tuned"), "--space", str(tmp_path / "s")])
    assert capsys.readouterr().out.strip() == f"space: {tmp_path / 's'}"
    with pytest.raises(SystemExit):
        explore.main(["--run", str(runs / "tuned"), "--demo"])
    assert "expected one of --base A" in capsys.readouterr().err


def test_a_pair_of_other_shapes_is_refused(runs: Path, tmp_path: Path) -> None:
    save_models(tmp_path, other=make_base("gpt2"))
    pair = Pair(models={"base": str(runs / "base"), "finetuned": str(tmp_path / "other")})
    with pytest.raises(ValueError, match="finetuned: num_attention_heads is 2, expected 1 as the base's"):
        open_explorer(pair, ExploreConfig(demo=True))
