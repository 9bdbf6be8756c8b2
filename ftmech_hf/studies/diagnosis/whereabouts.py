"""Where a change is and what it looks like: logit lens, representations, gradients, weights, the path between models.

Each function asks one analysis, and gives rows of the tidy table and facts for the summary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, find_layout, find_units
from ftmech_hf.analysis.input_gradients import compare_input_gradients
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.analysis.path import PathResult
from ftmech_hf.analysis.separation import cluster_separation
from ftmech_hf.analysis.similarity import compare_representations
from ftmech_hf.analysis.weights import action_on, weight_change
from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import (
    BASE,
    FINETUNED,
    NULL,
    REHEARSED,
    Examined,
    Found,
    TableRow,
    is_reference,
    row,
)
from ftmech_hf.training.evaluation import answer_accuracy


def lens(case: Examined) -> Found:
    """What each layer would answer to the capability's questions."""
    rows = case.few("capability")
    answers = {"right answer": rows[:, -2]}
    if case.capability.other_answer is not None:
        answers["other answer"] = case.capability.other_answer[: len(rows)]
    table = []
    for name, model in case.everyone.items():
        for each in logit_lens(model, rows, answers).rows():
            table.append(row("logit lens", each["answer"], each["value"], each["low"], each["high"], model=name,
                             questions="capability", layer=each["layer"], reference=is_reference(name)))  # fmt: skip
    for name, token in answers.items():
        majority = float(torch.bincount(token).max() / len(token))
        table.append(row("logit lens", "majority", majority, site=name, questions="capability", reference=True))
    return table, {}


def similarity(case: Examined) -> Found:
    """CKA of the base with every other model, on both kinds of questions."""
    table = []
    for kind in case.both:
        base = case.stream(BASE, kind, "test")
        for name in (name for name in case.everyone if name != BASE):
            for each in compare_representations(base, case.stream(name, kind, "test"), seed=case.seed).rows():
                place: dict[str, Any] = {"model": name, "questions": kind, "site": each["site"],
                         "layer": int(each["site"].removeprefix("block "))}  # fmt: skip
                halves = sorted((each["first_half"], each["second_half"]))
                table.append(row("similarity", "CKA", each["cka"], *halves, **place, reference=is_reference(name)))
                if name == FINETUNED:
                    table.append(row("similarity", "rows shuffled", each["shuffled"], **place, reference=True))
    return table, {}


def separation(case: Examined) -> Found:
    """How far apart each model holds both kinds of questions; the two most frequent answers if there is one kind."""
    table = []
    for name in case.everyone:
        first = case.stream(name, "capability", "test")
        if case.other:
            second = case.stream(name, "other", "test")
        else:
            answers = case.capability.test[:, -2]
            most = torch.bincount(answers).topk(2).indices
            first, second = ({site: values[answers == answer] for site, values in first.items()} for answer in most)
        for each in cluster_separation(first, second, seed=case.seed).rows():
            place: dict[str, Any] = {
                "model": name,
                "site": each["site"],
                "layer": int(each["site"].removeprefix("block ")),
            }
            table.append(row("separation", "tau", each["tau"], **place, reference=is_reference(name)))
            table.append(row("separation", "own side", each["own_side"], each["own_side_low"], each["own_side_high"],
                             **place, reference=is_reference(name)))  # fmt: skip
            table.append(row("separation", "kinds by chance", each["shuffled"], **place, reference=True))
    return table, {}


def sensitivity(case: Examined) -> Found:
    """Norm of the gradient of the largest logit; the fine-tuned model's over the base's on the same rows."""
    table: list[TableRow] = []
    ratios, halves = {}, {}
    for kind in case.both:
        result = compare_input_gradients(case.everyone, case.few(kind))
        for each in result.rows():
            table.append(row("sensitivity", "gradient norm", each["median"], each["low"], each["high"],
                             model=each["model"], questions=kind, reference=is_reference(each["model"])))  # fmt: skip
        ratios[kind], halves[kind] = result.ratio(FINETUNED, BASE), result.halves_ratio(BASE)
        table.append(row("sensitivity", "ratio to base", *ratios[kind], model=FINETUNED, questions=kind))
        table.append(row("sensitivity", "ratio of halves", halves[kind], model=BASE, questions=kind, reference=True))
    return table, {"sensitivity_ratio": ratios, "halves_ratio": halves}


def weights(case: Examined) -> Found:
    """The change of every matrix, beside a random one of its norm, and how it acts on both kinds of questions."""
    parameters = {name: dict(model.named_parameters()) for name, model in case.everyone.items()}
    units = find_units(case.models[BASE], "row")
    transposed = {f"{name}.weight": group.axis == 1 for name, group in units.items()}
    result = weight_change(parameters[BASE], parameters[FINETUNED], transposed, seed=case.seed)
    path = find_layout(case.models[BASE]).blocks
    table: list[TableRow] = []

    def place_of(name: str) -> dict[str, Any]:
        layer, _, part = name.removeprefix(f"{path}.").removesuffix(".weight").partition(".")
        return {"site": part, "layer": int(layer)}

    for name, change in result.matrices.items():
        place = {"model": FINETUNED, **place_of(name)}
        for quantity in ("relative_norm", "effective_rank", "largest_share", "outside"):
            table.append(row("weights", quantity.replace("_", " "), getattr(change, quantity), **place))
        table.append(row("weights", "effective rank", change.random_rank, **place, reference=True))
        table.append(row("weights", "outside", change.random_outside, **place, reference=True))
        for number, (value, by_chance) in enumerate(zip(change.spectrum, change.random_spectrum, strict=True)):
            if number < 32:
                table.append(row("weights", "singular value", float(value), **place, x=number))
                table.append(row("weights", "singular value", float(by_chance), **place, x=number, reference=True))
    outside = outside_blocks(case.models[BASE], path)
    for name, size in result.vectors.items():
        table.append(row("weights", "relative norm", size, model=FINETUNED, site=outside.get(name, name)))
    facts = result.summary()
    facts["outside_blocks"] = {part: result.vectors[name] for name, part in outside.items()}
    if REHEARSED in parameters:  # another seed's weights are another model's: their distance says nothing
        sizes = weight_change(parameters[BASE], parameters[REHEARSED], {}).vectors
        facts["taught_nothing"] = sum(sizes[name] for name in result.matrices) / len(result.matrices)
        table += [row("weights", "relative norm", sizes[name], model=REHEARSED, **place_of(name), reference=True)
                  for name in result.matrices]  # fmt: skip
        table += [row("weights", "relative norm", sizes[name], model=REHEARSED, site=part, reference=True)
                  for name, part in outside.items()]  # fmt: skip
    return [*table, *_action(case)], {"weights": facts}


def outside_blocks(model: PreTrainedModel, blocks: str) -> dict[str, str]:
    """Parameters outside the blocks -> what they are called: no other instrument looks at them."""
    known = {"embeddings": model.get_input_embeddings(), "unembedding": model.get_output_embeddings()}
    called = {id(each.weight): part for part, each in reversed(known.items()) if each is not None}
    return {
        name: called.get(id(parameter), name.removesuffix(".weight"))
        for name, parameter in model.named_parameters() if not name.startswith(f"{blocks}.")
    }  # fmt: skip


def _action(case: Examined) -> list[TableRow]:
    """How strongly the change of each MLP's last matrix acts on what enters it, and a random change of its norm."""
    layout = find_layout(case.models[BASE])
    layout.require("mlp_act")
    groups = {name: find_units(case.models[name], "row") for name in (BASE, FINETUNED)}
    table: list[TableRow] = []
    traced = TracedModel(case.models[FINETUNED])
    for kind in case.both:
        entered = traced.collect(case.few(kind)[:, :-2], ["mlp_act"], layers=case.layers)
        for layer in case.layers:
            down = {name: found[f"{layout.blocks}.{layer}.{layout.mlp_down}"] for name, found in groups.items()}
            before, after = (group.weight.detach().movedim(group.axis, 0) for group in down.values())
            delta = after - before
            drawn = torch.randn(delta.shape, generator=torch.Generator().manual_seed(case.seed))
            for change, reference in ((delta, False), (drawn * (delta.norm() / drawn.norm()), True)):
                value = float(action_on(change, before, entered["mlp_act", layer]).mean())
                table.append(row("weights", "action", value, model=FINETUNED, questions=kind, site=layout.mlp_down,
                                 layer=layer, reference=reference))  # fmt: skip
    return table


def path(case: Examined, reversed_model: PreTrainedModel) -> Found:
    """Accuracy on both kinds of questions from the base over the fine-tuned model to the reversed one."""
    lines = {
        "base, fine-tuned, reversed": ([case.models[BASE], case.models[FINETUNED], reversed_model], list(case.both)),
        "base, reference": ([case.models[BASE], case.models[NULL]], ["capability"]),
        **{f"base, {name}": ([case.models[BASE], model], ["capability"]) for name, model in case.bystanders.items()},
    }
    table: list[TableRow] = []
    barriers = {}
    for name, (models, kinds) in lines.items():
        positions = np.arange(0, len(models) - 0.99, 0.25).tolist()
        accuracy: dict[str, list[float]] = {kind: [] for kind in kinds}
        for position in positions:
            piece = min(int(position), len(models) - 2)
            between = interpolate_weights(models[piece], models[piece + 1], position - piece)
            for kind in kinds:
                accuracy[kind].append(answer_accuracy(between, case.few(kind)))
        result = PathResult(positions, accuracy, name)
        barriers[name] = result.summary()
        for each in result.rows():
            number = len(case.few(each["test_set"]))
            share = share_interval(round(each["accuracy"] * number), number)
            table.append(row("path", name, *share, questions=each["test_set"], x=each["position"],
                             reference=FINETUNED not in name))  # fmt: skip
    return table, {"barriers": barriers}
