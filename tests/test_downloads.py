"""What is taken from the Hub is what the Hub promised, and cannot run code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

from ftmech_hf.downloads import check_folder, pull
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import RunDir
from tests.conftest import make_gpt2
from tests.hub.server import Fault, HubServer

NAME = "someone/model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_gpt2(8).save_pretrained(folder)
    save_tokenizer(build_tokenizer(["<pad>", "<bos>", "<eos>", "<unk>", "a", "b", "c", "d"]), folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PASSING = [
    Fault("GET", "/storage/", "cut"),
    Fault("GET", "/storage/", "drop"),
    Fault("GET", "/storage/", "error", times=2, status=503),
    Fault("GET", "/storage/", "slow", seconds=0.5),
    Fault("GET", "/tree/", "error", status=500),
    Fault("GET", "/revision/|/models/someone/model$", "drop"),
    Fault("HEAD", "/resolve/", "error", status=502),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.method} {fault.path} {fault.action}")
def test_a_pull_survives_what_passes(fault: Fault, model: Path, hub: HubServer, api: HfApi) -> None:
    hub.add_repo("model", NAME, files(model))
    hub.faults = [fault]
    folder = pull(NAME, api=api, wait=0.01)
    assert fault.times == 0
    assert {name: (folder / name).read_bytes() for name in files(model)} == files(model)


def test_a_file_with_other_bytes_than_promised_is_refused_and_not_kept(model: Path, hub: HubServer, api: HfApi) -> None:
    hub.add_repo("model", NAME, files(model))
    hub.faults = [Fault("GET", "/storage/", "tamper")]
    with pytest.raises(OSError, match=r"model.safetensors came with another hash than the Hub promised"):
        pull(NAME, api=api)
    assert (pull(NAME, api=api) / "model.safetensors").read_bytes() == files(model)["model.safetensors"]


def test_a_run_that_was_changed_on_the_hub_is_refused(
    tmp_path: Path, model: Path, hub: HubServer, api: HfApi
) -> None:  # fmt: skip
    run = RunDir.open(tmp_path / "run", "pretrain", {"steps": 1})
    for name, content in files(model).items():
        (run.working / name).write_bytes(content)
    run.finish()
    save_file({"x": torch.zeros(1)}, tmp_path / "run" / "model.safetensors")
    hub.add_repo("model", NAME, files(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"someone/model@main is damaged: model.safetensors"):
        pull(NAME, api=api)


@pytest.mark.parametrize("path", ["../outside.json", "a/../../outside.json", "/etc/passwd", "..\\outside", "C:/x"])
def test_a_path_that_leads_outside_is_refused_before_anything_is_written(
    path: str, model: Path, hub: HubServer, api: HfApi, tmp_path: Path
) -> None:  # fmt: skip
    hub.add_repo("model", NAME, {**files(model), path: b"{}"})
    with pytest.raises(ValueError, match="would lie outside its folder"):
        pull(NAME, api=api)
    assert hub.count("/resolve/") == 0
    assert not (tmp_path / "cache").exists()


def test_what_is_not_there_is_said_in_one_line(hub: HubServer, api: HfApi) -> None:
    with pytest.raises(ValueError, match=r"cannot pull someone/gone@main: there is no such repository"):
        pull("someone/gone", api=api)
    hub.add_repo("model", NAME, {"config.json": b"{}"})
    with pytest.raises(ValueError, match=r"cannot pull someone/model@step-7: there is no such revision"):
        pull(NAME, revision="step-7", api=api)


def to_pickle(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def add_code(folder: Path, file: str) -> None:
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**settings, "auto_map": {"AutoModelForCausalLM": "code.Model"}}))


def beside_other_tensors(folder: Path) -> None:
    to_pickle(folder)
    save_file({"x": torch.zeros(1)}, folder / "optimizer.safetensors")


BAD = {
    "a pickle beside other tensors": (beside_other_tensors, r"its weights are a pickle \(pytorch_model.bin\)"),
    "a pickle": (to_pickle, r"its weights are a pickle \(pytorch_model.bin\), which can run code"),
    "code": (lambda folder: add_code(folder, "config.json"), r"config.json asks for code of its own \(auto_map\)"),
    "code of a tokenizer": (
        lambda folder: add_code(folder, "tokenizer_config.json"), r"tokenizer_config.json asks for code of its own",
    ),
    "an index": (
        lambda folder: (folder / "x.index.json").write_text('{"weight_map": {"x": "../../x.safetensors"}}'),
        "'../../x.safetensors' would lie outside its folder",
    ),
    "a manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"../x": {"bytes": 1, "sha256": ""}}'),
        "'../x' would lie outside its folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_could_run_code_or_leave_its_folder_is_refused(
    spoil: object, message: str, model: Path, hub: HubServer, api: HfApi
) -> None:  # fmt: skip
    check_folder(model)
    load_model(str(model))
    spoil(model)  # type: ignore[operator]
    for load in (load_model, load_tokenizer):
        with pytest.raises(ValueError, match=message):
            load(str(model))
    hub.add_repo("model", NAME, files(model))
    with pytest.raises(ValueError, match=message):
        pull(NAME, api=api)


def test_a_manifest_of_somebody_elses_is_none_of_ours(model: Path) -> None:
    """Many programs have a file of that name. One that is damaged in a run of ours, which has env.json, is refused."""
    (model / "manifest.json").write_text('{"name": "my app", "icons": []}')
    check_folder(model)
    load_model(str(model))
    assert model_hash(str(model))
    (model / "env.json").write_text("{}")  # which others have, too
    check_folder(model)
    (model / "env.json").write_text('{"hash": "0123456789ab"}')
    with pytest.raises(ValueError, match=r"is damaged: manifest\.json"):
        check_folder(model)


@pytest.mark.parametrize(("text", "said"), [
    ('{"weight_map": ["a"]}', "weight_map of model.safetensors.index.json is a list, expected names"),
    ("[]", "weight_map of model.safetensors.index.json is a list, expected names"),
    ('{"weight_map": {"a": 1}}', "weight_map of model.safetensors.index.json names 1, expected names of files"),
    ('{"weight_map": {"a"', "model.safetensors.index.json cannot be read (Expecting ':' delimiter"),
])  # fmt: skip
def test_an_index_that_is_none_is_named(text: str, said: str, model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    for look in (check_folder, load_model, model_hash):
        with pytest.raises(ValueError, match=re.escape(said)):
            look(model if look is check_folder else str(model))  # type: ignore[operator]


def test_an_index_of_pickles_beside_safe_weights_is_no_reason_to_refuse_these(
    model: Path, hub: HubServer, api: HfApi
) -> None:
    """Many models on the Hub come in both formats, in parts; what is pulled are the safe ones and either index."""
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    for suffix, kind in (("safetensors", "model"), ("bin", "pytorch_model")):
        name = f"{kind}-00001-of-00001.{suffix}"
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (model / f"{kind}.{suffix}.index.json").write_text(json.dumps(index))
    save_file(weights, model / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    check_folder(model)
    hub.add_repo("model", NAME, {**files(model), "pytorch_model-00001-of-00001.bin": b"pickle"})
    assert load_model(str(pull(NAME, api=api))).num_parameters()
    (model / "model-00001-of-00001.safetensors").unlink()
    for name in ("model.safetensors.index.json", None):
        with pytest.raises(ValueError, match=r"its weights are a pickle \(pytorch_model-00001-of-00001\.bin\)"):
            check_folder(model)
        if name:
            (model / name).unlink()


def test_an_index_of_safe_weights_names_no_pickle_whatever_lies_beside_it(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.bin"}}')
    with pytest.raises(ValueError, match=r"its weights are a pickle \(model-00001-of-00002\.bin\)"):
        check_folder(model)


def test_a_pickle_beside_safetensors_is_not_even_downloaded(model: Path, hub: HubServer, api: HfApi) -> None:
    hub.add_repo("model", NAME, {**files(model), "pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit"})
    assert {path.name for path in pull(NAME, api=api).iterdir()} == {*files(model), ".gitattributes"}


def test_what_was_pulled_is_found_again_offline(
    model: Path, hub: HubServer, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    hub.add_repo("model", NAME, files(model))
    folder = pull(NAME, api=api)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert pull(NAME, api=api) == folder
    with pytest.raises(OSError, match=r"it is not in the cache, and the Hub cannot be reached"):
        pull("someone/other", api=api)
    assert len(hub.requests) == asked


def test_a_data_set_may_hold_pickles_which_are_not_downloaded(hub: HubServer, api: HfApi) -> None:
    hub.add_repo("dataset", NAME, {"data/train.parquet": b"rows", "cache/index.pkl": b"pickle", "README.md": b"# x"})
    folder = pull(NAME, kind="dataset", api=api)
    assert (folder / "data" / "train.parquet").is_file()
    assert not (folder / "cache").exists()
