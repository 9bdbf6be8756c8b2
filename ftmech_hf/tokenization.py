"""The vocabulary of a task as an ordinary ``PreTrainedTokenizerFast``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS, UNK


def build_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: words are separated by spaces and a word's position in ``vocabulary`` is its id.

    It adds no special tokens by itself, because a task's prompts spell them out.
    """
    if len(set(vocabulary)) != len(vocabulary):
        raise ValueError("vocabulary: holds the same word twice")
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token=UNK))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, BOS, EOS, UNK)],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save so that ``AutoTokenizer`` of transformers 4 and 5 both reload it with the same ids."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 writes TokenizersBackend, a name version 4 does not know.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
