"""A dataset folder as the Hub expects it: parquet files, a card, pictures of the labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from huggingface_hub import DatasetCardData

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.card import render_card
from ftmech_hf.jobs.job import JobConfig, job
from ftmech_hf.jobs.papers import OF_TASK, PAPER
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, STYLE, new_figure, whole_numbers
from ftmech_hf.runs import FinishedRun, RunDir, check_disk_space, describe_versions, write_json, write_text
from ftmech_hf.tasks import SPLITS, Task, build_dataset, write_parquet
from ftmech_hf.tasks.dataset_statistics import LABEL_COLUMNS, DatasetStatistics
from ftmech_hf.tasks.export import code_version
from ftmech_hf.tasks.schema import LETTERS_TEXT
from ftmech_hf.training.loop import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BYTES_PER_WORD = 8
"""Of a row in a parquet file before compression, as an upper bound for the check of the disk."""

MAX_PANELS = 24


@dataclass(frozen=True, kw_only=True)
class MakeDatasetConfig(JobConfig):
    """Which configs and splits a dataset has, and where it goes."""

    task: str = field(default="pcfg", metadata={"help": "which task, by its name in ftmech_hf.tasks.TASKS"})
    variants: list[str] = field(
        default_factory=lambda: ["default"],
        metadata={
            "help": "the configs: default (the settings as given), pretrain-PRIOR, OPERATOR_OPERAND (one capability, "
            "no correlation planted) or OPERATOR_OPERAND-cSHARE (with a planted correlation)"
        },
    )
    rows: list[str] = field(
        default_factory=lambda: ["train=100000", "validation=5000", "test=5000"],
        metadata={"help": "rows per split; the train split of a single capability comes from the finetune stream"},
    )
    output_dir: str = field(default="runs/dataset", metadata={"place": "output", "help": "the dataset's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants: {' '.join(self.variants)!r}, expected at least one and none twice")
        _ = self.splits

    @property
    def splits(self) -> dict[str, int]:
        """Rows of each split."""
        return parse_splits(self.rows)


def parse_splits(entries: Sequence[str]) -> dict[str, int]:
    """Read entries like ``train=100000``.

    Raises:
        ValueError: an unknown split, one that stands there twice, or no number.
    """
    splits: dict[str, int] = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if name not in SPLITS or not number.isdecimal() or int(number) < 1 or name in splits:
            raise ValueError(f"rows: {entry!r}, expected entries like train=100000, none twice, of {', '.join(SPLITS)}")
        splits[name] = int(number)
    return splits


def make_dataset(config: MakeDatasetConfig, task: Task, *, progress: Progress | None = None) -> RunDir:
    """Write every variant's splits as parquet, with a card and pictures, into a run folder.

    The folder loads with ``datasets.load_dataset(folder, variant)``, offline and from the Hub. Memory stays bounded:
    about 25 MB of rows at a time, and 8 bytes per row for the hashes of the texts.
    """
    variants = {name: task.variant(name) for name in config.variants}
    total = len(variants) * sum(config.splits.values())
    with job("dataset", config, task) as run:
        if run.finished:
            return run
        check_disk_space(Path(config.output_dir), total * task.row_length * BYTES_PER_WORD)
        done = 0
        by_split: dict[str, dict[str, DatasetStatistics]] = {}
        for name, variant in variants.items():
            (run.working / name).mkdir(exist_ok=True)
            for split, number in config.splits.items():
                statistics = by_split.setdefault(name, {})[split] = DatasetStatistics(variant)
                stream = "finetune" if split == "train" and not _is_pretraining(name) else split
                for rows in write_parquet(
                    variant, stream, number, split_file(run.working, name, split), seed=config.seed
                ):
                    statistics.add(rows)
                    done += len(rows)
                    if progress is not None:
                        progress(done, total, f"{name} {split}")
        _describe(run, config, task, variants, by_split)
        run.finish()
    return run


def _is_pretraining(variant: str) -> bool:
    return variant == "default" or variant.startswith("pretrain-")


def split_file(folder: Path, variant: str, split: str) -> Path:
    """Where a split of a config lies in a dataset's folder."""
    return folder / variant / f"{split}.parquet"


def _describe(
    run: RunDir,
    config: MakeDatasetConfig,
    task: Task,
    variants: Mapping[str, Task],
    by_split: Mapping[str, Mapping[str, DatasetStatistics]],
) -> None:
    table = [
        {"config": name, "split": split, **row}
        for name, splits in by_split.items() for split, statistics in splits.items() for row in statistics.rows()
    ]  # fmt: skip
    planted = [name for name, variant in variants.items() if to_dict(variant).get("correlation") is not None]
    columns = ["config", "split", *LABEL_COLUMNS, "rows"]
    pd.DataFrame(table, columns=columns).to_parquet(run.working / "table.parquet", index=False)
    counts = task.fixed_places and not task.has_rejected  # a question has one answer, which is a number or a word
    if counts:
        draw_label_histograms(pd.DataFrame(table), planted).savefig(run.working / "label_histograms.png", dpi=110)
    shown = [
        {
            "name": name,
            "description": _describe_variant(task, variants[name]),
            "splits": [_describe_split(split, statistics, splits.get("train")) for split, statistics in splits.items()],
        }
        for name, splits in by_split.items()
    ]
    write_json(run.working / "summary.json", {"variants": shown})
    env = FinishedRun(run.working).env
    configs = dict.fromkeys(config.variants, config.splits)
    metadata = dataset_metadata(run.path.name, configs, ["procedural", "synthetic"])
    text = render_card(
        "dataset.md.j2",
        metadata=metadata.to_yaml(),
        title=run.path.name,
        where=config.output_dir,
        example=build_dataset(task.variant(config.variants[0]), "train", 1, seed=config.seed)[0],
        variants=shown,
        counts=counts,
        layout=_layout(task),
        config=run.config,
        settings={key: value for key, value in to_dict(task).items() if value not in (None, [])},
        paper=OF_TASK.get(config.task, PAPER),
        env=env,
        code=code_version(),
        versions=describe_versions(env),
    )
    write_text(run.working / "README.md", text)


def _layout(task: Task) -> str:
    """What a row spells out: its question, with or without another answer; letters alone; or questions anywhere."""
    if not task.fixed_places:
        return "anywhere"
    if task.text == LETTERS_TEXT:
        return "letters"
    return "pairs" if task.has_rejected else "question"


def _describe_split(name: str, statistics: DatasetStatistics, train: DatasetStatistics | None) -> dict[str, Any]:
    return {
        "name": name,
        "rows": statistics.num_rows,
        "without_answer": statistics.num_without_answer / statistics.num_rows,
        "correlated": statistics.num_correlated / statistics.num_rows,
        "overlap": None if train is None or statistics is train else statistics.overlap(train),
        "repeated": statistics.repeated(),
        "checksum": statistics.checksum,
    }


def _describe_variant(task: Task, variant: Task) -> str:
    """In what a config differs from the settings that stand below."""
    settings, common = to_dict(variant), to_dict(task)
    if settings == common:
        return "the settings below."
    if "operators" not in settings:
        other = [f"{name} {value}" for name, value in settings.items() if value != common[name]]
        return f"{', '.join(other)}; else the settings below."
    asked = f"{', '.join(settings['operators'])} with operand prior {' '.join(settings['operand_prior'])}"
    share = settings.get("correlation")
    if share is not None:
        return f"{asked}; the correlation planted in {share:.0%} of the texts."
    edited = "texts edited so that counts take many values (`spread_counts`)"
    return f"{asked}; no correlation planted, {edited if settings.get('spread_counts') else 'untouched text'}."


def dataset_metadata(
    title: str, configs: Mapping[str, Mapping[str, int]], tags: Sequence[str], *, language: str | None = None
) -> DatasetCardData:
    """The header of a dataset's card; ``configs`` in it is what makes ``load_dataset(folder, name)`` work.

    The columns stand in the files ``CONFIG/SPLIT.parquet`` themselves.

    Args:
        title: for people.
        configs: config -> split -> rows; the first config is the default.
        tags: beside those of all our datasets.
        language: of its texts, if that is one.
    """
    rows = sum(number for splits in configs.values() for number in splits.values())
    edges = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
             (10**8, "10M<n<100M"), (10**9, "100M<n<1B")]  # fmt: skip
    return DatasetCardData(
        license="apache-2.0",
        language=language,
        pretty_name=title,
        tags=["ftmech_hf", "interpretability", *tags],
        task_categories=["text-generation"],
        size_categories=[next((name for edge, name in edges if rows < edge), "n>1B")],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{name}/{split}.parquet"} for split in splits],
                **({"default": True} if number == 0 else {}),
            }
            for number, (name, splits) in enumerate(configs.items())
        ],
    )


def draw_label_histograms(table: pd.DataFrame, planted: Collection[str]) -> Figure:
    """One panel per config and operator: how often each label occurs in its last split.

    Args:
        table: config, split, operator, operand, correlated, label, rows.
        planted: configs whose bars are split by correlation; the others' are split by operand.
    """
    last = table["split"].iloc[-1]
    panels = list(table[table["split"] == last].groupby(["config", "operator"], sort=False))[:MAX_PANELS]
    columns = min(4, len(panels))
    import matplotlib as mpl

    with mpl.rc_context({**STYLE, "axes.axisbelow": True}):
        figure = new_figure(3.3 * columns, 2.5 * math.ceil(len(panels) / columns))
        axes = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).ravel()
        for ax, ((config, operator), rows) in zip(axes, panels, strict=False):
            by = "correlated" if config in planted else "operand"
            counts = rows.pivot_table(index="label", columns=by, values="rows", aggfunc="sum", fill_value=0)
            bottom = 0
            for number, name in enumerate(counts.columns):
                label = name if by == "operand" else ("correlated" if name else "uncorrelated")
                color = FINETUNED if label == "correlated" else [BASE, CONTROL, FINETUNED, RANDOM][number % 4]
                ax.bar(counts.index, counts[name], bottom=bottom, color=color, label=label, width=0.85)
                bottom = bottom + counts[name]
            ax.set_title(f"{config}\n{operator}", fontsize=9)
            ax.set_xlabel("label")
            whole_numbers(ax.xaxis)
            ax.margins(y=0.25)
            ax.legend(fontsize=7, ncols=3, loc="upper center")
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        axes[0].set_ylabel(f"rows in {last}")
    return figure


PUBLICATIONS = (Publication(kind="dataset", holds="rows", question="Rows of a task."),)
