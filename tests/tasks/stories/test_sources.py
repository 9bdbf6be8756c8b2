from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from ftmech_hf.tasks.stories.index import index_files
from ftmech_hf.tasks.stories.records import END, Story, read_stories
from ftmech_hf.tasks.stories.sources import are_lines, local_files
from recipes import make_stories
from tests.conftest import client_env, run_python
from tests.hub.server import HubServer
from tests.tasks.stories.files import stories, write_raw


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(*names: Path | str) -> list[Story]:
    return [story for path in local_files([str(name) for name in names]) for story in read_stories(path)]


def write(path: Path, column: str, values: list[str]) -> Path:
    pq.write_table(pa.table({column: values}), path)
    return path


def test_a_folder_of_make_stories_gives_its_training_stories(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    make_stories.main(["--rows", "train=40", "test=10", "--vocab_size", "0", "--output_dir", str(folder)])
    rows = pq.read_table(folder / "seen" / "train.parquet").to_pylist()
    found = read(folder)
    assert [story.story for story in found] == [row["story"] for row in rows]
    assert [list(story.features) for story in found] == [row["features"] for row in rows]
    assert [story.summary for story in found] == [row["summary"] for row in rows]
    assert read(folder / "seen" / "train.parquet") == found
    shutil.rmtree(folder / "seen")
    with pytest.raises(ValueError, match="made is a folder without"):
        read(folder)


def test_rows_may_be_texts_or_lines(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw.txt", 30)
    expected = list(read_stories(raw))
    assert read(write(tmp_path / "lines.parquet", "text", raw.read_text().splitlines())) == expected
    texts = [text.strip() for text in raw.read_text().split(END) if text.strip()]
    assert read(write(tmp_path / "texts.parquet", "text", texts)) == expected
    plain = [story.story for story in stories(5)]
    assert [story.story for story in read(write(tmp_path / "plain.parquet", "text", plain))] == plain


def test_a_file_on_the_hub_is_downloaded_once(
    hub: object, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("ftmech_hf.tasks.stories.sources.hf_hub_download", _with(api, asked))
    raw = write_raw(tmp_path / "raw.txt", 25)
    api.create_repo("user/stories", repo_type="dataset")
    api.upload_file(path_or_fileobj=raw, path_in_repo="data/raw.txt", repo_id="user/stories", repo_type="dataset")
    name = "hf://datasets/user/stories/data/raw.txt"
    assert read(name) == list(read_stories(raw))
    assert len(index_files([name, str(raw)])) == 50
    assert asked == ["data/raw.txt"]  # and not for every document that is read
    with pytest.raises(ValueError, match="expected hf://datasets/USER/NAME/PATH_OF_A_FILE"):
        read("hf://datasets/user/stories")


READ_DATASETS = """
import json, sys
from ftmech_hf.tasks.stories.index import index_files

for name in sys.argv[1:]:
    try:
        index = index_files([name])
        print(json.dumps([index.read(number).story for number in range(len(index))]))
    except (OSError, ValueError) as error:
        print(json.dumps(str(error)))
"""


def test_the_name_of_a_dataset_gives_its_training_rows(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw.txt", 12)
    api.create_repo("user/lines", repo_type="dataset")
    for split, number in (("train", None), ("validation", 9)):
        lines = write(tmp_path / "lines.parquet", "text", raw.read_text().splitlines()[:number])
        place = f"data/{split}-00000-of-00001.parquet"
        api.upload_file(path_or_fileobj=lines, path_in_repo=place, repo_id="user/lines", repo_type="dataset")
    env = client_env(hub, tmp_path / "home")
    found, missing = map(json.loads, run_python(READ_DATASETS, "user/lines", "user/none", env=env).splitlines())
    assert found == [story.story for story in read_stories(raw)]
    assert missing.startswith("files: cannot read the dataset user/none: there is no such repository")
    # what was read once is there without a connection, and what was not is an error that says so
    away = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again, never = map(json.loads, run_python(READ_DATASETS, "user/lines", "user/other", env=away).splitlines())
    assert again == found
    assert never.startswith("cannot read the dataset user/other")


def _with(api: HfApi, asked: list[str]) -> Callable[..., str]:
    def download(*arguments: str, **options: str) -> str:
        asked.append(arguments[1])
        return str(api.hf_hub_download(*arguments, **options))

    return download


def test_what_cannot_be_a_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "d.parquet").write_text("x")
    for name, message in (
        (tmp_path / "a.docx", r"a\.docx, expected a folder of make_stories or a file \.txt, .*\.csv or \.parquet"),
        (tmp_path / "d.parquet", r"files: .*d\.parquet is no parquet file that can be read"),
        (write(tmp_path / "b.parquet", "title", ["x"]), r"b\.parquet has no column story or text, only title"),
        (tmp_path / "c.txt", r"files: there is no .*c\.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            read(name)


STORIES = ["Once there was a cat.\n\nIt was red.", "Tom had a dog.", "Sue saw a bird."]
READ = ["Once there was a cat.\nIt was red.", "Tom had a dog.", "Sue saw a bird."]


def texts_of(path: Path) -> tuple[list[str], str]:
    """The stories of a source, and what is said of the others."""
    index = index_files([str(path)])
    return [index.read(number).story for number in range(len(index))], index.damage


@pytest.mark.parametrize(
    ("column", "lost"),
    [
        (pa.array(STORIES), ""),
        (pa.array(STORIES, pa.large_string()), ""),
        (pa.array(STORIES).dictionary_encode(), ""),
        (pa.array(STORIES, pa.string_view()), ""),
        (pa.array([each.encode() for each in STORIES]), ""),
        (pa.array([f"{each}{END}" for each in STORIES]), ""),
        (pa.array([f"{END}{each}" for each in STORIES]), ""),
        (pa.array([f"{STORIES[0]}{END}{STORIES[1]}", STORIES[2]]), ""),
        (pa.array([STORIES[0], None, *STORIES[1:], "", " "]), "3 without a story"),
        (pa.array([*STORIES, f"Once{END}\0"]), "1 with control characters"),
        # lines, with the marks as rows or at the ends of rows
        (
            pa.array(["Once there was a cat.", "", "It was red.", END, "Tom had a dog.", END, None, "Sue saw a bird."]),
            "",
        ),
        (pa.array(["Once there was a cat.", "It was red." + END, "Tom had", "a dog." + END, "Sue saw a bird."]), ""),
        (pa.array([f"\ufeff{each}" for each in STORIES]), ""),
    ],
)
def test_tables_of_texts_in_the_forms_that_lie_around(tmp_path: Path, column: pa.Array, lost: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "texts.parquet")
    found, damage = texts_of(tmp_path / "texts.parquet")
    assert [story.replace("Tom had\na dog.", "Tom had a dog.") for story in found][:3] == READ
    assert damage.partition(" left out: ")[2] == lost


@pytest.mark.parametrize(
    ("columns", "features", "words"),
    [
        ({"features": [["Twist"], None, []], "words": [["cat", "red"], [], None]}, ("Twist",), ("cat", "red")),
        (
            {"features": ["Twist,BadEnding", None, ""], "words": ["a b, c"] * 2 + [None]},
            ("Twist", "BadEnding"),
            ("a b", "c"),
        ),
        ({"features": ['["Twist"]', "[]", ""], "words": ["['cat', 'red']", "dog", ""]}, ("Twist",), ("cat", "red")),
        ({"summary": ["S.", None, ""], "other": [1, 2, 3]}, (), ()),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "csv"])
def test_tables_of_stories_in_the_forms_that_lie_around(
    tmp_path: Path, kind: str, columns: dict[str, list[Any]], features: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path, table = tmp_path / f"stories.{kind}", pa.table({"story": STORIES, **columns})
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        pd.DataFrame(table.to_pylist()).to_csv(path, index=False)
    else:
        path.write_text("\ufeff" + "".join(f"{json.dumps(row)}\r\n" for row in table.to_pylist()), encoding="utf-8")
    found = read(path)
    assert [story.story for story in found] == READ
    assert (found[0].features, found[0].words) == (features, words)
    assert found[2].features == found[2].words == ()
    assert [story.summary for story in found] == (["S.", "", ""] if "summary" in columns else ["", "", ""])


def test_what_is_no_text_costs_its_row_alone(tmp_path: Path) -> None:
    texts = ('"One."', "2", "null", '["a"]', '"\\ud800"', '"Tw\\ufffdo"', '"Three."')
    rows = [*(f'{{"text": {text}}}' for text in texts), '"text"', "{", "[" * 3000, ""]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    found, damage = texts_of(tmp_path / "rows.jsonl")
    assert found == ["One.", "Three."]
    assert damage.startswith("2 records read; 8 left out: 2 whose text is no text, ")
    assert sorted(damage.split(", ")[1:]) == [
        "1 nested too deeply", "1 of another form", "1 that are not UTF-8", "1 that are not valid JSON",
        "1 with half a character", "1 without a story",
    ]  # fmt: skip
    (tmp_path / "numbers.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(ValueError, match=r"numbers\.jsonl holds no usable record \(0 .* 2 whose text is no text\)"):
        texts_of(tmp_path / "numbers.jsonl")
    invalid = pa.array([b"good", b"b\xffad", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "bytes.parquet")
    assert texts_of(tmp_path / "bytes.parquet") == (
        ["good", "fine"],
        "2 records read; 1 left out: 1 that are not UTF-8",
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a", END, "b"], True),
        (["a", f"b{END}", "c", "d", f"e{END}"], True),
        ([f"a{END}", f"b{END}", "c"], False),
        ([f"a{END}b", "c", "d", "e"], False),
        (["a\nb", f"c\nd{END}"], False),
        (["a", "b", None, ""], False),
        ([], False),
    ],
)
def test_where_the_marks_stand_tells_lines_from_texts(rows: list[str | None], expected: bool) -> None:
    assert are_lines(rows) == expected
