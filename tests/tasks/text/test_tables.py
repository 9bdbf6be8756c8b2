"""A table is read by what it is, and every form of it gives the same rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks.text.reading import read_table
from ftmech_hf.tasks.text.tables import text_columns

ROWS = [
    {"prompt": f'Q{n}: "a", b\nc =', "answer": answer} for n, answer in enumerate(["007", "None", "NA", "1.0", "é"])
]


def write(path: Path, form: str) -> Path:
    frame = pd.DataFrame(ROWS)
    if form == "parquet":
        frame.to_parquet(path)
    elif form in ("csv", "bom"):
        frame.to_csv(path, index=False, encoding="utf-8-sig" if form == "bom" else "utf-8")
    elif form == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif form == "gz":
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.parametrize("name", ["rows", "rows.txt", None], ids=["no suffix", "another suffix", "its suffix"])
@pytest.mark.parametrize("form", ["parquet", "csv", "bom", "tsv", "gz", "jsonl", "json"])
def test_a_file_is_read_by_what_it_is(form: str, name: str | None, tmp_path: Path) -> None:
    suffix = {"bom": "csv", "gz": "csv.gz"}.get(form, form)
    path = write(tmp_path / (name or f"rows.{suffix}"), form)
    assert [dict(row) for row in read_table(str(path))["train"]] == ROWS


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_a_folder_is_read_by_its_files(form: str, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "table" / f"{split}.{form}", form)
    loaded = read_table(str(tmp_path / "table"))
    assert {split: [dict(row) for row in rows] for split, rows in loaded.items()} == {"train": ROWS, "test": ROWS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\x80\x04\x95\0\0", "it is neither parquet, arrow, JSON nor CSV"),
        (b"PAR1 and no more", "cannot read"),
        (b'{"prompt": "a"\n{', "cannot read"),
        (b"prompt,answer\na,b\na,b,c,d\n", "row 1 has 4 cells, but the first line names 2 columns"),
        (b"prompt,answer\na,b,c,d\n", "row 0 has 4 cells, but the first line names 2 columns"),
        (b"prompt,answer,prompt\na,b,c\n", "its first line names a column twice: prompt, answer, prompt"),
        (b'prompt,answer\n"a,b\n', "unexpected end of data"),
        (b"prompt,answer\n\xff,b\n", "cannot read"),
        (b'{"prompt": "caf\xe9", "answer": "a"}\n', "its text is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset: cannot read .*rows\.csv: .") as refused:
        read_table(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("prompt", "answer"), None),
        (("prompt", "completion"), None),
        (("question", "answer"), None),
        (("question", "completion"), None),
        (
            ("text", "label"),
            "has no column 'prompt' (or 'question', 'instruction', or 'messages') in train, only text, label",
        ),
        (
            ("prompt", "label"),
            "has no column 'answer' (or 'completion', 'response', 'output') in train, only prompt, label",
        ),
    ],
)
def test_columns_have_the_usual_names(columns: tuple[str, str], expected: str | None) -> None:
    rows = datasets.Dataset.from_dict({columns[0]: ["a ="], columns[1]: ["b"], "more": [3]})
    tokenizer = build_tokenizer(["a", "b", "=", "<unk>"])
    if expected is None:
        found = text_columns(rows, tokenizer, "TABLE", "train")[0]
        assert (found["prompt"], found["answer"], found["more"]) == ("a =", "b", 3)
        return
    with pytest.raises(ValueError, match="dataset: TABLE") as refused:
        text_columns(rows, tokenizer, "TABLE", "train")
    assert expected in str(refused.value)
