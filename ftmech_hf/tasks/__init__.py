"""What is learned: tasks as pure functions of (config, seed, split, row number)."""

from collections.abc import Sequence
from typing import Any

from ftmech_hf.config import parse_config, peek_setting
from ftmech_hf.tasks.export import build_dataset, example_row, features, stream_dataset, write_parquet
from ftmech_hf.tasks.letters import CounterConfig, MaxIdentifierConfig
from ftmech_hf.tasks.library.task import LibraryConfig
from ftmech_hf.tasks.operators_table import PcfgShape
from ftmech_hf.tasks.pcfg import PcfgConfig, for_capability
from ftmech_hf.tasks.safety import SafetyConfig
from ftmech_hf.tasks.schema import SPLITS, Capability, Rows, RowStream, Task, encode_rows
from ftmech_hf.tasks.stories.task import StoriesConfig
from ftmech_hf.tasks.text.task import TextConfig

TASKS: dict[str, type[Task]] = {
    "pcfg": PcfgConfig,
    "counter": CounterConfig,
    "max_identifier": MaxIdentifierConfig,
    "safety": SafetyConfig,
    "library": LibraryConfig,
    "stories": StoriesConfig,
    "text": TextConfig,
}


def parse_task(
    first: type, *others: type, argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parse settings among which ``--task`` names the task: (first, the task's config, others...).

    Raises:
        ValueError: an unknown task, or settings that :func:`ftmech_hf.config.parse_config` refuses.
    """
    name = peek_setting("task", default="pcfg", argv=argv)
    if name not in TASKS:
        raise ValueError(f"task: unknown {name!r}, expected one of {', '.join(TASKS)}")
    return parse_config(first, TASKS[name], *others, argv=argv, description=description)


__all__ = [
    "SPLITS",
    "TASKS",
    "Capability",
    "CounterConfig",
    "LibraryConfig",
    "MaxIdentifierConfig",
    "PcfgConfig",
    "PcfgShape",
    "RowStream",
    "Rows",
    "SafetyConfig",
    "StoriesConfig",
    "Task",
    "TextConfig",
    "build_dataset",
    "encode_rows",
    "example_row",
    "features",
    "for_capability",
    "parse_task",
    "stream_dataset",
    "write_parquet",
]
