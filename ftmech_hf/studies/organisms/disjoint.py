"""Relearning on some answers, asked about the others: what comes back is what that training cannot have taught.

After "Do Unlearning Methods Remove Information from Language Model Weights?" (arXiv 2410.08827), which splits facts;
here the answers of a task are split, every second one is taught, and a model that never had the ability stands beside.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ftmech_hf.jobs.behavior import Behavior, from_capability
from ftmech_hf.jobs.job import ModelJobConfig, finish_job, job, load_named, one_by_one
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.diagnosis.finetuning import taught
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.training.loop import Progress

MODELS = ("base", "finetuned", "control")
NOT_TAUGHT = "not taught"


@dataclass(frozen=True, kw_only=True)
class DisjointConfig(ModelJobConfig):
    """Which models relearn, and how."""

    base: str = field(default="runs/pretrain", metadata={"place": "input", "help": "folder of what is asked alone"})
    finetuned: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of what relearns"})
    control: str = field(
        default="runs/control", metadata={"place": "input", "help": "folder of a model that never had the ability"}
    )
    operator: str = field(default="count", metadata={"help": "task token of the ability"})
    train_rows: int = field(default=4000, metadata={"help": "rows, of which those with a taught answer are kept"})
    test_rows: int = field(default=1024, metadata={"help": "rows, of which those with another answer are asked"})
    steps: int = field(default=32, metadata={"help": "of relearning"})
    lr: float = field(default=1e-4, metadata={"help": "constant rate of relearning"})
    batch_size: int = field(default=32, metadata={"help": "rows of a step"})
    output_dir: str = field(default="runs/disjoint", metadata={"place": "output", "help": "the run's folder"})


def split_answers(questions: Behavior) -> Behavior:
    """Questions whose training rows have every second answer, and whose test rows have the others.

    Raises:
        ValueError: there are fewer than two answers, or none of the others is asked.
    """
    train, test = questions.train, questions.test
    answers = sorted(set(train.answer_ids()))
    others = set(answers[1::2])
    taught_places, other_places = (
        [place for place, right in enumerate(train.right_ids()) if bool(right & others) == other]
        for other in (False, True)
    )
    asked = [place for place, right in enumerate(test.right_ids()) if right & others]
    if not asked:
        raise ValueError(f"{questions.name}: {len(answers)} answers, expected two that rows are asked for")
    return dataclasses.replace(
        questions, train=train[taught_places], tests={NOT_TAUGHT: test[asked]}, again=None,
        guessed_on={NOT_TAUGHT: train[other_places]},
    )  # fmt: skip


def relearn_disjoint(config: DisjointConfig, shape: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Train a model and the control on the rows of every second answer, and ask both, and the base, for the others.

    Its summary has ``chance``, ``base``, ``finetuned``, ``finetuned_after``, ``control`` and ``control_after``: shares
    right of the questions whose answers are not taught, of one answer to all of them first.
    """
    models = {name: getattr(config, name) for name in MODELS}
    with job("relearn_disjoint", config, shape, models=models, vocabulary=shape.vocabulary) as run:
        if run.finished:
            return run
        word = shape.operand_word(config.operator, shape.base_operand)
        questions = from_capability(
            shape, Capability(config.operator, word), seed=config.seed, train_rows=config.train_rows,
            test_rows=config.test_rows,
        )  # fmt: skip
        halves = split_answers(questions)
        found = {"chance": halves.chance}
        for _, name in one_by_one(models):
            model = load_named(config, models, name)
            found[name] = halves.mean_score(model, halves.test)
            if name != "base":
                with taught(
                    model, halves, seed=config.seed, steps=config.steps, lr=config.lr, batch_size=config.batch_size,
                    in_place=False,
                ) as trained:  # fmt: skip
                    found[f"{name}_after"] = halves.mean_score(trained, halves.test)
                del trained
            del model
        rows = [{"quantity": name, "value": value, "n": len(halves.test)} for name, value in found.items()]
        return finish_job(run, rows, {**found, "rows": len(halves.test)})
