"""Every table has a command that makes it, the cheapest runs first, and one that fails keeps no other from running."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path

import pytest

from recipes import results
from recipes.results import STEPS, ResultsConfig, Step, main, make_results
from recipes.update_readme import BLOCKS, CODE
from recipes.write_cards import RELEASED as MODELS
from tests.recipes.commands import ROOT

ELSEWHERE = {
    "gpu_benchmark": "needs a GPU", "interop": "make test-interop", "written": "needs the stories of a person",
    "safety_texts": "needs a pair of the user", "retrieval_pair": "needs the extra of real models",
    "continual_texts": "needs the extra of real models",
}  # fmt: skip
"""Tables that no step makes, and why."""


def test_every_table_has_one_step_or_a_reason_why_not() -> None:
    made = [step.source for step in STEPS]
    assert len(made) == len(set(made))
    assert {*made, *ELSEWHERE, CODE} == {block.source for block in BLOCKS.values()}
    assert not set(made) & set(ELSEWHERE)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.source)
def test_each_names_a_recipe_and_files_that_are_there(step: Step) -> None:
    recipe, *words = shlex.split(step.command)
    assert (ROOT / "recipes" / recipe).is_file()
    assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))
    assert (step.file is None) == (recipe not in ("benchmark.py", "architectures.py"))
    assert step.file is None or step.file in words


def test_differences_are_read_from_the_settings_that_are_published() -> None:
    asked = [block.write.keywords for block in BLOCKS.values() if isinstance(block.write, partial)]
    assert len(asked) == 5
    for each in asked:
        (command,) = [step.command for step in STEPS if each["config"] in step.command]
        seeds = command.partition("--seeds")[2].split()
        assert each.get("words", "").split()[1:] == seeds, command


def fake(monkeypatch: pytest.MonkeyPatch, root: Path, fails: str = "") -> list[str]:
    """Three steps that leave a trace, of which one may fail; what runs is written down."""
    steps = (Step("grid", "dear.py", 60), Step("data_benchmark", "cheap.py --json out.json", 1, "out.json"),
             Step("lora", "middle.py", 10))  # fmt: skip
    ran: list[str] = []

    def run(step: Step, log: Path) -> int:
        ran.append(step.command)
        return int(step.source == fails)

    monkeypatch.setattr(results, "STEPS", steps)
    monkeypatch.setattr(results, "ROOT", root)
    monkeypatch.setattr(results, "run_step", run)
    return ran


def test_the_cheapest_runs_first_and_what_is_there_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = fake(monkeypatch, tmp_path)
    assert make_results(ResultsConfig()) == []
    assert ran == ["cheap.py --json out.json", "middle.py", "dear.py",
                   "update_readme.py --only data_benchmark lora grid code"]  # fmt: skip
    (tmp_path / "out.json").write_text("{}")
    ran.clear()
    assert make_results(ResultsConfig(only=["data_benchmark", "lora"])) == []
    assert ran == ["middle.py", "update_readme.py --only data_benchmark lora code"]


def test_cards_are_written_of_the_studies_that_release_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = fake(monkeypatch, tmp_path)
    steps = (Step("safety", "safety.py", 3), Step("lora", "middle.py", 2), Step("stories", "stories.py", 4))
    monkeypatch.setattr(results, "STEPS", steps)
    assert make_results(ResultsConfig()) == []
    assert ran[-2:] == ["update_readme.py --only lora safety stories code",
                        "write_cards.py --studies runs/safety-nano runs/stories-nano"]  # fmt: skip
    kinds = {"reproduction": "reproduce", "stories": "tinystories"}
    assert {kinds.get(source, source) for source in results.RELEASED} == set(MODELS)


def test_a_step_that_fails_is_named_and_its_table_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = fake(monkeypatch, tmp_path, fails="lora")
    with pytest.raises(SystemExit):
        main([])
    assert ran[-2:] == ["dear.py", "update_readme.py --only data_benchmark grid code"]
    assert "results: lora failed, the rest is made; the same command goes on" in capsys.readouterr().err


def test_a_dry_run_says_what_it_takes_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = fake(monkeypatch, tmp_path)
    main(["--dry_run", "true"])
    assert ran == []
    printed = capsys.readouterr().out
    assert "3 results, about 1.2 hours on two cores" in printed
    assert printed.index("cheap.py") < printed.index("middle.py") < printed.index("dear.py")
    with pytest.raises(ValueError, match="only: unknown 'gird', expected some of grid, data_benchmark, lora"):
        ResultsConfig(only=["gird"])


def test_a_command_runs_in_the_repository_and_its_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    (tmp_path / "recipes").mkdir()
    said = "import os, sys; print(os.getcwd(), os.environ['PYTHONPATH'], sys.argv[1:]); sys.exit('failed' in sys.argv)"
    (tmp_path / "recipes" / "one.py").write_text(said)
    log = tmp_path / "logs" / "one.log"
    assert results.run_step(Step("x", "one.py --only 'two words'", 1), log) == 0
    assert log.read_text() == f"{tmp_path} {tmp_path}{os.pathsep}elsewhere ['--only', 'two words']\n"
    assert results.run_step(Step("x", "one.py failed", 1), log) == 1
