"""The fine-tuned model without the smallest part of its change that hides the capability, as a model of its own."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from ftmech_hf.analysis.restoring import WeightChange, find_places, replaced
from ftmech_hf.jobs.tokenizers import own_tokenizer
from ftmech_hf.jobs.trained_model import save_apart
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.diagnosis.case import FINETUNED, Case
from ftmech_hf.studies.diagnosis.in_memory import InMemory
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, named_models
from ftmech_hf.studies.diagnosis.method import MethodResult
from ftmech_hf.studies.diagnosis.methods.change import ChangeMethodResult

FOLDER = "repaired"
"""Where it lies in the folder of the diagnosis."""


def save_repaired(run: RunDir, case: Case, found: MethodResult | None, config: DiagnoseConfig, given: InMemory) -> str:
    """Save the repaired model, with a tokenizer if there is one, in the run of a diagnosis.

    Args:
        run: open.
        case: whose fine-tuned model is repaired; it is as it was at the end.
        found: of the weight change as an intervention; None if that was not asked.
        config, given: of the diagnosis, for the tokenizer.

    Returns:
        the name of its folder in the run; empty where no part of the change restores the capability.
    """
    if not isinstance(found, ChangeMethodResult) or found.search is None or found.search.smallest is None:
        return ""
    model = case.models[FINETUNED]
    change = WeightChange(case.base_like(FINETUNED), model, find_places(model))
    facts = {"kind": "repaired", "hash": f"{run.hash}-repaired", **found.search.summary()}
    with replaced(model, change.without(found.search.smallest.part)):
        save_apart(run.working / FOLDER, model, _tokenizer(config, given), facts)
    return FOLDER


def _tokenizer(config: DiagnoseConfig, given: InMemory) -> PreTrainedTokenizerBase | None:
    """That of the fine-tuned model, else of the base; None if neither has one."""
    named = named_models(config, given)
    own = own_tokenizer(named["finetuned"]) if "finetuned" in named else None
    base = own_tokenizer(named["base"]) if own is None and given.tokenizer is None and "base" in named else None
    return own or given.tokenizer or base
