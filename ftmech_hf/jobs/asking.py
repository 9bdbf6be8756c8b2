"""Jobs that ask a model something: the procedural task, or any data set in the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.job import JobConfig
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.tokenizers import check_same_tokens
from ftmech_hf.models.loading import load_tokenizer, model_positions
from ftmech_hf.runs import is_finished
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.tasks.text.identity import dataset_hash


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """A data set to ask, in place of the procedural task; its settings are a part of a run where one is given."""

    dataset: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "questions: a file, a folder or a data set on the Hub with columns prompt and answer; the "
            "procedural task if not given",
        },
    )
    only_one_token: bool = field(
        default=False, metadata={"help": "leave out rows of the dataset whose answer is several tokens"}
    )

    def __post_init__(self) -> None:
        if self.only_one_token and not self.dataset:
            raise ValueError("only_one_token: true, but no dataset whose rows it could leave out")

    def inputs(self) -> dict[str, str]:
        """The data set, by what is read of it."""
        return {"dataset": dataset_hash(self.dataset)} if self.dataset else {}

    def instead_of(self, shape: PcfgShape) -> AskConfig | PcfgShape:
        """What is asked: the data set, or where none is given the procedural task."""
        return self if self.dataset else shape


def ask_dataset(asked: AskConfig, models: Sequence[str], *, seed: int, train_rows: int, test_rows: int) -> Behavior:
    """What a data set asks of some models, in the tokens that all of them read.

    Raises:
        ValueError: it cannot be asked, or the models do not read the same tokens.
    """
    assert asked.dataset is not None
    positions = [found for found in map(model_positions, models) if found is not None]
    settings: dict[str, Any] = {
        "seed": seed, "train_rows": train_rows, "test_rows": test_rows, "only_one_token": asked.only_one_token,
        "positions": min(positions, default=None),
    }  # fmt: skip
    (behavior,) = from_datasets([asked.dataset], load_tokenizer(models[0]), **settings)
    check_same_tokens(behavior, asked.dataset, models, **settings)
    return behavior


def to_be_made(config: JobConfig) -> bool:
    """Whether a job's run is not there yet, or is to be made again."""
    return config.fresh or not is_finished(Path(config.output_dir))


def describe_dataset(behavior: Behavior, asked: AskConfig | PcfgShape) -> dict[str, Any]:
    """What a summary says of a data set, under ``dataset``; nothing of the procedural task.

    That is its name, what the constant answer gets, how many tokens answers have, and what was noted while reading it.
    """
    if not isinstance(asked, AskConfig):
        return {}
    lengths = behavior.test.lengths
    return {
        "dataset": {
            "name": behavior.name,
            "chance": behavior.chance,
            "most_answer_tokens": int(lengths.max()),
            "share_of_one_token": float((lengths == 1).double().mean()),
            "notes": list(behavior.notes),
        }
    }
