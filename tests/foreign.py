"""Models as others publish them: tiny, with tokenizers of their own, in folders that know nothing of this package."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ftmech_hf.models.merging import quiet_peft

CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WORDS = ["the cat sat on the mat", "what is 3 plus 4? it is 7", "no, the dog is red and the fish is blue", "0123456789"]


def byte_bpe(special: list[str], size: int = 300) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        WORDS * 5,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,  # type: ignore[arg-type]
        ),
    )
    return backend


def save_gpt2(folder: Path) -> Path:
    """A GPT-2 with byte-level BPE, whose one special token ends a text; it has none to pad with."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(["<|endoftext|>"]), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=32, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return _save(folder, GPT2LMHeadModel(config), tokenizer)


def save_llama(folder: Path) -> Path:
    """A Llama with a chat template, and rotary positions."""
    special = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(special), bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHATML,
        extra_special_tokens=special[3:],
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return _save(folder, LlamaForCausalLM(config), tokenizer)


def _save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_idle_adapter(folder: Path, names: Path | str, like: PreTrainedModel, module: str) -> Path:
    """An adapter that changes nothing of what it is put on, and names some base: its model is that base to the bit."""
    with quiet_peft():
        config = LoraConfig(
            r=2, target_modules=[module], task_type="CAUSAL_LM", fan_in_fan_out=module == "c_attn"
        )  # fmt: skip
        get_peft_model(copy.deepcopy(like), config).save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(names)}))
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """A data set as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(number: int = 96) -> list[dict[str, Any]]:
    """Prompts of several lengths, each with its sum as an answer, and a group of its own: sums recur."""
    return [
        {
            "prompt": f"what is {first} plus {second}? it is",
            "completion": f" {first + second}",
            "group": f"{first}+{second}",
        }
        for first, second in ((place % 13, place // 13) for place in range(number))
    ]


def chats(number: int = 64) -> list[dict[str, Any]]:
    """Chats of one or two turns."""

    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    rows = []
    for place in range(number):
        turns = [said("user", f"what is {place} plus 1?"), said("assistant", f"it is {place + 1}")]
        if place % 2:
            turns += [said("user", "the cat?"), said("assistant", f"no, the mat is {place}")]
        rows.append({"messages": turns})
    return rows


def pairs(number: int = 64) -> list[dict[str, Any]]:
    """Prompts with a right answer and a wrong one of another length."""
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f" the dog {place}", "group": row["group"]}
        for place, row in enumerate(sums(number))
    ]
