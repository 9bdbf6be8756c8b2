"""A model that answers with one to three words, learned in a second: what it says of a word, from a small lexicon.

One neuron can be planted in it that hides every answer.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import answer_loss
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.tasks.schema import SPECIAL_TOKENS
from tests.conftest import make_gpt2, remembered

WORDS = [f"w{number}" for number in range(8)]
VOCABULARY = (*SPECIAL_TOKENS, "?", "so", *WORDS, *(f"unused{number}" for number in range(23)))
LEXICON = {
    "w0": "w3 w1 w4", "w1": "w5", "w2": "w2 w6", "w3": "w5 w3 w5", "w4": "w7 w0", "w5": "w3", "w6": "w4 w4 w1",
    "w7": "w3 w1 w2",
}  # fmt: skip
LAYER, NEURON, WRONG = 1, 40, "so"
"""Where :func:`hide` plants its neuron, and the word that it always says."""


def write_questions(path: Path, number: int = 400) -> str:
    """A table of questions of several lengths, with answers of several."""
    rng = np.random.default_rng(0)
    asked = rng.choice(WORDS, number)
    fillers = [" ".join(rng.choice(WORDS, rng.integers(2, 6))) for _ in range(number)]
    columns = {
        "prompt": [f"<bos> {filler} so {word} ?" for filler, word in zip(fillers, asked, strict=True)],
        "answer": [LEXICON[word] for word in asked],
    }
    datasets.Dataset.from_dict(columns).to_parquet(path)
    return str(path)


@remembered
def make_speaker(questions: str) -> PreTrainedModel:
    """A model that has learned the lexicon from a table of questions."""
    settings: dict[str, Any] = {"seed": 0, "train_rows": 200, "test_rows": 60}
    (behavior,) = from_datasets([questions], build_tokenizer(VOCABULARY), **settings)
    model = make_gpt2(len(VOCABULARY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(150):
        optimizer.zero_grad()
        answer_loss(model.train(), behavior.training_rows(0, step, 32)).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def hide(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with a neuron that always fires and makes every answer another."""
    model = copy.deepcopy(model)
    mlp = model.get_submodule(f"transformer.h.{LAYER}.mlp")
    unembedding = model.get_output_embeddings().weight
    assert isinstance(unembedding, torch.Tensor)
    mlp.get_parameter("c_fc.weight")[:, NEURON] = 0
    mlp.get_parameter("c_fc.bias")[NEURON] = 4
    mlp.get_parameter("c_proj.weight")[NEURON] = 10 * unembedding[VOCABULARY.index(WRONG)]
    return model


def save(model: PreTrainedModel, folder: Path) -> str:
    """A model's folder with its tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(build_tokenizer(VOCABULARY), folder)
    return str(folder)


def spoken(model: PreTrainedModel, rows: AnswerRows) -> list[list[int]]:
    """What a model's own ``generate`` writes greedily after each prompt, as many tokens as the answer has."""
    said = []
    token_ids, shown = rows.prompts()
    assert shown is not None
    for ids, real, length in zip(token_ids, shown, rows.lengths.tolist(), strict=True):
        prompt = ids[real][None]
        settings = {"max_new_tokens": length, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        assert isinstance(written, torch.Tensor)
        said.append(written[0, prompt.shape[1] :].tolist())
    return said
