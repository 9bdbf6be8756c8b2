"""Vocabularies, a task's or learned from stories, as an ordinary ``PreTrainedTokenizerFast``; encoded datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ftmech_hf.tasks.export import code_version
from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Task

if TYPE_CHECKING:
    import datasets


def build_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: words are separated by spaces and a word's position in ``vocabulary`` is its id.

    It adds no special tokens by itself, because a task's prompts spell them out.

    Raises:
        ValueError: a word stands in the vocabulary twice.
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


def bpe_tokenizer(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A BPE tokenizer, of :func:`ftmech_hf.tasks.stories.bpe.train_bpe`, as transformers knows it.

    It adds no special tokens by itself either.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def task_tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """The tokenizer of a task: the one it has learned, or a word for every token of its vocabulary."""
    return build_tokenizer(task.vocabulary) if task.backend is None else bpe_tokenizer(task.backend)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save so that ``AutoTokenizer`` of transformers 4 and 5 both reload it with the same ids."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 writes TokenizersBackend, a name version 4 does not know.
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


IGNORED = -100
"""The label of a token that has no part in the loss."""


def encode_dataset(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, answer_only: bool = False
) -> datasets.Dataset:
    """Turn a task's dataset into ``input_ids``, ``attention_mask`` and ``labels``, as trainers expect them.

    The result is cached on disk under a fingerprint of the dataset, this code, the tokenizer's bytes and the argument,
    so it is found again in another process, and never after one of them has changed.

    Args:
        dataset: with the columns ``prompt`` and ``completion``, built here or loaded from anywhere.
        tokenizer: of the same task.
        answer_only: give labels to the answer alone, the first token of each completion, instead of to every token.
    """
    import datasets

    content = [dataset._fingerprint, code_version(), tokenizer.backend_tokenizer.to_str(), answer_only]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "ftmech_hf"
    folder.mkdir(parents=True, exist_ok=True)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        prompts, completions = tokenizer(batch["prompt"])["input_ids"], tokenizer(batch["completion"])["input_ids"]
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        labels = rows
        if answer_only:
            labels = [
                [IGNORED] * len(prompt) + [completion[0]] + [IGNORED] * (len(completion) - 1)
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], "labels": labels}

    return dataset.map(
        encode,
        batched=True,
        remove_columns=dataset.column_names,
        new_fingerprint=fingerprint,
        cache_file_name=str(folder / f"encoded-{fingerprint}.arrow"),
        desc="tokenize",
    )
