from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import (
    Dtype,
    check_vocabulary,
    find_device,
    load_model,
    load_tokenizer,
    random_twin,
    seed_of_its_own,
)
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import client_env, make_gpt2, run_python
from tests.hub.server import HubServer


def test_a_reloaded_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = make_gpt2(40)
    model.save_pretrained(tmp_path)
    tokens = torch.arange(20).view(2, 10)
    assert torch.equal(load_model(str(tmp_path), attn_implementation="eager")(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("name", ["{}/gone", "{}/a/b", "./x/y", "runs/gone", "a/b/c"])
def test_missing_folders_are_named_and_not_looked_for_on_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="model: no folder"):
        load_model(name.format(tmp_path))


def test_a_name_without_a_user_is_no_folder_and_no_model_on_the_hub(tmp_path: Path, hub: HubServer) -> None:
    """As its user sees it: ``gpt2`` is on the Hub, so any such name is looked for there; then both are said."""
    code = (
        "from ftmech_hf.models.loading import load_model\n"
        "try: load_model('nowhere')\n"
        "except (ValueError, OSError) as error: print(error)"
    )
    said = run_python(code, env=client_env(hub, tmp_path / "home"), cwd=tmp_path)
    assert said.startswith("model: no folder nowhere; and as a model on the Hub: cannot pull nowhere@main: ")


def test_a_name_beside_other_runs_is_a_folder_and_not_a_hub_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no folder runs/nowhere; train it first"):
        load_model("runs/nowhere")
    with pytest.raises(ValueError, match=r"model: runs holds no model \(no config.json, no adapter_config.json\)"):
        load_model("runs")


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    model = make_gpt2(40)
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"its weights are a pickle \(pytorch_model.bin\)"):
        load_model(str(tmp_path))


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "pretrain", {"steps": 1})
    make_gpt2(40).save_pretrained(run.working)
    run.finish()
    assert model_hash(str(run.path)) == run.hash
    save_file({"x": torch.zeros(1)}, run.path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is damaged: model.safetensors"):
        load_model(str(run.path))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    make_gpt2(60).save_pretrained(tmp_path)
    save_tokenizer(build_tokenizer(PcfgConfig().vocabulary), tmp_path)
    check_vocabulary(str(tmp_path), PcfgConfig().vocabulary)
    with pytest.raises(ValueError, match="was trained on another vocabulary"):
        check_vocabulary(str(tmp_path), PcfgConfig(text_length=40).vocabulary)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    """Of such a folder transformers makes a tokenizer that knows no word, and every row was blamed."""
    make_gpt2(40).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"^model: .*bare holds no tokenizer \(none of tokenizer.json, "):
        load_tokenizer(str(tmp_path / "bare"))


def test_a_random_twin_has_the_shape_and_not_the_weights() -> None:
    model = make_gpt2(40, seed=0)
    first, again, other = random_twin(model, 1), random_twin(model, 1), random_twin(model, 2)
    name = "transformer.h.0.mlp.c_fc.weight"
    assert first.num_parameters() == model.num_parameters()
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), model.get_parameter(name))
    assert torch.equal(random_twin(model, 0).get_parameter(name), model.get_parameter(name))  # where it started


def test_weights_have_the_type_of_number_that_is_asked_for(tmp_path: Path) -> None:
    saved = make_gpt2(40).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    found = {dtype: load_model(str(tmp_path), dtype=dtype) for dtype in get_args(Dtype)}
    assert {dtype: model.dtype for dtype, model in found.items()} == {
        "auto": torch.bfloat16, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    }  # fmt: skip
    for model in found.values():
        assert torch.equal(model.lm_head.weight.bfloat16(), saved.lm_head.weight)
        twin = random_twin(model, 0)
        assert (twin.dtype, twin.device) == (model.dtype, model.device)
    assert load_model(str(tmp_path)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"^dtype: 'int8', expected one of auto, float32, bfloat16, float16$"):
        load_model(str(tmp_path), dtype="int8")  # type: ignore[arg-type]


def test_devices_are_named_and_there_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert find_device("auto") == torch.device("cpu"), "as training, which accelerate keeps on the CPU"
    for device, reason in (
        ("tpu", r"'tpu', expected auto, cpu, cuda, cuda:0 or another number, or mps"),
        ("cuda:x", r"'cuda:x', expected auto"), ("cpu:1", r"'cpu:1', expected auto"),
        (f"cuda:{torch.cuda.device_count()}", rf"cuda:\d is not there; {torch.cuda.device_count()} of that kind are"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^device: {reason}"):
            find_device(device)


@pytest.mark.cuda
def test_a_model_is_loaded_onto_the_device_that_is_asked_for(tmp_path: Path) -> None:
    make_gpt2(40).save_pretrained(tmp_path)
    for device in ("cuda", "cuda:0", "auto"):
        model = load_model(str(tmp_path), device=device, dtype="bfloat16")
        assert (model.device.type, model.dtype) == ("cuda", torch.bfloat16)
        assert random_twin(model, 0).device == model.device


def test_random_weights_with_a_seed_of_their_own_are_those_of_no_pretraining() -> None:
    """Whatever seed a model began with: those of the first hundred and of a diagnosis beside it are apart."""
    made = {seed_of_its_own(seed, number) for seed in range(100) for number in (1, 2, 3)}
    assert len(made) == 300
    assert min(made) > 10_000
    model = build_model(find_preset("nano", n_layer=1, n_head=2, n_embd=16), 40, seed=1)
    began, apart = random_twin(model, 1), random_twin(model, seed_of_its_own(0, 1))
    weights = [each.transformer.wte.weight.detach() for each in (model, began, apart)]
    assert torch.equal(weights[0], weights[1])
    assert abs(float(torch.corrcoef(torch.stack([weights[0].flatten(), weights[2].flatten()]))[0, 1])) < 0.2
