"""Measure one part of the toolkit against its limit and against what a user would pick instead, in one run, as ratios.

python recipes/benchmark.py train --json runs/benchmark-train.json
python recipes/benchmark.py accuracy --json runs/benchmark-accuracy.json
python recipes/benchmark.py data --json runs/benchmark-data.json
python recipes/benchmark.py stacked --json runs/benchmark-stacked.json
python recipes/benchmark.py sweep --json runs/benchmark-sweep.json
python recipes/benchmark.py analysis --json runs/benchmark-analysis.json
python recipes/benchmark.py explorer --json runs/benchmark-explorer.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ftmech_hf.config import clean_exit, parse_config, to_dict
from ftmech_hf.models.identity import base_for, model_hash
from ftmech_hf.report.console import make_console
from ftmech_hf.runs import environment, run_identity, write_json
from ftmech_hf.runs.environment import code_version
from ftmech_hf.tasks import PcfgConfig
from recipes.benchmarks import accuracy, analysis, data, explorer, stacked, sweep, train

BENCHMARKS: dict[str, tuple[type, Callable[[Any, PcfgConfig], Iterator[dict[str, Any]]]]] = {
    "train": (train.BenchmarkConfig, train.measure),
    "accuracy": (accuracy.BenchmarkConfig, accuracy.measure),
    "data": (data.BenchmarkConfig, data.measure),
    "stacked": (stacked.BenchmarkConfig, stacked.measure),
    "sweep": (sweep.BenchmarkConfig, sweep.measure),
    "analysis": (analysis.BenchmarkConfig, analysis.measure),
    "explorer": (explorer.BenchmarkConfig, explorer.measure),
}


def hash_of(name: str, config: Any, task: PcfgConfig) -> str:
    """The hash of what a benchmark measures: its settings without places, and the bytes of models that it opens."""
    settings = to_dict(config, task)
    models = {role: settings[role] for role in settings.reads if settings[role] is not None}
    inputs = {role: model_hash(folder, **base_for(role, models)) for role, folder in models.items()}
    return run_identity(f"benchmark {name}", settings, inputs)


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, save, print."""
    with clean_exit():
        name, *words = list(sys.argv[1:] if argv is None else argv) or [""]
        if name in ("-h", "--help"):
            print(f"usage: benchmark.py {{{','.join(BENCHMARKS)}}} [--SETTING VALUE ...]\n\n{__doc__}")
            return
        if name not in BENCHMARKS:
            raise ValueError(f"benchmark: expected one of {', '.join(BENCHMARKS)} as the first word, got {name!r}")
        config_type, measure = BENCHMARKS[name]
        config, task = parse_config(config_type, PcfgConfig, argv=words, description=__doc__)
        asked = {"seeds": config.seeds, "hash": hash_of(name, config, task)}
        rows = list(measure(config, task))
        write_to = Path(config.json)
        write_to.parent.mkdir(parents=True, exist_ok=True)
        made_by = {"threads": torch.get_num_threads(), **environment(), "code": code_version()}
        write_json(write_to, {"rows": rows, **asked, **made_by})
        table = Table()
        for column, value in rows[0].items():
            table.add_column(column, justify="left" if isinstance(value, str) else "right")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        make_console().print(table)
        make_console().print(f"numbers: {write_to}", soft_wrap=True)


if __name__ == "__main__":
    main()
