"""What is known of a model before its weights are read."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from ftmech_hf.models.configs import model_positions, model_vocabulary
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
