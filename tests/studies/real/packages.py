"""Stand-ins for what the extra ``real`` brings: a few words and countries in the files of its packages, and a model."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.foreign import byte_bpe

VERBS = ("sing sang", "swim swam", "drink drank", "begin began", "ring rang", "sink sank", "run ran", "come came",
         "know knew", "grow grew", "throw threw", "blow blew", "draw drew", "drive drove", "ride rode", "rise rose",
         "speak spoke", "break broke", "steal stole", "freeze froze", "wear wore", "swear swore", "find found",
         "bind bound", "hold held", "feel felt", "keep kept", "sleep slept", "sweep swept", "win won")  # fmt: skip
OTHERS = [
    "walk,verb,walked,walked,walking,walks",  # by the rule
    "stop,verb,stopped,stopped,stopping,stops",
    "learn,verb,learned/learnt,learned,learning,learns",  # two past tenses
    "understand,verb,understood,understood,understanding,understands",  # long
    "beware,verb,,,,",
    "login,verb,logged-in,logged-in,logging,logins",
    "London,noun,Londons", "sheep,noun,sheep", "fish,noun,fish/fishes",
]  # fmt: skip


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages ``lemminflect`` and ``countryinfo`` that are found before any others.

    Args:
        folder: where they are written.
        monkeypatch: puts them on the path.
    """
    verbs = [f"{base},verb,{past},{past},{base}ing,{base}s" for base, past in (pair.split() for pair in VERBS)]
    made = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefghijklm", repeat=4), 1200)]
    lines = [*verbs, *OTHERS, *(f"{word},noun,{word}s" for word in made)]
    words = folder / "lemminflect" / "resources"
    countries = folder / "countryinfo" / "data"
    for place in (words, countries):
        place.mkdir(parents=True)
        (place.parent / "__init__.py").write_text("raise AssertionError('no code of it is run')\n")
    (words / "infl_lu.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for number in range(90):
        entry = {"name": f"Land {number}", "capital": f"Town {number}", "region": "Asia", "population": 10**6 + number,
                 "callingCodes": [str(900 + number)], "subregion": f"Coast {number % 7}",
                 "currencies": [f"L{number}"]}  # fmt: skip
        (countries / f"land_{number}.json").write_text(json.dumps(entry))
    (countries / "rock.json").write_text(json.dumps({**entry, "name": "Rock", "population": 12}))
    (countries / "ice.json").write_text(json.dumps({**entry, "name": "Ice", "capital": ""}))
    monkeypatch.syspath_prepend(str(folder))


def save_base(folder: Path, *, positions: int = 256) -> Path:
    """A model that knows nothing, with SmolLM2's marks of a chat."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=positions, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
