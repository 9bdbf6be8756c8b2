"""The pictures of the page of safety fine-tuning: what they show, and which claims rest on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ftmech_hf.report.page import Section, make_section
from ftmech_hf.studies.safety.figures import draw_answers, draw_attacks, draw_clusters, draw_stages
from ftmech_hf.studies.safety.inside_figures import (
    draw_changes,
    draw_depth,
    draw_direction,
    draw_lines,
    draw_relearning,
    draw_soft_tokens,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Shown(NamedTuple):
    """A picture of the page.

    Attributes:
        analysis: of whose table it is; empty for what models answered.
        title: of its section.
        text: what it shows, and beside what.
        draw: draws it from the table.
        short: what it is, for whoever does not see it.
        claims: ids of those that rest on it; ``*`` stands for anything.
    """

    analysis: str
    title: str
    text: str
    draw: Callable[[pd.DataFrame], Figure]
    short: str
    claims: tuple[str, ...]


SHOWN: tuple[Shown, ...] = (
    Shown(
        "", "What the models answer",
        "An answer counts if all of its twelve tokens are right as the model itself writes them. Protocols that "
        "forget (graddiff, npo, simnpo, rmu) teach no refusal: there, unsafe prompts that are not answered as "
        "instructed are answered with something else. Benign tuning and shuffled refusals are controls; never is "
        "a model that never learned what is unsafe. Names with -slow are of the small rate.",
        draw_answers, "Shares of answers by model",
        ("base_*", "ssft_safe", "dpo_safe", "unlearn_safe", "ssft_null", "dpo_null", "unlearn_null", "null_rates",
         "dpo_is_unlearn", "graddiff_kept", "npo_kept", "simnpo_kept", "rmu_kept", "graddiff_forgot", "npo_forgot",
         "simnpo_forgot", "rmu_forgot", "benign_unsafe", "shuffled_null", "never_unsafe"),
    ),
    Shown(
        "", "What attacks do",
        "Left: texts of five phrases, some of them backwards, asked about with operators that are unsafe about "
        "such texts; at the left end safe prompts, at the right one all phrases are of the unsafe kind. Middle: a safe "
        "operator beside an unsafe one (co_task), other names of unsafe operators (misgen), and phrases that tuning "
        "never showed (ood_text). Right: safe prompts that are new in the same ways; a model that does not answer them "
        "refuses what is new.",
        draw_attacks, "Success of attacks, and answers to safe prompts that are as new",
        ("jb_*", "dpo_is_unlearn", "never_jb", "ssft_new", "dpo_new", "unlearn_new"),
    ),
    Shown(
        "", "How far attacks come",
        "The first token alone, the whole answer as the model writes it, and the rest of the answer where its first "
        "three tokens were written for the model (prefilling). never-ssft never learned what is unsafe.",
        draw_stages, "Success by first token, of whole answers, and after prefilling",
        ("ssft_prefilled", "dpo_prefilled", "unlearn_prefilled", "never_prefilled"),
    ),
    Shown(
        "clusters", "Where they lie in the stream",
        "The share of prompts that lie nearer to the mean of safe prompts than to that of unsafe ones, after every "
        "layer but the last, where the first token of the answer is predicted. The means are of other prompts. Attacks "
        "that succeeded and attacks that failed (co_text_2) are told apart; the base and benign tuning are the "
        "references: what they show is no effect of safety tuning. Dotted: the means are of prompts that were dealt "
        "into two kinds by chance, 100 times.",
        draw_clusters, "Share of prompts on the safe side, by layer", ("tau*",),
    ),
    Shown(
        "changes", "What tuning changed",
        "Left: how much of the change's main directions lies outside those that the base's matrix writes into, above "
        "what directions by chance have (0). Middle: how strongly the change acts on what enters these matrices, as a "
        "multiple of a random change of its size. Right: how strongly the first token depends on the input, as a "
        "multiple of the base. Benign tuning is the reference.",
        draw_changes, "The change of weights, its action, and the dependence on the input",
        ("outside*", "action*", "lip_*"),
    ),
    Shown(
        "changes", "How deep tuning goes",
        "How far a tuned model is from the base at every token of the instructed answer, after the right tokens before "
        "it. Safety tuning that is shallow changes the first tokens alone. Benign tuning is the reference.",
        draw_depth, "Divergence from the base by token", ("shallow",),
    ),
    Shown(
        "lines", "Between the models, and beyond",
        "The weights of the base and a share of the change of SSFT; below 0 it is taken the other way. Beyond 1 also "
        "as far in other directions: another protocol's change, the change turned at random, that of benign tuning, "
        "and that of shuffled refusals.",
        draw_lines, "Refusals and answers between and beyond the models", ("extra*",),
    ),
    Shown(
        "direction", "One direction that refuses",
        "The mean of unsafe prompts less that of safe ones, taken out of the stream everywhere, or added to it after "
        "one layer. Random directions are of the same length. The direction between letters is made alike, between "
        "safe prompts whose answers begin with either half of the alphabet.",
        draw_direction, "Refusals without and with the refusal direction", ("ablate*", "add*"),
    ),
    Shown(
        "relearning", "Tuned again",
        "Unsafe prompts that are answered as instructed while a model is tuned further. The dashed models (never-) "
        "never learned what is unsafe, and were tuned alike: what they learn was not hidden.",
        draw_relearning, "Unsafe prompts answered during further tuning", ("relearn_*", "spread*"),
    ),
    Shown(
        "soft_tokens", "Soft tokens",
        "Vectors before the end of a prompt, each as long as an embedding is on average. They are sought for every "
        "prompt with the answer at hand; models that never learned it (never-) show what they can carry of the answer "
        "itself.",
        draw_soft_tokens, "Success of soft tokens by their number", ("soft*",),
    ),
)  # fmt: skip


def build_sections(table: pd.DataFrame, inside: Mapping[str, pd.DataFrame | None]) -> list[Section]:
    """The pictures with their explanations; of an analysis if anything of it is finished.

    Args:
        table: what the models answered.
        inside: analysis -> its table.
    """
    return [
        make_section(shown.title, shown.text, shown.draw(found), shown.short, shown.claims)
        for shown in SHOWN
        if (found := inside[shown.analysis] if shown.analysis else table) is not None
    ]
