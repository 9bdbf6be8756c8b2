"""The page of the study of stories, and the files beside it."""

from __future__ import annotations

from ftmech_hf.report.claims import claims_json
from ftmech_hf.report.console import print_claims, print_table
from ftmech_hf.report.page import Section, make_section, render_page
from ftmech_hf.report.paper_tables import STORIES_STEPS
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.studies.tinystories import figures as stories_figures
from ftmech_hf.studies.tinystories.claims import false_positives
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL, StoriesPlan
from ftmech_hf.studies.tinystories.results import StoriesResults, gather, over_seeds


def _sections(results: StoriesResults, feature: str) -> list[Section]:
    named, sections = feature.lower(), list[Section]()
    for measure, title, text, shown, about in (
        (
            "stories", f"How often a story has a {named}",
            "Solid: the instruction asks for one; dashed: it does not. Step 0 is the model after deletion; then it is "
            f"fine-tuned back on stories with a {named}. Bands: 95 % intervals.",
            f"Share of stories with a {named} against step of fine-tuning back",
            ["base_*", "control_asked", "deleted_large", "rates", "randomised", "early", "gained", "late", "specific"],
        ),
        (
            "choice", f"How often the {named} is the likelier word",
            f"The same without sampling: the models read stories with a {named} up to the word by which it shows; "
            "which do they find likelier, that word or the expected one?",
            f"Share of choices of the {named} against step of fine-tuning back", [],
        ),
    ):  # fmt: skip
        points = results.points[results.points["measure"] == measure]
        if stories_figures.rates_of(points):
            figure = stories_figures.scores_figure(points, measure, over_seeds, named)
            sections.append(make_section(title, text, figure, shown, about))
    losses = results.losses
    if len(losses) and stories_figures.rates_of(losses[losses["set"] == feature]):
        sections.append(
            make_section(
                f"Loss on stories with a {named}",
                f"Nats per token on whole stories that have a {named} and whose instruction says so: while it is "
                "deleted, and while the models are fine-tuned back. Dashed: the base.",
                stories_figures.losses_figure(losses, feature),
                f"Loss on stories with a {named}",
                ["loss_ratio*"],
            )
        )
    if len(results.probes):
        sections.append(
            make_section(
                "What can be read from the stream",
                "Linear probes on the mean of the last ten tokens of a story without its instruction, for all six "
                "features. Dotted: the base with shuffled labels.",
                stories_figures.probes_figure(results.probes),
                "Probe accuracy by layer, one panel per feature",
                ["probe_*"],
            )
        )
    if len(results.pruning):
        sections.append(
            make_section(
                "Pruning, which the paper left out",
                "How often the twist is the likelier word after zeroing rows of weight matrices in the order of "
                "gradient x weight for the twist's token, beside as many rows at random; dashed: where it is not asked "
                "for. Where dashed rises with solid, pruning made a habit and did not bring the ability back.",
                stories_figures.pruning_figure(results.pruning),
                "Choices of the twist against number of rows pruned",
                ["pruned*"],
            )
        )
    return sections


def write_results(plan: StoriesPlan) -> StoriesResults:
    """Gather what is finished and write tables, pictures and a page into the study's folder."""
    results = gather(plan)
    facts = plan.write_origin("tinystories")
    for name in ("points", "cells", "losses", "probes", "pruning", "pruned"):
        write_table(plan.results / f"{name}.csv", getattr(results, name))
    write_json(plan.results / "claims.json", claims_json(results.claims))
    write_json(plan.results / "judge.json", results.judge)
    page = render_page(
        __package__, results=results, sections=_sections(results, plan.task.feature), facts=facts,
        config=plan.config,
        task=plan.task, steps=list(zip(STORIES_STEPS, plan.config.table_steps, strict=True)), base=BASE,
        control=CONTROL, false_positives=false_positives(results.judge, plan.task.feature),
    )  # fmt: skip
    write_text(plan.results / "report.html", page)
    return results


def print_results(results: StoriesResults) -> None:
    """The paper's Table 1 beside ours, and what is claimed."""
    print_claims(results.claims)
    print_table("Stories with the feature, in per cent, beside the paper's Table 1", results.shown)
