"""Docstrings as Markdown: references in the manner of Sphinx become links, and settings get their meaning."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`([^`]+)`")


def _reference(name: str, scope: griffe.Object) -> str:
    """A name in a docstring as a link to what it names, or as code if it names nothing of ours."""
    shown = name.removeprefix("~").rpartition(".")[2] if name.startswith("~") else name
    wanted = name.lstrip("~.")
    try:
        path = wanted if wanted.startswith("ftmech_hf") else scope.resolve(wanted)
    except griffe.NameResolutionError:
        return f"`{shown}`"
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'


SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n {5,}.*)*)$", re.MULTILINE)
"""What is said of several parameters together: ``    first, second: text``."""


def to_markdown(text: str, scope: griffe.Object) -> str:
    """A docstring's text as Markdown."""
    text = ROLE.sub(lambda match: _reference(match[1], scope), text)
    text = SEVERAL.sub(lambda match: "\n".join(f"    {name}: {match[2]}" for name in match[1].split(", ")), text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def _text(node: ast.expr) -> str | None:
    """A string in a source; what an f-string computes stands in it as code."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        values = [each.value if isinstance(each, ast.FormattedValue) else each for each in node.values]
        return "".join(
            str(each.value) if isinstance(each, ast.Constant) else f"`{ast.unparse(each)}`" for each in values
        )
    return None


def read_setting(value: str) -> tuple[str | None, str | None]:
    """Default and meaning of a setting, from the source of ``field(default=..., metadata={"help": ...})``."""
    if not value.startswith("field("):
        return None, None
    call = ast.parse(value, mode="eval").body
    if not isinstance(call, ast.Call):
        return None, None
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    default = given.get("default", given.get("default_factory"))
    metadata = given.get("metadata")
    meaning = None
    if isinstance(metadata, ast.Dict):
        for key, each in zip(metadata.keys, metadata.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "help":
                meaning = _text(each)
    return ast.unparse(default) if default is not None else None, meaning


class Docstrings(griffe.Extension):
    """What griffe read, made ready for pages."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Go through all that a package has, once it is read whole."""
        self._visit(pkg)

    def _visit(self, each: griffe.Object) -> None:
        if each.docstring:
            each.docstring.value = to_markdown(each.docstring.value, each)
        for member in each.members.values():
            if member.is_alias:
                continue
            if isinstance(member, griffe.Attribute) and member.value is not None and not member.docstring:
                default, meaning = read_setting(str(member.value))
                if meaning:
                    member.docstring = griffe.Docstring(meaning[0].upper() + meaning[1:] + ".", parent=member)
                    member.value = default
            if isinstance(member, griffe.Object):
                self._visit(member)
