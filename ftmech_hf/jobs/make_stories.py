"""A dataset folder of stories: procedural ones, or real ones from raw files, with a card and a tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from ftmech_hf.jobs.card import render_card
from ftmech_hf.jobs.job import JobConfig, job
from ftmech_hf.jobs.make_dataset import dataset_metadata, parse_splits, split_file
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.models.tokenization import bpe_tokenizer, save_tokenizer
from ftmech_hf.runs import (
    FinishedRun,
    RunDir,
    check_disk_space,
    describe_versions,
    disk_errors,
    hash_files,
    write_json,
    write_text,
)
from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import FEATURES, Damage, Story, WordBaseline, make_story, read_sources, word_baseline
from ftmech_hf.tasks.stories.bpe import FEWEST_TOKENS, train_bpe
from ftmech_hf.tasks.stories.index import draw_of
from ftmech_hf.training.loop import Progress

if TYPE_CHECKING:
    import datasets

CONFIGS = ("seen", "held_out")
"""Of procedural stories: the words and sentences of training, and others, which only tests see."""

BASELINE_ROWS = 5000
BYTES_PER_STORY = 3000
BATCH = 1000


@functools.cache
def columns() -> datasets.Features:
    """The columns of a data set of stories."""
    import datasets

    text = datasets.Value("string")
    names = ("prompt", "completion", "features", "words", "summary", "sentence", "story")
    return datasets.Features({name: datasets.List(text) if name in ("features", "words") else text for name in names})


@dataclass(frozen=True, kw_only=True)
class MakeStoriesConfig(JobConfig):
    """Which stories, and where they go."""

    files: list[str] = field(
        default_factory=list,
        metadata={
            "place": "input",
            "help": "TinyStories(-Instruct) files: .txt, .json, .jsonl, .csv, .parquet; procedural stories if none",
        },
    )
    rows: list[str] = field(
        default_factory=lambda: ["train=20000", "validation=1000", "test=1000"],
        metadata={"help": "procedural stories per split"},
    )
    test_share: float = field(default=0.02, metadata={"help": "of the stories in raw files, drawn at random"})
    vocab_size: int = field(default=1024, metadata={"help": "of the BPE tokenizer trained on them; 0 for none"})
    output_dir: str = field(default="runs/stories-data", metadata={"place": "output", "help": "the dataset's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share: {self.test_share}, expected more than 0 and less than 1")
        if not self.files and "train" not in self.splits:
            raise ValueError(f"rows: {' '.join(self.rows)!r}, expected train among them")
        if not self.files and len(self.splits) == 1:
            said = "on which it is measured what words give away"
            raise ValueError(f"rows: {' '.join(self.rows)!r}, expected another split beside train, {said}")
        if 0 < self.vocab_size < FEWEST_TOKENS:
            least = f"at least {FEWEST_TOKENS}: all bytes and three signs"
            raise ValueError(f"vocab_size: {self.vocab_size}, expected 0, or {least}")
        for name in self.files:
            if not Path(name).is_file():
                raise ValueError(f"files: there is no {name}")

    @property
    def splits(self) -> dict[str, int]:
        """Procedural stories of each split."""
        return parse_splits(self.rows)

    def inputs(self) -> dict[str, str]:
        """The files, by their bytes."""
        return hash_files(self.files)


def make_stories(config: MakeStoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Write stories as parquet with a card, and a tokenizer in ``tokenizer/``, into a run folder.

    The folder loads with ``datasets.load_dataset(folder, config)``, offline and from the Hub: ``seen`` and ``held_out``
    are the configs of procedural stories, ``default`` that of real ones.
    """
    with job("stories", config) as run:
        if run.finished:
            return run
        size = BYTES_PER_STORY * (2 * sum(config.splits.values())) + sum(_sizes(config))
        check_disk_space(Path(config.output_dir), size)
        damage = Damage()
        written = _write_real(run, config, damage) if config.files else _write_procedural(run, config, progress)
        facts = _describe(run, config, written, damage)
        write_json(run.working / "summary.json", facts)
        run.finish()
    return run


def _sizes(config: MakeStoriesConfig) -> list[int]:
    return [Path(name).stat().st_size for name in config.files]


class _Writer:
    """Writes one split, a batch at a time; keeps the first stories for the baseline."""

    def __init__(self, folder: Path, config: str, split: str) -> None:
        self.path = split_file(folder, config, split)
        self.path.parent.mkdir(exist_ok=True)
        self.kept: list[Story] = []
        self.number = 0
        self._waiting: list[dict[str, Any]] = []
        self._file = pq.ParquetWriter(self.path, columns().arrow_schema, compression="zstd")

    def add(self, story: Story, rng: np.random.Generator) -> None:
        columns = {name: getattr(story, name) for name in ("features", "words", "summary", "sentence", "story")}
        self._waiting.append({"prompt": story.prompt(rng), "completion": story.story, **columns})
        self.number += 1
        if len(self.kept) < BASELINE_ROWS:
            self.kept.append(story)
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.Table.from_pylist(self._waiting, schema=columns().arrow_schema))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._file.close()


Written = dict[tuple[str, str], _Writer]
"""(config, split) -> what was written."""


def _write_procedural(run: RunDir, config: MakeStoriesConfig, progress: Progress | None) -> Written:
    written: Written = {}
    # Held-out words are for tests alone.
    plan = [("seen", *item) for item in config.splits.items()]
    plan += [("held_out", *item) for item in config.splits.items() if item[0] in ("validation", "test")]
    total, done = sum(number for _, _, number in plan), 0
    for part, split, number in plan:
        writer = written[part, split] = _Writer(run.working, part, split)
        for index in range(number):
            rng = split_generator(config.seed, split, index)
            writer.add(make_story(rng, part=part), rng)  # type: ignore[arg-type]
            done += 1
            if progress is not None and (done % BATCH == 0 or done == total):
                progress(done, total, f"{part} {split}")
        writer.close()
    return written


def _write_real(run: RunDir, config: MakeStoriesConfig, damage: Damage) -> Written:
    written: Written = {("default", split): _Writer(run.working, "default", split) for split in ("train", "test")}
    for index, story in enumerate(read_sources(config.files, damage)):
        rng = split_generator(config.seed, "train", index)
        # By its text, so that a story which is there twice is in one split.
        split = "test" if draw_of(story.story, config.seed) < config.test_share else "train"
        written["default", split].add(story, rng)
    for (_, split), writer in written.items():
        writer.close()
        if not writer.number:
            raise ValueError(f"files: no usable record fell into the {split} split ({damage})")
    return written


def _texts(path: Path) -> Iterator[str]:
    """The whole texts of a file, in bounded memory."""
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["prompt", "completion"]):
        for row in batch.to_pylist():
            yield row["prompt"] + row["completion"]


def _train_tokenizer(run: RunDir, config: MakeStoriesConfig, train: _Writer, test: _Writer) -> dict[str, Any]:
    tokenizer = bpe_tokenizer(train_bpe(_texts(train.path), config.vocab_size))
    with disk_errors(run.working):
        save_tokenizer(tokenizer, run.working / "tokenizer")
    return {"vocab_size": len(tokenizer), "bytes_per_token": _bytes_per_token(tokenizer, test)}


def _bytes_per_token(tokenizer: PreTrainedTokenizerFast, test: _Writer) -> float:
    texts = [text for text, _ in zip(_texts(test.path), range(BATCH), strict=False)]
    tokens = sum(map(len, tokenizer(texts)["input_ids"]))
    return sum(len(text.encode()) for text in texts) / tokens


def _measured_on(splits: Iterable[str]) -> str:
    """The split that facts about a data set are measured on: that for tests, or the last of those not trained on."""
    there = [name for name in splits if name != "train"]
    return next((name for name in ("test", "validation") if name in there), there[-1])


def _baseline(written: Written, test: str) -> list[WordBaseline]:
    stories: dict[tuple[str, str], Sequence[Story]] = {key: writer.kept for key, writer in written.items()}
    first = next(iter(stories))[0]
    return word_baseline(stories[first, "train"], stories[first, test], stories.get(("held_out", test), ()))


def _describe(run: RunDir, config: MakeStoriesConfig, written: Written, damage: Damage) -> dict[str, Any]:
    configs: dict[str, dict[str, int]] = {}
    for (name, split), writer in written.items():
        configs.setdefault(name, {})[split] = writer.number
    first = next(iter(configs))
    test = _measured_on(configs[first])
    tokenizer = None
    if config.vocab_size:
        tokenizer = _train_tokenizer(run, config, written[first, "train"], written[first, test])
    baseline = [row.row() for row in _baseline(written, test)]
    pd.DataFrame(baseline, columns=["feature", "share", "accuracy", "held_out"]).to_parquet(
        run.working / "table.parquet", index=False
    )
    facts = {
        "configs": configs,
        "features": list(FEATURES),
        "baseline": baseline,
        "tokenizer": tokenizer,
        "damage": str(damage) if config.files else None,
    }
    env = FinishedRun(run.working).env
    story = written[first, "train"].kept[0]
    metadata = dataset_metadata(run.path.name, configs, ["stories", "tinystories"], language="en")
    metadata.license = "cdla-sharing-1.0" if config.files else "apache-2.0"
    text = render_card(
        "stories.md.j2",
        metadata=metadata.to_yaml(),
        title=run.path.name,
        where=config.output_dir,
        example=story.prompt() + story.story,
        facts=facts,
        held_out="held_out" in configs,
        files=[Path(name).name for name in config.files],
        config=run.config,
        env=env,
        versions=describe_versions(env),
    )
    write_text(run.working / "README.md", text)
    return facts


PUBLICATIONS = (Publication(kind="stories", holds="rows", question="Stories and their instructions."),)
