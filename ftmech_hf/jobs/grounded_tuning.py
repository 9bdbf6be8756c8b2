"""A model is tuned on questions of a collection by LoRA, without documents, with what is retrieved, or with the needed.

It learns the prompts that it is asked later, so that what changes is not the form. By default an
adapter of rank 16 on all matrices of the blocks, three epochs at 2e-4.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmech_hf.config import Notice, to_dict
from ftmech_hf.jobs.grounded_answers import GROUNDED, GroundedConfig, choose_documents
from ftmech_hf.jobs.job import read_inputs
from ftmech_hf.jobs.question_files import write_splits
from ftmech_hf.jobs.reading_prompts import in_text, write_prompt
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.configs import model_positions
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.retrieval import RetrieverConfig, check_embedder
from ftmech_hf.retrieval.collection import Collection
from ftmech_hf.runs import RunDir, refuse_other_run, run_identity
from ftmech_hf.runs.folders import refuse_foreign
from ftmech_hf.tasks.text.task import TextConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import OBJECTIVES
from ftmech_hf.training.settings import TrainConfig

TAUGHT_WITH = {"closed": "none", "retrieved": "retrieved", "oracle": "oracle"}
"""How a model can be tuned -> the context of its questions."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a model is tuned before it is compared with its base."""

    tune: str | None = field(
        default=None,
        metadata={"help": "tune the base by LoRA, and leave it in --finetuned: closed (without documents), "
                  "retrieved or oracle (with the needed ones); nothing is tuned if not given"},
    )  # fmt: skip
    tune_split: str = field(default="train", metadata={"help": "of the questions that are taught"})
    tune_epochs: float = field(default=3.0, metadata={"help": "of tuning"})
    tune_lr: float = field(default=2e-4, metadata={"help": "peak rate of it"})
    tune_batch_size: int = field(default=16, metadata={"help": "rows of a step"})
    lora_rank: int = field(default=16, metadata={"help": "of the adapter; it is scaled by two"})

    def __post_init__(self) -> None:
        if self.tune is not None and self.tune not in TAUGHT_WITH:
            raise ValueError(f"tune: {self.tune!r}, expected one of {', '.join(TAUGHT_WITH)}")
        if self.tune_epochs <= 0 or self.tune_lr <= 0:
            raise ValueError(f"tune_epochs: {self.tune_epochs}, tune_lr: {self.tune_lr}, expected numbers above 0")
        for name in ("tune_batch_size", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")


def taught_rows(
    config: GroundedConfig, tune: TuneConfig, retriever: RetrieverConfig, split: str
) -> Iterator[dict[str, Any]]:
    """What is taught: the prompts of :func:`~ftmech_hf.jobs.reading_prompts.write_prompt` and the first answers.

    Unanswerable questions are taught to be unknown; those whose answers are not known are not taught. Answers that
    stand in no document that is shown are taught as they are.

    Raises:
        ValueError: the split has no question with an answer, or one that alone leaves no room.
    """
    assert tune.tune is not None
    collection, tokenizer = Collection.read(Path(config.data)), load_tokenizer(config.base)
    asked = collection.with_known_answers(split)
    context = TAUGHT_WITH[tune.tune]
    shown = choose_documents(collection, asked, config, retriever, [context])
    positions = model_positions(config.base)
    room = None if positions is None else positions - config.max_new_tokens
    for each, numbers in zip(asked, shown[context], strict=True):
        texts = [collection.documents[number].whole for number in numbers]
        text = in_text(each.question, texts[: write_prompt(tokenizer, each.question, texts, room).shown])
        answer = each.answers[0] if each.answers else "unknown"
        if tokenizer.chat_template:
            yield {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
        else:
            yield {"prompt": f"{text}\nAnswer:", "answer": f" {answer}"}


def tune_on_questions(
    config: GroundedConfig, tune: TuneConfig, retriever: RetrieverConfig, *, progress: Progress | None = None
) -> RunDir:
    """Tune the base by LoRA and leave the adapter in ``config.finetuned``; rows that it learns lie beside it.

    The loss is also measured on the questions that are reported, but nothing is chosen by it. ``fresh`` is of this run,
    too: what is answered by another adapter has to be answered anew.

    Raises:
        ValueError: something of the data or the model is not as it must be; names the setting.
    """
    is_needed = config.retrieves or TAUGHT_WITH[str(tune.tune)] == "retrieved"
    check_embedder(retriever, config.embedder, is_needed=is_needed)
    if Path(config.finetuned).resolve() == Path(config.output_dir).resolve():
        raise ValueError(f"output_dir: {config.output_dir} is where the adapter is left, expected another folder")
    refuse_foreign(Path(config.output_dir))
    if tune.tune_split == config.split:
        raise ValueError(f"tune_split: {tune.tune_split}, expected other questions than those that are reported")
    rows, reported = (list(taught_rows(config, tune, retriever, each)) for each in (tune.tune_split, config.split))
    if len(reported) < 2:
        raise ValueError(f"split: {config.split} has one question, expected at least 2")
    splits = {"train": rows, "validation": reported[::2], "test": reported[1::2]}
    folder = write_splits(Path(f"{config.finetuned}-rows"), splits)
    _check_room(config, tune, folder)
    train = TrainConfig(
        seed=config.seed, steps=math.ceil(tune.tune_epochs * len(rows) / tune.tune_batch_size),
        batch_size=tune.tune_batch_size, lr=tune.tune_lr, optimizer="adamw", objective="answer_only", num_evals=0,
        eval_rows=16, final_eval_rows=16,
    )  # fmt: skip
    adapter = AdapterConfig(adapter="lora", lora_rank=tune.lora_rank, lora_alpha=2.0 * tune.lora_rank)
    place = FinetuneConfig(model=config.base, task="text", output_dir=config.finetuned, fresh=config.fresh)
    task, objective = TextConfig(dataset=str(folder)), OBJECTIVES[train.objective]()
    if not config.fresh:
        read = {"model": model_hash(config.base), **task.inputs()}
        tuned = run_identity(place.kind, to_dict(place, task, train, adapter, objective), read)
        models = {"base": read["model"], "finetuned": tuned}
        asked = to_dict(config, retriever)
        refuse_other_run(config.output_dir, GROUNDED, asked, {**models, **read_inputs(config, retriever)})
    return finetune(place, task, train, adapter, objective, progress=progress)


def _check_room(config: GroundedConfig, tune: TuneConfig, folder: Path) -> None:
    """Refuse rows that the base cannot be shown whole: their prompts leave max_new_tokens of room, and no more."""
    if (positions := model_positions(config.base)) is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # the run of tuning says what is odd about its rows
        longest = TextConfig(dataset=str(folder)).in_tokens_of(load_tokenizer(config.base)).row_length
    if longest <= positions + 1:  # the last token is only predicted
        return
    told = f"with its answer, and {config.base} has {positions} positions"
    if TAUGHT_WITH[str(tune.tune)] == "none":
        raise ValueError(f"data: a question of {config.data} takes {longest} tokens {told}, expected shorter ones")
    raise ValueError(
        f"max_new_tokens: {config.max_new_tokens}, but a question takes {longest} tokens {told}, expected a larger "
        "--max_new_tokens, which shows fewer documents and leaves more room for answers"
    )
