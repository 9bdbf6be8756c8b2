"""What is loaded is looked at: weights and adapters are whole in the model, or refused by name."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftmech_hf.models import merging
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import check_has_weights, load_model
from ftmech_hf.models.vocabulary import untie_alike
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.conftest import make_gpt2, make_llama

WORDS = 24
ROWS = torch.arange(18).view(2, 9)


def make_tied(vocab_size: int = WORDS) -> LlamaForCausalLM:
    config = LlamaConfig(**{**make_llama(vocab_size).config.to_dict(), "tie_word_embeddings": True})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


BASES: dict[str, Callable[[int], PreTrainedModel]] = {"llama": make_llama, "gpt2": make_gpt2, "tied": make_tied}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ROWS).logits
    return found


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**{
        "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False, **settings,
    })  # fmt: skip


def save(folder: Path, base: PreTrainedModel, config: Any, shake: str = "") -> Tensor:
    """Save a base and an adapter with random weights on it; gives the logits of the two as peft has them."""
    base.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base.name_or_path = str(folder / "base")
        torch.manual_seed(1)
        adapted = get_peft_model(base, config).eval()
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if shake and shake in name and weight.requires_grad:
                    weight += 0.3 * torch.randn_like(weight)
        adapted.save_pretrained(folder / "tuned")
    edit(folder / "tuned" / "adapter_config.json", base_model_name_or_path=str(folder / "base"))
    return logits(adapted)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


KINDS: dict[str, tuple[str, Any, str]] = {
    "dora": ("llama", lora(use_dora=True), ""),
    "rank-stabilized": ("llama", lora(use_rslora=True), ""),
    "conv1d and biases": ("gpt2", lora(target_modules=["c_attn", "c_proj"], bias="all", fan_in_fan_out=True), "bias"),
    "modules saved whole": ("llama", lora(modules_to_save=["lm_head", "norm"]), "modules_to_save"),
    "ia3": ("llama", peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
        init_ia3_weights=False,
    ), ""),
    "an unembedding of its own": ("tied", lora(modules_to_save=["lm_head"]), "modules_to_save"),
    "one of two tied matrices": ("tied", lora(target_modules=["q_proj", "embed_tokens"]), ""),
    "the other": ("tied", lora(target_modules=["q_proj", "lm_head"]), ""),
    "single tokens of tied matrices": ("tied", lora(trainable_token_indices=[3, 5]), "trainable_tokens"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_merged_answers_as_it_did_on_its_base(tmp_path: Path, kind: str) -> None:
    name, config, shake = KINDS[kind]
    expected = save(tmp_path, BASES[name](WORDS), config, shake)
    assert (expected - logits(BASES[name](WORDS))).abs().max() > 0.1  # it does something
    loaded = load_model(str(tmp_path / "tuned"))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-4)
    loaded.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged"))), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, {"modules_to_save": ["embed_tokens", "lm_head"]},
], ids=["low rank", "whole"])  # fmt: skip
@pytest.mark.parametrize("words", [WORDS + 3, WORDS - 2])
def test_a_vocabulary_that_the_adapter_brings_is_taken(tmp_path: Path, settings: dict[str, Any], words: int) -> None:
    base = make_llama(WORDS)
    base.save_pretrained(tmp_path / "first")
    base.resize_token_embeddings(words, mean_resizing=False)
    expected = save(tmp_path, base, lora(**settings))
    edit(tmp_path / "tuned" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "first"))
    loaded = load_model(str(tmp_path / "tuned"))
    assert (loaded.config.vocab_size, expected.shape[-1]) == (words, words)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-4)


def test_a_vocabulary_that_it_does_not_bring_is_refused(tmp_path: Path) -> None:
    save(tmp_path, make_llama(WORDS + 3), lora(target_modules=["q_proj", "lm_head"]))
    path = tmp_path / "tuned" / "adapter_model.safetensors"
    save_file({key: each for key, each in load_file(path).items() if "lora_" in key}, path)
    shutil.rmtree(tmp_path / "base")
    make_llama(WORDS).save_pretrained(tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"tuned was trained with 27 words \(lm_head.lora_B.weight\), but its base has 24"
    ):
        load_model(str(tmp_path / "tuned"))


def test_an_adapter_that_adds_tokens_is_refused(tmp_path: Path) -> None:
    save(tmp_path, make_llama(WORDS), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(
        ValueError, match=r"tuned is a PROMPT_TUNING adapter, .* cannot be merged into its base; expected"
    ):
        load_model(str(tmp_path / "tuned"))


@pytest.mark.parametrize("where", ["merge_and_unload", "from_pretrained"])
@pytest.mark.parametrize(
    "fault", [torch.OutOfMemoryError("of a GPU"), torch.AcceleratorError("an assert"), MemoryError()]
)
def test_what_goes_wrong_with_the_machine_is_not_called_a_fault_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    save(tmp_path, make_llama(WORDS), lora())
    monkeypatch.setattr(peft.tuners.lora.LoraModel if where == "merge_and_unload" else PeftModel, where, fail)
    with pytest.raises(type(fault)):
        load_model(str(tmp_path / "tuned"))


@pytest.mark.parametrize(("config", "taken"), [
    (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), True),
    (peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1), False),
], ids=["prompt tuning", "adaption prompt"])  # fmt: skip
def test_a_diagnosis_is_advised_for_the_kinds_that_it_takes(tmp_path: Path, config: Any, taken: bool) -> None:
    save(tmp_path, make_llama(WORDS), config)
    with pytest.raises(ValueError, match="cannot be merged into its base; expected one of weights, such as LORA") as no:
        load_model(str(tmp_path / "tuned"))
    assert ("a diagnosis takes it" in str(no.value)) == taken


def test_a_bias_that_has_no_place_in_the_base_is_refused(tmp_path: Path) -> None:
    """peft tells of it as of an error at run time."""
    save(tmp_path, make_llama(WORDS), lora(lora_bias=True))
    with pytest.raises(ValueError, match=r"^model: .*tuned is a LORA adapter, which cannot be merged .*has no bias"):
        load_model(str(tmp_path / "tuned"))


NAMES: dict[str, tuple[Callable[[str], str | None], str]] = {
    "another wrapper": (lambda key: key.replace("model.layers", "model._orig_mod.layers"), "q_proj.* is missing"),
    "half of it": (lambda key: None if "q_proj" in key else key, "q_proj.* is missing"),
    "another model": (lambda key: key.replace("layers", "language_model.layers"), "q_proj.* is missing"),
    "nothing": (lambda key: None, "there is no .*lm_head"),
    "more than has a place": (lambda key: key.replace("layers.1", "layers.7"), "layers.1.* is missing"),
    "no module saved whole": (lambda key: None if "lm_head" in key else key, "there is no .*lm_head"),
}


@pytest.mark.parametrize("case", NAMES)
def test_an_adapter_whose_names_do_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    rename, message = NAMES[case]
    save(tmp_path, make_llama(WORDS), lora(target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]))
    path = tmp_path / "tuned" / "adapter_model.safetensors"
    save_file({name: each for key, each in load_file(path).items() if (name := rename(key))}, path)
    with pytest.raises(ValueError, match=f"model: .*tuned.*{message}"):
        load_model(str(tmp_path / "tuned"))


def test_an_adapter_of_another_base_is_refused_with_the_sizes(tmp_path: Path) -> None:
    save(tmp_path, make_llama(WORDS), lora())
    config = LlamaConfig(**{**make_llama(WORDS).config.to_dict(), "hidden_size": 32})
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"cannot be loaded: .*q_proj.lora_A.* has \[2, 16\] where the model has \[2, 32\]"
    ):
        load_model(str(tmp_path / "tuned"))


def test_a_merge_that_changes_the_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an adapter kind would whose merge has a fault: here the merge leaves the adapter out."""
    save(tmp_path, make_llama(WORDS), lora())
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: self.unload(), raising=False)
    with pytest.raises(
        ValueError, match=r"tuned cannot be merged: the merged model's logits differ .* by [0-9.]+ \(larg"
    ):
        load_model(str(tmp_path / "tuned"))
    monkeypatch.setattr(merging, "ROUNDING", 100.0)
    load_model(str(tmp_path / "tuned"))


FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (lambda found: {k: v for k, v in found.items() if "layers.1.mlp.up" not in k}, "up_proj.* is missing"),
    "no head": (lambda found: {k: v for k, v in found.items() if k != "lm_head.weight"}, "lm_head.weight is missing"),
    "left over": (lambda found: {**found, "v_head.weight": torch.zeros(2)}, "v_head.weight has no place"),
    "other names": (lambda found: {f"module.{k}": v for k, v in found.items()}, "is missing"),
    "another size": (
        lambda found: {**found, "model.norm.weight": torch.ones(7)}, r"norm.* has \[7\] where the model has \[16\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    make_llama(WORDS).save_pretrained(tmp_path / "model")
    load_model(str(tmp_path / "model"))
    path = tmp_path / "model" / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"model: the weights of .*model do not fit its config: .*{message}"):
        load_model(str(tmp_path / "model"))


NO_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda weight: weight.index_fill(0, torch.tensor([3]), float("nan")), "1 of its weights hold nan or inf"),
    "infinity": (lambda weight: weight.index_fill(1, torch.tensor([0]), float("-inf")), "1 of its weights hold nan"),
    "what a quantization left": (lambda weight: (100 * weight).to(torch.int8), r"of whole numbers \(I8\)"),
}


@pytest.mark.parametrize("fault", NO_NUMBERS)
@pytest.mark.parametrize("key", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, fault: str, key: str) -> None:
    change, message = NO_NUMBERS[fault]
    make_llama(WORDS).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    found = load_file(path)
    save_file({**found, key: change(found[key])}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"^model: [^\n]*{message}[^\n]*expected [^\n]*$") as refused:
        load_model(str(tmp_path / "model"))
    assert key in str(refused.value)


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:-100]
        ),
        "cannot be loaded: SafetensorError",
    ),
    "on itself": (
        lambda folder: edit(folder / "adapter_config.json", base_model_name_or_path=str(folder)),
        "stands on itself",
    ),
    "on one that stands on it": (
        lambda folder: (
            edit(shutil.copytree(folder, folder.parent / "other") / "adapter_config.json",
                 base_model_name_or_path=str(folder)),
            edit(folder / "adapter_config.json", base_model_name_or_path=str(folder.parent / "other")),
        ),
        "stands on itself",
    ),
    "no settings": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ADAPTERS)
def test_an_adapter_that_cannot_be_put_on_anything_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    change, message = ADAPTERS[fault]
    save(tmp_path, make_llama(WORDS), lora())
    load_model(str(tmp_path / "tuned"))
    change(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"^model: [^\n]*$"):
        load_model(str(tmp_path / "tuned"))
    if fault != "cut weights":  # what it is on is asked for its identity as well
        with pytest.raises(ValueError, match=f"^model: [^\n]*{message}[^\n]*$"):
            model_hash(str(tmp_path / "tuned"))


def test_what_a_class_computes_itself_may_be_left_out_or_over(tmp_path: Path) -> None:
    model = make_tied()
    model.save_pretrained(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in found
    old = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(2) for number in range(2)}
    save_file({**found, **old}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(load_model(str(tmp_path))), logits(model))


CONFIGS = {
    "quantized": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        r"is quantized \(bitsandbytes\); .* or load it yourself and save what ftmech_hf.models.quantized.unpacked",
    ),
    "nested": (
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
        r"is quantized \(fp8\); expected wei",
    ),
    "unknown": ({"model_type": "nosuchmodel"}, "cannot be loaded: ValueError: .*nosuchmodel"),
    "no layers": ({"hidden_size": "wide"}, "cannot be loaded"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    changes, message = CONFIGS[case]
    make_llama(WORDS).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=f"^model: [^\n]*{message}[^\n]*$"):
        load_model(str(tmp_path))


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    make_llama(WORDS).save_pretrained(tmp_path, max_shard_size="4KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded: OSError: .*model\.safetensors"):
        load_model(str(tmp_path))


def test_offloaded_weights_are_named() -> None:
    from accelerate import cpu_offload, dispatch_model

    model = make_llama(WORDS)
    check_has_weights(dispatch_model(model, {"": "cpu"}))
    with pytest.raises(
        ValueError, match=r"model: 21 of its weights are offloaded .*embed_tokens.weight is on the meta"
    ):
        check_has_weights(cpu_offload(make_llama(WORDS), execution_device="cpu"))


def test_models_are_untied_together_or_not_at_all() -> None:
    tied, also_tied, own = make_tied(), make_tied(), make_llama(WORDS)
    before = logits(tied)
    untie_alike([tied, also_tied])
    assert len(dict(tied.named_parameters())) == len(dict(own.named_parameters())) - 1
    untie_alike([tied, own])
    assert dict(tied.named_parameters()).keys() == dict(own.named_parameters()).keys()
    assert torch.equal(logits(tied), before)
    assert not tied.config.tie_word_embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_in_memory_merged_answers_as_it_does_live(kind: str) -> None:
    """Also one on one of two tied matrices, which merged into both would be another model; the live one stays."""
    name, config, shake = KINDS[kind]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(BASES[name](WORDS), config).eval()
    with torch.no_grad():
        for each, weight in adapted.named_parameters():
            if shake and shake in each and weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    expected = logits(adapted)
    assert (expected - logits(BASES[name](WORDS))).abs().max() > 0.1  # it does something
    torch.testing.assert_close(logits(plain_model(adapted, "finetuned")), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(adapted), expected)


def test_a_merge_in_memory_that_changes_the_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(make_llama(WORDS), lora()).eval()
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: self.unload(), raising=False)
    with pytest.raises(ValueError, match=r"finetuned.* cannot be merged: the merged model's logits differ"):
        plain_model(adapted, "finetuned")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_an_adapter_is_merged_in_float32_whatever_type_is_asked(tmp_path: Path, dtype: Any) -> None:
    """In sixteen bits what a merge leaves out could not be told from rounding; the result is rounded once."""
    base = make_llama(WORDS)
    base = base.bfloat16() if dtype == "auto" else base
    save(tmp_path, base, lora())
    exact = load_model(str(tmp_path / "tuned"), dtype="float32")
    found = load_model(str(tmp_path / "tuned"), dtype=dtype)
    kept = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    assert {p.dtype for p in found.parameters()} == {kept}
    for name, weight in exact.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), weight.to(kept), rtol=0, atol=0)
    assert (logits(found).float() - logits(exact)).abs().max() < 0.05 * logits(exact).abs().max()
