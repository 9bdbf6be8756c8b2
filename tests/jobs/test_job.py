from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.job import JobConfig, finish_job, job, prepared_job
from ftmech_hf.runs import FinishedRun, RunDir, run_identity


@dataclass(frozen=True, kw_only=True)
class CountConfig(JobConfig):
    rows: int = 3
    file: str = field(default="", metadata={"place": "input"})

    def inputs(self) -> dict[str, str]:
        return {"file": Path(self.file).read_text(encoding="utf-8")} if self.file else {}


def count(config: CountConfig, *, fails: bool = False) -> RunDir:
    with job("count", config) as run:
        if run.finished:
            return run
        if fails:
            raise RuntimeError("no power")
        return finish_job(run, [{"row": number} for number in range(config.rows)], {"rows": config.rows})


def test_a_job_is_found_again_by_what_it_computes(tmp_path: Path) -> None:
    config = CountConfig(output_dir=str(tmp_path / "run"))
    first = count(config)
    made = FinishedRun(first.path)
    assert made.is_whole
    assert made.kind == "count"
    assert made.summary == {"rows": 3}
    assert list(made.table["row"]) == [0, 1, 2]
    assert first.hash == run_identity("count", to_dict(config), {})
    assert count(config, fails=True).finished  # it is not computed again
    with pytest.raises(ValueError, match="rows: 3 there, 4 asked"):
        count(CountConfig(output_dir=str(tmp_path / "run"), rows=4))


def test_what_a_job_reads_is_in_its_hash(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    hashes = []
    for content in ("one", "other"):
        corpus.write_text(content, encoding="utf-8")
        hashes.append(count(CountConfig(output_dir=str(tmp_path / content), file=str(corpus))).hash)
    assert hashes[0] != hashes[1]


def test_a_job_that_fails_lets_go_of_its_folder_and_leaves_nothing_whole(tmp_path: Path) -> None:
    config = CountConfig(output_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="no power"):
        count(config, fails=True)
    assert not (tmp_path / "run").exists()
    with job("count", config) as held:
        assert not held.finished
        with pytest.raises(ValueError, match="another process is writing"):
            count(config)
    assert count(config).finished


def test_what_a_job_needs_is_made_before_its_folder_and_not_for_a_run_that_is_there(tmp_path: Path) -> None:
    config, made = CountConfig(output_dir=str(tmp_path / "run")), []

    def prepare() -> int:
        made.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(made) == 1:
            raise ValueError("rows: cannot be asked")
        return 7

    with pytest.raises(ValueError, match="cannot be asked"), prepared_job(prepare, "count", config):
        pass
    with prepared_job(prepare, "count", config) as (run, prepared):
        assert (prepared(), prepared()) == (7, 7)
        finish_job(run, [{"row": 0}], {})
    assert made == [[], []], "nothing was written by then, and it was made once"
    with prepared_job(prepare, "count", config) as (run, _):
        assert run.finished
    assert len(made) == 2


def test_a_replacement_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    """A finished run lies there, and one that is to replace it was begun: what the job needs is made after all."""
    config = CountConfig(output_dir=str(tmp_path / "run"))
    count(config)
    with pytest.raises(RuntimeError):
        count(dataclasses.replace(config, fresh=True), fails=True)
    with prepared_job(lambda: 7, "count", config) as (run, prepared):
        assert not run.finished
        assert prepared() == 7


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed: -1 is negative, expected 0 or more"):
        CountConfig(seed=-1)
