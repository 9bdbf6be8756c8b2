"""What the README says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.update_readme import RESULTS, SPEED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_its_python_runs(code: str, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code.replace("runs/pretrain-nano-low", str(chain / "pretrain")), {})
    assert capsys.readouterr().out or "print" not in code


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
    tracked = [*ROOT.glob("ftmech_hf/**/*.py"), *ROOT.glob("recipes/*.py"), *ROOT.glob("ftmech_hf/**/*.j2")]
    files = {path.relative_to(ROOT).as_posix() for path in tracked if path.name != "__init__.py"}
    assert files <= named
    assert all(list(ROOT.glob(re.sub(r"<\w+>", "*", name))) for name in named)


def test_its_commands_name_recipes_and_configs_that_exist() -> None:
    commands = re.findall(r"(recipes/\w+\.py)(?: --config \$c/(\w+\.yaml))?", README)
    assert len(commands) > 8
    for recipe, config in commands:
        assert (ROOT / recipe).is_file()
        assert not config or (ROOT / "recipes" / "configs" / "nano" / config).is_file()


def test_its_results_come_from_a_run() -> None:
    block = README.split(RESULTS[0])[1].split(RESULTS[1])[0]
    assert block.count("\n|") >= 14
    assert re.search(r"Mean over seeds 0, 1, 2, .*config hash `[0-9a-f]{12}`; ftmech_hf ", block)
    assert README.split(SPEED[0])[1].split(SPEED[1])[0].count("\n|") == 8
    assert (ROOT / ".github" / "overview.png").stat().st_size > 50_000
