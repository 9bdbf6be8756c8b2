"""Texts, and how to change them: in a plain value, in JSON and YAML by their values, or as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

Change = Callable[[str], str]
"""What to make of a text; the same text if nothing is to change."""


class FixedText(ValueError):
    """A text that would have to change stands where it cannot be changed."""


def walk(value: Any, change: Change) -> Any:
    """A plain value with every text in it changed; keys of mappings only where they may be places."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, bytes):
        return _walk_bytes(value, change)
    if isinstance(value, list | tuple):
        return [walk(each, change) for each in value]
    if isinstance(value, dict):
        return {
            change(key) if isinstance(key, str) and re.search(r"[/\\]", key) else key: walk(each, change)
            for key, each in value.items()
        }
    return value


def _walk_bytes(value: bytes, change: Change) -> bytes:
    text = value.decode("latin-1")
    return value if (changed := change(text)) == text else changed.encode("latin-1", "replace")


def rewrite_text(text: str, suffix: str, change: Change) -> str:
    """A text with ``change`` made in it: in the values of JSON and YAML, in the whole of anything else."""
    rewrite = {".json": _rewrite_json, ".jsonl": _rewrite_lines, ".yaml": _rewrite_yaml, ".yml": _rewrite_yaml}
    try:
        return rewrite[suffix](text, change) if suffix in rewrite else change(text)
    except FixedText:
        raise
    except (ValueError, yaml.YAMLError, RecursionError):  # it is not what its name says
        return change(text)


def _rewrite_json(text: str, change: Change) -> str:
    value = json.loads(text)
    changed = walk(value, change)
    if changed == value:
        return text
    return json.dumps(changed, indent=2 if "\n" in text.strip() else None, ensure_ascii=False)


def _rewrite_lines(text: str, change: Change) -> str:
    """Of lines of JSON, the last may have been cut short."""
    return "\n".join(rewrite_text(line, ".json" if line.strip() else "", change) for line in text.split("\n"))


def _rewrite_yaml(text: str, change: Change) -> str:
    value = yaml.safe_load(text)
    changed = walk(value, change)
    if changed == value and change(text) == text:  # the text has comments
        return text
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)


def refuse_change(text: str, change: Change) -> None:
    """Raise :class:`FixedText` if a text would change."""
    if change(text) != text:
        raise FixedText


def check_binary(data: bytes, change: Change) -> None:
    """Look for texts in what may be anything; raise :class:`FixedText` if one would change."""
    refuse_change(data.decode("latin-1"), change)
    if b"\0" in data:  # text of two bytes a letter
        refuse_change(data.replace(b"\0", b"").decode("latin-1"), change)
