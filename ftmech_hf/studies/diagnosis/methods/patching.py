"""Which layers carry the change? Base into fine-tuned and back at every site and layer, and where two halves meet.

Where halves meet, the reference's half stands in the fine-tuned model's place as a control. See
:mod:`ftmech_hf.analysis.patching`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.activations import find_layout
from ftmech_hf.analysis.patching import PatchingResult, patch_each
from ftmech_hf.report.charts import BASE as BASE_COLOR
from ftmech_hf.report.charts import CONTROL, accuracy_axis, legend_below
from ftmech_hf.report.charts import FINETUNED as FINETUNED_COLOR
from ftmech_hf.statistics.clusters import Groups, groups_at, halves_of_rows, mean_of_rows, share_right
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.evidence import HalvesEvidence
from ftmech_hf.studies.diagnosis.figures import DOTTED, OTHER, layer_axis, line, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row
from ftmech_hf.studies.diagnosis.methods.halves import Cuts, choose_cuts
from ftmech_hf.studies.diagnosis.methods.probing import ProbingMethodResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES = {
    "resid_post": ("whole stream", BASE_COLOR), "attn_out": ("attention", FINETUNED_COLOR), "mlp_act": ("MLP", OTHER),
}  # fmt: skip
"""What is patched, what a legend calls it, and its color."""
PARTS = {"attn_out": "attention", "mlp_act": "MLP"}
"""Site -> the part of a block that alone is exchanged there."""
OTHER_ROWS = 64
"""Rows that are patched with another question's activations as well."""


class Way(NamedTuple):
    """Whose activations are written into whom, and on which questions."""

    donor: str
    receiver: str
    kind: str = "capability"

    def __str__(self) -> str:
        return f"{self.donor} into {self.receiver}"


BACK, FORTH = Way(BASE, FINETUNED), Way(FINETUNED, BASE)


class BestPart(NamedTuple):
    """Which attention or MLP alone brings most back: chosen on half of the rows, reported on the other.

    Attributes:
        site, layer: where it is.
        places: of how many it is the best.
        accuracy: with the base's activations there.
        alone: what the model answers by itself.
        other_row: with the activations of another question there; None where no question is as long as another.
    """

    site: str
    layer: int
    places: int
    accuracy: Share
    alone: Share
    other_row: Share | None


@dataclass(frozen=True, kw_only=True)
class PatchingMethodResult(MethodResult):
    """Answers under every patch.

    Attributes:
        found: the result of every way.
        num_blocks: of the models.
        cuts: where halves meet.
        missing: what cannot be exchanged in this architecture -> why.
        is_comparable: whether an answer is right under a patch by the same rule as else: not of choices, nor where all
            that is written is judged.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    found: Mapping[Way, PatchingResult]
    num_blocks: int
    cuts: Cuts
    groups: Mapping[str, Groups]
    missing: Mapping[str, str] = field(default_factory=dict)
    is_comparable: bool = True

    def rows(self) -> list[TableRow]:
        """Accuracy under every patch, and the log-probability of answers in the base."""
        patched = [
            row("patching", each["patch"], each["value"], each["low"], each["high"], model=str(way),
                questions=way.kind, site=each["site"], layer=each["layer"],
                reference=each["patch"] == "other row" or {way.donor, way.receiver} != {BASE, FINETUNED})
            for way, result in self.found.items() for each in result.rows(self.groups[way.kind])
        ]  # fmt: skip
        likely = [
            row("patching", "log-probability", *mean_of_rows(values, self.groups[way.kind]), model=str(way),
                questions=way.kind, site=site, layer=layer, reference={way.donor, way.receiver} != {BASE, FINETUNED})
            for way, result in self.found.items() if way.receiver == BASE  # other vocabularies have other probabilities
            for (site, layer), values in result.log_probability.items()
        ]  # fmt: skip
        return [*patched, *likely]

    def evidence(self) -> HalvesEvidence:
        """What two halves answer together, of the fine-tuned model and of the reference."""
        late, early, _ = self.cuts
        return HalvesEvidence(
            late=self._halves(BACK, late), late_null=self._halves(Way(BASE, NULL), late),
            early=self._halves(FORTH, early), early_null=self._halves(Way(NULL, BASE), early),
            # the fine-tuned model's blocks are the receiver's last ones, or the donor's first ones
            late_blocks=None if late is None else self.num_blocks - late - 1,
            early_blocks=None if early is None else early + 1, num_blocks=self.num_blocks,
        )  # fmt: skip

    def _halves(self, way: Way, cut: int | None) -> Share | None:
        if cut is None or not self.is_comparable:
            return None
        return share_right(self.found[way].right["resid_post", cut], self.groups[way.kind])

    def summary(self) -> dict[str, Any]:
        """The best part, where halves meet, and what was exchanged to find that."""
        late, early, followed = self.cuts
        best = self.best_part()
        part = None if best is None else best._asdict()
        return {"best_part": part, "cuts": (late, early), "followed": followed, "not_exchanged": dict(self.missing)}

    def best_part(self) -> BestPart | None:
        """Which attention or MLP alone brings most back; None where none can be exchanged by itself."""
        back = self.found[BACK]
        places = [place for place in back.right if place[0] != "resid_post"]
        if not places:
            return None
        chosen_on, reported = halves_of_rows(len(back.unpatched), self.groups[BACK.kind])
        site, layer = max(places, key=lambda place: back.right[place][chosen_on].mean())
        between = np.isin(back.other_numbers, reported)
        other_row = back.other_row[site, layer][between] if between.any() else None

        def share(right: NDArray[np.bool_], numbers: NDArray[np.integer]) -> Share:
            return share_right(right, groups_at(self.groups[BACK.kind], numbers))

        return BestPart(
            site, layer, len(places), share(back.right[site, layer][reported], reported),
            share(back.unpatched[reported], reported),
            None if other_row is None else share(other_row, back.other_numbers[between]),
        )  # fmt: skip


def measure_patching(case: Case, probing: ProbingMethodResult) -> PatchingMethodResult:
    """Patch the base and the fine-tuned model both ways; reference and null models in their stream alone.

    Where two halves meet is chosen by what probes read in the base, or by :func:`cuts_by_exchange`. What none of the
    layers has, as the MLP of a mixture of experts, is not exchanged.
    """
    of_layers = [find_layout(case.models[BASE]).layers[layer].refused for layer in case.layers]
    missing = {site: of_layers[0][site] for site in SITES if all(site in refused for refused in of_layers)}
    sites = [site for site in SITES if site not in missing]

    def patched(way: Way, sites: Sequence[str], other_rows: int) -> PatchingResult:
        found = [
            patch_each(
                case.everyone[way.donor], case.everyone[way.receiver], rows.token_ids, answer=rows.answer,
                shown=rows.shown, sites=sites, layers=case.layers, other_rows=other_rows,
                stands=case.stands(way.kind, rows), batch_size=case.rows_at_once(rows),
            ).counting(counts)
            for rows, counts in case.few(way.kind).each_accepted()
        ]  # fmt: skip
        return functools.reduce(PatchingResult.either, found)

    streams = [Way(BASE, NULL), Way(NULL, BASE), *(Way(name, BASE) for name in case.null_models)]
    found = {
        **{way: patched(way, sites, OTHER_ROWS) for way in (BACK, FORTH)},
        **{way: patched(way, ["resid_post"], 0) for way in streams},
    }
    cuts = choose_cuts(case, probing)
    return PatchingMethodResult(
        found=found, num_blocks=case.num_layers, cuts=cuts, missing=missing,
        is_comparable=case.capability.is_begun_with, groups=case.few_groups,
    )  # fmt: skip


def _draw_patching(ax: Axes, rows: pd.DataFrame, reference: str, way: str, null: str) -> None:
    found = pick(rows, model=way, questions="capability")
    for site, (label, color) in SITES.items():
        line(ax, pick(found, site=site, quantity="same row"), "layer", label, color)
        other = pick(found, site=site, quantity="other row")
        line(ax, other, "layer", f"{label}, another question", color, "--", marker="", band=False)
    line(
        ax,
        pick(rows, model=null, site="resid_post", quantity="same row"),
        "layer",
        f"whole stream, {reference}",
        CONTROL,
        DOTTED,
    )
    null_model_lines(ax, rows, "layer", called=null.replace("reference", "{}"), quantity="same row")
    layer_axis(ax, "patched block")
    accuracy_axis(ax)
    legend_below(ax)


def draw_patching_back(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the fine-tuned model with the base's activations at one place, by layer and site."""
    _draw_patching(ax, rows, reference, "base into fine-tuned", "base into reference")
    ax.set_title("The base's activations in the fine-tuned model")


def draw_patching_forth(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the base with the fine-tuned model's activations at one place, by layer and site."""
    _draw_patching(ax, rows, reference, "fine-tuned into base", "reference into base")
    ax.set_title("The fine-tuned model's activations in the base")


def explain_patching(summary: Summary) -> str:
    """What is written where, and which part alone brings most back."""
    return (
        "One model computes with the other's activations at one place. In the first picture, where a line is high, "
        f"undoing the change there is enough. {_best_part_text(summary['evidence'])} In the second it is "
        "the other way round: where the line of the whole stream is high, the first blocks still do their part. "
        "Dashed: activations of another question; where that is as high, the place does not matter. Dotted: the "
        "reference in the place of the fine-tuned model."
    )


def _best_part_text(evidence: dict[str, Any]) -> str:
    """Which attention or MLP alone brings most back, beside what the model is right on without it."""
    part, missing = evidence["best_part"], evidence.get("not_exchanged", {})
    lacking = "".join(f" The {PARTS[site]} cannot be exchanged by itself: {why}." for site, why in missing.items())
    return f"{'' if part is None else _part_text(part)}{lacking}".strip()


def _part_text(part: dict[str, Any]) -> str:
    name = f"the {PARTS[part['site']]} of block {part['layer']}"
    control = part["other_row"]
    shown = (
        f"of {part['places']} attentions and MLPs the best, chosen on other questions, is {name}: "
        f"{_percent(part['accuracy'])}; without it {_percent(part['alone'])}, "
        + ("no question is as long as another" if control is None else f"with another question's {_percent(control)}")
    )
    if part["accuracy"]["low"] <= max(each["high"] for each in (part["alone"], control) if each is not None):
        return f"No attention or MLP alone is: {shown}."
    return f"{shown[0].upper()}{shown[1:]}."


def _percent(share: dict[str, float]) -> str:
    return f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


PATCHING = Method(
    measure=measure_patching, needs=("probing",), title="Which layers carry the change",
    pictures=(draw_patching_back, draw_patching_forth), explain=explain_patching,
)  # fmt: skip
