"""What runs measured is kept without their weights, is the same bytes for the same runs, and comes back as it was."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.jobs.measurements import is_measurement, keep_measurements, unpacked
from ftmech_hf.jobs.study import Study, StudyConfig
from ftmech_hf.runs.folders import write_manifest
from ftmech_hf.runs.results import named_results, replacing_results
from ftmech_hf.studies import load_study

MEASURED = {
    "summary.json": '{"a": 1}',
    "metrics.jsonl": "{}\n{}\n",
    "parts/table.parquet": "1,2",
    "config.yaml": "x: 1",
}
BESIDE = ("model.safetensors", "tokenizer.json", "README.md", "parts/config.json", "curve.png")


def finish(folder: Path, **more: str) -> Path:
    for name, text in {**MEASURED, **dict.fromkeys(BESIDE, "beside"), **more}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pd.DataFrame({"numbers": [int(each) for each in text.split(",")]}).to_parquet(folder / name, index=False)
        else:
            (folder / name).write_text(text)
    write_manifest(folder)
    return folder


def read(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): pd.read_parquet(path).to_csv()
        if path.suffix == ".parquet"
        else path.read_text()
        for path in files
    }


def test_of_a_study_its_results_are_kept_and_none_of_its_runs(tmp_path: Path) -> None:
    folder, file = tmp_path / "study", tmp_path / "study.tar.xz"
    finish(folder / "runs" / "one")
    with replacing_results(folder) as place:
        (place / "summary.json").write_text("1")
        (place / "report.html").write_text("a page")
    (folder / "notes.json").write_text("somebody's own")
    assert keep_measurements([folder], file) == 1
    with unpacked(file) as place:
        assert read(place / "study") == {
            "summary.json": "1",
            ".results.json": '[\n  "report.html",\n  "summary.json"\n]\n',
        }
    assert named_results(folder) == ["report.html", "summary.json"]


def test_numbers_come_back_and_weights_do_not(tmp_path: Path) -> None:
    runs = [finish(tmp_path / "runs" / name, **{"summary.json": name}) for name in ("b-2", "a-1")]
    half = tmp_path / "runs" / "half.partial"
    half.mkdir()
    (half / "summary.json").write_text("not yet")
    file = tmp_path / "kept" / "all.tar.xz"
    assert keep_measurements([*runs, half, tmp_path / "not there"], file) == 2
    with unpacked(file) as place:
        assert sorted(path.name for path in place.iterdir()) == ["a-1", "b-2"]
        for run in runs:
            there = read(run)
            assert read(place / run.name) == {name: there[name] for name in (*MEASURED, "manifest.json")}
    assert not place.exists()


def test_the_same_runs_are_the_same_bytes_whoever_keeps_them_when_and_where(tmp_path: Path) -> None:
    written = []
    for number, owner in enumerate(("one", "another")):
        run = finish(tmp_path / owner / "run-1")
        for path in run.rglob("*"):
            os.utime(path, (number * 1000, number * 1000))
            path.chmod(0o700 if number else 0o755)
        keep_measurements([run], tmp_path / owner / "kept.tar.xz")
        written.append((tmp_path / owner / "kept.tar.xz").read_bytes())
    assert written[0] == written[1]
    keep_measurements([finish(tmp_path / "other" / "run-1", **{"summary.json": "2"})], tmp_path / "other.tar.xz")
    assert (tmp_path / "other.tar.xz").read_bytes() != written[0]


def test_what_cannot_be_kept_is_said_and_leaves_what_was_kept_before(tmp_path: Path) -> None:
    file = tmp_path / "kept.tar.xz"
    keep_measurements([finish(tmp_path / "one" / "run-1")], file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="keep_measurements: no run is finished"):
        keep_measurements([tmp_path / "nothing"], file)
    with pytest.raises(ValueError, match="keep_measurements: two runs are called run-1, expected each name once"):
        keep_measurements([tmp_path / "one" / "run-1", finish(tmp_path / "two" / "run-1")], file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("name", ["../outside.json", "run/model.safetensors", "run/code.py", "/tmp/summary.json"])
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "summary.json").write_text("{}")
    file = tmp_path / "foreign.tar.xz"
    with tarfile.open(file, "w:xz") as archive:
        archive.add(tmp_path / "summary.json", "run/summary.json")
        entry = tarfile.TarInfo(name)
        archive.addfile(entry)
    if name.startswith("/"):  # tarfile itself puts it below
        with unpacked(file) as place:
            assert (place / name[1:]).is_file()
    else:
        with pytest.raises(ValueError, match=r"from_measurements: .*foreign\.tar\.xz"), unpacked(file):
            pass
    assert not (tmp_path.parent / "outside.json").exists()


def test_a_link_in_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foreign.tar.xz"
    with tarfile.open(file, "w:xz") as archive:
        entry = tarfile.TarInfo("run/summary.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(entry)
    with pytest.raises(ValueError, match=r"holds run/summary\.json, expected measurements alone"), unpacked(file):
        pass


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_half_a_file_is_named(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "half.tar.xz"
    keep_measurements([finish(tmp_path / "run-1")], file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"from_measurements: .*half.tar.xz cannot be read"), unpacked(file):
        pass
    with (
        pytest.raises(ValueError, match=r"from_measurements: .*none.tar.xz cannot be read"),
        unpacked(tmp_path / "none.tar.xz"),
    ):
        pass


def test_names_say_what_measures() -> None:
    assert all(is_measurement(name.rpartition("/")[2]) for name in (*MEASURED, "manifest.json"))
    assert not any(is_measurement(name.rpartition("/")[2]) for name in BESIDE)
    assert not is_measurement(".summary.json.12-ab.tmp")


def test_settings_that_cannot_be_are_named() -> None:
    for name in ("keep_measurements", "from_measurements"):
        with pytest.raises(ValueError, match=f"{name}: 'all.zip', expected a file that ends in .tar.xz"):
            StudyConfig(**{name: "all.zip"})
    with pytest.raises(ValueError, match="keep_measurements: nothing is measured with from_measurements"):
        StudyConfig(keep_measurements="a.tar.xz", from_measurements="b.tar.xz")


def test_a_folder_that_is_there_for_a_moment_is_nobodys_setting(tmp_path: Path) -> None:
    """Results that are written from what was kept are of the settings of the command, and have their hash."""
    argv = ["--seeds", "0", "--output_dir", str(tmp_path / "out"), "--runs_dir", str(tmp_path / "mine")]
    study = load_study("reproduce")
    assert isinstance(study, Study)
    plain, unpacked_for = (study.read_plan(argv, runs_dir=folder) for folder in (None, tmp_path / "unpacked"))
    assert unpacked_for.settings() == plain.settings()
    assert unpacked_for.settings()["runs_dir"] == str(tmp_path / "mine")
    assert unpacked_for.hash == plain.hash
    assert next(iter(unpacked_for.folders.values())).parent == tmp_path / "unpacked"


def test_a_table_takes_less_where_all_is_packed_together(tmp_path: Path) -> None:
    """Tables of like texts, each packed by itself before."""
    sizes = {}
    for name, compression in (("packed", "snappy"), ("plain", None)):
        folders = []
        for number in range(4):
            folder = tmp_path / name / f"run-{number}"
            folder.mkdir(parents=True)
            words = pd.Series(np.random.default_rng(number).integers(0, 50, 20_000)).astype(str)
            table = pd.DataFrame({"text": "once upon a time there were " + words})
            table.to_parquet(folder / "table.parquet", compression=compression, index=False)
            write_manifest(folder)
            folders.append(folder)
        file = tmp_path / f"{name}.tar.xz"
        keep_measurements(folders, file)
        with unpacked(file) as place:
            pd.testing.assert_frame_equal(pd.read_parquet(place / "run-3" / "table.parquet"), table)
        sizes[name] = file.stat().st_size
    assert sizes["packed"] == pytest.approx(sizes["plain"], rel=0.02)
