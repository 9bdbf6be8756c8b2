"""What is known of a model before its weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftmech_hf.models.configs import config_positions, model_positions, model_vocabulary
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.merging import quiet_peft
from tests.conftest import make_gpt2, make_llama


def test_tokens_in_front_of_every_row_take_their_places(tmp_path: Path) -> None:
    base = make_gpt2(40)
    base.save_pretrained(tmp_path / "base")
    room = base.config.max_position_embeddings
    with quiet_peft():
        adapted = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "prompt")
    assert model_positions(str(tmp_path / "base")) == room
    assert model_positions(str(tmp_path / "prompt")) == room - 5


def test_an_adapter_that_brought_embeddings_knows_their_tokens(tmp_path: Path) -> None:
    base = make_llama(40)
    base.save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(46, mean_resizing=False)
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    with quiet_peft():
        adapted = get_peft_model(base, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "grown", save_embedding_layers=True)
    assert model_vocabulary(str(tmp_path / "base")) == 40
    assert model_vocabulary(str(tmp_path / "grown")) == load_model(str(tmp_path / "grown")).config.vocab_size == 46
    with torch.no_grad():
        load_model(str(tmp_path / "grown"))(torch.tensor([[45, 3]]))


@pytest.mark.parametrize("kind", [
    "bert", "camembert", "data2vec-text", "gpt2", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
])  # fmt: skip
def test_as_many_tokens_are_read_as_a_config_is_said_to_allow(kind: str) -> None:
    """Of RoBERTa's kind less than it says itself; one more has no position."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model(kind, vocab_size=30, max_position_embeddings=20, is_decoder=True, **small)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    if kind == "xmod":
        model.set_default_language("en_XX")
    room = config_positions(config)
    assert room is not None
    with torch.no_grad():
        assert model(torch.full((1, room), 7), use_cache=False).logits.shape[1] == room
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, room + 1), 7), use_cache=False)


def test_the_length_of_a_context_has_another_name_in_mpt() -> None:
    assert config_positions(AutoConfig.for_model("mpt", max_seq_len=64)) == 64
    assert config_positions(AutoConfig.for_model("bloom")) is None
