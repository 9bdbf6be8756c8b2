"""The table of changes that tests notice: what is drawn, which tests are run, and what is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants
from tests.mutant_session import Reached, function_of, nearest_tests
from tests.mutants import add_first, draw_sample, read_firsts, read_reasons, write_table

STATES = {
    "ftmech_hf/a.py": {f"a.x_f__mutmut_{number}": "not tried" for number in range(40)},
    "ftmech_hf/b.py": {"b.x_f__mutmut_1": "killed", "b.x_f__mutmut_2": "survived", "b.x_g__mutmut_1": "no test"},
}


def test_a_sample_is_drawn_of_every_file_and_grows() -> None:
    few, more, other = (draw_sample(STATES, *drawn) for drawn in ((5, 0), (9, 0), (5, 1)))
    assert [[len(each) for each in sample.values()] for sample in (few, more)] == [[5, 3], [9, 3]]
    assert few["ftmech_hf/a.py"].keys() < more["ftmech_hf/a.py"].keys()
    assert few["ftmech_hf/a.py"].keys() != other["ftmech_hf/a.py"].keys()
    assert draw_sample(STATES, 0, 0) == STATES
    assert few["ftmech_hf/b.py"] == STATES["ftmech_hf/b.py"]


def test_the_tests_that_reach_the_fewest_functions_are_run_and_one_in_any_case() -> None:
    """Those of the function itself, and not what runs through everything."""
    reaching = {
        "whole study": Reached(1.0, ["f", *map(str, range(90))], True),
        "its own": Reached(6.0, ["f"], True),
        "its own, fast": Reached(0.5, ["f"], True),
        "its folder": Reached(0.4, ["f", "g", "h"], True),
    }
    assert nearest_tests(reaching, 6.8) == ["its own, fast", "its own"]
    assert nearest_tests(reaching, 7.9) == ["its own, fast", "its own", "its folder", "whole study"]
    assert nearest_tests({"its own": reaching["its own"]}, 1.0) == ["its own"]
    assert nearest_tests({}, 1.0) == []


def test_a_change_is_known_by_its_function() -> None:
    assert function_of("ftmech_hf.runs.lock.xǁFolderLockǁrelease__mutmut_12") == (
        "ftmech_hf.runs.lock.xǁFolderLockǁrelease"
    )


def test_the_table_counts_what_was_tried_and_keeps_reasons(tmp_path: Path) -> None:
    states = {**STATES, "ftmech_hf/a.py": {"a.x_f__mutmut_0": "killed", "a.x_f__mutmut_1": "not tried"}}
    tried = {
        file: {name: state for name, state in each.items() if state != "not tried"} for file, each in states.items()
    }
    text = write_table(states, tried, {"b.x_f__mutmut_2": "a text"}, lambda name: name)
    lines = text.splitlines()
    assert "| ftmech_hf/a.py | 2 | 1 | 1 | 0 | 100% | 21% to 100% |" in lines
    assert "| ftmech_hf/b.py | 3 | 3 | 1 | 2 | 33% | 6% to 79% |" in lines
    assert "| **all** | 5 | 4 | 2 | 2 | 50% | 15% to 85% |" in lines
    assert "| b.x_f__mutmut_2 | a text |" in lines
    assert "| b.x_g__mutmut_1 | **none given yet** |" in lines
    (tmp_path / "mutants.md").write_text(text)
    assert read_reasons(tmp_path / "mutants.md")["b.x_f__mutmut_2"] == "a text"
    assert "b.x_g__mutmut_1" not in read_reasons(tmp_path / "mutants.md")
    assert read_reasons(tmp_path / "none.md") == {}
    assert (
        "| ftmech_hf/a.py | 40 | 0 | 0 | 0 |  |  |" in write_table(STATES, STATES, {}, lambda name: name).splitlines()
    )


def test_the_first_score_of_a_sample_stays(tmp_path: Path) -> None:
    """Tests that are written after a look at what a sample left raise the table's score, and not that of the sample."""
    whole = {
        file: {name: state for name, state in each.items() if state != "not tried"} for file, each in STATES.items()
    }
    assert add_first({}, STATES, 3, 2, "abc") == {}  # some were not tried
    assert add_first({}, whole, 0, 2, "abc") == {}  # all, and no sample
    firsts = add_first({}, whole, 3, 2, "abc")
    assert firsts == {"3 of every file, seed 2": "abc | 3 | 1 | 2 | 33% | 6% to 79%"}
    better = {**whole, "ftmech_hf/b.py": dict.fromkeys(whole["ftmech_hf/b.py"], "killed")}
    assert add_first(firsts, better, 3, 2, "def") == firsts
    assert list(add_first(firsts, better, 3, 7, "def")) == [*firsts, "3 of every file, seed 7"]
    (tmp_path / "mutants.md").write_text(write_table(STATES, better, {}, lambda name: name, firsts))
    assert read_firsts(tmp_path / "mutants.md") == firsts
    assert read_firsts(tmp_path / "none.md") == {}


def test_a_file_that_was_being_written_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mutmut writes a changed file and then what it knows of it, and believes in one newer than its source."""
    names = ["whole.py", "cut.py", "again.py", "copied.py"]
    for name in names:
        (tmp_path / name).write_text("")
    for name, later in (("whole.py", 1), ("again.py", -1)):
        (tmp_path / f"{name}.meta").write_text("{}")
        os.utime(tmp_path / f"{name}.meta", (1e9 + later, 1e9 + later))
        os.utime(tmp_path / name, (1e9, 1e9))
    monkeypatch.setattr(mutants, "mutmut_settings", lambda: {"only_mutate": names[:3]})
    mutants.drop_half_written(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copied.py", "whole.py", "whole.py.meta"]


THING = """
import os

def f():
    active = os.environ["MUTANT_UNDER_TEST"]
    if active == "stats":
        from mutmut.state import state
        state()._stats.add("thing.x_f")
    return 2 if active == "thing.x_f__mutmut_1" else 1
"""
TESTS = """
import os
from thing import f

def test_right():
    assert f() == 1

def test_that_fails_anyway():
    assert f() and os.environ["MUTANT_UNDER_TEST"] == "stats"
"""


def test_a_change_is_noticed_by_a_test_that_passes_without_it(tmp_path: Path) -> None:
    """One that is wrong, one that changes nothing, and one that no test reaches."""
    pytest.importorskip("mutmut")
    changes = ["thing.x_f__mutmut_1", "thing.x_f__mutmut_2", "thing.x_g__mutmut_1"]
    (tmp_path / "thing.py").write_text(THING)
    (tmp_path / "test_thing.py").write_text(TESTS)
    (tmp_path / "thing.py.meta").write_text(json.dumps({"exit_code_by_key": dict.fromkeys(changes)}))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}", "MUTANT_UNDER_TEST": ""}
    command = [sys.executable, "-m", "tests.mutant_session", "-p", "no:cacheprovider", "test_thing.py"]
    subprocess.run(
        command, cwd=tmp_path, env=environment, input="\n".join(changes), text=True, check=True, capture_output=True
    )
    codes = json.loads((tmp_path / "thing.py.meta").read_text())["exit_code_by_key"]
    assert codes == dict(zip(changes, (1, 0, 33), strict=True))
    assert sorted(each.name for each in tmp_path.glob(".*")) == []
