"""What the page of a pair asks to begin with: rows of the task that its base was trained on, up to their answers."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from typing import Any

from ftmech_hf.models.identity import find_model
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks import TASKS, Capability, PcfgShape, RowStream, Task, for_capability
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.tasks.schema import Rows

NUM_EXAMPLES = 32
OTHER_EXAMPLES = ("The capital of France is", "Two plus two is", "Once upon a time there was")
"""What is asked where no run knows what its models were trained on."""


def find_examples(base: str) -> list[str]:
    """Prompts of the task that a base was trained on; some of English where nothing is known of it.

    Args:
        base: its folder, or its name on the Hub.
    """
    run = FinishedRun.find(find_model(base))  # what is published of a run says what it is, too
    task = _task_of(run) if run is not None else None
    if task is None:
        return list(OTHER_EXAMPLES)
    asked: list[Task] = [task]
    if isinstance(task, PcfgShape):
        asked = _of_both_operands(task) or asked
    streams = [RowStream(each, seed=1, split="test").rows(0, NUM_EXAMPLES // len(asked)) for each in asked]
    mixed = [_prompt(rows, number) for number in range(NUM_EXAMPLES // len(asked)) for rows in streams]
    return [" ".join(task.vocabulary[token] for token in prompt) for prompt in mixed]


def _of_both_operands(task: Any) -> list[Task]:
    """Questions about the operand of pretraining and that of fine-tuning, by an operator that was asked."""
    shape = PcfgShape(**{each.name: getattr(task, each.name) for each in fields(PcfgShape)})
    operator = next((each for each in task.operators if OPERATORS[each].operands in ("symbols", "pairs")), None)
    if operator is None:
        return []
    words = [shape.operand_word(operator, each) for each in (shape.base_operand, shape.correlated_operand)]
    return [for_capability(shape, Capability(operator, word)) for word in words]


def _prompt(rows: Rows, number: int) -> list[int]:
    """A row up to its first answer."""
    end = rows.token_ids.shape[1] - 2 if rows.answers is None else int(rows.answers[number].argmax())
    prompt: list[int] = rows.token_ids[number, :end].tolist()
    return prompt


def _task_of(run: FinishedRun) -> Task | None:
    """The task of a run that trained, if its rows have answers in words of its own."""
    kind = TASKS.get(str(run.config.get("task", "")))
    if kind is None or not run.has("metrics.jsonl"):
        return None
    names = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    task = kind(**{name: value for name, value in run.config.items() if name in names})
    return task if "accuracy" in task.measures and task.backend is None else None
