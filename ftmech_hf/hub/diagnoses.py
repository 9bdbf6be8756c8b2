"""What diagnoses say of a model, for its card: the verdict, what it rests on, and the whole page beside the card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.hub.contents import rewrite_file
from ftmech_hf.hub.names import redaction_of
from ftmech_hf.hub.publications import find_publication, publication_of
from ftmech_hf.hub.redaction import Redaction
from ftmech_hf.jobs.card import Diagnosis, in_markdown
from ftmech_hf.runs import FinishedRun

PAGE = "report.html"


def diagnoses_of(
    model: str,
    analyses: Sequence[FinishedRun],
    working: Path,
    repositories: Mapping[str, str],
    base: str | None = None,
) -> list[Diagnosis]:
    """The diagnoses that a model was the base or the fine-tuned model of; copies their pages into ``working``.

    Args:
        model: its hash.
        analyses: all of the model.
        working: what is to be published.
        repositories: of this model (``own``), of its base (``base``), and of diagnoses (by their folders), as far as
            they are known.
        base: hash of what the model was trained from, whose repository ``base`` is.
    """
    found = []
    for analysis in analyses:
        publication = find_publication(analysis.kind)
        judged = publication.judges if publication else ()
        role = next((name for name in judged if analysis.inputs.get(name) == model), None)
        if role is None:  # no diagnosis, or of it a control or a model that helped
            continue
        where = repositories.get(str(analysis.path))
        # what the model was trained from is the diagnosis' base only where both are one model
        is_base = role == "finetuned" and analysis.inputs.get("base") == base
        models = {"base": repositories["base"]} if is_base and "base" in repositories else {}
        redaction = redaction_of(analysis, where or f"run-{analysis.hash}", {**models, role: repositories["own"]})
        page = None
        if analysis.has(PAGE):
            page = f"diagnosis-{analysis.hash}.html"
            shutil.copyfile(analysis.path / PAGE, working / page)
            rewrite_file(working / page, redaction.text)
        found.append(_describe(analysis, role, page, redaction, where))
    return found


def _describe(
    analysis: FinishedRun, role: str, page: str | None, redaction: Redaction, repository: str | None
) -> Diagnosis:
    summary = analysis.summary
    facts, evidence = summary.get("facts", {}), summary.get("evidence", {})

    def cell(value: Any) -> str:
        return in_markdown(redaction.text(str(value)))

    return Diagnosis(
        role=role,
        verdict=str(summary["verdict"]),
        reason=cell(summary["reason"]),
        capability=cell(facts.get("capability", "")),
        accuracy=_accuracies(evidence),
        rows=facts.get("rows"),
        signs=[
            {**{name: cell(sign[name]) for name in ("name", "measured", "control", "bar")}, "shows": _shown(sign)}
            for sign in summary.get("signs", ())
        ],
        base_hash=analysis.inputs.get("base", ""),
        finetuned_hash=analysis.inputs.get("finetuned", ""),
        hash=analysis.hash,
        trust=cell(publication_of(analysis).trust(analysis)),
        page=page,
        repository=repository,
    )


def _shown(sign: Mapping[str, Any]) -> str:
    """Whether a sign shows; what could not be measured shows nothing."""
    return {True: "yes", False: "no"}.get(sign["holds"], "not measured")


def _accuracies(evidence: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Share of right answers of both models and of what they are compared with, with their intervals."""
    control = "a model that never had it" if evidence.get("control") else "random weights"
    shares = [
        (name, "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * found[part] for part in ("value", "low", "high"))))
        for label, name in (("base", "base"), ("finetuned", "fine-tuned"), ("null", control))
        if isinstance(found := evidence.get(label), Mapping)
    ]
    return [*shares, *([("always one answer", f"{100 * evidence['chance']:.1f} %")] if "chance" in evidence else [])]
