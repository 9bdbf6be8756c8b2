"""What the verdict on a pair of models rests on: behaviour, pruning, probes, patching, reverse fine-tuning.

Each function asks one analysis, and gives rows of the tidy table and the evidence that the rule reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import find_units
from ftmech_hf.analysis.patching import PatchingResult, patch_each
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.analysis.pruning import Mask, gradient_importance, prune_sweep, pruned
from ftmech_hf.analysis.verdict import Revivals
from ftmech_hf.intervals import Share, mean_interval, paired_difference, share_interval
from ftmech_hf.studies.examination import BASE, FINETUNED, NULL, Examined, Found, TableRow, is_reference, row
from ftmech_hf.studies.revival import Curve, revive
from ftmech_hf.training.objectives import answer_accuracy, answer_logits, answer_only_loss

EVAL_ROWS = 128
"""Test rows of every look at a model that is fine-tuned back."""

SITES = ("resid_post", "attn_out", "mlp_act")


@torch.no_grad()
def _right(model: PreTrainedModel, token_ids: Tensor) -> NDArray[np.bool_]:
    parts = [answer_logits(model, rows).argmax(-1) == rows[:, -2] for rows in token_ids.split(256)]
    right: NDArray[np.bool_] = torch.cat(parts).numpy()
    return right


def _share(hits: NDArray[np.bool_]) -> Share:
    return share_interval(int(hits.sum()), len(hits))


def _rounded(accuracy: float, number: int) -> Share:
    return share_interval(round(accuracy * number), number)


def behaviour(case: Examined) -> Found:
    """Accuracy of all models on both kinds of questions."""
    table, right = [], {}
    for name, model in case.everyone.items():
        for kind, questions in case.both.items():
            hits = right[name, kind] = _right(model, questions.test)
            share = _share(hits)
            table.append(row("behaviour", "accuracy", *share, model=name, questions=kind,
                             reference=is_reference(name)))  # fmt: skip
    for kind, questions in case.both.items():
        table.append(row("behaviour", "chance", questions.chance, questions=kind, reference=True))
    shares = {name: _share(right[name, "capability"]) for name in (BASE, FINETUNED)}
    drop = paired_difference(right[BASE, "capability"], right[FINETUNED, "capability"])
    return table, {
        "chance": case.capability.chance, "base": shares[BASE], "finetuned": shares[FINETUNED], "drop": drop,
    }  # fmt: skip


def pruning(case: Examined) -> Found:
    """Accuracy after pruning the rows that stand in the capability's way, and after pruning random ones."""
    model, config = case.models[FINETUNED], case.config
    units = find_units(model, "row")
    scored = case.capability.train[: config.patch_rows]
    importance = gradient_importance(units, lambda rows: answer_only_loss(model, rows), scored)
    sets = {"validation": case.capability.validation[: config.patch_rows], "capability": case.few("capability")}
    if case.other:
        sets["other"] = case.few("other")

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        with pruned(units, mask):
            return {name: answer_accuracy(model, sets[name]) for name in names}

    result = prune_sweep(
        importance, evaluate, unit="row", test_sets=list(sets), control_sets=["capability"],
        sizes=config.prune_sizes, max_best_k=max(config.prune_sizes), chosen_on="validation", num_random=1,
        num_random_at_best=config.random_masks, seed=case.seed,
    )  # fmt: skip
    number = len(sets["capability"])
    table = [
        row("pruning", f"{entry['method']} rows", *_rounded(entry[kind], len(sets[kind])), model=FINETUNED,
            questions=kind, x=entry["num_pruned"], reference=entry["method"] == "random")
        for entry in result.curve for kind in ("capability", "other") if kind in entry
    ]  # fmt: skip
    random = [entry["capability"] for entry in result.curve
              if entry["method"] == "random" and entry["num_pruned"] == result.best_k]  # fmt: skip
    best = _rounded(result.at_best("importance", "capability"), number)
    by_chance = Share(*(min(max(each, 0.0), 1.0) for each in mean_interval(random)))
    return table, {
        "pruned": best, "pruned_random": by_chance, "best_k": result.best_k, "pruned_rows": result.pruned,
    }  # fmt: skip


def _patch_table(name: str, kind: str, found: PatchingResult) -> list[TableRow]:
    return [
        row("patching", each["patch"], each["value"], each["low"], each["high"], model=name, questions=kind,
            site=each["site"], layer=each["layer"], reference=each["patch"] == "other row")
        for each in found.rows()
    ]  # fmt: skip


def patching(case: Examined, cuts: tuple[int | None, int]) -> Found:
    """Base into fine-tuned and back at every site and layer; and where the halves meet, with the reference's half.

    Args:
        case: the models.
        cuts: from :func:`probing`: the layer after which the answer is still to be computed, None if there is no such
            layer, and the layer after which it is there.
    """
    ways = {"base into fine-tuned": (BASE, FINETUNED), "fine-tuned into base": (FINETUNED, BASE)}
    table: list[TableRow] = []
    found = {}
    for way, (donor, receiver) in ways.items():
        for kind in case.both:
            result = patch_each(
                case.models[donor], case.models[receiver], case.few(kind), sites=SITES, layers=case.layers,
                other_rows=64 if kind == "capability" else 0,
            )  # fmt: skip
            table += _patch_table(way, kind, result)
            found[way, kind] = result
    back, forth = found["base into fine-tuned", "capability"], found["fine-tuned into base", "capability"]
    late, early = cuts
    site, at = back.best_place(["attn_out", "mlp_act"])
    facts: dict[str, Any] = {
        "early": _share(forth.right["resid_post", early]), "late": None, "late_null": None, "cuts": cuts,
        "best_part": {"site": site, "layer": at, "accuracy": back.accuracy(site, at)},
    }  # fmt: skip
    nulls = {"base into reference": (BASE, NULL), "reference into base": (NULL, BASE)}
    for way, (donor, receiver) in nulls.items():
        result = patch_each(case.models[donor], case.models[receiver], case.few("capability"), sites=["resid_post"],
                            layers=case.layers, other_rows=0)  # fmt: skip
        table += [{**each, "reference": True} for each in _patch_table(way, "capability", result)]
        if receiver == BASE:
            facts["early_null"] = _share(result.right["resid_post", early])
        elif late is not None:
            facts |= {
                "late": _share(back.right["resid_post", late]),
                "late_null": _share(result.right["resid_post", late]),
            }
    for name, model in case.bystanders.items():
        result = patch_each(model, case.models[BASE], case.few("capability"), sites=["resid_post"], layers=case.layers,
                            other_rows=0)  # fmt: skip
        table += [{**each, "reference": True} for each in _patch_table(f"{name} into base", "capability", result)]
    return table, facts


def probing(case: Examined) -> Found:
    """Probes fitted on each model. Where they count, and where halves meet, base and references alone choose.

    Random networks differ in how much they let be read, so there are several: the reference and two of random weights.
    """
    labels = {split: getattr(case.capability, split)[:, -2].numpy() for split in ("train", "test")}
    scores = {
        name: {int(score.site.removeprefix("block ")): score for score in fit_probes(
            case.stream(name, "capability", "train"), labels["train"], case.stream(name, "capability", "test"),
            labels["test"], seed=case.seed, num_shuffles=1, code=False).scores}
        for name in (*case.models, *case.more_references)
    }  # fmt: skip
    shares = {
        name: {layer: Share(score.accuracy, score.low, score.high) for layer, score in layers.items()}
        for name, layers in scores.items()
    }
    table = [
        row("probing", "probe", *share, model=name, questions="capability", layer=layer,
            reference=is_reference(name))
        for name, layers in shares.items() for layer, share in layers.items()
    ]  # fmt: skip
    table += [row("probing", "shuffled labels", score.shuffled, model=BASE, layer=layer, reference=True)
              for layer, score in scores[BASE].items()]  # fmt: skip
    most = {layer: max(shares[name][layer] for name in (NULL, *case.more_references)) for layer in case.layers}
    own = {layer: share.value for layer, share in shares[BASE].items()}
    best = max(own, key=lambda layer: own[layer] - most[layer].value)
    there = next(layer for layer in own if own[layer] >= max(own.values()) - case.rule.same)
    before = [layer for layer in case.layers if layer < there]
    return table, {
        "read": shares[FINETUNED][best], "read_base": shares[BASE][best], "read_null": most[best],
        "read_layer": best, "cuts": (before[-1] if before else None, there),
    }  # fmt: skip


def _curves(case: Examined, model: str, steps: int, repeats: int, threshold: float) -> list[Curve]:
    config = case.config
    return [
        revive(case.models[model], case.capability, seed=case.seed + number, steps=steps, lr=config.reverse_lr,
               batch_size=config.reverse_batch_size, threshold=threshold, eval_rows=EVAL_ROWS)
        for number in range(repeats)
    ]  # fmt: skip


def revival(case: Examined, base: Share) -> Found:
    """Reverse fine-tuning of the fine-tuned model, and of the reference for as long as the rule asks."""
    threshold, config = case.rule.revived * base.value, case.config
    curves = _curves(case, FINETUNED, config.reverse_steps, config.repeats, threshold)
    steps = tuple(curve.steps for curve in curves)
    found = Revivals(steps, config.reverse_steps)
    # The reference need not be followed beyond the step at which the question is settled; nor more than once, for the
    # picture, where the fine-tuned model did not come back.
    enough, repeats = config.reverse_steps, 1
    if found.slowest is not None:
        enough, repeats = round(case.rule.speed * max(found.slowest, 1)), config.repeats
    null = _curves(case, NULL, enough, repeats, threshold)
    table = [
        row("revival", f"repetition {number}", value, model=name, questions="capability", x=step,
            reference=name == NULL)
        for name, runs in ((FINETUNED, curves), (NULL, null))
        for number, curve in enumerate(runs) for step, value in curve.points.items()
    ]  # fmt: skip
    table.append(row("revival", "threshold", threshold, reference=True))
    return table, {
        "revival": found, "revival_null": Revivals(tuple(curve.steps for curve in null), enough),
        "reversed": curves[0].model,
    }  # fmt: skip
