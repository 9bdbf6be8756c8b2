"""How deeply is the capability unlearned? What the base loses with another model's stream, layer by layer.

See :mod:`ftmech_hf.analysis.unlearning_depth`; the patches are those of :mod:`.patching`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.analysis.patching import PatchingResult
from ftmech_hf.analysis.unlearning_depth import UnlearningDepthResult, unlearning_depth
from ftmech_hf.report.charts import CONTROL
from ftmech_hf.report.charts import FINETUNED as FINETUNED_COLOR
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, is_reference
from ftmech_hf.studies.diagnosis.figures import from_zero, layer_axis, line, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row
from ftmech_hf.studies.diagnosis.methods.patching import PatchingMethodResult, Way

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class UnlearningMethodResult(MethodResult):
    """How deeply models have unlearned the capability.

    Attributes:
        depths: model whose stream the base computes with -> what that takes away.
    """

    depths: Mapping[str, UnlearningDepthResult]

    def rows(self) -> list[TableRow]:
        """The depths, and by how much the log-probability of answers falls in every layer."""
        table = [
            row("unlearning", "unlearning depth", *each.depth, model=name, questions="capability",
                reference=is_reference(name))
            for name, each in self.depths.items() if not math.isnan(each.depth.value)
        ]  # fmt: skip
        falls = {NULL: self.depths[FINETUNED].control_falls, **{name: each.falls for name, each in self.depths.items()}}
        return table + [
            row("unlearning", "fall of log-probability", fall, model=name, questions="capability", layer=layer,
                reference=is_reference(name))
            for name, by_layer in falls.items() for layer, fall in by_layer.items()
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The depths."""
        return {"unlearning_depth": {name: each.summary() for name, each in self.depths.items()}}


def measure_unlearning(case: Case, patching: PatchingMethodResult) -> UnlearningMethodResult:
    """Read how deeply the fine-tuned and the null models have unlearned off what they patch into the base."""
    models, groups = [FINETUNED, *case.null_models], case.few_groups["capability"]
    return UnlearningMethodResult(depths=measure_depths(patching.found, models, groups=groups, seed=case.seed))


def measure_depths(
    found: Mapping[Way, PatchingResult], models: Sequence[str], *, groups: Groups = None, seed: int
) -> dict[str, UnlearningDepthResult]:
    """How deeply models have unlearned the capability, beside the reference, which does not have it."""
    streams = {
        name: {layer: values for (site, layer), values in found[Way(name, BASE)].log_probability.items()
               if site == "resid_post"}
        for name in (NULL, *models)
    }  # fmt: skip
    base = found[Way(NULL, BASE)].unpatched_log_probability
    return {name: unlearning_depth(base, streams[NULL], streams[name], groups=groups, seed=seed) for name in models}


def draw_unlearning(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """By how much answers become less likely in the base with another model's stream, by layer."""
    falls = pick(rows, quantity="fall of log-probability")
    line(ax, pick(falls, model=FINETUNED), "layer", "the fine-tuned model's stream", FINETUNED_COLOR)
    line(ax, pick(falls, model=NULL), "layer", f"{reference}'s stream", CONTROL, "--")
    null_model_lines(ax, falls, "layer")
    layer_axis(ax, "patched block")
    ax.set_ylabel("fall of log-probability, nats")
    from_zero(ax, "What the base loses with another stream")


def explain_unlearning(summary: Summary) -> str:
    """What the lines are, and the depths."""
    said = "; ".join(
        f"{name} {each['value']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
        for name, each in summary["evidence"]["unlearning_depth"].items() if each["value"] is not None
    )  # fmt: skip
    drawn = "The base computes with another model's stream after one block, and gives the right answers less often. "
    if not said:
        return f"{drawn}With the reference's it loses nothing, so that there is no unlearning depth."
    return (
        f"{drawn}The unlearning depth (Lee et al., arXiv 2605.24614) is the part of what the reference's stream takes "
        f"away that another's takes away as well: 0 where all is still there, 1 where nothing is: {said}."
    )


UNLEARNING = Method(
    measure=measure_unlearning, needs=("patching",), title="How deeply it is unlearned", pictures=(draw_unlearning,),
    explain=explain_unlearning,
)  # fmt: skip
