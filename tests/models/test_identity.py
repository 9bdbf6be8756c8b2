"""What a model or a data set is, is its content: equal bytes are equal, and one byte makes another."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ftmech_hf.config import Notice
from ftmech_hf.downloads import pull
from ftmech_hf.models.identity import base_for, find_base, model_hash
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import Identity, RunDir
from tests.conftest import make_gpt2, make_llama
from tests.hub.server import HubServer

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "b", "c", "d"]


def save(folder: Path, *, seed: int = 0, shards: bool = False) -> Path:
    make_llama(8, seed=seed).save_pretrained(folder, **({"max_shard_size": "4KB"} if shards else {}))
    save_tokenizer(build_tokenizer(WORDS), folder)
    return folder


def save_adapter(folder: Path, base: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    with quiet_peft():
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def one_tensor(path: Path) -> None:
    """Change one number of the last tensor of a file."""
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("shards", [False, True])
def test_equal_bytes_are_equal_wherever_they_lie(tmp_path: Path, shards: bool) -> None:
    first = save(tmp_path / "first", shards=shards)
    assert (first / "model.safetensors").is_file() != shards
    shutil.copytree(first, tmp_path / "copy")
    edit(tmp_path / "copy" / "config.json", _name_or_path="elsewhere", transformers_version="0.1")
    (tmp_path / "copy" / "README.md").write_text("prose")
    assert model_hash(str(first)) == model_hash(str(tmp_path / "copy")) != str(first)
    assert model_hash(str(save(tmp_path / "other", seed=1, shards=shards))) != model_hash(str(first))


CHANGES: dict[str, Callable[[Path], None]] = {
    "one shard": lambda folder: one_tensor(sorted(folder.glob("model-*.safetensors"))[1]),
    "the index": lambda folder: edit(folder / "model.safetensors.index.json", metadata={"total_size": 1}),
    "the config": lambda folder: edit(folder / "config.json", rope_theta=7.0),
    "the tokenizer": lambda folder: (
        (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace('"a"', '"z"')) and None
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_file_that_results_depend_on_makes_another_model(tmp_path: Path, change: str) -> None:
    folder = save(tmp_path / "model", shards=True)
    assert len([*folder.glob("model-*.safetensors")]) >= 3
    before = model_hash(str(folder))
    CHANGES[change](folder)
    assert model_hash(str(folder)) != before


@pytest.mark.parametrize("name", [
    "tekken.json", "bpe.codes", "dict.txt", "source.spm", "qwen.tiktoken", "entity_vocab.json", "vocab.json",
    "prophetnet.tokenizer", "spiece.model", "merges.txt", "additional_chat_templates/tools.jinja",
])  # fmt: skip
def test_every_file_that_a_tokenizer_can_be_read_from_is_a_part_of_what_a_model_is(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "model") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("one")
    before = model_hash(str(tmp_path / "model"))
    path.write_text("two")
    assert model_hash(str(tmp_path / "model")) != before


def test_shards_without_an_index_are_looked_at(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", shards=True)
    (folder / "model.safetensors.index.json").unlink()
    before = model_hash(str(folder))
    one_tensor(sorted(folder.glob("*.safetensors"))[-1])
    assert model_hash(str(folder)) != before


def test_an_adapter_is_its_weights_and_what_it_stands_on(tmp_path: Path) -> None:
    base, lora = save(tmp_path / "base"), tmp_path / "lora"
    first = model_hash(str(save_adapter(lora, base)))
    shutil.rmtree(lora)
    second = model_hash(str(save_adapter(lora, base, seed=1)))
    edit(lora / "adapter_config.json", lora_alpha=32)
    scaled = model_hash(str(lora))
    above = save_adapter(tmp_path / "above", base, seed=2)
    edit(above / "adapter_config.json", base_model_name_or_path=str(lora))
    on_lora = model_hash(str(above))
    one_tensor(base / "model.safetensors")
    on_other = model_hash(str(lora))
    assert len({first, second, scaled, on_other}) == 4
    assert model_hash(str(above)) != on_lora  # the bottom of the stack was changed
    shutil.copytree(base, tmp_path / "moved" / "base")
    shutil.copytree(lora, tmp_path / "moved" / "lora")
    edit(tmp_path / "moved" / "lora" / "adapter_config.json", base_model_name_or_path="../base")
    assert model_hash(str(tmp_path / "moved" / "lora")) == on_other


def test_the_base_that_a_user_names_wins_over_what_an_adapter_says(tmp_path: Path) -> None:
    base, other = save(tmp_path / "base"), save(tmp_path / "other")
    one_tensor(other / "model.safetensors")
    lora = save_adapter(tmp_path / "lora", base)
    with pytest.warns(Notice, match=f"lora is put on {other}, as you say, and not on {base}, which it names"):
        assert find_base(lora, onto=str(other)) == str(other)
    assert find_base(lora, onto=str(base)) == str(base)
    assert find_base(lora, str(other)) == str(base)  # what is only a help where the base is gone does not
    copied = shutil.copytree(base, tmp_path / "copied")
    assert find_base(lora, onto=str(copied)) == str(base)  # the same bytes elsewhere are no other model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        assert model_hash(str(lora), onto=str(other)) != model_hash(str(lora))
        assert model_hash(str(lora), onto=str(copied)) == model_hash(str(lora))
        moved = load_model(str(lora), onto=str(other))
    stayed = dict(load_model(str(lora)).named_parameters())
    assert sum(int((weight != stayed[name]).sum()) for name, weight in moved.named_parameters()) == 1


def test_an_adapter_on_an_adapter_stays_on_it_whichever_of_those_below_is_named(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    above = save_adapter(tmp_path / "above", base, seed=2)
    edit(above / "adapter_config.json", base_model_name_or_path=str(lora))
    for onto in (base, lora, above):  # the last is what a base is to itself
        assert find_base(above, onto=str(onto)) == str(lora)


def test_an_adapter_of_ours_is_put_on_no_other_model(tmp_path: Path) -> None:
    base, other = save(tmp_path / "base"), save(tmp_path / "other")
    one_tensor(other / "model.safetensors")
    lora = save_adapter(tmp_path / "lora", base)
    trained_on = model_hash(str(base))
    (lora / "env.json").write_text(
        json.dumps({"inputs": {"model": trained_on}, "contents": {"model": trained_on.content}})
    )
    assert find_base(lora, onto=str(base)) == str(base)
    with pytest.raises(ValueError, match=rf"lora was trained on {trained_on}, but {other} is {model_hash(str(other))}"):
        find_base(lora, onto=str(other))


def test_only_what_was_made_of_the_base_is_put_on_it() -> None:
    models = {"base": "here", "finetuned": "tuned", "control": "else"}
    assert base_for("finetuned", models) == base_for("reversed", models) == {"onto": "here"}
    assert base_for("control", models) == base_for("twin", models) == {"base": "here"}
    assert base_for("base", models) == {}


@pytest.mark.parametrize("recorded", ["/no/longer/there/base", "./base", "", None])
def test_a_base_is_not_guessed_by_its_name(tmp_path: Path, recorded: str | None) -> None:
    base = save(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    edit(lora / "adapter_config.json", base_model_name_or_path=recorded)
    for look in (load_model, model_hash):
        with pytest.raises(
            ValueError, match=r"model: the adapter .*lora stands on .*, which is not there; expected a f"
        ):
            look(str(lora))
    with pytest.warns(Notice, match=f"lora is put on {base}; what it names, .*, is not there"):
        assert find_base(lora, str(base)) == str(base)


def test_the_hub_and_a_folder_agree_and_a_revision_that_moves_is_another(
    hub: HubServer, api: HfApi, tmp_path: Path
) -> None:
    folder, name = save(tmp_path / "model", shards=True), "someone/model"
    for _ in range(2):
        hub.add_repo("model", name, {path.name: path.read_bytes() for path in folder.iterdir()})
        pulled = pull(name, api=api)
        assert model_hash(str(pulled)) == model_hash(str(folder))
        one_tensor(sorted(folder.glob("model-*.safetensors"))[0])
        assert model_hash(str(pulled)) != model_hash(str(folder))


def run_of(path: Path, seed: int, *, fresh: bool = False) -> RunDir:
    """A run whose weights are not what its settings say, as on another device."""
    run = RunDir.open(path, "pretrain", {"steps": 1}, fresh=fresh)
    make_gpt2(8, seed=seed).save_pretrained(run.working)
    run.finish()
    return run


def test_a_run_is_known_by_its_hash_and_by_its_weights(tmp_path: Path) -> None:
    first = run_of(tmp_path / "base", 0)
    before = model_hash(str(first.path))
    shutil.copytree(first.path, tmp_path / "copy")
    assert before == first.hash
    assert not before.differs(model_hash(str(tmp_path / "copy")))
    after = model_hash(str(run_of(tmp_path / "base", 1, fresh=True).path))
    assert after == before
    assert after.differs(before)
    assert not after.differs(Identity(before))  # a run from before contents were kept
    assert pickle.loads(pickle.dumps(after)).content == after.content


@pytest.mark.parametrize("finished", [True, False])
def test_what_was_made_of_other_weights_is_not_found_again(tmp_path: Path, finished: bool) -> None:
    base, out = tmp_path / "base", tmp_path / "out"

    def open_on_base(**more: bool) -> RunDir:
        return RunDir.open(out, "probe", {"rows": 3}, inputs={"model": model_hash(str(base))}, **more)

    run_of(base, 0)
    run = open_on_base()
    run.finish() if finished else run.close()
    open_on_base().close()  # nothing changed
    run_of(base, 1, fresh=True)
    with pytest.raises(ValueError, match=r"out.* was made from other weights or files of model, .* or --fresh to rep"):
        open_on_base()
    open_on_base(fresh=True).finish()
    assert open_on_base().finished
