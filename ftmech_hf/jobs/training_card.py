"""What the card of a trained model says beyond its numbers: what was done to it, what that changed, and its curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftmech_hf.analysis.forgetting import measure_forgetting
from ftmech_hf.analysis.revival import RevivalResult, steps_to_revival
from ftmech_hf.jobs.publication import Picture, Publication, as_percent
from ftmech_hf.runs import FinishedRun

ALONE = "This says something only beside a control: the same fine-tuning of a model that never had the capability."
"""What stands behind the steps of a reverse fine-tuning of which no control is known."""


def _state_change(run: FinishedRun, label: str) -> list[str]:
    """From before the training to after it."""
    config, lines = run.config, run.metrics
    if label or len(lines) < 2:
        return []
    found = measure_forgetting(lines)
    changes = [
        f"`{name}` {as_percent(before)}{_more_rows(lines[0], name)} → "
        f"{as_percent(found.after[name])}{_more_rows(lines[-1], name)}"
        for name, before in found.before.items()
    ]
    changes += [
        f"loss on `{key.removeprefix('loss/')}` {lines[0][key]:.3f} → {lines[-1][key]:.3f} nats per token"
        for key in lines[-1]
        if key.startswith("loss/")
    ]
    first = lines[0].get("eval_rows", config["eval_rows"])
    rows = lines[-1].get("eval_rows", config["final_eval_rows"])
    return [f"From before this training ({first} rows each) to after ({rows}): {'; '.join(changes)}."]


def _more_rows(line: Mapping[str, Any], test_set: str) -> str:
    """Of how many rows an accuracy is that took more than the others, as it was near the threshold looked for."""
    return f" (of {line[key]} rows)" if (key := f"eval_rows/{test_set}") in line else ""


def read_revival(run: FinishedRun, test_set: str) -> RevivalResult:
    """When a run brought a capability back: at the accuracy that its evaluations looked for, 95 % if at none."""
    return steps_to_revival(run.metrics, test_set, threshold=run.config.get("eval_near") or 0.95)


def _state_revival(run: FinishedRun, label: str) -> list[str]:
    """The same, and after how many steps the capability was back."""
    lines = run.metrics
    answers = [key.removeprefix("accuracy/") for key in lines[-1] if key.startswith("accuracy/")]
    if label or not answers:
        return _state_change(run, label)
    revival = read_revival(run, answers[0])
    reached = "did not reach" if revival.steps is None else "reached"
    when = f"within {revival.last_step} steps" if revival.steps is None else f"at step {revival.steps}"
    return [
        *_state_change(run, label),
        f"`{answers[0]}` {reached} {revival.threshold:.0%} {when} of reverse fine-tuning. {ALONE}",
    ]


def _draw_curve(run: FinishedRun) -> list[Picture]:
    from ftmech_hf.jobs.figures import draw_training  # training starts without matplotlib

    caption = "Accuracy, or loss, on every test set while training"
    return [Picture("training_curve.png", caption, lambda ax: draw_training(ax, run, "Training"))]


PUBLICATIONS = (
    Publication(
        kind="pretrain",
        holds="model",
        question="Trained from scratch on next-token prediction.",
        of_task={
            "stories": "Trained from scratch on stories that were written to instructions.",
            "safety": "Trained from scratch to apply pairs of operators to texts.",
            "library": "Trained from scratch to answer from documents about people, and to know some by heart.",
        },
        pictures=_draw_curve,
    ),
    Publication(
        kind="finetune",
        holds="model",
        question="Fine-tuned on the answers of one capability.",
        of_task={
            "stories": "Fine-tuned on stories that were chosen, or whose instructions were changed.",
            "safety": "Fine-tuned on which prompts to answer and which to refuse, or a control of that.",
            "library": "Fine-tuned on questions about new people, to see what becomes of answering from documents.",
            "text": "A causal language model that was fine-tuned to study what fine-tuning changes inside it.",
        },
        state=_state_change,
        pictures=_draw_curve,
    ),
    Publication(
        kind="reverse_finetune",
        holds="model",
        question="Fine-tuned back on a capability that an earlier fine-tuning may have hidden.",
        of_task={
            "stories": "Fine-tuned back on stories with a feature that an earlier fine-tuning may have hidden.",
            "text": "A causal language model that was fine-tuned back, to see what another fine-tuning left of it.",
        },
        state=_state_revival,
        pictures=_draw_curve,
    ),
)


def describe_training(run: FinishedRun) -> str:
    """What was done to the model of a run that trained, in a sentence."""
    return next(each for each in PUBLICATIONS if each.kind == run.kind).describe(run)
