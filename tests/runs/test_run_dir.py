from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest

from ftmech_hf.config import to_dict
from ftmech_hf.config.settings import Settings
from ftmech_hf.runs import (
    Identity,
    RunDir,
    check_disk_space,
    commit_folder,
    damaged_files,
    is_finished,
    read_metrics,
    write_text,
)
from ftmech_hf.runs.environment import forget_peak_memory
from ftmech_hf.runs.run_dir import noted

CONFIG = {"steps": 3, "lr": 0.1, "output_dir": "somewhere"}


def make(path: Path, **changes: object) -> RunDir:
    run = RunDir.open(path, "pretrain", {**CONFIG, **changes})
    run.log({"step": 0, "loss": 1.0})
    run.log({"step": 3, "loss": 0.5})
    run.finish()
    return run


def test_a_run_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = RunDir.open(path, "pretrain", CONFIG)
    run.log({"step": 0})
    assert not path.exists()
    assert run.working.is_dir()
    run.finish()
    assert is_finished(path)
    assert not run.working.exists()
    assert sorted(p.name for p in path.iterdir()) == [
        "config.yaml", "env.json", "manifest.json", "metrics.jsonl", "table.parquet",
    ]  # fmt: skip
    assert pd.read_parquet(path / "table.parquet")["step"].tolist() == [0]


def test_a_finished_run_is_found_and_another_config_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = make(path)
    again = RunDir.open(path, "pretrain", {**CONFIG, "output_dir": "elsewhere"})
    assert again.finished
    assert again.hash == first.hash
    with pytest.raises(ValueError, match=r"holds a run of another config \(lr: 0.1 there, 0.2 asked\)"):
        RunDir.open(path, "pretrain", {**CONFIG, "lr": 0.2})
    with pytest.raises(ValueError, match="its input model differs"):
        RunDir.open(path, "pretrain", CONFIG, inputs={"model": "abc"})
    assert damaged_files(path) == []


def test_a_run_of_another_kind_is_called_one(tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^output_dir: .*run holds .* \(kind: pretrain there, finetune asked\)"):
        RunDir.open(tmp_path / "run", "finetune", CONFIG)


@pytest.mark.parametrize("name", ["", "/", "."])
def test_a_folder_without_a_name_is_no_place_for_a_run(name: str) -> None:
    with pytest.raises(ValueError, match=r"^output_dir: '[./]', expected a folder of its own, which has a name$"):
        RunDir.open(name, "pretrain", CONFIG)


def test_of_another_config_three_settings_are_shown_and_no_places(tmp_path: Path) -> None:
    settings = Settings({"a": 1, "b": 1, "c": 1, "d": 1, "data": "x"})
    settings.places = frozenset({"data"})
    RunDir.open(tmp_path / "run", "any", settings, inputs={"base": "1", "data": "1"}).finish()
    again = Settings({"a": 1, "b": 2, "c": 2, "d": 2, "e": None, "f": 2, "data": "y"})
    again.places = frozenset({"data"})
    with pytest.raises(ValueError, match="output_dir") as caught:
        RunDir.open(tmp_path / "run", "any", again)
    assert str(caught.value) == (
        f"output_dir: {tmp_path / 'run'} holds a run of another config "
        "(b: 1 there, 2 asked, c: 1 there, 2 asked, d: 1 there, 2 asked); "
        "choose another --output_dir, or --fresh to replace it"
    )
    for inputs, said in (
        ({"base": "2", "data": "1"}, "base"), ({"base": "1"}, "data"), ({}, "base, data"),
        ({"base": "1", "data": "1", "more": "1"}, "more"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"of another config \(its input {said} differs\); choose another"):
            RunDir.open(tmp_path / "run", "any", settings, inputs=inputs)


def test_other_bytes_of_inputs_are_named(tmp_path: Path) -> None:
    first = {"base": Identity("1", "a"), "judge": Identity("2", "a"), "data": Identity("3", "a")}
    RunDir.open(tmp_path / "run", "any", CONFIG, inputs=first).finish()
    then = {"base": Identity("1", "b"), "judge": Identity("2", "b"), "data": Identity("3", "a")}
    with pytest.raises(ValueError, match="output_dir") as caught:
        RunDir.open(tmp_path / "run", "any", CONFIG, inputs=then)
    assert str(caught.value) == (
        f"output_dir: {tmp_path / 'run'} was made from other weights or files of base, judge, which was "
        "made again since with the same settings; choose another --output_dir, or --fresh to replace it"
    )


def test_what_is_noted_can_be_read_before_and_after(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "pretrain", CONFIG)
    assert noted(run.working, "device") is None
    run.note(device="Rückwand", steps=3)
    assert noted(run.working, "device") == "Rückwand"
    assert noted(run.working, "kind") == "pretrain"
    run._opened -= 12.34
    run.finish()
    assert noted(run.path, "steps") == 3
    seconds = noted(run.path, "seconds")
    assert 12.3 <= seconds < 30
    assert seconds == round(seconds, 1)
    assert 0 <= noted(run.path, "cpu_seconds") < 30
    assert noted(tmp_path / "none", "device") is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not say what a process used")
def test_the_most_memory_of_a_run_is_its_own(tmp_path: Path) -> None:
    before = bytearray(300_000_000)  # of an earlier run in this process, which is no part of it
    del before
    run, other = (RunDir.open(tmp_path / name, "pretrain", CONFIG) for name in ("large", "small"))
    during = bytearray(200_000_000)
    run.finish()
    del during
    forget_peak_memory()
    other.finish()
    large, small = (noted(tmp_path / name, "peak_gb") for name in ("large", "small"))
    assert 0.15 < large - small < 0.25
    assert large == round(large, 2)


def test_what_is_logged_is_on_the_disk_before_what_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are: a run that goes on from one after a power cut has all that was logged before it."""
    synced: list[str] = []
    fsync = os.fsync

    def note(number: int) -> None:
        fsync(number)
        synced.append((run.working / "metrics.jsonl").read_text())

    with contextlib.closing(RunDir.open(tmp_path / "run", "any", {})) as run:
        monkeypatch.setattr(os, "fsync", note)
        run.log({"step": 0})
        run.log({"step": 5})
    assert synced == ['{"step": 0}\n', '{"step": 0}\n{"step": 5}\n']


def test_a_damaged_line_of_the_log_is_not_the_end_of_it(tmp_path: Path) -> None:
    """Good lines behind it would be forgotten, and the table be shorter; only the last one can be cut short."""
    with contextlib.closing(RunDir.open(tmp_path / "run", "any", {})) as run:
        log = run.working / "metrics.jsonl"
        log.write_bytes(b'{"step": 0}\n{"step": 5}\n{"ste')
        assert [row["step"] for row in read_metrics(run.working)] == [0, 5]
        for damaged in (b"\0\0\0\n", b"\xff\n"):
            log.write_bytes(b'{"step": 0}\n' + damaged + b'{"step": 10}\n')
            with pytest.raises(ValueError, match=r"^output_dir: line 2 of .*metrics\.jsonl is damaged; --fresh"):
                run.truncate_log(10)


def test_the_table_has_the_logged_columns_alone(tmp_path: Path) -> None:
    path = make(tmp_path / "run").path
    assert pyarrow.parquet.read_schema(path / "table.parquet").names == ["step", "loss"]


def test_a_process_that_is_not_the_main_one_touches_nothing(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "pretrain", CONFIG, is_main=False)
    run.log({"step": 1})
    run.note(device="cpu")
    run.truncate_log(-1)
    run.finish()
    run.close()
    assert not run.finished
    assert run.hash == make(tmp_path / "run").hash
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "pretrain", CONFIG)
    for step in range(3):
        run.log({"step": step})
    with (run.working / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # a crash in the middle of a line
    run.close()
    again = RunDir.open(tmp_path / "run", "pretrain", CONFIG)
    again.truncate_log(1)
    again.log({"step": 2})
    assert [row["step"] for row in read_metrics(again.working)] == [0, 1, 2]
    again.truncate_log(-1)
    assert read_metrics(again.working) == []
    again.close()
    with pytest.raises(ValueError, match=r"lr: 0\.1 there, 0\.2 asked"):
        RunDir.open(tmp_path / "run", "pretrain", {**CONFIG, "lr": 0.2})


def test_fresh_replaces_only_when_the_new_run_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old = make(path)
    run = RunDir.open(path, "pretrain", {**CONFIG, "lr": 0.2}, fresh=True)
    assert not run.finished
    assert json.loads((path / "env.json").read_text())["hash"] == old.hash
    run.finish()
    assert json.loads((path / "env.json").read_text())["hash"] == run.hash != old.hash
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_a_run_is_made_from_is_not_replaced_by_it(tmp_path: Path) -> None:
    """The model that it starts from would be gone."""
    base = make(tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"^output_dir: .*base is what this run reads \(model\) and would be replaced, "
    ):
        RunDir.open(tmp_path / "base", "finetune", CONFIG, inputs={"model": base.hash}, fresh=True)
    assert json.loads((tmp_path / "base" / "env.json").read_text())["hash"] == base.hash
    RunDir.open(tmp_path / "base", "finetune", CONFIG, inputs={"model": "another"}, fresh=True).close()


@dataclass
class Reading:
    """Settings of what reads a file or a folder."""

    output_dir: str = field(default="", metadata={"place": "output"})
    dataset: str = field(default="", metadata={"place": "input"})
    models: list[str] = field(default_factory=list, metadata={"place": "input"})
    split: str = "train"


@pytest.mark.parametrize("how", ["snapshot", "data set", "with its config", "below", "named", "linked"])
def test_nothing_that_a_run_reads_is_replaced_by_it_however_it_is_named(tmp_path: Path, how: str) -> None:
    """A snapshot's hash has its step in it, and a data set is known by its bytes and not by the run that made it."""
    made = make(tmp_path / "made")
    (tmp_path / "link").symlink_to(made.path)
    place = {
        "snapshot": {}, "data set": {"dataset": str(made.path)}, "with its config": {"dataset": f"{made.path}:easy"},
        "below": {"dataset": str(made.path / "config.yaml")}, "named": {"models": [f"tuned={made.path}/"]},
        "linked": {"dataset": str(tmp_path / "link")},
    }[how]  # fmt: skip
    inputs = {"model": f"{made.hash}-step-5" if how == "snapshot" else "a", "dataset": "b", "tuned": "c"}
    with pytest.raises(ValueError, match=r"^output_dir: .*made is what this run reads \(.*\) and would be replaced, "):
        RunDir.open(made.path, "probe", to_dict(Reading(**place)), inputs=inputs, fresh=True)  # type: ignore[arg-type]
    assert is_finished(made.path)
    beside = Reading(dataset=str(make(tmp_path / "made-2").path), split=str(made.path))
    inputs["model"] = "a"
    RunDir.open(
        made.path, "probe", to_dict(beside), inputs=inputs, fresh=True
    ).close()  # no setting of theirs is a place that is read


def test_which_settings_were_places_is_noted_when_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").touch()
    Path("data").mkdir()
    read = Reading(dataset="rows.jsonl", models=["base=data", "org/tuned", "x" * 5000], split="data")
    inputs = dict.fromkeys(("dataset", "models/0", "models/1", "models/2"), "a")
    run = RunDir.open("run", "probe", to_dict(read), inputs=inputs)
    run.finish()
    assert json.loads(Path("run/env.json").read_text())["places"] == {"dataset": ["rows.jsonl"], "models": ["data"]}


def test_damage_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "run").path
    (path / "metrics.jsonl").write_text("{}\n")
    assert damaged_files(path) == ["metrics.jsonl"]
    (path / "table.parquet").unlink()
    assert damaged_files(path) == ["metrics.jsonl", "table.parquet"]
    (path / "manifest.json").write_text("{")
    assert damaged_files(path) == ["manifest.json"]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "draft.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is no run of ours"):
            RunDir.open(mine, "pretrain", CONFIG, fresh=fresh)
    assert (mine / "draft.txt").read_text() == "years of work"


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "pretrain", CONFIG)
    with pytest.raises(ValueError, match="another process is writing"):
        RunDir.open(tmp_path / "run", "pretrain", CONFIG)
    run.close()
    RunDir.open(tmp_path / "run", "pretrain", CONFIG).close()


def test_replacing_a_file_leaves_no_traces(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_too_little_space_is_said_before_training(tmp_path: Path) -> None:
    check_disk_space(tmp_path / "not" / "yet" / "there", 1000)
    with pytest.raises(
        ValueError, match=r"output_dir: .*there needs about 1000000000000 MB .* but only \d+ MB are free"
    ):
        check_disk_space(tmp_path / "not" / "yet" / "there", 10**18)


def test_a_commit_does_not_overwrite(tmp_path: Path) -> None:
    for name in ("working", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        commit_folder(tmp_path / "working", tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "final"
