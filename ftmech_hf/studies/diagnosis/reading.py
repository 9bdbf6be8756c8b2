"""What linear probes read in every model of a diagnosis, where they count, and where halves of the base meet.

Three kinds of rows: probes are fitted on one, a layer is chosen on another, and what is reported is read on a third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftmech_hf.analysis.probing import ANSWER, fit_probes
from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.studies.diagnosis.case import BASE, NULL, Examined

EMBEDDINGS = "input embeddings"
"""What can be read before any block: the mean embedding of the prompt's tokens, and that of its last one."""


class Reading(NamedTuple):
    """What the probe of one model reads in one place.

    Attributes:
        chosen: on the rows that choose.
        reported: on the rows that are reported.
        shuffled: on the latter, by a probe fitted on shuffled labels; not a number where none was.
    """

    chosen: Share
    reported: Share
    shuffled: float


Readings = Mapping[str, Mapping[int, Reading]]
"""Model -> layer -> what is read there; of the embeddings, the layers are -1 and -2."""


class Places(NamedTuple):
    """Where probes count and halves meet: chosen without the fine-tuned model, and not on the rows that are reported.

    Attributes:
        layer: where the base is read best; None if probes of the base read no more than those of the controls.
        null: the control in which most is read, and its layer.
        late: the layer after which the answer is still to be computed; None if there is no central one.
        early: the layer after which it is there; None if there is no central one.
    """

    layer: int | None
    null: tuple[str, int]
    late: int | None
    early: int | None


def controls(case: Examined) -> list[str]:
    """What the capability is not in, but may be read from."""
    return [NULL, *case.more_references, EMBEDDINGS]


def embedded(case: Examined, split: str) -> dict[str, Tensor]:
    """The base's embeddings of the prompts: their mean, and the last token's."""
    weight = case.models[BASE].get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().float().cpu()
    prompts = getattr(case.capability, split)[:, :-2]
    shown = torch.ones_like(prompts) if case.capability.pad is None else (prompts != case.capability.pad).long()
    # one row at a time would be small, all at once (B, T, D); counts of tokens make it one product
    counts = torch.zeros(len(prompts), len(weight)).scatter_add_(1, prompts, shown.float())
    return {"-1": counts @ weight / shown.sum(1, keepdim=True), "-2": weight[prompts[:, -1]]}


def read_everyone(case: Examined, names: Sequence[str]) -> Readings:
    """Probes for the answer, fitted on each of these models (or on the embeddings) and read on that model."""
    splits = ("train", "validation", "test")
    labels = {split: getattr(case.capability, split)[:, -2].numpy() for split in splits}
    found: dict[str, dict[int, Reading]] = {}
    for name in names:
        streams = {
            split: embedded(case, split) if name == EMBEDDINGS else case.stream(name, "capability", split)
            for split in splits
        }
        result = fit_probes(
            streams["train"], labels["train"], streams["test"], labels["test"], seed=case.seed,
            num_shuffles=int(name == BASE), code=False,
        )  # fmt: skip
        found[name] = {}
        for score in result.scores:
            predicted = result.probes[score.site, ANSWER].predict(streams["validation"][score.site]).numpy()
            chosen = share_interval(int((predicted == labels["validation"]).sum()), len(predicted))
            layer = int(score.site.removeprefix("block "))
            found[name][layer] = Reading(chosen, Share(score.accuracy, score.low, score.high), score.shuffled)
    return found


def is_central(layer: int, num_layers: int, half: float) -> bool:
    """Whether both sides of a cut after a layer have at least a share ``half`` of the blocks."""
    before = layer + 1
    return min(before, num_layers - before) >= half * num_layers - 1e-9


def choose_places(case: Examined, readings: Readings) -> Places:
    """Where probes count and halves meet; reads ``chosen`` of the base and the controls alone."""
    own = {layer: reading.chosen for layer, reading in readings[BASE].items()}
    best = max(own, key=lambda layer: own[layer].value)
    most = max(
        ((name, layer) for name in controls(case) for layer in readings[name]),
        key=lambda place: readings[place[0]][place[1]].chosen.value,
    )
    above = [layer for layer in own if own[layer].low > readings[most[0]][most[1]].chosen.high]
    there = [layer for layer in above if own[layer].value >= own[best].value - case.rule.same]
    if not there:
        return Places(None, most, None, None)
    central = [layer for layer in case.layers if is_central(layer, case.num_layers, case.rule.half)]
    before = [layer for layer in central if layer < there[0]]
    after = [layer for layer in central if layer >= there[0]]
    return Places(best, most, before[-1] if before else None, after[0] if after else None)
