"""What the files of a run and of its analyses show: sentences and pictures for its card, each beside its control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.analysis.forgetting import measure_forgetting
from ftmech_hf.analysis.revival import steps_to_revival
from ftmech_hf.jobs import figures
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report import charts
from ftmech_hf.runs import FinishedRun

UNITS = {
    "row": "rows of weight matrices",
    "weight": "weights",
    "activation": "MLP activations",
    "head": "attention heads",
}


def split_analyses(given: Sequence[str] | None) -> tuple[list[str] | None, dict[str, str]]:
    """Entries like ``folder`` or ``folder=USER/NAME``: (the folders, folder -> repository of those that name one)."""
    if given is None:
        return None, {}
    entries = [(entry, "") if Path(entry).exists() else entry.rpartition("=")[::2] for entry in given]
    entries = [(folder or repository, repository if folder else "") for folder, repository in entries]
    return [folder for folder, _ in entries], {str(Path(f)): repository for f, repository in entries if repository}


def find_analyses(run: FinishedRun, given: Sequence[str] | None = None) -> list[FinishedRun]:
    """Finished analyses that took the model of a run, each once.

    Args:
        run: as it lies here.
        given: folders of analyses; those that lie beside the run if None.

    Raises:
        ValueError: one of them is damaged, or one that was given is none or of another model.
    """
    found: dict[Path, FinishedRun] = {}
    beside = sorted(path.parent for path in run.path.parent.glob("*/env.json")) if given is None else []
    for folder in [*map(Path, given or ()), *beside]:
        analysis = FinishedRun.find(folder)
        if analysis is None:
            if given is not None:
                raise ValueError(f"analyses: {folder} is no finished run")
            continue
        if run.hash not in analysis.inputs.values() or not analysis.has("summary.json"):
            if given is not None:
                raise ValueError(f"analyses: {folder} is no analysis of {run.path} (its models are {analysis.inputs})")
            continue
        if damaged := analysis.damaged_files:
            raise ValueError(f"analyses: {folder} is damaged: {', '.join(damaged)}")
        found[folder] = analysis
    return list(found.values())


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def state_findings(run: FinishedRun, analyses: Sequence[FinishedRun]) -> list[str]:
    """One sentence for everything that the files show."""
    config, lines = run.config, run.metrics
    rows = config["final_eval_rows"]
    sentences = []
    if run.kind != "pretrain" and len(lines) > 1:
        changes = [
            f"`{row['test_set']}` {_share(row['before'])} → {_share(row['after'])}"
            for row in measure_forgetting(lines).rows()
        ]
        changes += [
            f"loss on `{key.removeprefix('loss/')}` {lines[0][key]:.3f} → {lines[-1][key]:.3f} nats per token"
            for key in lines[-1]
            if key.startswith("loss/")
        ]
        first = lines[0].get("eval_rows", config["eval_rows"])
        sentences.append(f"From before this training ({first} rows each) to after ({rows}): {'; '.join(changes)}.")
    answers = [key.removeprefix("accuracy/") for key in lines[-1] if key.startswith("accuracy/")]
    if run.kind == "reverse_finetune" and answers:
        capability = answers[0]
        revival = steps_to_revival(lines, capability)
        when = f"at step {revival.steps}" if revival.steps is not None else f"not within {revival.last_step} steps"
        sentences.append(
            f"`{capability}` reached {revival.threshold:.0%} {when} of reverse fine-tuning. This says something only "
            "beside a control: the same fine-tuning of a model that never had the capability."
        )
    for analysis in analyses:
        name = next((label for label, value in analysis.inputs.items() if value == run.hash), "")
        sentences += _state(analysis, name)
    return list(dict.fromkeys(sentences))


def _state(analysis: FinishedRun, name: str) -> list[str]:
    kind, config, summary = analysis.kind, analysis.config, analysis.summary
    capability = f"{config.get('operator')}_{config.get('base_operand')}"
    if kind == "prune":
        return [
            f"With {summary['best_k']} {UNITS[config['unit']]} set to zero, a number chosen on other rows, it answers "
            f"`{capability}` right in {_share(summary['accuracy'])} of the prompts; with as many random ones in "
            f"{_share(summary['random_accuracy'])}. ({config['eval_rows']} rows, seed {config['seed']})"
        ]
    if kind == "probe" and name in summary:
        mine, control = summary[name], summary.get(RANDOM_INIT)
        beside = f", {_share(control['accuracy'])} from one of random weights" if control else ""
        return [
            f"A linear probe reads `{capability}` from its stream in "
            f"{_share(mine['accuracy'])} of the prompts{beside}; {_share(mine['shuffled'])} with shuffled labels, and "
            f"{_share(mine['majority'])} by always naming the most frequent answer."
        ]
    if kind == "truth" and name in summary:
        parts = summary[name]
        control = summary.get(RANDOM_INIT, {})
        return [
            f"KL(truth || model) on the exact distribution of its data: {parts['whole row']:.4f} nats per token "
            f"({control.get('whole row', float('nan')):.2f} with random weights)."
        ]
    return []


def draw_findings(run: FinishedRun, analyses: Sequence[FinishedRun], folder: Path) -> dict[str, str]:
    """Save the training curve, and a picture of each pruning and probing, into ``folder``: file -> what it shows."""
    pictures: dict[str, str] = {}

    def draw(file: str, draw_panel: Any, caption: str) -> None:
        if file in pictures:  # of several analyses of a kind the first is drawn
            return
        figure = charts.panel(draw_panel)
        figure.savefig(folder / file, dpi=100, metadata={"Software": None})
        pictures[file] = caption

    draw(
        "training_curve.png",
        lambda ax: figures.draw_training(ax, run, "Training"),
        "Accuracy, or loss, on every test set while training",
    )
    for analysis in analyses:
        if analysis.kind == "prune" and "count_a" in analysis.table.columns:
            unit = UNITS[analysis.config["unit"]]
            draw(
                f"pruning_{analysis.config['unit']}.png",
                lambda ax, made=analysis, unit=unit: figures.draw_pruning(
                    ax, {0: {"prune": made}}, "prune", None, f"Pruned {unit}"
                ),
                f"Accuracy against the number of {unit} set to zero, beside random ones",
            )
        elif analysis.kind == "probe":
            draw(
                "probing.png",
                lambda ax, made=analysis: figures.draw_probing(ax, {0: {"probe": made}}, "Linear probes"),
                "What linear probes read from the stream, beside random weights and shuffled labels",
            )
    return pictures


def plain_numbers(numbers: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The numbers of a summary by their path in it; lists are left to the file."""
    found = []
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            found += plain_numbers(value, f"{prefix}{name}, ")
        elif isinstance(value, str | int | float):
            found.append((f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return found
