"""An answer is right where the model's word ends with it, however the word is cut into tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import gives_answer, tokens_after
from ftmech_hf.jobs.whole_words import WritesWords, goes_on, has_whole_words
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks.text.tokens import Whole
from tests.conftest import make_gpt2
from tests.foreign import save_gpt2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(save_gpt2(tmp_path_factory.mktemp("words") / "gpt2"))
    return found


class Writes(torch.nn.Module):
    """A causal language model that writes the same tokens after a prompt of so many, and then ends."""

    def __init__(self, like: PreTrainedModel, prompt: int, token_ids: list[int]) -> None:
        super().__init__()
        self.config, self.device, self.prompt = like.config, torch.device("cpu"), prompt
        self.token_ids = [*token_ids, int(like.config.eos_token_id)]

    def forward(
        self, input_ids: torch.Tensor, logits_to_keep: int = 0, position_ids: Any = None, **settings: Any
    ) -> Any:
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for column in range(self.prompt - 1, input_ids.shape[1]):
            logits[:, column, self.token_ids[min(column - self.prompt + 1, len(self.token_ids) - 1)]] = 1
        return type("Output", (), {"logits": logits[:, -logits_to_keep:]})


def ask(tokenizer: PreTrainedTokenizerBase, answer: str, *others: str) -> AnswerRows:
    """One question with its answer, and others that are accepted."""
    prompt = ids_of(tokenizer, "Mia was sad because")
    wholes = [Whole((*prompt, *ids, 0), len(ids)) for ids in (ids_of(tokenizer, each) for each in (answer, *others))]
    first = wholes[0]
    mask = [False] * len(prompt) + [True] * first.answer + [False]
    more: Any = {"accepted": [wholes[1:]]} if others else {}
    return AnswerRows.stack([first.token_ids], [mask], len(tokenizer) - 1 if others else None, **more)


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    return found


def writes(tokenizer: PreTrainedTokenizerBase, rows: AnswerRows, *parts: str) -> Any:
    """A model that answers a question so."""
    token_ids = [token for part in parts for token in ids_of(tokenizer, part)]
    return Writes(make_gpt2(len(tokenizer)), rows.prompts()[0].shape[1], token_ids)


@pytest.mark.parametrize(
    ("answer", "written", "right"),
    [
        (" felt", [" felt", "ed"], False),
        (" felt", [" felt"], True),
        (" felt", [" felt", " bad"], True),
        (" felt", [" felt", "."], True),
        (" felt\n", [" felt", "ed"], False),
        (" 4", [" 4", "2"], False),
        (" 4", [" 4", ", I think"], True),
        (" the dog", [" the dog", "ma"], False),
        (" no", [" yes"], False),
        # letters of several bytes, each a token: Latin, Cyrillic, Chinese, an emoji, and a byte that is no letter
        (" caf", [" caf", "\u00e9"], False),
        (" \u041c\u043e\u0441", [" \u041c\u043e\u0441", "\u043a\u0432\u0430"], False),
        (" caf", [" caf", "\u6771"], True),
        (" caf", [" caf", "\U0001f600"], True),
    ],
)
def test_a_longer_word_is_another_word(
    tokenizer: PreTrainedTokenizerBase, answer: str, written: list[str], right: bool
) -> None:
    rows = ask(tokenizer, answer)
    assert WritesWords(tokenizer)(writes(tokenizer, rows, *written), rows).tolist() == [right]
    if written[0] == answer:  # the same without what follows, which took "felted" for "felt"
        assert gives_answer(writes(tokenizer, rows, *written), rows).tolist() == [True]


def test_a_letter_that_is_never_whole_is_no_more_of_a_word(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = ask(tokenizer, " caf")
    model = writes(tokenizer, rows, " caf")
    model.token_ids.insert(-1, ids_of(tokenizer, "\u00e9")[0])
    assert WritesWords(tokenizer)(model, rows).tolist() == [True]


def test_another_answer_that_is_accepted_must_be_whole_as_well(tokenizer: PreTrainedTokenizerBase) -> None:
    for written, right in (([" felt", "ed"], False), ([" felt"], True), ([" cat"], True), ([" cat", "s"], False),
                           ([" felt", "\u00e9"], False)):  # fmt: skip
        rows = ask(tokenizer, " cat", " felt")
        assert WritesWords(tokenizer)(writes(tokenizer, rows, *written), rows).tolist() == [right], written


def test_what_follows_is_what_the_model_writes_next(tokenizer: PreTrainedTokenizerBase) -> None:
    model, rows = make_gpt2(len(tokenizer)), ask(tokenizer, " the dog")
    expected = model(rows.token_ids[:, :-1]).logits[:, -1].argmax(-1)
    assert tokens_after(model, rows).tolist() == expected.tolist()
    # where no place is left nothing can be asked: the row's own end stands there
    model.config.max_position_embeddings = rows.token_ids.shape[1] - 2
    assert tokens_after(model, rows).tolist() == rows.token_ids[:, -1].tolist()


def test_words_are_told_apart_where_scripts_put_spaces() -> None:
    assert goes_on("\u043a\u043e\u0442", "\u043a\u043e\u0442\u044b")  # Cyrillic
    assert goes_on("Z\u00fcr", "Z\u00fcrich")
    assert not goes_on("\u5317\u4eac", "\u5317\u4eac\u5e02")  # Chinese has no spaces
    assert not goes_on("\uc11c\uc6b8", "\uc11c\uc6b8\uc740")  # Korean hangs endings on
    assert not goes_on("", "felt")
    assert not goes_on("felt", "felt")
    assert not goes_on("it", "it's")
    assert not goes_on("felt", "fell")


def test_tokens_that_are_words_are_no_more_of_the_one_before(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not has_whole_words(tokenizer)
    assert has_whole_words(build_tokenizer(["<pad>", "<bos>", "<eos>", "a", "b"]))
