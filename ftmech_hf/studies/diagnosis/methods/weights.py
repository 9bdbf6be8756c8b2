"""How much did the weights change? Every matrix beside a random change of its norm, and how the change acts on prompts.

See :mod:`ftmech_hf.analysis.weights`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import Units, find_layout, find_units, model_blocks, split_experts
from ftmech_hf.analysis.weights import WeightChangeResult, action_on, weight_change
from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.models.vocabulary import CommonTokens, num_rows, vocabulary_parameters
from ftmech_hf.report.charts import FINETUNED as FINETUNED_COLOR
from ftmech_hf.report.charts import RANDOM
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, SELF_DISTILLED, Case
from ftmech_hf.studies.diagnosis.figures import OTHER, from_zero, layer_axis, line, pick, spread
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SINGULAR_VALUES = 32
"""The largest ones, which go into the table."""


class Place(NamedTuple):
    """Where a parameter is: ``site`` is its name inside its block; outside the blocks ``layer`` is None."""

    site: str
    layer: int | None = None


class TokenChange(NamedTuple):
    """What became of the tokens: how many both models know, one knows alone, and have another embedding."""

    common: int
    only_base: int
    only_finetuned: int
    changed: int


class Action(NamedTuple):
    """How strongly the change of an MLP's last matrix acts on what enters it, and a random change of its norm does."""

    kind: str
    place: Place
    change: float
    random: float


@dataclass(frozen=True, kw_only=True)
class WeightsMethodResult(MethodResult):
    """The change of every weight.

    Attributes:
        change: of the fine-tuned model; decomposed are the matrices of the layers that are looked into.
        places: parameter -> where it is.
        distilled: parameter -> the relative norm of its change in the base that was taught nothing, if there is one.
            Another seed's weights are another model's: their distance says nothing.
        action: of the change on prompts.
        tokens: those of which embeddings were compared.
        others: matrices of the blocks that are not looked into, of which the sizes of the changes alone are known.
    """

    change: WeightChangeResult
    places: Mapping[str, Place]
    distilled: Mapping[str, float] | None
    action: list[Action]
    tokens: TokenChange
    others: Collection[str]

    def rows(self) -> list[TableRow]:
        """Size, rank and directions of every change, beside random ones and a fine-tuning that teaches nothing."""
        table: list[TableRow] = []
        for name, change in self.change.matrices.items():
            place = {"model": FINETUNED, **self.places[name]._asdict()}
            for quantity in ("relative_norm", "effective_rank", "largest_share", "outside"):
                table.append(row("weights", quantity.replace("_", " "), getattr(change, quantity), **place))
            table.append(row("weights", "effective rank", change.random_rank, **place, reference=True))
            table.append(row("weights", "outside", change.random_outside, **place, reference=True))
            both = zip(change.spectrum[:SINGULAR_VALUES], change.random_spectrum[:SINGULAR_VALUES], strict=True)
            for number, (value, by_chance) in enumerate(both):
                table.append(row("weights", "singular value", float(value), **place, x=number))
                table.append(row("weights", "singular value", float(by_chance), **place, x=number, reference=True))
        for name, size in self.change.vectors.items():
            place = self.places[name]._asdict() if name in self.others else {"site": self._vector_site(name)}
            table.append(row("weights", "relative norm", size, model=FINETUNED, **place))
        return [*table, *self._distilled_rows(), *self._action_rows()]

    def _vector_site(self, name: str) -> str:
        return name if self.places[name].layer is not None else self.places[name].site

    def _distilled_rows(self) -> list[TableRow]:
        return [
            row("weights", "relative norm", size, model=SELF_DISTILLED, **self.places[name]._asdict(), reference=True)
            for name, size in ({} if self.distilled is None else self.distilled).items()
        ]

    def _action_rows(self) -> list[TableRow]:
        return [
            row("weights", "action", value, model=FINETUNED, questions=each.kind, **each.place._asdict(),
                reference=reference)
            for each in self.action for value, reference in ((each.change, False), (each.random, True))
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Means over all matrices, and what changed outside the blocks."""
        outside = {place.site: self.change.vectors[name] for name, place in self.places.items() if place.layer is None}
        others = sum(self.change.vectors[name] > 0 for name in self.others)
        facts = {**self.change.summary(), "others_changed": others, "outside_blocks": outside,
                 "tokens": self.tokens._asdict()}  # fmt: skip
        if self.distilled is not None:
            # of the same matrices as the mean beside it: those that fine-tuning changed
            sizes = [self.distilled[name] for name, each in self.change.matrices.items() if each.relative_norm > 0]
            if sizes:
                facts["taught_nothing"] = sum(sizes) / len(sizes)
        return {"weights": facts}


def measure_weights(case: Case) -> WeightsMethodResult:
    """Compare the weights of the base with the fine-tuned model's, and with those of a base that was taught nothing."""
    units = find_units(case.models[BASE], "row")
    places = find_places(case.models[BASE], units)
    matrices = {group.matrix(name): group.axis == 1 for name, group in units.items()}
    transposed = {name: turned for name, turned in matrices.items() if places[name].layer in case.layers}
    others = matrices.keys() - transposed.keys()
    before, after, tokens = common_parameters(case)
    before, after = split_experts(before, units), split_experts(after, units)
    change = weight_change(before, after, transposed, seed=case.seed)
    distilled = None
    if SELF_DISTILLED in case.everyone:
        base, taught = (split_experts(stored_tensors(case.everyone[name]), units) for name in (BASE, SELF_DISTILLED))
        sizes = weight_change(base, taught, {}).vectors
        outside = [name for name, place in places.items() if place.layer is None]
        distilled = {name: sizes[name] for name in (*change.matrices, *others, *outside)}
    return WeightsMethodResult(
        change=change, places=places, distilled=distilled, action=_measure_action(case), tokens=tokens, others=others
    )


def common_parameters(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor], TokenChange]:
    """The parameters of the base and of the fine-tuned model, embeddings and unembeddings of common tokens alone."""
    models = case.models[BASE], case.models[FINETUNED]
    before, after = (stored_tensors(model) for model in models)
    with_rows = vocabulary_parameters(models[0])
    every = torch.arange(num_rows(models[0]))
    common = case.common.get(FINETUNED) or CommonTokens(every, every)
    changed = torch.zeros(len(common.first), dtype=torch.bool)
    for name in with_rows:
        before[name], after[name] = before[name][common.first].detach(), after[name][common.second].detach()
        differ = before[name] != after[name].to(before[name].device)
        changed |= differ.reshape(len(common.first), -1).any(1).cpu()  # an unembedding's bias has one number a token
    counts = len(common.first), len(common.only_first), len(common.only_second), int(changed.sum())
    return before, after, TokenChange(*counts)


def find_places(model: PreTrainedModel, units: Units | None = None) -> dict[str, Place]:
    """Parameters -> where they are, experts by themselves. Outside the blocks no other method looks at them."""
    stored = stored_tensors(model)
    inside = {
        name: Place(name.removeprefix(f"{path}.").removesuffix(".weight"), layer)
        for layer, (path, _) in enumerate(model_blocks(model))
        for name in stored if name.startswith(f"{path}.")
    }  # fmt: skip
    units = units or {}
    for name, group in units.items():
        if group.expert is not None:
            inside[name] = Place(name.partition(f".{group.layer}.")[2], group.layer)
    known = {"embeddings": model.get_input_embeddings(), "unembedding": model.get_output_embeddings()}
    called = {id(each.weight): part for part, each in reversed(known.items()) if each is not None}
    return {
        name: inside.get(name, Place(called.get(id(parameter), name.removesuffix(".weight"))))
        for name, parameter in split_experts(stored, units).items()
    }  # fmt: skip


def _measure_action(case: Case) -> list[Action]:
    """Of the last matrices of MLPs, in the layers that have one; where tokens are sent to experts there is none."""
    layout = find_layout(case.models[BASE])
    layers = [layer for layer in case.layers if "mlp_act" not in layout.layers[layer].refused]
    if not layers:
        return []
    groups = {name: find_units(case.models[name], "row") for name in (BASE, FINETUNED)}
    found: list[Action] = []
    traced = case.opened(FINETUNED)
    for kind in case.both:
        rows = case.few(kind)
        size = case.rows_at_once(rows, 256)
        entered = traced.collect(rows.prompts()[0], ["mlp_act"], layers=layers, batch_size=size)
        for layer in layers:
            path = layout.layers[layer].mlp_down
            down = {name: each[f"{layout.blocks}.{layer}.{path}"] for name, each in groups.items()}
            before, after = (
                group.weight.detach().movedim(group.axis, 0).to("cpu", torch.float32) for group in down.values()
            )
            delta = after - before
            drawn = torch.randn(delta.shape, generator=torch.Generator().manual_seed(case.seed))
            acts = [
                float(action_on(change, before, entered["mlp_act", layer]).mean())
                for change in (delta, drawn * (delta.norm() / drawn.norm()))
            ]
            found.append(Action(kind, Place(path, layer), *acts))
    return found


def draw_weight_sizes(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Norm of the change over that of the matrix, by block and matrix."""
    sizes = pick(rows[rows["layer"].notna()], quantity="relative norm")
    for site, each in pick(sizes, model="fine-tuned").groupby("site", sort=False):
        ax.plot(each["layer"], each["value"], marker="o", linewidth=1, label=".".join(str(site).split(".")[-2:]))
    if len(nothing := pick(sizes, model=SELF_DISTILLED)):
        mean = nothing.groupby("layer", as_index=False)["value"].mean()
        ax.plot(mean["layer"], mean["value"], color=RANDOM, linestyle="--", label=f"{SELF_DISTILLED}, mean")
    ax.set_ylabel("share of the matrix's norm")
    layer_axis(ax)
    from_zero(ax, "Size of the change")


def draw_weight_spectrum(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Singular values of the change and of a random one of its size: mean and range over matrices."""
    spectrum = pick(rows, quantity="singular value")
    for by_chance, label, color, style in ((False, "the change", FINETUNED_COLOR, "-"), (True, "random", RANDOM, "--")):
        chosen = spectrum[spectrum["reference"] == by_chance]
        curve = chosen.groupby("x")["value"].mean()
        spread(ax, chosen.assign(x=chosen["x"] + 1), color)
        ax.plot(curve.index + 1, curve.to_numpy(), style, color=color, label=label, marker=".")
    ax.set_xlabel("largest first")
    from_zero(ax, "Its singular values")


def draw_weight_action(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """How strongly the change of the MLPs' last matrices acts on both kinds of prompts, beside a random one."""
    action = pick(rows, quantity="action")
    kinds = (
        ("capability", "on the capability's prompts", FINETUNED_COLOR),
        ("other", "on prompts about what was taught", OTHER),
    )
    for kind, label, color in kinds:
        for by_chance in (False, True):
            each = pick(action[action["reference"] == by_chance], questions=kind)
            if len(each) and not (by_chance and kind == "other"):
                shown = ("a random change", RANDOM, "--") if by_chance else (label, color, "-")
                line(ax, each, "layer", *shown)
    ax.set_ylabel("|dW a| over |W a|")
    layer_axis(ax)
    from_zero(ax, "How it acts on prompts (last matrix of the MLPs)")


def explain_weights(summary: Summary) -> str:
    """How much the weights changed, in and outside the blocks."""
    changed = summary["evidence"]["weights"]
    sizes = [f"{name} {size:.1%}" for name, size in changed["outside_blocks"].items() if size]
    outside = f" Outside the blocks changed: {', '.join(sizes)}." if sizes else " Nothing outside the blocks changed."
    outside += _explain_tokens(changed["tokens"])
    others = changed["others_changed"]
    if not changed["changed"]:
        where = "of the blocks that were looked into " if others else "of the blocks "
        return f"No matrix {where}changed{f', {others} of the others did' if others else ''}.{outside}"
    nothing = changed.get("taught_nothing")
    beside = "" if nothing is None else f" (a fine-tuning that teaches nothing: {nothing:.1%}, dashed)"
    return (
        f"The matrices of the blocks changed by {changed['relative_norm']:.1%} of their size on average{beside}. "
        f"A change has effective rank {changed['effective_rank']:.0f}, a random one {changed['random_rank']:.0f}; "
        f"{changed['outside']:.0%} of its main directions lie outside those the base writes into, "
        f"{changed['random_outside']:.0%} by chance. Grey: a random change of the same size.{outside}"
    )


def _explain_tokens(tokens: Mapping[str, int]) -> str:
    """Which tokens were compared, where the vocabularies differ or single tokens changed."""
    said = ""
    if tokens["only_base"] or tokens["only_finetuned"]:
        said = (
            f" Embeddings are compared on the {tokens['common']} tokens that both models know; "
            f"{tokens['only_base']} are the base's alone and {tokens['only_finetuned']} the fine-tuned model's."
        )
    if 0 < tokens["changed"] < tokens["common"]:
        said += f" {tokens['changed']} of {tokens['common']} tokens have another embedding or unembedding."
    return said


WEIGHTS = Method(
    measure=measure_weights, title="How much the weights changed",
    pictures=(draw_weight_sizes, draw_weight_spectrum, draw_weight_action), explain=explain_weights,
    needs_weights=True,
)  # fmt: skip
