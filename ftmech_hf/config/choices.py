"""Settings that are one of a few words: from Python nobody else looks whether they are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


@functools.cache
def _choices(kind: Any) -> Mapping[str, tuple[Any, ...]]:
    """Field -> the words that it may be, of fields with a ``Literal`` type."""
    hints = get_type_hints(kind)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def check_literals(config: Any) -> None:
    """Make sure that every field of a dataclass with a ``Literal`` type is one of its words.

    Raises:
        ValueError: one is not; names it, and the words.
    """
    for name, known in _choices(type(config)).items():  # type: ignore[arg-type]  # a class is hashable
        if getattr(config, name) not in known:
            raise ValueError(f"{name}: {getattr(config, name)!r}, expected one of {', '.join(map(str, known))}")
