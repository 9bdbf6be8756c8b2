"""Where two halves of models meet: behind the layer by which the answer is there, or before it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftmech_hf.analysis.patching import follows_other_row
from ftmech_hf.jobs.answer_scores import gives_answer
from ftmech_hf.statistics.clusters import groups_at, share_right
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, Case
from ftmech_hf.studies.diagnosis.methods.probing import ProbingMethodResult, is_central


class Cuts(NamedTuple):
    """After which layers halves meet; None where there is no such layer.

    Attributes:
        late: for the fine-tuned model's last blocks: the answer is still to be computed after it.
        early: for its first blocks: the answer is there.
        followed: layer -> share of rows on which the base gives the answer of the row whose stream it gets; None where
            probes chose.
    """

    late: int | None
    early: int | None
    followed: Mapping[int, Share] | None = None


def choose_cuts(case: Case, probing: ProbingMethodResult) -> Cuts:
    """Where halves meet: by probes, or where most tested answers are words that no probe has seen, by exchange."""
    if probing.answers_seen >= case.rule.share:
        return Cuts(probing.places.late, probing.places.early)
    return cuts_by_exchange(case)


def cuts_by_exchange(case: Case) -> Cuts:
    """Where the base decides on its answer, by what another question's stream makes it answer.

    Only the base is asked, on rows that choose, of which it answers the first token right; no answer need occur twice.
    See :func:`ftmech_hf.analysis.patching.follows_other_row`.
    """
    rows = case.capability.validation[: 2 * case.config.patch_rows].first_tokens()
    known = gives_answer(case.models[BASE], rows).nonzero()[:, 0].tolist()
    kept: list[int] = []
    for place in known:  # neighbours must differ, the last and the first too
        differ = [rows.first_answers[place] != rows.first_answers[other] for other in (*kept[-1:], *kept[:1])]
        if all(differ) and len(kept) < case.config.patch_rows:
            kept.append(place)
    central = [layer for layer in case.layers if is_central(layer, case.num_layers, case.rule.half)]
    if len(kept) < 2 or not central:
        return Cuts(None, None)
    size = case.rows_at_once(rows)
    found = follows_other_row(case.models[BASE], rows[kept].token_ids, case.layers, batch_size=size)
    groups = groups_at(rows.groups, kept)
    followed = {layer: share_right(right, groups) for layer, right in found.items()}
    before = [layer for layer in central if followed[layer].high < case.rule.share]
    after = [layer for layer in central if followed[layer].low >= case.rule.share]
    return Cuts(before[-1] if before else None, after[0] if after else None, followed)
