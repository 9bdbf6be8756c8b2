"""What is learned: tasks as pure functions of (config, seed, split, row number)."""

from ftmech_hf.tasks.export import build_dataset, features, stream_dataset, write_parquet
from ftmech_hf.tasks.pcfg import PcfgConfig, for_capability
from ftmech_hf.tasks.questions import PcfgShape
from ftmech_hf.tasks.schema import SPLITS, Capability, Rows, RowStream, Task, encode_rows

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
    "encode_rows",
    "features",
    "for_capability",
    "stream_dataset",
    "write_parquet",
]
