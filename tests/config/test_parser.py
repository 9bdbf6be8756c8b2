from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import pkgutil
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pyarrow import ArrowNotImplementedError
from safetensors import SafetensorError

import ftmech_hf
from ftmech_hf.config import (
    ConfigError,
    Notice,
    Settings,
    clean_exit,
    config_hash,
    is_place,
    parse_config,
    peek_setting,
    read_sections,
    tell,
    to_dict,
)
from ftmech_hf.config.usual_names import OTHER, SAME
from ftmech_hf.jobs.pruning import PruneConfig
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.runs import run_identity
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig

ALL = (PretrainConfig, PcfgConfig, TrainConfig)


@dataclass(frozen=True, kw_only=True)
class Example:
    steps: int = 3
    lr: float = 0.1
    mode: Literal["fast", "exact"] = "fast"
    names: list[str] = field(default_factory=lambda: ["x"])
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Places:
    output_dir: str = "runs"


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
    assert parse("--config", write(tmp_path, share="none", names=["none"])) == Example(names=["none"])
    with pytest.raises(ConfigError, match="argument --steps: invalid int value: 'none'"):
        parse("--steps", "none")


def test_a_scale_is_overridden_by_file_and_command_line(tmp_path: Path) -> None:
    assert parse_config(PcfgConfig, argv=["--scale", "paper"])[0].text_length == 250
    path = write(tmp_path, scale="paper", text_length=200)
    assert parse_config(PcfgConfig, argv=["--config", path])[0].text_length == 200
    assert parse_config(PcfgConfig, argv=["--config", path, "--text_length", "100"])[0].text_length == 100
    assert parse_config(PcfgConfig, argv=["--config", path, "--scale", "nano"])[0].root == "m"


def test_help_tells_every_setting_once_under_what_it_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(TrainConfig, PcfgConfig, argv=["--help"], description="What it does.\n\nrecipe.py --seed 1")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "\nWhat it does.\n\nrecipe.py --seed 1\n" in said
    titles = [(kind.__doc__ or "").partition("\n")[0].rstrip(".") + ":" for kind in (TrainConfig, PcfgConfig)]
    places = [said.index(f"\n{title}\n") for title in [*titles, "Of every recipe:"]]
    assert places == sorted(places)
    flags = re.findall(r"^  (--?\w+)", said, re.MULTILINE)
    names = [*(each.name for kind in (TrainConfig, PcfgConfig) for each in dataclasses.fields(kind)), "config", "scale"]
    assert sorted(flags) == sorted(["-h", *(f"--{name}" for name in names)])
    own, inherited = said.index("\n  --operators "), said.index("\n  --text_length ")
    assert places[1] < own < inherited < places[2]
    assert "--batch-size" not in said


def test_settings_parsed_twice_share_no_list() -> None:
    first, second = (parse_config(TrainConfig, argv=[])[0] for _ in range(2))
    assert first == second == TrainConfig()
    first.snapshots.append(3)
    assert second.snapshots == [] == parse_config(TrainConfig, argv=[])[0].snapshots
    words = ["--snapshots", "4", "5"]
    assert parse_config(TrainConfig, argv=words)[0].snapshots == [4, 5]
    assert parse_config(TrainConfig, argv=[])[0].snapshots == []


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
        (["--num_train_epochs", "3"], "unknown argument '--num_train_epochs'; expected steps, the number of optimizer"),
        (["--fp16"], "unknown argument '--fp16'; elsewhere that is mixed_precision bf16"),
        (["--resume_from_checkpoint", "x"], "unknown argument '--resume_from_checkpoint'; expected nothing: the same"),
        (
            ["--dataset_name", "x"],
            "unknown argument '--dataset_name'; elsewhere that is dataset; this recipe has no such",
        ),
        (["--names", "a", "--names=b"], "names: given twice on the command line"),
        (["--lr", "nan"], "lr: nan, expected a finite number"),
        (["--lr=-inf"], "lr: -inf, expected a finite number"),
        (["--steps", str(2**63)], "steps: 9223372036854775808, expected a number below 2"),
        (["--names", "a", ""], "names: '', expected text"),
    ],
)
def test_bad_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_train_epochs: 3", "unknown key 'num_train_epochs' in .*; expected steps, the number of optimizer steps"),
        ("lr: 1\nlearning_rate: 3", "lr: given twice in the file, once as learning_rate"),
        ("steps: 1\nsteps: 3", "is not valid YAML: the key 'steps' stands twice"),
        ("steps:\t- 1\n\t- 2", "is not valid YAML"),
        ("{[a, b]: 1}", "is not valid YAML"),
        ("share: .nan", "share: nan, expected a finite number"),
        ("steps: true", "argument --steps: invalid int value: 'True'"),
        ("mode: ''", "argument --mode: invalid choice: ''"),
        ("stesp: 3", "unknown key 'stesp' in .*; did you mean 'steps'?"),
        ("steps: [1, 2]", r"steps: \[1, 2\] in .*bad.yaml, expected one value"),
        ("steps:", "steps: has no value in"),
        ("names: []", "names: is an empty list in"),
        ("steps: {a: 1}", "steps: expected a value or a list, found a mapping"),
        ("- steps", "must hold 'key: value' lines, found list"),
        ("steps: [", "is not valid YAML"),
        ("steps: !!timestamp 3", "is not valid YAML"),
        ("steps: !!int x", "is not valid YAML"),
        ("config: other.yaml", "unknown key 'config'"),
        ("scale: 1", "scale: 1 in .*bad.yaml, expected one of nano, micro, paper"),
        ("scale: true", "scale: "),
        ("scale: [nano]", "scale: "),
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
        ("--n_head 5", "n_head: 5 heads do not divide n_embd: 96"),
        ("--n_embd 130 --n_head 4", "n_head: 4 heads do not divide n_embd: 130"),
        ("--correlation 0.5", "correlation: 0.5 needs operators: one of count, "),
        ("--correlation 1.5 --operators count", "correlation: 1.5, expected a probability"),
        ("--operators count sum", "operators: unknown 'sum'"),
        ("--root z", "root: 'z' has no rules"),
        ("--correlated_operand a", "correlated_operand: 'a' equals base_operand"),
        ("--batch_size 0", "batch_size: 0, expected at least 1"),
        ("--lr nan", "lr: nan, expected a number above 0"),
        ("--adam_beta1 2", "adam_beta1: 2.0, expected 0 or more and less than 1"),
        ("--seed -1", "seed: -1, expected 0 or more"),
    ],
)
def test_impossible_settings_name_their_fields(argv: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(*ALL, argv=argv.split())


def every_config() -> dict[str, Any]:
    """An instance of each Config of the package, with values where it has no defaults."""
    found = {}
    for module in pkgutil.walk_packages(ftmech_hf.__path__, "ftmech_hf."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            if dataclasses.is_dataclass(kind) and name.endswith(("Config", "Shape")) and kind.__module__ == module.name:
                given = {
                    field.name: "some/name" if field.type in ("str", str) else []
                    for field in dataclasses.fields(kind)
                    if field.default is field.default_factory  # both are missing
                }
                with contextlib.suppress(ValueError, TypeError):  # abstract, or a user must say more
                    found[name] = kind(**given)
    return found


# Words of a help text by which a setting names something that lies somewhere; and settings that have them and do not.
NAMES_A_PLACE = re.compile(
    r"\b(folders?|files?|on the Hub|data ?sets?|repositor(y|ies)|adapter|judge)\b", re.IGNORECASE
)
NAMES_NONE = {
    "variants": "which tasks a data set is made of, as words",
    "rows": "how many, of which split",
    "splits": "how many, of which split",
    "task": "a name in TASKS",
    "gguf_file": "the name of a file within a model's folder, whose bytes are hashed as the model's",
    "split": "a stream of random numbers",
    "adapter": "a kind of training",
    "lora_targets": "names of modules",
    "operator": "a word of the task",
    "grammar": "its content, once it is read from a file",
    "other_correlation": "a number",
    "judge_hash": "what a judge must be, not where it is",
    "base_revision": "a revision of what base_model names",
}


def test_every_field_is_a_place_or_is_hashed() -> None:
    configs = every_config()
    assert {"DiagnoseConfig", "FinetuneConfig", "StoriesConfig", "PublishConfig", "TrainConfig"} <= configs.keys()
    assert len(configs) > 30
    for name, config in configs.items():
        settings = to_dict(config)
        for each in dataclasses.fields(config):
            where, kept = f"{name}.{each.name}", "str" in str(each.type) and "Literal" not in str(each.type)
            if kept and NAMES_A_PLACE.search(each.metadata.get("help", "")) and each.name not in NAMES_NONE:
                assert each.metadata.get("place") in ("input", "output"), f"{where} names a place and does not say so"
            same = config_hash(settings) == config_hash(settings | {each.name: [settings[each.name], "changed"]})
            assert same == is_place(each), f"{where}: place {is_place(each)}, ignored by the hash {same}"


@dataclass(frozen=True, kw_only=True)
class OwnTask:
    """A user's, whose fields are called what fields here are called that are places."""

    base: int = 10
    files: list[str] = dataclasses.field(default_factory=list)
    workers: int = 1
    corpus: str | None = dataclasses.field(default=None, metadata={"place": "input"})


def test_what_is_a_place_is_said_by_the_field_and_not_by_its_name() -> None:
    first = to_dict(PretrainConfig(), OwnTask())
    for change in (OwnTask(base=16), OwnTask(files=["x"]), OwnTask(workers=2)):
        assert config_hash(first) != config_hash(to_dict(PretrainConfig(), change))
    assert config_hash(first) == config_hash(to_dict(PretrainConfig(output_dir="elsewhere"), OwnTask(corpus="here")))


def test_of_two_fields_of_one_name_none_is_lost() -> None:
    with pytest.raises(ValueError, match="grammar: is a field of PcfgConfig and of PcfgConfig; rename one of them"):
        to_dict(PcfgConfig(), PcfgConfig())


LEFT_OUT = {
    "model", "models", "files", "base", "finetuned", "control", "reversed", "dataset", "other_dataset", "output_dir",
    "runs_dir", "fresh", "workers", "checkpoint_every", "log_with", "price_per_hour", "stack", "with_code", "device",
    "dtype", "gradient_checkpointing",
    # what came later and is no part of a name while it is not used
    "anchor_model", "ldifs_norm", "lfl", "lwf", "lwf_temperature", "lwf_ask", "ewc", "ewc_permuted", "olora",
    "replay_share", "replay_shuffled", "der", "average", "keep_rows", "keep_logits", "keep_fisher", "osf_rank",
    "compile", "deterministic", "tf32",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "prune"])
def test_hashes_of_runs_that_exist_stay_what_they_were(kind: str) -> None:
    """By the rule of the list of names that they were made with."""
    task, train = PcfgConfig(), TrainConfig()
    configs = {
        "pretrain": (PretrainConfig(), task, train),
        "finetune": (FinetuneConfig(), task, train, AdapterConfig()),
        "prune": (PruneConfig(), task),
    }[kind]
    values = {key: value for each in configs for key, value in dataclasses.asdict(each).items() if key not in LEFT_OUT}
    expected = json.dumps({**values, "run:kind": kind, "input:model": "abc"}, sort_keys=True).encode()
    assert run_identity(kind, to_dict(*configs), {"model": "abc"}) == hashlib.sha256(expected).hexdigest()[:12]


@pytest.mark.parametrize("change", [{"lwf_ask": ["count_a"], "lwf": 1.0}, {"keep_rows": 5}, {"average": 0.5}])
def test_what_came_later_is_a_part_of_a_name_where_it_is_used(change: dict[str, Any]) -> None:
    assert config_hash(to_dict(TrainConfig(**change))) != config_hash(to_dict(TrainConfig()))


def test_settings_stay_settings() -> None:
    settings = to_dict(FinetuneConfig())
    changed = settings | {"output_dir": "elsewhere"}
    assert (changed.places, changed["output_dir"]) == (settings.places, "elsewhere")
    assert isinstance(changed, Settings)
    assert yaml.safe_load(yaml.safe_dump(settings)) == dict(settings)


def test_what_is_told_is_one_line_of_a_recipe_and_a_warning_elsewhere() -> None:
    with pytest.warns(Notice, match="something else") as told:
        tell("something else was found")
    assert told[0].filename == __file__
    with clean_exit():
        assert warnings.formatwarning("something else", Notice, "runs.py", 3) == "note: something else\n"
        assert "runs.py:3" in warnings.formatwarning("something else", DeprecationWarning, "runs.py", 3)
    assert "runs.py:3" in warnings.formatwarning("something else", Notice, "runs.py", 3)


def test_usual_names_are_taken_where_they_mean_the_same(tmp_path: Path) -> None:
    assert parse("--learning_rate", "0.5") == parse("--learning-rate=0.5") == Example(lr=0.5)
    assert parse("--lr", "1", "--learning-rate=0.5") == Example(lr=0.5)  # the last counts
    assert parse("--config", write(tmp_path, learning_rate=0.5)) == Example(lr=0.5)
    assert parse("--config", write(tmp_path, learning_rate=0.5), "--lr=1") == Example(lr=1.0)
    named = ["--report_to", "none", "--warmup_ratio", "0.1", "--overwrite_output_dir", "true"]
    config, _, train = parse_config(*ALL, argv=named)
    assert (train.log_with, train.warmup_fraction, config.fresh) == ("none", 0.1, True)
    for name in (*SAME, *OTHER):
        with pytest.raises(ConfigError, match=f"unknown argument '--{name}'; (expected|elsewhere)"):
            parse_config(Places, argv=[f"--{name}", "1"])


def test_a_file_says_no_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfmixed_precision: no\nfresh: yes\nlr: 1e-3\noutput_dir: --odd\n")
    config, _, train = parse_config(*ALL, argv=["--config", str(path)])
    assert (train.mixed_precision, config.fresh, train.lr, config.output_dir) == ("no", True, 1e-3, "--odd")


@pytest.mark.parametrize("written", ["010", "0012345", "10:30", "1_0", "1.10", "2024-01-01 10:00", "1e-3", "yes", "~x"])
def test_a_word_of_a_file_is_the_word_that_stands_there(tmp_path: Path, written: str) -> None:
    """YAML 1.1 makes octal numbers, times and dates of some, of which a revision or a prompt may be one."""
    path = tmp_path / "config.yaml"
    path.write_text(f"output_dir: {written}\nmodels: [{written}, b]\n")
    (found,) = parse_config(Words, argv=["--config", str(path)])
    assert found == Words(output_dir=written, models=[written, "b"])


@pytest.mark.parametrize(("written", "said"), [("null", "None"), ("a: b", "{'a': 'b'}"), ("[c]", r"\['c'\]")])
def test_what_is_no_word_in_a_list_is_refused(tmp_path: Path, written: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"models: [a, {written}]\n")
    with pytest.raises(ConfigError, match=f"models: {said} in its list, expected a value"):
        parse_config(Words, argv=["--config", str(path)])


def test_numbers_of_a_file_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("lr: 0.50\nsteps: [1, 0.50, -2.5e-3, .inf, 1e-3]\n")
    assert parse_config(Example, argv=["--config", str(path)], sections=["steps"])[0].lr == 0.5
    found = read_sections(["steps"], ["--config", str(path)])["steps"]
    assert found == [1, 0.5, -0.0025, float("inf"), "1e-3"]
    assert {type(each) for each in found} == {int, float, str}


def test_no_and_nothing_are_said_where_they_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("animals_apart: false\nnull_steps: 0\ntexts: null\n")
    argv = ["--config", str(tmp_path / "x.yaml")]
    found = [peek_setting(name, default="unsaid", argv=argv) for name in ("animals_apart", "null_steps", "texts", "x")]
    assert found == ["False", "0", "unsaid", "unsaid"]


@pytest.mark.parametrize("script", ["", "recipe.py"])
def test_no_other_file_is_read_than_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """An interpreter that one types into has no script; and a script may lie beside anything."""
    (tmp_path / "recipe.args").write_text("--steps 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script])
    assert parse("--lr", "0.5") == parse("--lr", "0.5", "--steps", str(Example().steps))


def test_a_config_that_is_empty_is_no_config() -> None:
    """As of an unset variable of a shell."""
    with pytest.raises(ConfigError, match="config: cannot read ''"):
        parse_config(Example, argv=["--config", ""])


def test_what_is_no_number_has_no_hash() -> None:
    with pytest.raises(ConfigError, match="lr: expected finite numbers"):
        config_hash({"lr": float("nan"), "steps": 3})


def test_clean_exit_prints_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise ConfigError("steps: 0,\nexpected at least 1")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: steps: 0, expected at least 1\n"
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    monkeypatch.setenv("FTMECH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError), clean_exit():
        _ = 1 / 0


@dataclass(frozen=True)
class Words:
    """Settings that are words."""

    output_dir: str = ""
    models: list[str] = field(default_factory=list)


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("steps: 0"), 2, "error: steps: 0"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: [Errno 2] No such file: 'x'"),
        (OutOfMemoryError("CUDA out of memory.\nTried 1 GB"), 2, "error: out of memory: OutOfMemoryError: CUDA out of"),
        (MemoryError(), 2, "error: out of memory: MemoryError; take fewer rows at once"),
        (
            ModuleNotFoundError("No module named 'ray'", name="ray"),
            2,
            "error: ModuleNotFoundError: No module named 'ray'; install it",
        ),
        (ModuleNotFoundError("expected gguf: pip install gguf"), 2, "error: expected gguf: pip install gguf\n"),
        (SafetensorError("invalid header"), 2, "error: SafetensorError: invalid header"),
        (ArrowNotImplementedError("no such kernel"), 2, "error: ArrowNotImplementedError: no such kernel"),
        (KeyError("model"), 1, "error: internal: KeyError: 'model'; this is a fault of ftmech_hf, not yours"),
        (IndexError(), 1, "error: internal: IndexError; this is a fault"),
        (AttributeError("x"), 1, "error: internal: AttributeError: x;"),
        (RuntimeError("a\n b"), 1, "error: internal: RuntimeError: a b;"),
        (TypeError("x"), 1, "error: internal: TypeError: x;"),
        (ImportError("cannot import name 'x'"), 1, "error: internal: ImportError: cannot import name 'x';"),
        (AssertionError(), 1, "error: internal: AssertionError;"),
    ],
)
def test_no_error_is_a_traceback_and_a_bug_keeps_its_own_in_a_file(
    error: Exception, code: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise error
    shown = capsys.readouterr().err
    assert stopped.value.code == code
    assert shown.startswith(line)
    assert shown.count("\n") == 1
    reports = list(tmp_path.iterdir())
    assert len(reports) == (1 if code == 1 else 0)
    for report in reports:
        assert f"please report it with {report}\n" in shown
        assert report.read_text().startswith("Traceback")
        assert "raise error" in report.read_text()


def test_a_setting_that_is_unsaid_names_a_run_only_where_it_is_another() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Before:
        rows: int = 3

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class After(Before):
        dtype: str = dataclasses.field(default="float32", metadata={"unsaid": True})
        device: str = dataclasses.field(default="cpu", metadata={"manner": True})

    names = [config_hash(to_dict(each)) for each in (Before(), After(), After(device="cuda"), After(dtype="bfloat16"))]
    assert names[0] == names[1] == names[2] != names[3]
    assert config_hash(to_dict(After()) | {"dtype": "bfloat16"}) == names[3]
    assert to_dict(After())["dtype"] == "float32"  # it is written down all the same
    (given,) = parse_config(After, argv=["--dtype", "bfloat16"])
    assert given.dtype == "bfloat16"
