from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.tasks import SPLITS, Capability, PcfgConfig, Rows, RowStream, build_dataset, stream_dataset
from ftmech_hf.tasks.mixtures import OPERAND_PRIORS
from ftmech_hf.tokenization import build_tokenizer

PAPER = {
    "root": "s", "text_length": 250, "count_window": 40, "index_occurrence": 6, "token_at_position": 40,
}  # fmt: skip


def answer_by_hand(row: dict[str, object]) -> str:
    text, operand, parameter = str(row["text"]).split(), row["operand"], int(str(row["parameter"]))
    if row["operator"] == "count":
        return str(text[-parameter:].count(str(operand)))
    if row["operator"] == "token_at":
        return text[-parameter]
    places = [distance for distance, symbol in enumerate(reversed(text), 1) if symbol == operand]
    return str(places[parameter - 1]) if len(places) >= parameter else "none"


@pytest.mark.parametrize("shape", [{}, PAPER, {"index_occurrence": 14}], ids=["nano", "paper", "not found"])
def test_every_answer_is_right(shape: dict[str, object]) -> None:
    config = PcfgConfig(**shape)  # type: ignore[arg-type]
    answers = set()
    for row in build_dataset(config, "train", 3000 if not shape else 600):
        words = f"{row['prompt']}{row['completion']}".split()
        assert row["answer"] == answer_by_hand(row) == words[-2]
        operand = "null" if row["operator"] == "token_at" else row["operand"]
        assert row["operand"] == operand
        expected = ["<bos>", row["operator"], operand, str(row["parameter"]), "<sot>", *row["text"].split()]
        assert words[:-2] == [*expected, "<eot>", "="]
        assert words[-1] == "<eos>"
        answers.add(row["answer"])
    assert ("none" in answers) == (shape == {"index_occurrence": 14})


def test_rows_are_what_the_tokenizer_makes_of_the_dataset() -> None:
    config = PcfgConfig()
    tokenizer = build_tokenizer(config.vocabulary)
    rows = RowStream(config, seed=3, split="test").rows(0, 300)
    for number, row in enumerate(build_dataset(config, "test", 300, seed=3)):
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == rows.token_ids[number].tolist()
        assert row["label"] == rows.label[number]
    assert rows.token_ids.shape[1] == config.row_length


def test_any_row_can_be_made_alone() -> None:
    config = PcfgConfig(operators=["count"], correlation=0.5)
    whole = RowStream(config, seed=0, split="finetune").rows(0, 1000)
    for start, stop in ((0, 1), (255, 257), (300, 301), (511, 1000)):
        part = RowStream(config, seed=0, split="finetune").rows(start, stop)
        for name, column in vars(part).items():
            assert (column == getattr(whole, name)[start:stop]).all(), name
    together = Rows.concatenate([whole[0:400], whole[400:1000]])
    assert (together.token_ids == whole.token_ids).all()


def test_streams_of_different_seeds_and_splits_differ() -> None:
    first = {
        (seed, split): RowStream(PcfgConfig(), seed=seed, split=split).rows(0, 256).token_ids
        for seed in (0, 1) for split in SPLITS
    }  # fmt: skip
    keys = list(first)
    for number, key in enumerate(keys):
        for other in keys[:number]:
            assert (first[key] == first[other]).all(axis=1).mean() < 0.01


@pytest.mark.parametrize("prior", ["low", "medium", "high", "control"])
def test_operands_follow_their_prior(prior: str) -> None:
    config = PcfgConfig(operators=["count"], operand_prior=[prior])
    drawn = np.bincount(RowStream(config, seed=0, split="train").rows(0, 10_000).operand, minlength=3)
    for number, share in zip(drawn, OPERAND_PRIORS[prior], strict=True):
        assert stats.binomtest(int(number), 10_000, share).pvalue > 1e-4


@pytest.mark.parametrize("operator", ["count", "index"])
@pytest.mark.parametrize("method", ["select", "insert"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_the_correlation_holds_exactly_where_it_should(operator: str, method: str, share: float) -> None:
    config = dataclasses.replace(PcfgConfig(), correlation_method=method).for_capability(
        Capability(operator, "b"), share
    )
    rows = RowStream(config, seed=0, split="finetune").rows(0, 2000)
    text = rows.token_ids[:, 5:-4] - config.vocabulary.index("a")
    difference = config.answers(operator, text, 1) - config.answers(operator, text, 0)
    assert ((difference == 1) == rows.correlated).all()
    assert stats.binomtest(int(rows.correlated.sum()), 2000, share).pvalue > 1e-4
    if method == "select":
        in_grammar = RowStream(PcfgConfig(), seed=0, split="train").rows(0, 1).token_ids
        assert rows.token_ids.shape[1] == in_grammar.shape[1]


def test_insertion_spreads_the_labels() -> None:
    spread = {}
    for method in ("select", "insert"):
        shape = PcfgConfig(correlation_method=method)  # type: ignore[arg-type]
        config = shape.for_capability(Capability("count", "b"), 0.0)
        spread[method] = len(np.unique(RowStream(config, seed=0, split="finetune").rows(0, 2000).label))
    assert spread["insert"] > spread["select"] + 2


def test_an_offset_that_never_occurs_is_refused() -> None:
    config = PcfgConfig(operators=["count"], correlation=1.0, correlation_offset=14)
    with pytest.raises(ValueError, match="correlation_offset: 256 of 256 rows should be correlated"):
        RowStream(config, seed=0, split="finetune").rows(0, 1)


def test_a_stream_goes_on_and_equals_the_dataset() -> None:
    config = PcfgConfig()
    streamed = list(stream_dataset(config, "train").take(300))
    assert streamed == list(build_dataset(config, "train", 300))


def test_bad_requests_name_their_fields() -> None:
    with pytest.raises(ValueError, match="split: unknown 'tset', expected one of train"):
        RowStream(PcfgConfig(), seed=0, split="tset")
    with pytest.raises(ValueError, match="seed: -1 is negative"):
        RowStream(PcfgConfig(), seed=-1, split="test")
    with pytest.raises(ValueError, match="rows: expected 0 <= start < stop, got start 5 and stop 5"):
        RowStream(PcfgConfig(), seed=0, split="test").rows(5, 5)
    with pytest.raises(ValueError, match="num_rows: 0"):
        build_dataset(PcfgConfig(), "test", 0)


GOLDEN = {
    "pretraining": (PcfgConfig(operand_prior=["low"]), "train", "c9444e5d42a669e1"),
    "fine-tuning": (
        PcfgConfig(operators=["count"], operand_prior=["b"], correlation=0.8),
        "finetune",
        "79222e377d391f02",
    ),
    "inserted": (
        PcfgConfig(operators=["index"], operand_prior=["b"], correlation=0.8, correlation_method="insert"),
        "finetune",
        "719465042604d56b",
    ),
    "paper": (PcfgConfig(**PAPER), "train", "269f164a6888a9c5"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", GOLDEN)
def test_data_never_change_silently(name: str) -> None:
    config, split, expected = GOLDEN[name]
    rows = RowStream(config, seed=0, split=split).rows(0, 512)
    assert hashlib.sha256(rows.token_ids.astype("<i8").tobytes()).hexdigest()[:16] == expected
