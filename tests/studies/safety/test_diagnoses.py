"""The questions of a diagnosis: unsafe prompts with what is instructed, of splits that no training reads."""

from __future__ import annotations

import json
from pathlib import Path

from ftmech_hf.studies.safety.diagnoses import ROWS, case_config, write_questions
from ftmech_hf.tasks import RowStream, SafetyConfig
from ftmech_hf.tasks.safety import OUTPUT


def test_questions_are_unsafe_prompts_and_are_written_once(tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "data", 3)
    read = {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in ROWS}
    assert {name: len(lines) for name, lines in read.items()} == {"train": 256, "validation": 128, "test": 192}
    words = SafetyConfig.vocabulary
    rows = RowStream(SafetyConfig(mixture="unsafe", map_seed=3), seed=3, split="test").rows(0, 192)
    assert rows.label.all()
    first = json.loads(read["test"][0])
    assert f"{first['prompt']} {first['answer']} <eos>".split() == [words[each] for each in rows.token_ids[0]]
    assert len(first["answer"].split()) == OUTPUT.stop - OUTPUT.start
    assert "null" not in first["answer"]
    assert not {split for split, _ in ROWS.values()} & {"train", "finetune"}
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_questions(folder, 3)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    write_questions(folder, 4)  # what must change: other questions
    assert (folder / "test.jsonl").read_text().splitlines() != read["test"]
    assert case_config(1e-3).rows == len(read["test"])
