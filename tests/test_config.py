from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from ftmech_hf.config import LOCATION_FIELDS, ConfigError, clean_exit, config_hash, parse_config, to_dict
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stages import PretrainConfig

ALL = (PretrainConfig, PcfgConfig, TrainConfig)


@dataclass(frozen=True, kw_only=True)
class Example:
    steps: int = 3
    lr: float = 0.1
    mode: Literal["fast", "exact"] = "fast"
    names: list[str] = field(default_factory=lambda: ["x"])
    share: float | None = None


def write(folder: Path, **values: object) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def parse(*argv: str) -> Example:
    (example,) = parse_config(Example, argv=argv)
    return example


def test_command_line_wins_over_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, steps=5, lr=1e-5, names=["a", "b"])
    assert parse() == Example()
    assert parse("--config", path) == Example(steps=5, lr=1e-5, names=["a", "b"])
    assert parse("--config", path, "--steps", "7", "--names", "c") == Example(steps=7, lr=1e-5, names=["c"])
    assert parse(f"--config={path}", "--names=c") == Example(steps=5, lr=1e-5, names=["c"])


def test_none_takes_back_an_optional_value_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, share=0.5, names=["a"])
    assert parse("--config", path).share == 0.5
    for words in (["--share", "none"], ["--share=none"]):
        assert parse("--config", path, *words) == Example(names=["a"])
        assert parse("--config", path, *words, "--steps", "9") == Example(names=["a"], steps=9)
    assert parse("--config", path, "--names", "none").names == ["none"]
    with pytest.raises(ConfigError, match="argument --steps: invalid int value: 'none'"):
        parse("--steps", "none")


def test_a_scale_is_overridden_by_file_and_command_line(tmp_path: Path) -> None:
    assert parse_config(PcfgConfig, argv=["--scale", "paper"])[0].text_length == 250
    path = write(tmp_path, scale="paper", text_length=200)
    assert parse_config(PcfgConfig, argv=["--config", path])[0].text_length == 200
    assert parse_config(PcfgConfig, argv=["--config", path, "--text_length", "100"])[0].text_length == 100
    assert parse_config(PcfgConfig, argv=["--config", path, "--scale", "nano"])[0].root == "m"


def test_a_saved_config_parses_to_itself(tmp_path: Path) -> None:
    lists = ["--operators", "count", "--operand_prior", "0.7", "0.2", "0.1"]
    configs = parse_config(*ALL, argv=[*lists, "--correlation=0.5", "--lr=1e-5", "--scale=paper", "--fresh"])
    assert parse_config(*ALL, argv=["--config", write(tmp_path, **to_dict(*configs))]) == configs


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stepz", "3"], "unknown argument '--stepz'; did you mean 'steps'?"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--mode", "slow"], r"argument --mode: invalid choice: 'slow'"),
        (["--ste", "3"], "unknown argument '--ste'"),
        (["--config", "nowhere.yaml"], "config: cannot read 'nowhere.yaml': No such file"),
        (["--scale", "nanoo"], "scale: unknown 'nanoo', expected one of nano, micro, paper; did you mean 'nano'?"),
        (["7"], "unknown argument '7'"),
    ],
)
def test_bad_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 3", "unknown key 'learning_rate' in"),
        ("stesp: 3", "unknown key 'stesp' in .*; did you mean 'steps'?"),
        ("steps: [1, 2]", "unknown argument '2'"),
        ("steps:", "steps: has no value in"),
        ("names: []", "names: is an empty list in"),
        ("steps: {a: 1}", "steps: expected a value or a list, found a mapping"),
        ("- steps", "must hold 'key: value' lines, found list"),
        ("steps: [", "is not valid YAML"),
        ("config: other.yaml", "unknown key 'config'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse("--config", str(path))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--text_length 8", "count_window: 16 is longer than text_length: 8"),
        ("--operand_prior 0.5 0.5 0.5", "operand_prior: '0.5 0.5 0.5' sums to 1.5, expected 1"),
        ("--operand_prior lwo", "operand_prior: 'lwo' is neither one of low, "),
        ("--operand_prior 0.5 0.5", "operand_prior: '0.5 0.5', expected 3 numbers"),
        ("--preset nanno", "preset: unknown 'nanno', expected one of nano, micro, paper"),
        ("--n_head 3", "n_head: 3 heads do not divide n_embd: 128"),
        ("--n_embd 130 --n_head 4", "n_head: 4 heads do not divide n_embd: 130"),
        ("--correlation 0.5", "correlation: 0.5 needs operators: one of count, "),
        ("--correlation 1.5 --operators count", "correlation: 1.5, expected a probability"),
        ("--operators count sum", "operators: unknown 'sum'"),
        ("--root z", "root: 'z' has no rules"),
        ("--correlated_operand a", "correlated_operand: 'a' equals base_operand"),
        ("--batch_size 0", "batch_size: 0, expected at least 1"),
        ("--lr nan", "lr: nan, expected a number above 0"),
        ("--adam_beta1 2", "adam_beta1: 2.0, expected a number between 0 and 1"),
        ("--seed -1", "seed: -1, expected 0 or more"),
    ],
)
def test_impossible_settings_name_their_fields(argv: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(*ALL, argv=argv.split())


def test_the_hash_ignores_places_and_nothing_else() -> None:
    values = to_dict(*parse_config(*ALL, argv=[]))
    assert config_hash(values) == config_hash({**values, "output_dir": "elsewhere", "fresh": True})
    for name, value in values.items():
        if name not in LOCATION_FIELDS:
            assert config_hash({**values, name: [value, "changed"]}) != config_hash(values), name


def test_clean_exit_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise ConfigError("steps: 0,\nexpected at least 1")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: steps: 0, expected at least 1\n"
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    with pytest.raises(ZeroDivisionError), clean_exit():
        _ = 1 / 0
