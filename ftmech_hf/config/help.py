"""``--help``: the settings of a recipe under what they are of, each by one name."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Mapping, Sequence

LAST = "Of every recipe"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Examples on lines of their own, and of a setting its first name alone."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.option_strings:
            action = copy.copy(action)
            action.option_strings = action.option_strings[:1]
        return super()._format_action_invocation(action)


def help_sections(config_types: Sequence[type]) -> dict[str, list[str]]:
    """What the settings of each dataclass are, as its documentation begins -> their names, its own first."""
    sections = {}
    for kind in config_types:
        title = (kind.__doc__ or kind.__name__).strip().partition("\n")[0].rstrip(".")
        there = [each.name for each in dataclasses.fields(kind) if each.init]
        by_class = [name for each in kind.__mro__ for name in vars(each).get("__annotations__", {}) if name in there]
        sections[title] = list(dict.fromkeys(by_class))
    return sections


def write_help(parser: argparse.ArgumentParser, sections: Mapping[str, Sequence[str]]) -> str:
    """The text of ``--help``.

    Args:
        parser: with all settings.
        sections: of :func:`help_sections`; what stands in none comes last.
    """
    formatter = HelpFormatter(parser.prog)
    formatter.add_usage(f"{parser.prog} [--config FILE] [--SETTING VALUE ...]", [], [])
    formatter.add_text(parser.description)
    # a setting that is on by default has a second flag, --no_SETTING, of the same meaning as --SETTING false
    shown = {each.dest: each for each in parser._actions if not each.option_strings[0].startswith("--no_")}
    placed = {name for names in sections.values() for name in names}
    for title, names in {**sections, LAST: [name for name in shown if name not in placed]}.items():
        formatter.start_section(title)
        formatter.add_arguments([shown[name] for name in names])
        formatter.end_section()
    return formatter.format_help()
