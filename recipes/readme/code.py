"""The lists of what there is, from the code itself: what a file says of itself in its first lines."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from ftmech_hf.jobs.study import Study
from ftmech_hf.report.differences import differing
from ftmech_hf.studies import load_study
from recipes.readme.tables import markdown_table

FLOORS = "Floors of ftmech_hf"
"""The contract in pyproject.toml that says who may import whom."""


def first_sentence(path: Path) -> str:
    """What a file says of itself, on one line: the first paragraph of a docstring, or the comment at the beginning.

    Raises:
        ValueError: it says nothing.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        comments = itertools.takewhile(lambda line: line.startswith(("#", "{#")), text.splitlines())
        said = " ".join(line.strip("{#- }") for line in comments)
    if not said:
        raise ValueError(f"{path}: does not say what it is, expected a docstring or a comment at its beginning")
    return " ".join(re.sub(r":\w+:`~?([^`]+)`", r"`\1`", said).replace("``", "`").split())


def list_files(paths: Iterable[Path], folder: Path, link_from: Path) -> str:
    """A list of files with a link to each and what it says of itself, as Markdown; a package stands for its folder.

    Args:
        paths: the files.
        folder: they are called by their place in it.
        link_from: the folder of the README.
    """
    lines = []
    for path in paths:
        shown, end = (path.parent, "/") if path.name == "__init__.py" else (path, "")
        name, link = (shown.relative_to(start).as_posix() + end for start in (folder, link_from))
        lines.append(f"- [`{name}`]({link}): {first_sentence(path)}")
    return "\n".join(lines)


def _described(folder: Path) -> list[Path]:
    """The files of a package that are code, pages or settings; a folder before what is in it."""
    found = [path for kind in ("py", "j2", "yaml") for path in folder.rglob(f"*.{kind}")]
    return sorted(found, key=lambda path: (path.parent, path.name != "__init__.py", path.name))


def read_floors(root: Path) -> list[list[str]]:
    """Who stands on which floor, from the top down."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == FLOORS)
    return [[name.strip() for name in re.split(r"[|:]", layer)] for layer in layers]


def floors_block(root: Path) -> str:
    """The floors from the top down, as Markdown."""
    return "\n".join(["```", *(" | ".join(floor) for floor in [["recipes"], *read_floors(root)]), "```"])


def package_block(root: Path) -> str:
    """Every file of the package and what it says of itself, folders from the top floor down, as Markdown."""
    package = root / "ftmech_hf"
    names = [name for floor in read_floors(root) for name in floor]
    parts = []
    for folder in (package / name for name in names if (package / name).is_dir()):
        inside = [path for path in _described(folder) if path != folder / "__init__.py"]
        title = f"[{folder.name}]({folder.name}/README.md)" if (folder / "README.md").is_file() else folder.name
        parts.append(
            f"### {title}\n\n{first_sentence(folder / '__init__.py')}\n\n{list_files(inside, folder, package)}"
        )
    single = [package / f"{name}.py" for name in names if (package / f"{name}.py").is_file()]
    parts.append(f"### Files in no folder\n\n{list_files([package / '__init__.py', *single], package.parent, package)}")
    return "\n\n".join(parts)


def recipes_block(root: Path) -> str:
    """All recipes, their settings and what else is beside them, folder by folder, as Markdown."""
    folder = root / "recipes"
    parts = []
    for inside, paths in itertools.groupby(_described(folder), key=lambda path: path.parent):
        title = f"### {inside.relative_to(root).as_posix()}"
        described = list(paths)
        about = [first_sentence(path) for path in described if path.name == "__init__.py"]
        files = list_files((path for path in described if path.name != "__init__.py"), inside, folder)
        parts.append("\n\n".join([title, *about, files]))
    return "\n\n".join(parts)


def differences_block(root: Path, name: str, config: str, words: str = "") -> str:
    """Where a study differs from its paper, read from the settings of the runs that a config asks for, as Markdown.

    Args:
        root: of the repository.
        name: of the study.
        config: its settings, in ``recipes/configs``.
        words: of its command line beside these.
    """
    study = load_study(name)
    assert isinstance(study, Study)
    plan = study.read_plan(["--config", str(root / "recipes" / "configs" / config), *words.split()])
    rows = [
        (row["what"], f"{row['paper']} ({row['where']})" if row["where"] else row["paper"], row["here"], row["why"])
        for row in differing(plan.differences())
    ]
    source = f"Read from the settings of `{' '.join([config, *words.split()])}`; what is as in the paper is left out."
    return markdown_table(("what", "paper", "here", "why"), rows, source)
