"""What works for classes of transformers: models built small, looked at, and put into a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ftmech_hf.jobs.architectures import look_at_class, survey_classes
from ftmech_hf.models.small import MOST_WEIGHTS, causal_classes, small_model, small_rows
from recipes import architectures
from recipes.readme.architectures import architectures_block

STREAM = {"resid_pre", "resid_post"}
DENSE = STREAM | {"mlp_act", "head_out", "attn_out"}
EXPECTED = {
    "LlamaForCausalLM": DENSE | {"attn_pattern"}, "GPT2LMHeadModel": DENSE | {"attn_pattern"},
    "OPTForCausalLM": DENSE | {"attn_pattern"}, "BloomForCausalLM": DENSE | {"attn_pattern"},
    "Gemma3ForCausalLM": DENSE | {"attn_pattern"}, "Phi3ForCausalLM": DENSE | {"attn_pattern"},
    "FalconForCausalLM": DENSE | {"attn_pattern"}, "OpenAIGPTLMHeadModel": DENSE,
    "MixtralForCausalLM": DENSE - {"mlp_act"} | {"attn_pattern", "router", "expert_act"},
    "Qwen2MoeForCausalLM": DENSE - {"mlp_act"} | {"attn_pattern", "router", "expert_act", "shared_act"},
    "GptOssForCausalLM": DENSE - {"mlp_act"} | {"router", "expert_act"},
    "BambaForCausalLM": STREAM | {"mlp_act"}, "Qwen3NextForCausalLM": STREAM, "DeepseekV3ForCausalLM": set(),
}  # fmt: skip
"""Sites of every layer, by what is known of each architecture."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    file = tmp_path_factory.mktemp("table") / "deep" / "architectures.json"
    architectures.main(["--json", str(file), "--classes", *EXPECTED, "MambaForCausalLM", "ReformerModelWithLMHead"])
    return {row["class"]: row for row in json.loads(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name]])
def test_a_class_has_the_sites_that_its_architecture_has(name: str, rows: dict[str, dict[str, object]]) -> None:
    row = rows[name]
    assert (row["opens"], row["reason"]) == (True, "")
    found = set(row["sites_proven"])  # type: ignore[call-overload]
    assert found >= STREAM
    if EXPECTED[name] != STREAM:
        assert found == EXPECTED[name]


def test_sites_of_some_layers_are_named_with_them(rows: dict[str, dict[str, object]]) -> None:
    deepseek, bamba = rows["DeepseekV3ForCausalLM"]["some_layers"], rows["BambaForCausalLM"]["some_layers"]
    assert deepseek == {"mlp_act": [0], "router": [1, 2, 3], "expert_act": [1, 2, 3], "shared_act": [1, 2, 3]}
    assert {site: bamba[site] for site in ("attn_out", "head_out")} == {"attn_out": [1, 3], "head_out": [1, 3]}  # type: ignore[index]
    assert "has no attention, but mamba" in str(rows["BambaForCausalLM"]["refused"])


def test_what_does_not_open_says_why_in_one_line(rows: dict[str, dict[str, object]]) -> None:
    for name, reason in (
        ("MambaForCausalLM", "is not the model's hidden state"), ("ReformerModelWithLMHead", "cannot be built small"),
    ):  # fmt: skip
        row = rows[name]
        assert (row["opens"], row["sites_proven"]) == (False, [])
        assert reason in str(row["reason"])
        assert "\n" not in str(row["reason"])
    with pytest.raises(ValueError, match="classes: no LamaForCausalLM among transformers'"):
        survey_classes(["LamaForCausalLM"])


def test_the_table_has_every_class_once(rows: dict[str, dict[str, object]]) -> None:
    block = architectures_block(list(rows.values()))
    assert block.startswith(f"{len(EXPECTED)} of {len(rows)} classes open")
    for name in rows:
        assert block.count(f"{name.removesuffix('ForCausalLM')}") >= 1
    assert "| Mamba | model: resid_pre of layer 0 of mamba is not the model's hidden state |" in block
    assert "no expert that all tokens pass" in block


def test_at_least_eighty_classes_open_and_each_of_the_others_has_its_reason() -> None:
    """In the table that users read, which the recipe writes."""
    text = (Path(__file__).parents[2] / "ftmech_hf" / "activations" / "README.md").read_text(encoding="utf-8")
    block = text.partition("<!-- architectures:")[2].partition("<!-- end of architectures")[0]
    opened, number = map(int, re.findall(r"(\d+) of (\d+) classes open", block)[0])
    assert number == len(causal_classes())
    assert opened >= 80
    tables = block.split("\n\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[-1].splitlines() if "|" in line][2:]
    refused = {name: reason for names, reason in lines for name in names.split(", ")}
    assert len(refused) == number - opened
    assert all(len(reason) > 20 for reason in refused.values())


def test_small_models_are_small_run_and_are_drawn_from_a_seed() -> None:
    for kind in ("llama", "gpt_neo", "mixtral"):
        model = small_model(kind, seed=3)
        assert model.num_parameters() < MOST_WEIGHTS
        logits = model(small_rows()).logits
        assert logits.shape == (3, 7, model.config.vocab_size)
        assert torch.equal(small_model(kind, seed=3)(small_rows()).logits, logits)
        assert not torch.equal(small_model(kind, seed=4)(small_rows()).logits, logits)
    with pytest.raises(LookupError, match="reformer cannot be built small: "):
        small_model("reformer")


def test_classes_are_those_that_transformers_calls_causal() -> None:
    classes = causal_classes()
    assert {"LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM"} <= set(classes)
    assert len(classes) > 150
    assert "llama" in classes["LlamaForCausalLM"]


def test_a_class_is_built_from_the_first_kind_that_can_be() -> None:
    found = look_at_class("Llama", ["reformer", "llama"])
    assert (found.kind, found.opens) == ("llama", True)
    assert look_at_class("Reformer", ["reformer"]).opens is False
