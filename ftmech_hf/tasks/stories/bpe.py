"""A byte-level BPE tokenizer trained on stories: any text comes back as it was, and none has unknown parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from ftmech_hf.runs import disk_errors
from ftmech_hf.tasks.export import code_version
from ftmech_hf.tasks.schema import BOS, EOS, PAD
from ftmech_hf.tasks.stories.cache import cache_folder, make_once

SPECIAL = (PAD, BOS, EOS)
"""The first tokens of the vocabulary; their ids are those that all models here have for them."""

FEWEST_TOKENS = len(SPECIAL) + 256
"""Those, and all bytes."""


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts, which are read once.

    Args:
        texts: whole documents.
        vocab_size: tokens at most, the special ones and the 256 bytes among them.

    Raises:
        ValueError: fewer tokens than those.
    """
    if vocab_size < FEWEST_TOKENS:
        raise ValueError(f"vocab_size: {vocab_size}, expected at least {FEWEST_TOKENS}")
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def make_bpe(inputs: tuple[str, ...], vocab_size: int, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The BPE of some texts; trained once, and found again on disk under all that it depends on.

    Args:
        inputs: what tells these texts from others, such as the hashes of the files that they are in.
        vocab_size: as for :func:`train_bpe`.
        texts: gives them, if they are needed.
    """
    content = [*inputs, str(vocab_size), code_version(), tokenizers.__version__]
    kept = cache_folder() / f"bpe-{hashlib.sha256(' '.join(content).encode()).hexdigest()[:24]}.json"

    def make(place: Path) -> None:
        trained = train_bpe(texts(), vocab_size)
        with disk_errors(place.parent):
            trained.save(str(place), pretty=False)

    return Tokenizer.from_file(str(make_once(kept, make)))
