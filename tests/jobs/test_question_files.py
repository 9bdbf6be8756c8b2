"""Files of questions: one a split, and none is touched that says the same already."""

from __future__ import annotations

import json
from pathlib import Path

from ftmech_hf.jobs.question_files import write_splits


def test_a_file_is_written_only_where_it_would_say_something_else(tmp_path: Path) -> None:
    rows = {"train": [{"prompt": "é ?", "answer": "1"}], "test": iter([{"prompt": "b", "answer": "2"}])}
    folder = write_splits(tmp_path / "asked", rows)
    assert folder == tmp_path / "asked"
    assert sorted(path.name for path in folder.iterdir()) == ["test.jsonl", "train.jsonl"]
    text = (folder / "train.jsonl").read_text(encoding="utf-8")
    assert "é" in text
    assert json.loads(text) == rows["train"][0]  # type: ignore[index]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_splits(folder, {"train": rows["train"], "test": [{"prompt": "c", "answer": "2"}]})
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [path.name for path in before if before[path] != after[path]] == ["test.jsonl"]
    assert '"c"' in (folder / "test.jsonl").read_text(encoding="utf-8")
