"""Where compiled programs start: what a run that is there says of settings that it was made without."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from ftmech_hf.config import Notice
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.tasks import MaxIdentifierConfig


def test_who_asks_for_the_code_of_a_run_without_it_is_told(tmp_path: Path) -> None:
    task, settings = MaxIdentifierConfig(), {"output_dir": str(tmp_path / "run"), "final_eval_rows": 16}
    run = start_compiled(CompileConfig(**settings), task)
    coded = CompileConfig(**settings, with_code=True)
    with pytest.warns(Notice, match=r"with_code: .*run was made without the model's code; --fresh puts it there"):
        assert start_compiled(coded, task).finished
    assert not (run.path / "compiled.py").exists()
    start_compiled(CompileConfig(**settings, with_code=True, fresh=True), task)
    assert (run.path / "compiled.py").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert start_compiled(coded, task).finished
        assert start_compiled(CompileConfig(**settings), task).finished  # to have more than was asked for is no fault
