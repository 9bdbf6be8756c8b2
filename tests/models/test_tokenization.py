from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.tasks import PcfgConfig, build_dataset


def test_it_reloads_with_the_same_ids(tmp_path: Path) -> None:
    task = PcfgConfig()
    tokenizer = build_tokenizer(task.vocabulary)
    save_tokenizer(tokenizer, tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [reloaded.convert_tokens_to_ids(word) for word in task.vocabulary] == list(range(len(task.vocabulary)))
    for row in build_dataset(task, "test", 20):
        ids = reloaded(row["prompt"])["input_ids"]
        assert ids == tokenizer(row["prompt"])["input_ids"]
        assert reloaded.decode(ids) == row["prompt"]
    for name in ("pad_token", "bos_token", "eos_token", "unk_token", "padding_side"):
        assert getattr(reloaded, name) == getattr(tokenizer, name)
    # transformers 4 does not know the class that transformers 5 writes
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_unknown_words_and_double_words() -> None:
    tokenizer = build_tokenizer(PcfgConfig().vocabulary)
    assert tokenizer("count z")["input_ids"][1] == tokenizer.unk_token_id
    with pytest.raises(ValueError, match="holds the same word twice"):
        build_tokenizer(["a", "b", "a"])
