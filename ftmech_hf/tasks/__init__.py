"""What is learned: tasks as pure functions of (config, seed, split, row number)."""

from ftmech_hf.tasks.pcfg import PcfgConfig, PcfgShape
from ftmech_hf.tasks.schema import (
    SPLITS,
    Capability,
    Rows,
    RowStream,
    Task,
    build_dataset,
    stream_dataset,
)

TASKS: dict[str, type[Task]] = {"pcfg": PcfgConfig}

__all__ = [
    "SPLITS",
    "TASKS",
    "Capability",
    "PcfgConfig",
    "PcfgShape",
    "RowStream",
    "Rows",
    "Task",
    "build_dataset",
    "stream_dataset",
]
