"""What the README says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from datasets import load_dataset
from transformers import AutoTokenizer

from ftmech_hf.tasks import TASKS
from recipes import make_dataset, pretrain, update_readme
from recipes.benchmarks.accuracy import MIXTURES, RECIPES
from recipes.update_readme import (
    ACCURACY,
    DATA,
    FORGETTING,
    GRID,
    INSTRUMENTS,
    INTEROP,
    LORA,
    RESULTS,
    SPEED,
    STORIES,
    STORIES_CLAIMS,
    TRACR,
    replace_block,
)
from tests.interop.checks import CHECKS
from tests.recipes.conftest import TINY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_its_python_runs(
    code: str, chain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftmech_hf.tasks.TASKS", {**TASKS})
    exec(code.replace("runs/pretrain-nano-low", str(chain / "pretrain")), {"__name__": __name__})
    assert capsys.readouterr().out or "print" not in code


def test_its_task_trains_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README says: the class in a file, one line in the dict, and the recipes know it."""
    (code,) = (block for block in CODE if "ParityConfig" in block)
    assert len(code.splitlines()) < 45
    monkeypatch.setattr("ftmech_hf.tasks.TASKS", {**TASKS})
    exec(code, {"__name__": __name__})
    small = ["--task", "parity", "--text_length", "6"]
    where = tmp_path / "model"
    pretrain.main([*small, *TINY, "--steps", "3", "--final_eval_rows", "32", "--output_dir", str(where)])
    assert AutoTokenizer.from_pretrained(where)("parity")["input_ids"] == [7]
    make_dataset.main([*small, "--rows", "train=50", "test=20", "--output_dir", str(tmp_path / "rows")])
    rows = load_dataset(str(tmp_path / "rows"), "default", cache_dir=str(tmp_path / "cache"))["train"]
    for row in rows:
        assert row["answer"] == ("odd" if row["text"].split().count("1") % 2 else "even")


def test_its_tree_names_every_file_and_no_other() -> None:
    tree = re.search(r"## The tree.*?```\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    folder, named = "", set()
    for line in tree[1].splitlines():
        path = line.split()[0]
        if not line.startswith(" "):
            folder = path if path.endswith("/") else ""
            if folder:
                continue
        named.add(folder + path)
    tracked = [*ROOT.glob("ftmech_hf/**/*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("ftmech_hf/**/*.j2")]
    files = {path.relative_to(ROOT).as_posix() for path in tracked if path.name != "__init__.py"}
    assert files <= named
    assert all(list(ROOT.glob(re.sub(r"<\w+>", "*", name))) for name in named)


def test_its_commands_name_recipes_and_configs_that_exist() -> None:
    commands = re.findall(r"(recipes/\w+\.py)(?: --config \$c/(\w+\.yaml))?", README)
    assert len(commands) > 8
    for recipe, config in commands:
        assert (ROOT / recipe).is_file()
        assert not config or (ROOT / "recipes" / "configs" / "nano" / config).is_file()


def test_its_table_of_other_libraries_has_every_check() -> None:
    block = README.split(INTEROP[0])[1].split(INTEROP[1])[0]
    verified = re.findall(r"^\| ([\w-]+) \| [^|]+ \| ([^|]+) \|$", block, re.MULTILINE)[1:]
    assert verified == [(name, check.shows) for name, check in CHECKS.items()]


def test_its_results_come_from_a_run() -> None:
    block = README.split(RESULTS[0])[1].split(RESULTS[1])[0]
    assert block.count("\n|") >= 14
    assert re.search(r"Mean over seeds 0, 1, 2, .*config hash `[0-9a-f]{12}`; ftmech_hf ", block)
    assert README.split(SPEED[0])[1].split(SPEED[1])[0].count("\n|") == 8
    rows = README.split(ACCURACY[0])[1].split(ACCURACY[1])[0].count("\n|") - 2
    assert rows in (len(RECIPES), len(MIXTURES) * len(RECIPES))
    for marks, rows in ((GRID, 18), (FORGETTING, 11), (LORA, 9)):
        assert README.split(marks[0])[1].split(marks[1])[0].count("\n|") == rows
    for marks, rows in ((TRACR, 10), (INSTRUMENTS, 22)):
        assert README.split(marks[0])[1].split(marks[1])[0].count("\n|") == rows
    for marks, rows in ((STORIES, 11), (STORIES_CLAIMS, 18)):  # nothing as long as the study has not been run
        assert README.split(marks[0])[1].split(marks[1])[0].count("\n|") in (0, rows)
    assert README.split(DATA[0])[1].split(DATA[1])[0].count("\n|") == 9
    assert (ROOT / ".github" / "overview.png").stat().st_size > 50_000


def test_only_the_named_tables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of one kind that are new do not bring in older ones that happen to lie in runs/."""
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    monkeypatch.setattr("recipes.update_readme.ROOT", tmp_path)
    seen = tmp_path / "interop.json"
    seen.write_text('{"rows": [{"library": "a", "versions": "a 1", "shows": "it loads"}]}', encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "claims.json").write_text("[]", encoding="utf-8")
    update_readme.main(["--only", "interop", "--interop", str(seen), "--run", str(run)])
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    block = "| library | verified with | what was seen to work |\n|---|---|---|\n| a | a 1 | it loads |"
    assert block in written
    assert written == replace_block(README, INTEROP, f"{block}\n\nWritten by `make test-interop`.")
    with pytest.raises(SystemExit):
        update_readme.main(["--only", "interop", "tables"])
