"""How often does a model write each feature of stories, where the instruction names it and where it does not?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftmech_hf.jobs.generation import generate
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.tasks.stories import FEATURES, Document, StoriesConfig, judge
from ftmech_hf.tasks.stories.judges import Verdicts
from ftmech_hf.training.loop import Progress

ASKED, NOT_ASKED = "", "not asked"
"""The site of a row by behaviour: of stories whose instruction names the feature, which claims are about, or not."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(ModelJobConfig):
    """Which model writes stories, and how many."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    stories: int = field(default=84, metadata={"help": "for each feature, whose instruction names it and maybe others"})
    max_new_tokens: int = field(default=220, metadata={"help": "tokens of a story at most"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling"})
    score_batch_size: int = field(default=256, metadata={"help": "stories written side by side"})
    output_dir: str = field(default="runs/story-features", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "stories", "max_new_tokens", "score_batch_size")


def measure_features(config: FeaturesConfig, task: StoriesConfig, *, progress: Progress | None = None) -> RunDir:
    """Let a model write stories and judge each for every feature, exactly.

    ``table.parquet`` has two rows a feature: of stories whose instruction names it, and of the others. A story that
    cannot be judged has not the feature.

    Raises:
        ValueError: the stories are from files, of which nobody knows for certain what they have.
    """
    if task.files:
        raise ValueError("files: features are judged exactly of procedural stories alone; remove them")
    with job("story_features", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        documents = ask_for_each(task, config.seed, config.stories)
        texts = generate(
            config.load(config.model), load_tokenizer(config.model), [each.prompt for each in documents],
            seed=config.seed, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            batch_size=config.score_batch_size,
        )  # fmt: skip
        table = count_features([each.named for each in documents], [judge(text) for text in texts])
        if progress is not None:
            progress(1, 1, f"{table[0]['capability']} in {table[0]['value']:.0%} of its stories")
        return finish_job(run, table, {row["capability"]: row["value"] for row in table if row["site"] == ASKED})


def ask_for_each(task: StoriesConfig, seed: int, number: int) -> list[Document]:
    """Test stories of each feature, no two of which are the same draw; their instructions say all that they have."""
    found = []
    for place, feature in enumerate(FEATURES):
        having = dataclasses.replace(task, only=feature, without=None, rename=None, claim=0.0, feature_share=None)
        found += [having.document(seed, "test", place * number + each) for each in range(number)]
    return found


def count_features(named: Sequence[Sequence[str]], verdicts: Sequence[Verdicts]) -> list[dict[str, Any]]:
    """Two rows a feature: the share of stories that have it, of those whose instruction names it and of the others.

    The floor of the first is what a model gets that does not read the instruction: as often as it writes the feature
    where it is not named. That of the second is never writing it.

    Args:
        named: of each story, the features that its instruction names.
        verdicts: which of them each story has; None counts as not.

    Raises:
        ValueError: a feature is named by all instructions or by none.
    """
    rows = []
    for feature in FEATURES:
        shares = {}
        for asked in (True, False):
            has = [found[feature] is True for found, names in zip(verdicts, named, strict=True)
                   if (feature in names) == asked]  # fmt: skip
            if not has:
                raise ValueError(f"stories: {feature} is named by {'no' if asked else 'every'} instruction")
            shares[asked] = share_interval(sum(has), len(has)), len(has)
        for asked, (found, number) in shares.items():
            rows.append({
                "capability": feature, "by": "behaviour", "site": ASKED if asked else NOT_ASKED, "value": found.value,
                "low": found.low, "high": found.high, "floor": shares[False][0].value if asked else 0.0, "rows": number,
            })  # fmt: skip
    return rows
