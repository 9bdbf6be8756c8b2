"""Every kind of adapter that peft knows: merged by its user, or as it was saved, it gives the same numbers.

Tolerance: logits and activations within 1e-4 of the largest one, which is :data:`ftmech_hf.models.merging.ROUNDING`;
what is measured of the change of the weights within 0.1 %.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ftmech_hf.models.loading import load_model
from ftmech_hf.models.merging import ROUNDING
from ftmech_hf.models.vocabulary import untie_alike
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from tests.conftest import make_gpt2, make_llama, make_neox
from tests.models.test_merging import make_tied
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import ask, make_rows

VOCABULARY = 40
ROWS = torch.arange(18).view(2, 9)
FEW = CaseConfig(rows=30, fit_rows=40, patch_rows=12, null_steps=0)
TARGETS = ["q_proj", "v_proj", "down_proj"]


def kind(name: str, **settings: Any) -> Any:
    """The settings of an adapter, as small as the models here."""
    config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[name]]
    targets = {"target_modules": TARGETS} if "target_modules" in config.__dataclass_fields__ else {}
    drawn = {"init_weights": False} if "init_weights" in config.__dataclass_fields__ else {}
    return config(**{"task_type": "CAUSAL_LM", **targets, **drawn, **settings})


def lora(**settings: Any) -> Any:
    return kind("LORA", **{"r": 2, "init_lora_weights": False, **settings})


LLAMA, GPT2, TIED = make_llama, make_gpt2, make_tied
Maker = Callable[[int], PreTrainedModel]
KINDS: dict[str, tuple[Maker, Callable[[], Any]]] = {
    "LORA": (LLAMA, lora),
    "DoRA": (LLAMA, lambda: lora(use_dora=True)),
    "rsLoRA": (LLAMA, lambda: lora(use_rslora=True, lora_alpha=3)),
    "LoRA, ranks of its own": (LLAMA, lambda: lora(rank_pattern={"q_proj": 4}, alpha_pattern={"v_proj": 5})),
    "LoRA of every matrix": (LLAMA, lambda: lora(target_modules="all-linear")),
    "LoRA with biases": (GPT2, lambda: lora(target_modules=["c_attn", "c_proj"], bias="all", fan_in_fan_out=True)),
    "LoRA of embeddings": (LLAMA, lambda: lora(target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "modules_to_save": (LLAMA, lambda: lora(modules_to_save=["lm_head", "norm"])),
    "modules_to_save, tied": (TIED, lambda: lora(modules_to_save=["lm_head"])),
    "modules_to_save, all embeddings": (LLAMA, lambda: lora(modules_to_save=["embed_tokens", "lm_head"])),
    "LoRA and tokens": (TIED, lambda: lora(trainable_token_indices=[3, 5])),
    "TRAINABLE_TOKENS": (LLAMA, lambda: peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[3, 5])),
    "IA3": (LLAMA, lambda: kind("IA3", feedforward_modules=["down_proj"], init_ia3_weights=False)),
    "ADALORA": (LLAMA, lambda: kind("ADALORA", total_step=10)),
    "LN_TUNING": (LLAMA, lambda: kind("LN_TUNING", target_modules=["norm", "input_layernorm"])),
    "BEFT": (make_neox, lambda: kind("BEFT", target_modules=["query_key_value", "dense_h_to_4h"])),
    "C3A": (LLAMA, lambda: kind("C3A", block_size=8)),
    "FOURIERFT": (LLAMA, lambda: kind("FOURIERFT", n_frequency=10)),
    "MISS": (LLAMA, lambda: kind("MISS", r=2)),
    "PSOFT": (LLAMA, lambda: kind("PSOFT", r=2)),
    "ROAD": (LLAMA, lambda: kind("ROAD", group_size=8)),
    "SHIRA": (LLAMA, lambda: kind("SHIRA", r=2)),
    # with init_weights: false its vectors are whatever the memory held
    "TINYLORA": (LLAMA, lambda: kind("TINYLORA", init_weights="uniform")),
    "VBLORA": (LLAMA, lambda: kind("VBLORA", vector_length=8, num_vectors=16)),
    "WAVEFT": (LLAMA, lambda: kind("WAVEFT", n_frequency=16)),
    **{
        name: (LLAMA, lambda name=name: kind(name))  # type: ignore[misc]
        for name in (
            "ADAMSS", "BOFT", "DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "LOHA", "LOKR", "OFT", "OSF",
            "PEANUT", "PVERA", "RANDLORA", "SUPERTUNING", "UNILORA", "VERA",
        )
    },
}  # fmt: skip
"""Of a kind that a task's name says, or a form of LoRA: model and settings."""

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "LILY": (lambda: kind("LILY"), "is a LILY adapter, which cannot be merged into its base"),
    "BEFT without a bias": (lambda: kind("BEFT"), "is a BEFT adapter, which cannot be merged into its base"),
    "PREFIX_TUNING": (lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
                      "is a PREFIX_TUNING adapter, which adds tokens and changes no weights"),
}  # fmt: skip
"""Kinds that are no change of weights."""

BY_ROW: dict[str, tuple[Callable[[], Any], str]] = {
    "POLY": (lambda: kind("POLY", r=2), "is a POLY adapter, whose change of weights is another one for every row's"),
    "XLORA": (lambda: peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=16, adapters={}),
              "is a XLORA adapter, whose change of weights is another one for every row, by what a classifier"),
}  # fmt: skip
"""Kinds whose change of weights is not the same for all rows."""

ELSEWHERE = {"ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PROMPT_TUNING", "P_TUNING", "SHADOW"}
"""Prompt learning, and a kind that brings a model of its own: no change of weights either."""


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ROWS).logits
    return found


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save(folder: Path, base: Path, config: Any, seed: int = 1) -> Tensor:
    """An adapter with weights drawn by chance, on a base that lies in a folder; gives what the two answer."""
    live = put_on(folder, AutoModelForCausalLM.from_pretrained(base), config, seed)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return live


def put_on(folder: Path, base: Any, config: Any, seed: int = 1) -> Tensor:
    """:func:`save` on a base in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, config).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight += 0.1 * torch.randn_like(weight)
        adapted.save_pretrained(folder)
        return logits(adapted)


def merge(adapter: Path, base: Path, folder: Path) -> Path:
    """What users do, in peft's words. One of two tied matrices they untie before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        merged: Any = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    if "lm_head" in (json.loads((adapter / "adapter_config.json").read_text()).get("modules_to_save") or ()):
        merged.config.tie_word_embeddings = False
    merged.save_pretrained(folder)
    return folder


def numbers(base: PreTrainedModel, finetuned: PreTrainedModel, *names: str) -> pd.Series:
    """What some methods of a diagnosis measure."""
    untie_alike([base, finetuned])
    questions = ask(make_rows(number=760))
    case = Case({BASE: base, FINETUNED: finetuned, NULL: base}, questions, None, FEW, 0)
    keys = ["analysis", "quantity", "model", "questions", "site", "layer", "x", "reference"]
    return pd.DataFrame(measured(case, *names).rows()).set_index(keys)["value"]


def differ(one: pd.Series, other: pd.Series) -> bool:
    return one.tolist() != pytest.approx(other.tolist(), rel=1e-3, abs=ROUNDING)


def test_every_kind_has_its_place() -> None:
    known = {each.value for each in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert known <= {*KINDS, *REFUSED, *BY_ROW, *ELSEWHERE}


@pytest.mark.parametrize("name", KINDS)
def test_merged_or_not_it_is_the_same_model(tmp_path: Path, name: str) -> None:
    make, config = KINDS[name]
    make(VOCABULARY).save_pretrained(tmp_path / "base")
    live = save(tmp_path / "tuned", tmp_path / "base", config())
    base = load_model(str(tmp_path / "base"))
    assert (live - logits(base)).abs().max() > 100 * ROUNDING * live.abs().max()  # it does something
    merged = merge(tmp_path / "tuned", tmp_path / "base", tmp_path / "merged")
    both = [load_model(str(folder)) for folder in (tmp_path / "tuned", merged)]
    untie_alike([base, *both])
    for model in both:
        assert (logits(model) - live).abs().max() <= ROUNDING * live.abs().max()
    weights = [dict(model.named_parameters()) for model in (base, *both)]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    moved = [{key: p - weights[0][key] for key, p in each.items()} for each in weights[1:]]
    assert any(change.any() for change in moved[0].values())
    for key, change in moved[0].items():
        assert (change - moved[1][key]).norm() <= 1e-3 * change.norm() + 1e-6 * weights[0][key].norm(), key


@pytest.mark.parametrize("name", ["LORA", "DoRA", "IA3", "modules_to_save, tied", "LoRA and tokens"])
def test_merged_or_not_a_diagnosis_measures_the_same(tmp_path: Path, name: str) -> None:
    """And what is another adapter, or has one number off, it measures otherwise."""
    make, config = KINDS[name]
    make(VOCABULARY).save_pretrained(tmp_path / "base")
    save(tmp_path / "tuned", tmp_path / "base", config())
    merged = merge(tmp_path / "tuned", tmp_path / "base", tmp_path / "merged")

    def found(folder: Path) -> pd.Series:
        models = [load_model(str(each)) for each in (tmp_path / "base", folder)]
        return numbers(*models, "behaviour", "logit lens", "weights", "similarity")

    unmerged = found(tmp_path / "tuned")
    assert not differ(unmerged, found(merged))
    tensors = load_file(merged / "model.safetensors")
    key = next(key for key in tensors if key.endswith("layers.1.mlp.down_proj.weight"))
    tensors[key][0] += 0.05
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    assert differ(unmerged, found(merged))
    if name == "LORA":
        alpha = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())["lora_alpha"]
        edit(tmp_path / "tuned" / "adapter_config.json", lora_alpha=alpha * 1.02)
        assert differ(unmerged, found(tmp_path / "tuned"))


def test_an_adapter_on_an_adapter(tmp_path: Path) -> None:
    """Of two kinds; the order in which they were trained is the one in which they are merged."""
    make_llama(VOCABULARY).save_pretrained(tmp_path / "base")
    save(tmp_path / "first", tmp_path / "base", kind("IA3", feedforward_modules=["down_proj"]))
    below = merge(tmp_path / "first", tmp_path / "base", tmp_path / "merged")
    live = save(tmp_path / "second", below, lora(), seed=2)
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "first"))
    loaded = logits(load_model(str(tmp_path / "second")))
    assert (loaded - live).abs().max() <= ROUNDING * live.abs().max()
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    assert (logits(load_model(str(tmp_path / "second"))) - live).abs().max() > 100 * ROUNDING * live.abs().max()


def test_tokens_that_an_adapter_adds_and_trains(tmp_path: Path) -> None:
    """As for a chat template: the vocabulary grows, and of it only the new tokens are trained."""
    make_llama(VOCABULARY).save_pretrained(tmp_path / "base")
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    grown.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    live = put_on(tmp_path / "tuned", grown, lora(trainable_token_indices=[VOCABULARY, VOCABULARY + 1]))
    loaded = load_model(str(tmp_path / "tuned"))
    assert loaded.config.vocab_size == VOCABULARY + 2
    assert (logits(loaded) - live).abs().max() <= ROUNDING * live.abs().max()


@pytest.mark.parametrize("name", BY_ROW)
def test_kinds_whose_change_depends_on_the_row_are_refused_by_name(tmp_path: Path, name: str) -> None:
    config, message = BY_ROW[name]
    make_llama(VOCABULARY).save_pretrained(tmp_path / "base")
    config().save_pretrained(tmp_path / "tuned")  # its weights are not asked for
    edit(tmp_path / "tuned" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(ValueError, match=f"^model: .*tuned {message}[^\n]*; expected[^\n]*$"):
        load_model(str(tmp_path / "tuned"))


@pytest.mark.parametrize("name", REFUSED)
def test_kinds_that_are_no_change_of_weights_are_refused_by_name(tmp_path: Path, name: str) -> None:
    config, message = REFUSED[name]
    make_llama(VOCABULARY).save_pretrained(tmp_path / "base")
    save(tmp_path / "tuned", tmp_path / "base", config())
    with pytest.raises(ValueError, match=f"^model: .*tuned {message}[^\n]*; expected[^\n]*$"):
        load_model(str(tmp_path / "tuned"))
