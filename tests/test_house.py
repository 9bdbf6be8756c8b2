"""The bars that every file of the package keeps: short files, short functions, and no module that imports itself."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 300, 60

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("ftmech_hf", "recipes")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def long_parts(name: str, text: str) -> list[str]:
    """A file over 300 lines, and every function over 60, from ``def`` to its end."""
    lines = len(text.splitlines())
    found = [f"{name}: {lines} lines"] if lines > MAX_FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"{name}.{node.name}: {lines} lines"] if lines > MAX_FUNCTION else []
    return found


def imported(name: str, text: str, names: set[str]) -> Iterator[str]:
    """Modules among ``names`` that one imports, anywhere in its text: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in names)
        elif isinstance(node, ast.ImportFrom):
            # relative only where a file must also work beside its neighbour in another folder, as a model's code does
            module = f"{name.rsplit('.', node.level)[0]}.{node.module}" if node.level else node.module
            for each in node.names:
                inner = f"{module}.{each.name}"
                yield from (found for found in (inner if inner in names else module,) if found in names)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, by way of however many others (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in sorted(imports[name]):
            if other not in order:
                visit(other)
            if other in path:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            place = path.index(name)
            component = path[place:]
            del path[place:]
            if len(component) > 1 or name in imports[name]:
                found.append(sorted(component))

    for name in sorted(imports):
        if name not in order:
            visit(name)
    return found


def test_no_file_is_over_300_lines_and_no_function_over_60() -> None:
    found = [part for name, path in SOURCES.items() for part in long_parts(name, path.read_text())]
    assert found == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = set(SOURCES)
    imports = {name: set(imported(name, path.read_text(), names)) for name, path in SOURCES.items()}
    assert len(imports) > 100
    assert sum(map(len, imports.values())) > 500  # the graph is there
    assert circles(imports) == []


def named_files(tools: dict[str, Any]) -> set[str]:
    """Files and folders that the settings of import-linter and mutmut name."""
    contracts, mutmut = tools["importlinter"]["contracts"], tools["mutmut"]
    modules = {name for each in contracts for key in ("source_modules", "modules") for name in each.get(key, [])}
    arguments = {
        each.removeprefix("--ignore=") for each in mutmut["pytest_add_cli_args"] if each.startswith("--ignore=")
    }
    paths = {path for key in ("only_mutate", "pytest_add_cli_args_test_selection") for path in mutmut[key]}
    return paths | arguments | {name.removesuffix(".*").replace(".", "/") for name in modules}


def test_settings_name_files_that_are_there() -> None:
    named = named_files(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"])
    assert len(named) > 50
    assert [name for name in sorted(named) if not any((ROOT / f"{name}{end}").exists() for end in ("", ".py"))] == []


def test_what_is_too_long_is_found() -> None:
    short = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION - 1)
    assert long_parts("m", short) == []
    long = "class C:\n    async def f():\n" + "        x = 1\n" * MAX_FUNCTION
    assert long_parts("m", long) == ["m.f: 61 lines"]
    assert long_parts("m", "\n" * MAX_FILE) == []
    assert long_parts("m", "\n" * (MAX_FILE + 1)) == ["m: 301 lines"]


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, [["b", "c"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d"}}, [["a", "b", "c"], ["d"]]),
    ],
)
def test_circles_are_found(imports: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(imports) == expected


def test_imports_are_found_wherever_they_stand() -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport x.a\nfrom x import b, Thing\nfrom x.c import Name\n"
        "if TYPE_CHECKING:\n    from x.d import Name\ndef f():\n    import x.e\n"
    )
    names = {"x", "x.a", "x.b", "x.c", "x.d", "x.e"}
    assert set(imported("x.main", text, names)) == names


def test_files_of_tests_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
