"""What diagnoses say of a model, for its card: the verdict, what it rests on, and the whole page beside the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.cards import Diagnosis
from ftmech_hf.hub.contents import rewrite_file
from ftmech_hf.hub.names import published_names
from ftmech_hf.hub.redaction import Redaction

PAGE = "report.html"


def diagnoses_of(
    model: str, analyses: Mapping[Path, Mapping[str, Any]], working: Path, repositories: Mapping[str, str]
) -> list[Diagnosis]:
    """The diagnoses that a model was the base or the fine-tuned model of; copies their pages into ``working``.

    Args:
        model: its hash.
        analyses: folder -> its ``env.json``, of all analyses of the model.
        working: what is to be published.
        repositories: of this model (``own``), of its base (``base``), and of diagnoses (by their folders), as far as
            they are known.
    """
    found = []
    for folder, env in analyses.items():
        if env["kind"] != "diagnose":
            continue
        role = next((name for name in ("finetuned", "base") if env["inputs"].get(name) == model), None)
        if role is None:  # a control, or a model that helped
            continue
        where = repositories.get(str(folder))
        models = {name: repositories[name] for name in ("base",) if role == "finetuned" and name in repositories}
        names = published_names(folder, where or f"run-{env['hash']}", {**models, role: repositories["own"]})
        redaction = Redaction(names)
        page = None
        if (folder / PAGE).is_file():
            page = f"diagnosis-{env['hash']}.html"
            shutil.copyfile(folder / PAGE, working / page)
            rewrite_file(working / page, redaction.text)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        found.append(_describe(summary, env, role, page, redaction, where))
    return found


def _describe(
    summary: Mapping[str, Any], env: Mapping[str, Any], role: str, page: str | None, redaction: Redaction,
    repository: str | None,
) -> Diagnosis:  # fmt: skip
    facts, evidence = summary.get("facts", {}), summary.get("evidence", {})

    def cell(value: Any) -> str:
        return redaction.text(str(value)).replace("|", "\\|").replace("\n", " ")

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
        base_hash=env["inputs"].get("base", ""),
        finetuned_hash=env["inputs"].get("finetuned", ""),
        hash=env["hash"],
        page=page,
        repository=repository,
    )


def _shown(sign: Mapping[str, Any]) -> str:
    """Whether a sign shows; what could not be measured shows nothing."""
    return {True: "yes", False: "no"}.get(sign["holds"], "not measured")


def _accuracies(evidence: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Share of right answers of both models, with their intervals."""
    return [
        (name, "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * found[part] for part in ("value", "low", "high"))))
        for label, name in (("base", "base"), ("finetuned", "fine-tuned"))
        if isinstance(found := evidence.get(label), Mapping)
    ]
