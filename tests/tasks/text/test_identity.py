"""A data set is the bytes of its files, or the commit of its repository."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from ftmech_hf.downloads import hub_commit
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.tasks.text.reading import read_table
from tests.hub.server import Blob, HubServer

ROWS = [{"prompt": f"x {number}", "answer": "a"} for number in range(40)]


def as_csv(rows: list[dict[str, str]]) -> str:
    return "prompt,answer\n" + "".join(f"{row['prompt']},{row['answer']}\n" for row in rows)


def as_lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, form: str, answer: str = "a") -> Path:
    rows = [*ROWS[:-1], {**ROWS[-1], "answer": answer}]
    (folder / "train").mkdir(parents=True)
    if form == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    elif form == "saved":
        shutil.rmtree(folder)
        datasets.Dataset.from_list(rows).save_to_disk(folder)
    elif form == "nested":
        (folder / "train" / "part.csv").write_text(as_csv(rows))
    else:
        (folder / f"train.{form}").write_text(as_csv(rows) if form in ("csv", "tsv") else as_lines(rows))
    return folder


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "txt", "parquet", "nested", "saved"])
def test_one_byte_makes_another_data_set_in_every_format(tmp_path: Path, form: str) -> None:
    one, same, other = (write(tmp_path / name, form, name[0]) for name in ("a1", "a2", "b"))
    assert dataset_hash(str(one)) == dataset_hash(str(same)) != dataset_hash(str(other))
    assert dataset_hash(f"{one}:config") != dataset_hash(str(one))


CHANGES: dict[str, Callable[[Path], object]] = {
    "one file more": lambda folder: (folder / "test.csv").write_text(as_csv(ROWS)),
    "another split": lambda folder: (folder / "train.csv").rename(folder / "test.csv"),
    "which files a config reads": lambda folder: (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n---\nprose\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_which_rows_are_read_makes_another(tmp_path: Path, change: str) -> None:
    folder = write(tmp_path / "data", "csv")
    before = dataset_hash(str(folder))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nprose\n")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "train.csv").write_text("hidden")
    assert dataset_hash(str(folder)) == before  # none of that is read
    CHANGES[change](folder)
    assert dataset_hash(str(folder)) != before


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/nowhere/a"])
def test_what_is_not_there_has_no_identity(name: str) -> None:
    with pytest.raises(ValueError, match=f"dataset: cannot read {name}: no such folder or file"):
        dataset_hash(name)


@pytest.fixture
def our_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The local Hub as the one that everything in this process asks."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    yield hub
    hub_commit.cache_clear()


def test_a_data_set_on_the_hub_is_its_commit(our_hub: HubServer) -> None:
    name = "someone/rows"
    repo = our_hub.add_repo("dataset", name)

    def push(word: str) -> str:
        rows = [{**row, "prompt": row["prompt"].replace("x", word)} for row in ROWS]
        return repo.commit("main", word, {"train.jsonl": Blob(as_lines(rows).encode(), lfs=False)}).oid

    def look(name: str) -> tuple[str, str]:
        return dataset_hash(name), read_table(name)["train"][0]["prompt"]

    first = push("old")
    assert look(name) == (f"{name}@{first}", "old 0")
    second = push("new")
    assert look(name) == (f"{name}@{first}", "old 0")  # within one process a name stands for the same rows
    hub_commit.cache_clear()
    assert look(name) == (f"{name}@{second}", "new 0")
    assert look(f"{name}@{first}") == (f"{name}@{first}", "old 0")
    with pytest.raises(
        ValueError, match=r"dataset: cannot read someone/none: cannot look up someone/none@main: there is"
    ):
        dataset_hash("someone/none")


def test_rows_are_not_taken_from_the_cache_of_other_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "csv")
    time = (folder / "train.csv").stat().st_mtime_ns
    assert read_table(str(folder))["train"][-1]["answer"] == "a"
    (folder / "train.csv").write_text(as_csv([*ROWS[:-1], {**ROWS[-1], "answer": "b"}]))
    os.utime(folder / "train.csv", ns=(time, time))  # as a copy that keeps times
    assert read_table(str(folder))["train"][-1]["answer"] == "b"


def test_a_misspelt_file_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ValueError, match=r"dataset: cannot read data/rows\.jsonl: no such file here"):
        dataset_hash("data/rows.jsonl")
