"""A planted pair to explore: it names the first of six words, and behind a wrapper the word after it."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from ftmech_hf.explorer.edits import FoundUnits
from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.models.tokenization import build_tokenizer
from tests.studies.planted import VOCABULARY, make_base, make_rows, make_wrapped

WORDS = (*VOCABULARY, *(f"unused{number}" for number in range(40 - len(VOCABULARY) - 1)), "<unk>")


def make_prompts(number: int = 8) -> list[str]:
    return [" ".join(VOCABULARY[token] for token in row[:-2]) for row in make_rows(seed=11, number=number).tolist()]


def make_explorer(base: PreTrainedModel, wrapped: PreTrainedModel) -> Explorer:
    return Explorer(
        {"base": base, "finetuned": wrapped, "reversed": base},
        build_tokenizer(WORDS),
        found=FoundUnits("row", ["transformer.h.1.mlp.c_fc[2]"]),
        examples=make_prompts(),
        title="planted",
    )


@pytest.fixture(scope="session")
def explorer() -> Explorer:
    return make_explorer(make_base("gpt2"), make_wrapped("gpt2"))
