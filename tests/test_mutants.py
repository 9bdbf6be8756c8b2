"""The table of changes that tests notice: what is drawn, which tests are run, and what is counted."""

from __future__ import annotations

from pathlib import Path

from tests.mutants import draw_sample, keep_nearest_tests, read_reasons, write_table

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


def test_the_nearest_tests_are_run_and_of_these_the_fastest_but_one_in_any_case() -> None:
    seconds = {
        "tests/runs/a": 9.0,
        "tests/runs/b": 1.0,
        "tests/jobs/c": 0.1,
        "tests/runs/d": 40.0,
        "tests/jobs/e": 21.0,
    }
    tests = {"ftmech_hf.runs.lock.x_f": [*seconds], "ftmech_hf.tasks.pcfg.x_f": ["tests/runs/d"]}
    keep_nearest_tests(tests, seconds)
    assert tests == {
        "ftmech_hf.runs.lock.x_f": ["tests/runs/b", "tests/runs/a", "tests/jobs/c"],
        "ftmech_hf.tasks.pcfg.x_f": ["tests/runs/d"],
    }


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
