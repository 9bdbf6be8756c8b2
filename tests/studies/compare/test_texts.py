"""Windows of texts: cut, filled up, drawn, and the beginnings that models write on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.studies.compare.texts import Windows, prefixes, read_windows, write_windows
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import make_gpt2


@pytest.fixture
def tokenizer(task: PcfgConfig) -> PreTrainedTokenizerBase:
    return build_tokenizer(task.vocabulary)


def test_rows_are_filled_up_at_their_end() -> None:
    windows = Windows.of([[5, 6, 7], [8]])
    assert windows.mask.tolist() == [[True] * 3, [True, False, False]]
    assert [windows.row(0), windows.row(1)] == [[5, 6, 7], [8]]


def write(path: Path, texts: list[str], column: str = "text") -> str:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return str(path)


def test_texts_are_cut_into_windows_that_begin_as_a_text_does(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    words = [f"a b c a b c a b c {number}" for number in range(10)] * 8
    name = write(tmp_path / "texts.jsonl", words)
    windows = read_windows(name, tokenizer, number=50, width=5, seed=0)
    assert windows.token_ids.shape == (50, 5)
    assert (windows.token_ids[:, 0] == tokenizer.bos_token_id).all()
    a, b, c = tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    begin = [tokenizer.bos_token_id]
    assert {tuple(windows.row(each)[:5]) for each in range(50)} >= {(*begin, a, b, c, a), (*begin, b, c, a, b)}
    again = read_windows(name, tokenizer, number=50, width=5, seed=0)
    assert torch.equal(windows.token_ids, again.token_ids)
    assert not torch.equal(windows.token_ids, read_windows(name, tokenizer, number=50, width=5, seed=1).token_ids)


def test_columns_of_text_are_read_where_none_is_called_text(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = write(tmp_path / "texts.jsonl", ["a b c a b c a"] * 40, column="story")
    assert len(read_windows(name, tokenizer, number=500, width=8, seed=0).mask) == 40


def test_too_little_text_is_said(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = write(tmp_path / "texts.jsonl", ["a b c"])
    with pytest.raises(ValueError, match=r"texts: .* gives 1 windows of text, expected at least 32"):
        read_windows(name, tokenizer, number=50, width=8, seed=0)


def test_the_base_writes_texts_where_none_are_given(task: PcfgConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_gpt2(len(task.vocabulary))
    windows = write_windows(model, tokenizer, number=20, width=10, seed=3)
    assert (windows.token_ids[:, 0] == tokenizer.bos_token_id).all()
    assert windows.mask.sum(1).max() <= 10
    assert torch.equal(windows.token_ids, write_windows(model, tokenizer, number=20, width=10, seed=3).token_ids)


def test_a_base_that_ends_every_text_at_once_is_refused(task: PcfgConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_gpt2(len(task.vocabulary))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[tokenizer.eos_token_id] = 9.0
    with pytest.raises(ValueError, match=r"of 40 texts that the base wrote 0 have more than one token, expected at le"):
        write_windows(model, tokenizer, number=40, width=10, seed=0)


def test_windows_are_of_as_many_texts_as_there_are(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """One long text does not crowd out the short ones, and where texts are few each gives several windows."""
    short = [f"{word} {word} {word}" for word in "abca"] * 10
    name = write(tmp_path / "texts.jsonl", [*short, " ".join("a b c" for _ in range(500))])
    windows = read_windows(name, tokenizer, number=41, width=6, seed=0)
    assert len(windows.mask) == 41
    assert int((windows.mask.sum(1) == 6).sum()) == 1
    many = read_windows(name, tokenizer, number=100, width=6, seed=0)
    assert len(many.mask) == 100
    assert int((many.mask.sum(1) == 4).sum()) == 40
    assert len({tuple(many.row(each)) for each in range(100)}) == 3 + 3  # the long one has three beginnings


def test_beginnings_are_pieces_of_the_texts() -> None:
    windows = Windows.of([[1, *range(10, 20)], [1, 30, 31]])
    found = prefixes(windows, number=40, longest=5, seed=0)
    assert {len(each) - 1 for each in found} >= {1, 2, 3, 4, 5}
    for first, *rest in found:
        assert first == 1
        assert rest == list(range(rest[0], rest[0] + len(rest)))
    assert found == prefixes(windows, number=40, longest=5, seed=0)
