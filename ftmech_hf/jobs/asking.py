"""Jobs that ask a model something: the procedural task, another task, or any data set in the model's own tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftmech_hf.config import changed_settings, parse_config, peek_setting
from ftmech_hf.jobs.behavior import Behavior, from_task
from ftmech_hf.jobs.job import JobConfig, prepared_job
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.jobs.tokenizers import check_questions_known, check_same_tokens
from ftmech_hf.models.configs import model_positions, model_vocabulary
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.models.naming import check_models
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import TASKS, Capability, PcfgShape, Task
from ftmech_hf.tasks.text.identity import dataset_hash

ASKED: dict[str, type[PcfgShape] | type[Task]] = {
    **{name: kind for name, kind in TASKS.items() if "accuracy" in kind.measures},
    "pcfg": PcfgShape,
}
"""The tasks that can be asked, by name; of the procedural one a capability, which the job names."""


@dataclass(frozen=True, kw_only=True)
class AskConfig(QuestionConfig):
    """What to ask, if that is not the procedural task; only then are these settings a part of a run."""

    task: str = field(default="pcfg", metadata={"help": f"what is asked where no dataset is given: {', '.join(ASKED)}"})
    dataset: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "questions in place of a task: a file, a folder or a data set on the Hub with columns prompt and "
            "answer",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in ASKED:
            raise ValueError(f"task: unknown {self.task!r}, expected one of {', '.join(ASKED)}")
        if self.dataset and self.task != "pcfg":
            raise ValueError(f"task: {self.task}, but dataset: {self.dataset} is asked in its place; give one of them")
        if not self.dataset:
            for name, value in changed_settings(self, QuestionConfig).items():
                said = str(value).lower() if isinstance(value, bool) else value
                raise ValueError(f"{name}: {said}, but no dataset whose rows it could be about")

    def inputs(self) -> dict[str, str]:
        """The data set, by what is read of it."""
        return {"dataset": dataset_hash(self.dataset)} if self.dataset else {}


Asked = PcfgShape | Task | AskConfig
"""What a job asks: a capability of the procedural task, another task as it is, or a data set."""


def parse_asked(config_type: type, *, argv: Sequence[str] | None, description: str | None) -> tuple[Any, Asked]:
    """Parse a job's settings, and what it asks.

    Raises:
        ValueError: an unknown task, or settings that :func:`ftmech_hf.config.parse_config` refuses.
    """
    name = peek_setting("task", default="pcfg", argv=argv)
    kind = ASKED.get(name, PcfgShape)  # an unknown one is refused by AskConfig
    config, ask, task = parse_config(config_type, AskConfig, kind, argv=argv, description=description)
    return config, ask if ask.dataset else task


def find_capability(shape: PcfgShape, operator: str, operand: str) -> Capability:
    """A capability by its operator and a symbol, or what prompts call it, such as ``a`` or ``aa`` of pairs.

    Raises:
        ValueError: the operator has no such operand.
    """
    word = shape.operand_word(operator, operand) if operand in shape.symbols else operand
    known = list(dict.fromkeys(shape.operand_word(operator, symbol) for symbol in shape.symbols))
    if word not in known:
        raise ValueError(f"prompt_operand: {operand!r}, expected one of {', '.join([*shape.symbols, *known])}")
    return Capability(operator, word)


def check_procedural(config: JobConfig, *names: str) -> None:
    """Refuse settings about the procedural task where another task or a data set is asked.

    Raises:
        ValueError: one of these settings of a job is not its default.
    """
    for name, value in changed_settings(config).items():
        if name in names:
            said = " ".join(value) if isinstance(value, list) else value
            raise ValueError(f"{name}: {said}, but the procedural task, which alone has that, is not asked")


def asked_settings(asked: Asked) -> list[Any]:
    """The settings of a run that say what it asks; of the procedural task they are its own alone."""
    name = next((name for name, kind in ASKED.items() if type(asked) is kind), "pcfg")
    return [asked] if name == "pcfg" else [AskConfig(task=name), asked]


def ask(
    asked: Task | AskConfig,
    models: Mapping[str, str] | Sequence[str],
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
) -> Behavior:
    """What a task asks, first as it is and then as its own test sets; or a data set, in the tokens of all the models.

    Args:
        asked: the task or the data set.
        models: those that are asked; a setting ``models`` as label -> folder, or their folders where none is an adapter
            on another of them.
        seed: of the rows; of a data set, of their order.
        train_rows, test_rows: how many to fit on; to choose and to report on, each.

    Raises:
        ValueError: it cannot be asked, or the models do not read the same tokens.
    """
    if not isinstance(asked, AskConfig):
        tests = {"test": asked, **asked.test_tasks()}
        return from_task(asked, tests=tests, seed=seed, train_rows=train_rows, test_rows=test_rows)
    assert asked.dataset is not None
    named = models if isinstance(models, Mapping) else {str(number): each for number, each in enumerate(models)}
    if isinstance(models, Mapping):
        check_models({f"models: {name}": folder for name, folder in models.items()})
    below = {name: base_for(name, named) for name in named}
    shown = [model_positions(folder, **below[name]) for name, folder in named.items()]
    positions = [found for found in shown if found is not None]
    settings: dict[str, Any] = {
        "seed": seed, "train_rows": train_rows, "test_rows": test_rows, "how": asked,
        "positions": min(positions, default=None),
    }  # fmt: skip
    first, folder = next(iter(named.items()))
    tokenizer = load_tokenizer(folder, **below[first])
    (behavior,) = from_datasets([asked.dataset], tokenizer, **settings)
    check_same_tokens(behavior, asked.dataset, [*named.values()], tokenizer, **settings)
    for name, folder in named.items():
        check_questions_known(f"model: {folder}", model_vocabulary(folder, **below[name]), [behavior])
    return behavior


def asked_vocabulary(asked: Asked) -> Sequence[str] | None:
    """The words by whose numbers a task asks; None for a data set, which is asked in the models' own tokens."""
    return None if isinstance(asked, AskConfig) else asked.vocabulary


def asking_job(
    find_behavior: Callable[[], Behavior], kind: str, config: JobConfig, asked: Asked, models: Mapping[str, str]
) -> contextlib.AbstractContextManager[tuple[RunDir, Callable[[], Behavior]]]:
    """:func:`~ftmech_hf.jobs.job.prepared_job` of a job that asks: its run's hash covers what is asked.

    Args:
        find_behavior: makes what is asked.
        kind: of the job.
        config: its settings.
        asked: the task or the data set.
        models: label -> folder or name of each model that is asked.
    """
    settings, vocabulary = asked_settings(asked), asked_vocabulary(asked)
    return prepared_job(find_behavior, kind, config, *settings, models=models, vocabulary=vocabulary)


def describe_dataset(behavior: Behavior, asked: Asked) -> dict[str, Any]:
    """What a summary says of a data set, under ``dataset``; nothing of a task.

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
