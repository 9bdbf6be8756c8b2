"""Pictures of a reproduction. A panel draws one line per model, the mean over seeds, and each seed as a thin line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftmech_hf.jobs.figures import draw_probing, draw_pruning
from ftmech_hf.report.charts import (
    BASE,
    CONTROL,
    FINETUNED,
    Runs,
    accuracy_axis,
    floor_line,
    legend_below,
    new_figure,
    seed_lines,
    step_axis,
    styled,
    training_curve,
    with_runs,
)
from ftmech_hf.studies.pcfg.claims import REVIVAL_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_finetuning(ax: Axes, runs: Runs, run: str, title: str) -> None:
    """Accuracy on both operands while fine-tuning on the second."""
    for test_set, label, color, style in (
        ("count_a", "counts a (pretraining)", BASE, "-"),
        ("count_b_cte1", "counts b, correlation holds", FINETUNED, "-"),
        ("count_b_cte0", "counts b, it does not", FINETUNED, "--"),
    ):
        seed_lines(ax, [training_curve(made[run], test_set) for made in runs.values()], label, color, style)
        floor_line(ax, [made[run].floor(test_set) for made in runs.values()], label, color)
    accuracy_axis(ax)
    step_axis(ax, "fine-tuning step")
    ax.set_title(title)
    legend_below(ax)


def draw_revival(ax: Axes, runs: Runs, title: str) -> None:
    """Accuracy on the first operand while fine-tuning back on it, beside the control's."""
    for run, label, color in (
        ("reversed-low", "fine-tuned model, reversed", FINETUNED),
        ("reversed-control", "control, never counted a", CONTROL),
    ):
        seed_lines(ax, [training_curve(made[run], "count_a") for made in runs.values()], label, color)
    floor_line(ax, [made["reversed-low"].floor("count_a") for made in runs.values()], "counts a")
    ax.axhline(REVIVAL_THRESHOLD, color="#374151", linewidth=0.8, linestyle=(0, (1, 3)))
    accuracy_axis(ax)
    step_axis(ax, "step of reverse fine-tuning")
    ax.set_title(title)
    legend_below(ax)


def _draw_or_say_why_not(ax: Axes, runs: Runs, title: str, names: Sequence[str], draw: Callable[[Runs], None]) -> None:
    if there := with_runs(runs, *names):
        return draw(there)
    ax.set_title(title)
    ax.text(0.5, 0.5, "no run is finished", ha="center", va="center")
    ax.set_axis_off()


@styled
def overview(runs: Runs) -> Figure:
    """The four effects in one picture, of the seeds whose runs are there."""
    figure = new_figure(11, 8.2)
    one, two, three, four = figure.subplots(2, 2).flat
    tuned, pruned = "finetuned-low", ("prune-rows", "prune-control")
    title = "1  Fine-tuning seems to destroy counting a"
    _draw_or_say_why_not(one, runs, title, [tuned], lambda there: draw_finetuning(one, there, tuned, title))
    few = "2  Zeroing a few neurons brings some of it back"
    _draw_or_say_why_not(two, runs, few, pruned, lambda there: draw_pruning(two, there, *pruned, few))
    read = "3  It can be read from the stream throughout"
    _draw_or_say_why_not(three, runs, read, ["probe"], lambda there: draw_probing(three, there, read))
    back = "4  It comes back much faster than it is learned"
    names = ["reversed-low", "reversed-control"]
    _draw_or_say_why_not(four, runs, back, names, lambda there: draw_revival(four, there, back))
    return figure
