"""What all studies share: how one is opened and closed, and what they take apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from ftmech_hf.config import to_dict
from ftmech_hf.models.loading import RANDOM_INIT, check_vocabulary, load_model, model_hash, random_twin
from ftmech_hf.runs import RunDir, write_json, write_text
from ftmech_hf.tasks import Capability, PcfgShape, Rows, RowStream, Task, for_capability
from ftmech_hf.tasks.operators_table import OPERATORS


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The settings of every study."""

    seed: int = field(default=0, metadata={"help": "of the rows, and of all that a study draws by chance"})
    output_dir: str = field(default="runs/study", metadata={"place": "output", "help": "the run's folder"})
    fresh: bool = field(default=False, metadata={"manner": True, "help": "start over even if the folder holds a run"})

    def __post_init__(self) -> None:
        operator = getattr(self, "operator", "count")
        able = [name for name, known in OPERATORS.items() if known.operands in ("symbols", "pairs")]
        if operator not in able:
            raise ValueError(f"operator: {operator!r}, expected one of {', '.join(able)}")


def check_positive(config: Any, *names: str) -> None:
    """Raise a ValueError that names the first of these settings that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)}, expected at least 1")


def parse_models(entries: Sequence[str]) -> dict[str, str]:
    """Read ``name=folder`` entries."""
    models = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    if len(models) != len(entries) or not entries:
        raise ValueError(f"models: {' '.join(entries)!r}, expected entries like finetuned=runs/finetune, no name twice")
    return models


def open_study(kind: str, config: Any, task: PcfgShape | Task, models: Mapping[str, str], *more: Any) -> RunDir:
    """Open a study's run on models by their names; its hash covers what they are, and ``more`` settings."""
    inputs = {name: model_hash(folder, base=getattr(config, "base", None)) for name, folder in models.items()}
    for each in (config, task):
        inputs |= getattr(each, "inputs", dict)()  # such as the files that a task reads
    for folder in models.values():
        check_vocabulary(folder, task.vocabulary)
    return RunDir.open(config.output_dir, kind, to_dict(config, task, *more), inputs=inputs, fresh=config.fresh)


def finish_study(
    run: RunDir,
    rows: list[dict[str, Any]],
    summary: Mapping[str, Any],
    write_page: Callable[[Path], str] | None = None,
) -> RunDir:
    """Write the tidy table, the summary, and the page that is made of the folder with both; and let the run appear."""
    pd.DataFrame(rows).to_parquet(run.working / "table.parquet", index=False)
    write_json(run.working / "summary.json", summary)
    if write_page is not None:
        write_text(run.working / "report.html", write_page(run.working))
    run.finish()
    return run


def with_random_twin(models: Mapping[str, str], seed: int) -> Iterator[tuple[str, PreTrainedModel]]:
    """Each model, loaded when its turn comes, and at the end the first one's architecture with random weights."""
    for name, folder in models.items():
        yield name, load_model(folder)
    yield RANDOM_INIT, random_twin(load_model(next(iter(models.values()))), seed)


def capability_rows(
    task: PcfgShape, capability: Capability, split: str, seed: int, number: int, correlation: float | None = None
) -> Rows:
    """The first rows of a split that ask for one capability."""
    return RowStream(for_capability(task, capability, correlation), seed=seed, split=split).rows(0, number)
