"""What is not said of a model that was pretrained elsewhere suits it; what is said stays."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from transformers import LlamaConfig

from ftmech_hf.config import Notice
from ftmech_hf.jobs.pretrained_defaults import kind_words
from ftmech_hf.jobs.training import FinetuneConfig, parse_training
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig


def save_config(folder: Path, width: int, layers: int = 2) -> str:
    """A model's config alone, which is all that is looked at."""
    LlamaConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=4,
                num_key_value_heads=4, vocab_size=1000).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.mark.parametrize(
    ("width", "layers", "more", "words"),
    [
        (512, 2, [], "--optimizer adamw --batch_size 16 --lr 2e-05"),
        (512, 2, ["--adapter", "lora"], "--optimizer adamw --batch_size 16 --lr 0.0002"),
        (4096, 6, [], "--optimizer adamw --batch_size 16 --lr 1e-05"),
        (4096, 6, ["--adapter", "lora"], "--optimizer adamw --batch_size 16 --lr 0.0001"),
        (512, 2, ["--lr", "1e-3"], "--optimizer adamw --batch_size 16"),
        (512, 2, ["--learning_rate=1e-3", "--batch_size", "4"], "--optimizer adamw"),
        (512, 2, ["--optimizer", "sgd"], "--batch_size 16"),  # whose rates are others
        (512, 2, ["--optimizer", "adamw", "--lr", "1e-3", "--batch_size", "4"], ""),
        (64, 2, [], ""),  # as small as our own
    ],
)
def test_rates_are_chosen_by_size_and_kind_unless_they_are_given(
    tmp_path: Path, width: int, layers: int, more: list[str], words: str
) -> None:
    model = save_config(tmp_path / "model", width, layers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = kind_words(["--task", "text", "--model", model, *more])
    assert found == words.split()
    assert [each.category for each in said] == [Notice] * bool(words)
    if words:
        text = str(said[0].message)
        assert text.startswith(f"{model} was pretrained elsewhere and has ")
        assert all(value in text for value in found[1::2])


def test_they_stand_in_the_settings_and_a_file_of_settings_wins(tmp_path: Path) -> None:
    model = save_config(tmp_path / "model", 512)
    argv = ["--model", model, "--dataset", "rows.jsonl"]
    kinds = FinetuneConfig, TrainConfig, AdapterConfig
    with pytest.warns(Notice, match="optimizer adamw, batch_size 16, lr 2e-05 is taken"):
        _, _, _, train, _ = parse_training(*kinds, argv=argv)
    assert (train.optimizer, train.lr, train.batch_size) == ("adamw", 2e-5, 16)
    (tmp_path / "file.yaml").write_text("optimizer: muon\nmuon_lr: 0.001\nlr: 0.01\nbatch_size: 8\n")
    _, _, _, train, _ = parse_training(*kinds, argv=["--config", str(tmp_path / "file.yaml"), *argv])
    assert (train.optimizer, train.lr, train.batch_size) == ("muon", 0.01, 8)


def test_a_data_set_by_its_usual_name_is_a_data_set(tmp_path: Path) -> None:
    model = save_config(tmp_path / "model", 64)
    argv = ["--model", model, "--dataset_name", "rows.jsonl"]
    config, task, objective, *_ = parse_training(FinetuneConfig, TrainConfig, AdapterConfig, argv=argv)
    assert (config.task, task.dataset, type(objective).__name__) == ("text", "rows.jsonl", "AnswerOnly")


def test_our_own_models_and_those_that_are_not_there_are_left_alone(tmp_path: Path) -> None:
    model = save_config(tmp_path / "model", 512)
    assert kind_words(["--task", "pcfg", "--model", model]) == []
    assert kind_words(["--task", "text"]) == []
    assert kind_words(["--task", "text", "--model", str(tmp_path / "nowhere")]) == []  # said where it is loaded
