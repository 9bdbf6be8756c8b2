"""What came out of a reproduction: claims, a picture for each with its explanation, and the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ftmech_hf.jobs.figures import attention_figure, draw_probing, draw_pruning
from ftmech_hf.report import charts
from ftmech_hf.report.charts import Runs, save_figure
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS, measure
from ftmech_hf.studies.pcfg.figures import draw_finetuning, draw_revival, overview
from ftmech_hf.studies.pcfg.plan import ReproducePlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Panel(NamedTuple):
    """A picture of a reproduction with its explanation, the runs that it shows, and the claims that rest on it."""

    title: str
    text: str
    alt: str
    needs: tuple[str, ...]
    draw: Callable[[Axes, Runs], None]
    claims: tuple[str, ...]


PANELS = (
    _Panel(
        "Does fine-tuning destroy counting a?",
        "A model that was hardly ever asked about b is fine-tuned to count b, on texts in which the count of b "
        "is always the count of a plus one. It is asked about b where that correlation holds and where it does not, "
        "and about a. Seeds differ where part of the prompts about a escape the shortcut.",
        "Accuracy against fine-tuning step, low prior",
        ("finetuned-low",),
        lambda ax, runs: draw_finetuning(ax, runs, "finetuned-low", "Low prior, C_Tr = 1"),
        ("base_low_a", "base_low_b", "low_b_cte1", "low_b_cte0", "low_a"),
    ),
    _Panel(
        "Does a model that can already count b need the shortcut?",
        "The same fine-tuning of a model that saw enough prompts about b, on texts in which the correlation holds "
        "in four of five, and what that loses.",
        "Accuracy against fine-tuning step, high prior",
        ("finetuned-high",),
        lambda ax, runs: draw_finetuning(ax, runs, "finetuned-high", "High prior, C_Tr = 0.8"),
        ("base_high_a", "base_high_b", "high_b_cte0", "high_a"),
    ),
    _Panel(
        "Do a few neurons hide it?",
        "Rows of weight matrices are set to zero in the order of gradient x weight for the loss on prompts about "
        "a. The number is chosen on a validation set. Controls: as many random rows, and the same procedure on a "
        "model that never counted a (its accuracy without pruning is that of naming likely counts; a claim says what "
        "comes of it after the same fine-tuning).",
        "Accuracy against number of pruned rows",
        ("prune-rows", "prune-control"),
        lambda ax, runs: draw_pruning(ax, runs, "prune-rows", "prune-control", "Rows of weight matrices"),
        ("gain_a", "control_gain_a", "tuned_control_gain_a"),
    ),
    _Panel(
        "The same with single MLP activations",
        "Activations are set to zero through nnsight, in the order of gradient x activation.",
        "Accuracy against number of pruned activations",
        ("prune-activations",),
        lambda ax, runs: draw_pruning(ax, runs, "prune-activations", None, "MLP activations"),
        (),
    ),
    _Panel(
        "Can the count of a be read from the stream?",
        "Linear probes for the count of a at the position that predicts the answer. A caution that the probe alone "
        "would hide: a network of random weights lets much of the count be read as well, so reading it is not "
        "evidence of having learned it: only its lead over that is. The best layer is chosen on other rows.",
        "Probe accuracy by layer",
        ("probe",),
        lambda ax, runs: draw_probing(ax, runs, "Linear probes"),
        ("probe_gap", "probe_lead"),
    ),
    _Panel(
        "Does it come back faster than it is learned?",
        "Fine-tuning back on prompts about a, at the same constant learning rate, beside a control that learned to "
        "count b but never a. A model that is not back by the last step counts with that step.",
        "Accuracy against step of reverse fine-tuning",
        ("reversed-low", "reversed-control"),
        lambda ax, runs: draw_revival(ax, runs, "Reverse fine-tuning"),
        ("revival_ratio",),
    ),
)


def _fill(panel: _Panel, runs: Runs) -> Callable[[Axes], None]:
    return lambda ax: panel.draw(ax, runs)


def build_sections(runs: Runs) -> list[Section]:
    """Every picture of a reproduction with its explanation, in reading order; of the seeds whose runs are there."""
    sections = []
    for panel in PANELS:
        if there := charts.with_runs(runs, *panel.needs):
            figure = charts.panel(_fill(panel, there))
            sections.append(make_section(panel.title, panel.text, figure, panel.alt, panel.claims))
    if there := charts.with_runs(runs, "attention"):
        attention = attention_figure(next(iter(there.values()))["attention"])
        sections.append(
            make_section(
                "Where the answer looks",
                "Attention of the position that predicts the answer, every layer and head, on one prompt about b of "
                "the first seed: of each model (black: 0.5 or more), and below how the later ones differ from the "
                "first (darkest: by 0.5 or more).",
                attention,
                "Attention maps before and after fine-tuning",
            )
        )
    return sections


def write_results(plan: ReproducePlan) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the folder of the results.

    Raises:
        ValueError: no run is finished that a claim rests on.
    """
    runs = plan.finished
    claims = judge(MEASUREMENTS, {seed: measure(made) for seed, made in runs.items()})
    if not claims:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    facts = plan.write_origin("reproduce")
    table = [
        {"id": claim.id, "unit": claim.unit, "seed": seed, "value": value}
        for claim in claims
        for seed, value in zip(claim.seeds, claim.values, strict=True)
    ]
    write_table(plan.results / "table.parquet", pd.DataFrame(table))
    save_figure(overview(runs), plan.results / "overview.png")
    write_json(plan.results / "claims.json", claims_json(claims))
    page = render_page(__package__, claims=claims, sections=build_sections(runs), facts=facts)
    write_text(plan.results / "report.html", page)
    return claims
