"""What a run was made from is kept beside it, and a difference is said or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.config import Notice, to_dict
from ftmech_hf.runs import Identity, RunDir, environment, hash_files, write_json
from ftmech_hf.runs.environment import code_version
from ftmech_hf.studies.tinystories.scores import ScoreConfig


def open_run(path: Path, **more: Any) -> RunDir:
    return RunDir.open(path, "probe", {"rows": 3}, **more)


def rewrite(folder: Path, **facts: Any) -> None:
    """As if another version had written the run."""
    env = json.loads((folder / "env.json").read_text())
    write_json(folder / "env.json", {**env, **facts})


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"versions": {**environment()["versions"], "ftmech_hf": "0.0.9"}}, r"ftmech_hf 0\.0\.9 \(now [0-9.]+\); --fresh"),
    ({"versions": {**environment()["versions"], "torch": "1.13"}}, r"torch 1\.13 \(now .*\); --fresh"),
    ({"code": "another"}, "other code of this package or of its task; --fresh makes it again"),
]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("facts", "message"), OTHERS)
def test_another_version_is_said_and_stops_nothing(
    tmp_path: Path, facts: dict[str, Any], message: str, finished: bool
) -> None:
    run = open_run(tmp_path / "run")
    run.finish() if finished else run.close()
    open_run(tmp_path / "run").close()  # nothing is said of what is the same
    rewrite(run.folder, **facts)
    began = "run was made with" if finished else r"run.partial is gone on with, begun with"
    with pytest.warns(Notice, match=f"{began} {message}"):
        again = open_run(tmp_path / "run")
    assert again.finished == finished
    again.close()
    open_run(tmp_path / "run", fresh=True).close()  # nor where it is made again


def test_runs_from_before_this_was_kept_are_found_in_silence(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", inputs={"model": "abc"})
    run.finish()
    env = json.loads((run.path / "env.json").read_text())
    write_json(run.path / "env.json", {key: env[key] for key in ("kind", "hash", "inputs", "versions")})
    assert open_run(tmp_path / "run", inputs={"model": Identity("abc", "bytes")}).finished


TASK = """
from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class MyTask:
    operator: str = "count"
    def label(self): return {label}
"""


def test_the_code_of_a_task_of_ones_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is not this package's, so that no version of this package tells of a change in it."""
    path = tmp_path / "my_task.py"
    path.write_text(TASK.format(label=1))
    spec = importlib.util.spec_from_file_location("my_task", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_task", module)
    spec.loader.exec_module(module)
    settings = to_dict(module.MyTask())
    assert settings.sources == (str(path),)
    RunDir.open(tmp_path / "run", "probe", settings).finish()
    assert RunDir.open(tmp_path / "run", "probe", settings).finished
    path.write_text(TASK.format(label=2))
    code_version.cache_clear()  # another process
    with pytest.warns(Notice, match="other code of this package or of its task"):
        assert RunDir.open(tmp_path / "run", "probe", settings).finished


@dataclass(frozen=True, kw_only=True)
class Reads:
    corpus: str | None = dataclasses.field(default=None, metadata={"place": "input"})
    models: list[str] = dataclasses.field(default_factory=list, metadata={"place": "input"})


@pytest.mark.parametrize(("reads", "inputs"), [
    (Reads(), {}),
    (Reads(corpus="a.txt"), {"corpus": "1"}),
    (Reads(corpus="there/a.txt"), {"a.txt": "1"}),
    (Reads(models=["base=runs/a", "tuned=runs/b"]), {"base": "1", "tuned": "2"}),
    (Reads(models=["a.txt", "x/a.txt"]), {"a.txt": "1", "1/a.txt": "2"}),
])  # fmt: skip
def test_a_place_whose_content_is_no_input_is_refused(tmp_path: Path, reads: Reads, inputs: dict[str, str]) -> None:
    RunDir.open(tmp_path / "run", "any", to_dict(reads), inputs=inputs).close()
    for label in inputs:
        left = {key: value for key, value in inputs.items() if key != label}
        with pytest.raises(
            ValueError, match=r"(corpus|models): .* is read, but its content is not among the run's inp"
        ):
            RunDir.open(tmp_path / f"without {Path(label).name}", "any", to_dict(reads), inputs=left)


def test_two_files_of_one_name_are_two_inputs(tmp_path: Path) -> None:
    for name in ("a/x.txt", "b/x.txt", "y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    found = hash_files([str(tmp_path / name) for name in ("a/x.txt", "b/x.txt", "y.txt")])
    expected = {"x.txt": "a/x.txt", "1/x.txt": "b/x.txt", "y.txt": "y.txt"}
    assert found == {label: hashlib.sha256(name.encode()).hexdigest() for label, name in expected.items()}
    # rows of the first come first, so that another order is other rows
    one, other = (hash_files([str(tmp_path / name) for name in names])
                  for names in (("a/x.txt", "y.txt"), ("y.txt", "a/x.txt")))  # fmt: skip
    assert one != other
    assert one.keys() < other.keys()


def test_a_judge_is_what_it_is_and_not_where(tmp_path: Path) -> None:
    for name, content in (("one", "{}"), ("copy", "{}"), ("other", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "judge.json").write_text(content)
    one, copy, other = (ScoreConfig(judge=str(tmp_path / name)) for name in ("one", "copy", "other"))
    assert one.inputs() == copy.inputs() != other.inputs()
    assert "judge" in to_dict(one).places
    assert ScoreConfig().inputs() == {"judge": "exact"}
