"""Every table has a command that makes it, the cheapest runs first, and one that fails keeps no other from running."""

from __future__ import annotations

import errno
import itertools
import os
import shlex
from functools import partial
from pathlib import Path

import pytest

from ftmech_hf.runs.folders import damaged_files, write_manifest
from recipes import results
from recipes.real_examples import EXAMPLES
from recipes.results import STEPS, ResultsConfig, Step, main, make_results
from recipes.update_readme import BLOCKS, CODE
from recipes.write_cards import RELEASED as MODELS
from tests.recipes.commands import ROOT
from tests.runs.deaths import mortal

ELSEWHERE = {
    "gpu_benchmark": "needs a GPU", "interop": "make test-interop", "written": "needs the stories of a person",
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
    assert len(asked) == 7
    studies = [step.command for step in STEPS if "--develop" not in step.command]
    for each in asked:
        (command,) = [command for command in studies if each["config"] in command]
        seeds = command.partition("--seeds")[2].split()
        assert each.get("words", "").split()[1:] == seeds, command


def fake(monkeypatch: pytest.MonkeyPatch, root: Path, fails: str = "") -> list[str]:
    """Three steps that leave a trace, of which one may fail; what runs is written down."""
    steps = (Step("grid", "dear.py", 60), Step("data_benchmark", "cheap.py --json out.json", 1, "out.json"),
             Step("lora", "middle.py", 10))  # fmt: skip
    ran: list[str] = []

    def run(step: Step, log: Path) -> int:
        ran.append(step.command)
        if step.file and step.source != fails:
            (root / step.file).write_text("{}")
        return int(step.source == fails)

    monkeypatch.setattr(results, "STEPS", steps)
    monkeypatch.setattr(results, "ROOT", root)
    monkeypatch.setattr(results, "run_step", run)
    return ran


def test_the_cheapest_runs_first_and_what_is_there_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = fake(monkeypatch, tmp_path)
    assert make_results(ResultsConfig()) == []
    keeps = "--keep_measurements recipes/measurements"
    assert ran == ["cheap.py --json out.json", f"middle.py {keeps}/lora.tar.xz", f"dear.py {keeps}/grid.tar.xz",
                   "update_readme.py --only data_benchmark lora grid code"]  # fmt: skip
    assert (tmp_path / "recipes" / "measurements" / "out.json").read_text() == "{}"
    ran.clear()
    assert make_results(ResultsConfig(only=["data_benchmark", "lora"])) == []
    assert ran == [f"middle.py {keeps}/lora.tar.xz", "update_readme.py --only data_benchmark lora code"]


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
    assert ran[-2:] == [
        "dear.py --keep_measurements recipes/measurements/grid.tar.xz",
        "update_readme.py --only data_benchmark grid code",
    ]
    assert "results: lora failed, the rest is made; the same command goes on" in capsys.readouterr().err


def test_what_takes_the_runs_of_another_comes_behind_it() -> None:
    order = [step.source for step in results.chosen_steps(())]
    after = {step.source: step.after for step in STEPS if step.after}
    assert after == dict.fromkeys(EXAMPLES, "real")
    assert all(order.index(earlier) < order.index(later) for later, earlier in after.items())
    others = [step.minutes for step in results.chosen_steps(()) if not step.after]
    assert others == sorted(others)


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


def test_what_was_measured_is_read_again_and_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = fake(monkeypatch, tmp_path)
    one = Step("instruments", "one.py", 1, folder="runs/one")
    monkeypatch.setattr(results, "STEPS", (*results.STEPS, one))
    kept = tmp_path / "recipes" / "measurements"
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "summary.json").write_text("1")
    write_manifest(tmp_path / "runs" / "one")
    results.keep(one)
    (tmp_path / "runs" / "one").rename(tmp_path / "gone")
    (kept / "out.json").write_text("kept")
    (kept / "grid.tar.xz").write_text("read by its study")
    assert make_results(ResultsConfig(measured=True)) == []
    assert ran == ["dear.py --from_measurements recipes/measurements/grid.tar.xz",
                   "update_readme.py --only data_benchmark instruments grid code"]  # fmt: skip
    assert (tmp_path / "out.json").read_text() == "kept"
    assert (tmp_path / "runs" / "one" / "summary.json").read_text() == "1"
    printed = capsys.readouterr().out
    assert "lora: no recipes/measurements/lora.tar.xz; its tables stay as they are" in printed
    assert "instruments: written from recipes/measurements/instruments.tar.xz" in printed
    ran.clear()
    (tmp_path / "out.json").write_text("newer")
    assert make_results(ResultsConfig(measured=True, only=["data_benchmark", "lora"])) == []
    assert ran == ["update_readme.py --only data_benchmark code"]
    assert (tmp_path / "out.json").read_text() == "newer"
    assert "data_benchmark: written from out.json, which is there and stays" in capsys.readouterr().out
    ran = fake(monkeypatch, tmp_path, fails="grid")
    assert make_results(ResultsConfig(measured=True)) == ["grid"]
    assert ran[-1] == "update_readme.py --only data_benchmark code"
    with pytest.raises(ValueError, match="dry_run: nothing is run with measured, expected one of the two"):
        ResultsConfig(measured=True, dry_run=True)


def test_a_run_is_put_back_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whenever it is killed: half of it would stay, since what is there may be newer, and be read as a result."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    step, folder = Step("b", "b.py", 1, folder="runs/b"), tmp_path / "runs" / "b"
    folder.mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (folder / name).write_text("1")
    write_manifest(folder)
    results.keep(step)
    for at in itertools.count(1):
        folder.rename(tmp_path / f"gone{at}")
        with mortal(tmp_path, at) as one:
            results.restore(step, tmp_path / "log")
        assert not folder.exists() or not damaged_files(folder)
        if len(one.done) < at:
            break
        assert results.restore(step, tmp_path / "log")
    assert not damaged_files(folder)


def test_where_the_disk_is_full_no_half_of_a_file_is_kept_or_put_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    step = Step("a", "a.py", 1, file="runs/a.json")
    made, kept = tmp_path / "runs" / "a.json", tmp_path / step.kept
    made.parent.mkdir()
    made.write_text("12")

    def fills_the_disk(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    results.keep(step)
    monkeypatch.setattr("shutil.copyfile", fills_the_disk)
    with pytest.raises(OSError, match="No space left"):
        results.keep(step)
    assert kept.read_text() == "12"
    made.unlink()
    with pytest.raises(OSError, match="No space left"):
        results.restore(step, tmp_path / "log")
    assert [*made.parent.iterdir()] == []


def test_each_keeps_its_own_file() -> None:
    kept = [step.kept for step in STEPS]
    assert len(set(kept)) == len(kept)
    assert {step.source for step in STEPS if step.folder} == {"instruments", *EXAMPLES}


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
