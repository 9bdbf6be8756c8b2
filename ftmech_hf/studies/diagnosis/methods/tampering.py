"""Does it come back when the weights are tampered with? Fewer bits, and noise. See :mod:`ftmech_hf.analysis.tampering`.

Teaching half of the answers again and asking for the others (arXiv 2410.08827) is not among the attacks: a model that
is taught some answers alone comes to say no others, and the planted wrapper of the tests was right on none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.activations import block_matrices
from ftmech_hf.analysis.restoring import replaced
from ftmech_hf.analysis.tampering import all_noisy, all_rounded
from ftmech_hf.report.charts import accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import difference_over_draws, mean_over_draws
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.figures import COLORS, line, marks, name_model, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BITS = (8, 4, 3)
SIZES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Standard deviations of the noise, in those of the matrices."""
DRAWS = 8


class Noise(NamedTuple):
    """A model under noise.

    Attributes:
        curve: size -> mean score on validation rows, of all draws.
        size: the one with the highest mean.
        right: test rows right at that size, under draws that chose nothing, (draws, rows).
        plain: test rows right without noise.
        groups: what each row is about; None where each is by itself.
    """

    curve: Mapping[float, float]
    size: float
    right: NDArray[np.bool_]
    plain: NDArray[np.bool_]
    groups: Groups

    @property
    def accuracy(self) -> Share:
        """What is right under noise, over rows and draws."""
        return mean_over_draws(self.right, self.groups)

    @property
    def gained(self) -> Share:
        """What is right under noise, less what is right without: of the same rows, over rows and draws."""
        return difference_over_draws(self.right, self.plain, self.groups)

    @property
    def rises(self) -> bool:
        """Whether accuracy under noise is higher beyond the interval of the difference."""
        return self.gained.low > 0


@dataclass(frozen=True, kw_only=True)
class TamperingMethodResult(MethodResult):
    """What is right after tampering.

    Attributes:
        rounded: (model, bits) -> test rows right.
        noise: model -> under noise.
        groups: what each row is about; None where each is by itself.
    """

    rounded: Mapping[tuple[str, int], NDArray[np.bool_]]
    noise: Mapping[str, Noise]
    groups: Groups

    def rows(self) -> list[TableRow]:
        """Accuracy under every attack."""
        table = [
            row("tampering", "rounded", *share_right(right, self.groups), model=model, questions="capability",
                x=bits, reference=model == NULL)
            for (model, bits), right in self.rounded.items()
        ]  # fmt: skip
        for model, found in self.noise.items():
            cells: dict[str, Any] = {"model": model, "questions": "capability", "reference": model == NULL}
            table += [row("tampering", "noise, validation rows", value, x=size, **cells)
                      for size, value in found.curve.items()]  # fmt: skip
            table.append(row("tampering", "noise", *found.accuracy, x=found.size, **cells))
            table.append(row("tampering", "noise", *share_right(found.plain, self.groups), x=0.0, **cells))
            table.append(row("tampering", "gained by noise", *found.gained, x=found.size, **cells))
        return table

    def summary(self) -> dict[str, Any]:
        """Under which attacks it rises."""
        noise = {
            model: {
                "size": found.size,
                "accuracy": found.accuracy,
                "plain": share_right(found.plain, self.groups),
                "gained": found.gained,
                "rises": found.rises,
            }
            for model, found in self.noise.items()
        }
        rounded: dict[str, dict[int, Share]] = {}
        for (model, bits), right in self.rounded.items():
            rounded.setdefault(model, {})[bits] = share_right(right, self.groups)
        return {"tampering": {"rounded": rounded, "noise": noise}}


def measure_tampering(case: Case) -> TamperingMethodResult:
    """Round and shake the fine-tuned model, and the reference in the same way."""
    rounds: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for name in (BASE, FINETUNED, NULL):
        model = case.models[name]
        weights, axes = block_matrices(model)
        for bits in BITS:
            with replaced(model, all_rounded(weights, axes, bits)):
                rounds[name, bits] = case.few_right(model, "capability")
    noise = {name: _shake(case, case.models[name]) for name in (FINETUNED, NULL)}
    return TamperingMethodResult(rounded=rounds, noise=noise, groups=case.few("capability").groups)


def _shake(case: Case, model: PreTrainedModel) -> Noise:
    weights, _ = block_matrices(model)
    rows = case.capability.validation[: case.config.patch_rows]
    curve = {}
    for place, size in enumerate(SIZES):
        scores = []
        for draw in range(DRAWS):
            with replaced(model, all_noisy(weights, size, seed=_seed(case.seed, place, draw))):
                scores.append(case.capability.mean_score(model, rows))
        curve[size] = float(np.mean(scores))
    best = max(curve, key=lambda size: curve[size])
    right = []
    for draw in range(DRAWS):
        with replaced(model, all_noisy(weights, best, seed=_seed(case.seed, len(SIZES), draw))):
            right.append(case.few_right(model, "capability"))
    plain = case.few_right(model, "capability")
    return Noise(curve, best, np.array(right), plain, case.few("capability").groups)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def draw_noise(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the size of the noise, on validation rows; large marks: on test rows at the best."""
    for model in ("fine-tuned", "reference"):
        curve = pick(rows, quantity="noise, validation rows", model=model)
        line(ax, curve, "x", name_model(model, reference), COLORS[model], band=False)
        marks(ax, pick(rows, quantity="noise", model=model), "x", COLORS[model])
    ax.set_xlabel("noise, in standard deviations of each matrix")
    accuracy_axis(ax)
    legend_below(ax)


def draw_bits(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the bits of every weight."""
    for model in ("base", "fine-tuned", "reference"):
        line(ax, pick(rows, quantity="rounded", model=model), "x", name_model(model, reference), COLORS[model])
    ax.set_xlabel("bits of a weight")
    accuracy_axis(ax)
    legend_below(ax)


def explain_tampering(summary: Summary) -> str:
    """What was done, and what rose."""
    found = summary["evidence"]["tampering"]
    noise = found["noise"][FINETUNED]
    rises = "rises beyond its interval" if noise["rises"] else "does not rise beyond its interval"
    by = ""
    if gained := noise.get("gained"):  # runs of earlier versions have none
        value, low, high = (f"{100 * gained[name]:+.0f}" for name in Share._fields)
        by = f", by {value} points ({low} to {high}) of the same questions"
    return (
        "The matrices of the blocks are shaken, and rounded to few bits. The size of the noise, "
        f"{noise['size']:g}, was chosen on other questions; on these (squares) accuracy {rises}{by}."
    )


TAMPERING = Method(
    measure=measure_tampering, title="Tampering with the weights", pictures=(draw_noise, draw_bits),
    explain=explain_tampering, needs_weights=True, asked_by="attacks",
)  # fmt: skip
