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
from ftmech_hf.analysis.pruning import Mask, PruningResult, gradient_importance, prune_sweep, pruned
from ftmech_hf.statistics.intervals import Share, mean_over_draws, paired_difference, share_interval
from ftmech_hf.studies.diagnosis import reading
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Examined, Found, TableRow, is_reference, row
from ftmech_hf.studies.diagnosis.revival import Curve, race, revive
from ftmech_hf.studies.diagnosis.verdict import Revivals
from ftmech_hf.training.evaluation import answer_logits
from ftmech_hf.training.objectives import answer_only_loss

EVAL_ROWS = 256
"""Test rows of every look at a model that is fine-tuned back."""

SITES = ("resid_post", "attn_out", "mlp_act")


@torch.no_grad()
def _answers(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    return torch.cat([answer_logits(model, rows).argmax(-1).cpu() for rows in token_ids.split(256)])


def _right(model: PreTrainedModel, token_ids: Tensor) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = (_answers(model, token_ids) == token_ids[:, -2].cpu()).numpy()
    return right


def _share(hits: NDArray[np.bool_]) -> Share:
    return share_interval(int(hits.sum()), len(hits))


def behaviour(case: Examined) -> Found:
    """Accuracy of the models on both kinds of questions, and what they answer instead."""
    table, answers = [], {}
    for name, model in case.models.items():
        for kind in case.both:
            rows = case.asked(name, kind).test
            answers[name, kind] = _answers(model, rows)
            table.append(_accuracy(name, kind, (answers[name, kind] == rows[:, -2]).numpy()))
    for kind, questions in case.both.items():
        table.append(row("behaviour", "chance", questions.chance, questions=kind, reference=True))
    right = {
        name: (answers[name, "capability"] == case.asked(name, "capability").test[:, -2]).numpy()
        for name in (BASE, FINETUNED, NULL)
    }
    return table, {
        "chance": case.capability.chance, "base": _share(right[BASE]), "finetuned": _share(right[FINETUNED]),
        "null": _share(right[NULL]), "drop": paired_difference(right[BASE], right[FINETUNED]), "control": case.control,
        "same_tokens": case.own is None,
        "examples": show_examples(case, answers[BASE, "capability"], answers[FINETUNED, "capability"]),
    }  # fmt: skip


def _accuracy(name: str, kind: str, right: NDArray[np.bool_]) -> TableRow:
    return row("behaviour", "accuracy", *_share(right), model=name, questions=kind, reference=is_reference(name))


def bystanders(case: Examined) -> Found:
    """The same accuracy of models that differ from the base without a meaning."""
    return [
        _accuracy(name, kind, _right(model, questions.test))
        for name, model in case.bystanders.items() for kind, questions in case.both.items()
    ], {}  # fmt: skip


def show_examples(case: Examined, base: Tensor, finetuned: Tensor, number: int = 6) -> list[dict[str, Any]]:
    """Questions with the right answer and both models': first what was lost, then what was kept, then what else."""
    asked, own = case.asked(BASE, "capability"), case.asked(FINETUNED, "capability")
    was, still = base == asked.test[:, -2], finetuned == own.test[:, -2]
    lost, kept, other = (found.nonzero()[:, 0].tolist() for found in (was & ~still, was & still, ~was))
    chosen = [*lost[: number - 2], *kept[:2]]
    spare = (each for each in [*lost[number - 2 :], *kept[2:], *other])
    chosen += [each for _, each in zip(range(number - len(chosen)), spare, strict=False)]
    spell, spell_own = case.spell[BASE], case.spell[FINETUNED]
    return [
        {
            "question": spell([token for token in asked.test[place, :-2].tolist() if token != asked.pad]),
            "right": spell([int(asked.test[place, -2])]), "base": spell([int(base[place])]),
            "finetuned": spell_own([int(finetuned[place])]), "base_right": bool(was[place]),
            "finetuned_right": bool(still[place]),
        }
        for place in chosen
    ]  # fmt: skip


def _prune(
    case: Examined, name: str, kinds: Sequence[str], random_masks: int
) -> tuple[PruningResult, list[dict[str, NDArray[np.bool_]]]]:
    """A sweep over one model, and which rows were right at every entry of its curve."""
    model, config = case.models[name], case.config
    units = find_units(model, "row")
    importance = gradient_importance(
        units, lambda rows: answer_only_loss(model, rows), case.capability.train[: config.patch_rows]
    )
    sets = {"validation": case.capability.validation[: config.patch_rows], **{kind: case.few(kind) for kind in kinds}}
    right: list[dict[str, NDArray[np.bool_]]] = []

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        with pruned(units, mask):
            right.append({each: _right(model, sets[each]) for each in names})
        return {each: float(hits.mean()) for each, hits in right[-1].items()}

    result = prune_sweep(
        importance, evaluate, unit="row", test_sets=list(sets), control_sets=["capability"], sizes=config.prune_sizes,
        max_best_k=max(config.prune_sizes), chosen_on="validation", num_random=min(random_masks, 1),
        num_random_at_best=random_masks, seed=case.seed,
    )  # fmt: skip
    return result, right


def pruning(case: Examined) -> Found:
    """Accuracy after pruning what stands in the capability's way.

    Two controls: as many random rows, and the same search in the reference, from which nothing should come back.
    """
    result, right = _prune(case, FINETUNED, list(case.both), case.config.random_masks)
    null, right_null = _prune(case, NULL, ["capability"], 0)
    table = [
        row("pruning", f"{entry['method']} rows", *_share(hits[kind]), model=model, questions=kind,
            x=entry["num_pruned"], reference=entry["method"] == "random" or model == NULL)
        for model, curve, found in ((FINETUNED, result.curve, right), (NULL, null.curve, right_null))
        for entry, hits in zip(curve, found, strict=True) for kind in ("capability", "other") if kind in hits
    ]  # fmt: skip
    return table, {
        "pruned": _share(_at_best(result, right, "importance")[0]),
        "pruned_random": mean_over_draws(_at_best(result, right, "random"), seed=case.seed),
        "pruned_null": _share(_at_best(null, right_null, "importance")[0]),
        "best_k": result.best_k, "pruned_rows": result.pruned,
    }  # fmt: skip


def _at_best(
    result: PruningResult, right: Sequence[dict[str, NDArray[np.bool_]]], method: str
) -> list[NDArray[np.bool_]]:
    """Which of the capability's rows were right under the masks of one method at the chosen number of rows."""
    return [
        hits["capability"] for entry, hits in zip(result.curve, right, strict=True)
        if (entry["method"], entry["num_pruned"]) == (method, result.best_k)
    ]  # fmt: skip


def _patch_table(name: str, kind: str, found: PatchingResult) -> list[TableRow]:
    return [
        row("patching", each["patch"], each["value"], each["low"], each["high"], model=name, questions=kind,
            site=each["site"], layer=each["layer"], reference=each["patch"] == "other row")
        for each in found.rows()
    ]  # fmt: skip


def patching(case: Examined, cuts: tuple[int | None, int | None]) -> Found:
    """Base into fine-tuned and back at every site and layer; and where the halves meet, with the reference's half.

    Args:
        case: the models.
        cuts: from :func:`probing`: the layer after which the answer is still to be computed, and the layer after which
            it is there; None where there is no such layer.
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
    facts: dict[str, Any] = {"best_part": _best_part(back), "num_blocks": case.num_layers, "cuts": cuts}
    nulls = {"base into reference": (BASE, NULL), "reference into base": (NULL, BASE)}
    for way, (donor, receiver) in nulls.items():
        result = patch_each(case.models[donor], case.models[receiver], case.few("capability"), sites=["resid_post"],
                            layers=case.layers, other_rows=0)  # fmt: skip
        table += [{**each, "reference": True} for each in _patch_table(way, "capability", result)]
        side, cut, own = ("early", cuts[1], forth) if receiver == BASE else ("late", cuts[0], back)
        # the fine-tuned model's blocks are the donor's first ones, or the receiver's last ones
        blocks = None if cut is None else cut + 1 if side == "early" else case.num_layers - cut - 1
        shares = {"": own, "_null": result}
        facts |= {
            f"{side}{key}": None if cut is None else _share(each.right["resid_post", cut])
            for key, each in shares.items()
        }
        facts[f"{side}_blocks"] = blocks
    for name, model in case.bystanders.items():
        result = patch_each(model, case.models[BASE], case.few("capability"), sites=["resid_post"], layers=case.layers,
                            other_rows=0)  # fmt: skip
        table += [{**each, "reference": True} for each in _patch_table(f"{name} into base", "capability", result)]
    return table, facts


def _best_part(found: PatchingResult) -> dict[str, Any]:
    """Which attention or MLP alone brings most back: chosen on every other row, reported on those between.

    Beside it what the model answers by itself, and with the activations of another question there.
    """
    places = [place for place in found.right if place[0] in ("attn_out", "mlp_act")]
    site, layer = max(places, key=lambda place: found.right[place][::2].mean())
    return {
        "site": site, "layer": layer, "places": len(places), "accuracy": _share(found.right[site, layer][1::2]),
        "alone": _share(found.unpatched[1::2]), "other_row": _share(found.other_row[site, layer]),
    }  # fmt: skip


def probing(case: Examined) -> Found:
    """Probes fitted on each model and on what lies before any block, and the layers in which they count.

    Random networks differ in how much they let be read, so there are several: the reference and two of random weights.
    """
    nulls = reading.controls(case)
    found = reading.read_everyone(case, [BASE, FINETUNED, *nulls])
    places = reading.choose_places(case, found)
    table = [
        row("probing", "probe", *each.reported, model=name, questions="capability", layer=layer,
            reference=is_reference(name))
        for name, layers in found.items() if name != reading.EMBEDDINGS for layer, each in layers.items()
    ]  # fmt: skip
    best = max(each.reported for each in found[reading.EMBEDDINGS].values())
    table.append(row("probing", reading.EMBEDDINGS, *best, questions="capability", reference=True))
    table += [row("probing", "shuffled labels", each.shuffled, model=BASE, layer=layer, reference=True)
              for layer, each in found[BASE].items()]  # fmt: skip
    null, at = places.null
    layer = places.layer
    train, test = case.capability.train[:, -2], case.capability.test[:, -2]
    return table, {
        "read": None if layer is None else found[FINETUNED][layer].reported,
        "read_base": None if layer is None else found[BASE][layer].reported,
        "read_null": found[null][at].reported, "read_null_in": null, "read_layer": layer,
        "cuts": (places.late, places.early), "answers_seen": float(torch.isin(test, train).float().mean()),
        "rows_per_answer": len(train) / len(train.unique()),
    }  # fmt: skip


def _settings(case: Examined, threshold: float) -> dict[str, Any]:
    config = case.config
    return {"lr": config.reverse_lr, "batch_size": config.reverse_batch_size, "threshold": threshold,
            "eval_rows": EVAL_ROWS}  # fmt: skip


def revival(case: Examined, base: Share) -> Found:
    """Reverse fine-tuning of the fine-tuned model, and of the reference for as long as the rule asks.

    The reference need not be followed beyond the step at which the question is settled. Where the fine-tuned model did
    not come back, both go on side by side until one of them does: else nothing would have been compared.
    """
    config, rule, threshold = case.config, case.rule, case.rule.revived * base.value
    settings = _settings(case, threshold)

    def repeated(name: str, steps: int) -> list[Curve]:
        return [
            revive(case.models[name], case.capability, seed=case.seed + number, steps=steps, **settings)
            for number in range(config.repeats)
        ]

    curves = repeated(FINETUNED, config.reverse_steps)
    found = _revivals(curves, config.reverse_steps)
    if found.slowest is not None:
        enough = round(rule.speed * max(found.slowest, 1))
        null = repeated(NULL, enough)
        found_null = _revivals(null, enough)
    else:
        late = next(number for number, curve in enumerate(curves) if curve.steps is None)
        curves[late], control = race(
            (case.models[FINETUNED], case.models[NULL]), case.capability, steps=config.most_reverse_steps,
            beyond=rule.faster, seed=case.seed + late, **settings,
        )  # fmt: skip
        null = [control]
        last = [curve.last if number == late else config.reverse_steps for number, curve in enumerate(curves)]
        found = Revivals(tuple(curve.steps for curve in curves), tuple(last))
        found_null = _revivals(null, control.last)
    table = [
        row("revival", f"repetition {number}", value, model=name, questions="capability", x=step,
            reference=name == NULL)
        for name, runs in ((FINETUNED, curves), (NULL, null))
        for number, curve in enumerate(runs) for step, value in curve.points.items()
    ]  # fmt: skip
    table.append(row("revival", "threshold", threshold, reference=True))
    return table, {"revival": found, "revival_null": found_null, "reversed": curves[0].model}


def _revivals(curves: Sequence[Curve], last: int) -> Revivals:
    return Revivals(tuple(curve.steps for curve in curves), last)
