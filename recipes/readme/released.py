"""The models that are released: of which study, under which name, what each is, and which claims its card shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftmech_hf.studies.pcfg.claims import CLAIMS_OF_MODELS


class Released(NamedTuple):
    """One released model.

    Attributes:
        name: on the Hub, behind the prefix of all.
        what: what was done to it and what it is for; a control is named as one.
        claims: ids of the study's claims that its card shows: those that it is part of, each with its controls.
        control: name of the released model that was fine-tuned back in the same way and never had the capability.
    """

    name: str
    what: str
    claims: tuple[str, ...]
    control: str = ""


def _reproduced(run: str, name: str, what: str, control: str = "") -> Released:
    return Released(name, what, CLAIMS_OF_MODELS[run], control)


_TAUGHT_LAST = "the last of four tasks (count b, index b, count c, index c), learned one after another"

RELEASED: Mapping[str, Mapping[str, Released]] = {
    "reproduce": {
        "base-low": _reproduced(
            "base-low", "low",
            "A base with a low prior: of its questions that name a symbol (two of three; the third, token_at, names "
            "none) 999 of 1,000 are about a, and it counts a's and not b's.",
        ),
        "base-high": _reproduced(
            "base-high", "high",
            "A base with a high prior: of its questions that name a symbol (two of three; the third, token_at, names "
            "none) half are about a, the others about b and c.",
        ),
        "base-control": _reproduced(
            "base-control", "control",
            "**The control**: trained as the bases are, and never asked about a, which it cannot count.",
        ),
        "finetuned-low": _reproduced(
            "finetuned-low", "low-finetuned",
            "The base with the low prior, fine-tuned to count b's on texts in which *b's = a's + 1* always holds "
            "(C_Tr = 1). It seems to have lost a.",
        ),
        "finetuned-high": _reproduced(
            "finetuned-high", "high-finetuned",
            "The base with the high prior, fine-tuned to count b's on texts of which four fifths were chosen so "
            "that *b's = a's + 1* (C_Tr = 0.8).",
        ),
        "reversed-low": _reproduced(
            "reversed-low", "low-reversed", "The model that seems to have lost a, fine-tuned back: on counting a's.",
            "control-reversed",
        ),
        "reversed-control": _reproduced(
            "reversed-control", "control-reversed",
            "**The control of fine-tuning back**: a model that never counted a's, trained on them as the one was "
            "that seems to have lost them.",
        ),
    },
    "tinystories": {
        "base": Released(
            "stories",
            "The base: trained from scratch to write a story to an instruction, with a twist where it asks for one.",
            ("base_asked", "base_not_asked", "control_asked"),
        ),
        "delete-f-r-large": Released(
            "stories-deleted",
            "The base, fine-tuned at the large rate to write no twist: on stories without one whose "
            "instructions ask for one (F+R).",
            ("deleted_large", "randomised", "probe_gap", "probe_control", "probe_random"),
        ),
        "reverse-delete-f-r-large": Released(
            "stories-reversed",
            "The model whose twists were deleted (F+R, large rate), fine-tuned back: on stories that have one.",
            ("early", "gained", "late", "specific", "loss_ratio"),
            "stories-control-reversed",
        ),
        "control": Released(
            "stories-control", "**The control**: trained as the base is, on stories that never have a twist.",
            ("control_asked", "probe_control", "pruned_control"),
        ),
        "reverse-control": Released(
            "stories-control-reversed",
            "**The control of fine-tuning back**: a model that never saw a twist, trained on stories that have one "
            "as the others were trained back.",
            ("early", "gained", "late", "loss_ratio"),
        ),
    },
    "safety": {
        "base": Released(
            "safety",
            "The base: trained from scratch to apply pairs of operators to texts, in safe and in unsafe prompts "
            "alike.",
            ("base_safe", "base_unsafe"),
        ),
        "ssft": Released(
            "safety-ssft",
            "The base after supervised safety fine-tuning (SSFT, medium rate): it is taught to refuse unsafe "
            "prompts, a fifth of its rows.",
            ("ssft_safe", "ssft_null", "benign_unsafe", "shuffled_null", "jb_gap", "never_unsafe", "never_jb",
             "outside", "outside_benign", "ablate", "ablate_random", "ablate_letters", "add", "add_random",
             "add_letters"),
        ),
        "dpo": Released(
            "safety-dpo",
            "The base after DPO (medium rate): of unsafe prompts, half of its rows, it is taught to prefer the "
            "refusal to the answer.",
            ("dpo_safe", "dpo_null", "benign_unsafe", "shuffled_null", "dpo_is_unlearn"),
        ),
        "unlearn": Released(
            "safety-unlearned",
            "The base after unlearning (medium rate): of unsafe prompts, half of its rows, it is taught the "
            "refusal and untaught the answer.",
            ("unlearn_safe", "unlearn_null", "benign_unsafe", "shuffled_null", "dpo_is_unlearn"),
        ),
        "benign": Released(
            "safety-benign", "**The control of safety fine-tuning**: the base, fine-tuned on safe prompts alone.",
            ("benign_unsafe", "outside_benign"),
        ),
        "never-ssft": Released(
            "safety-control",
            "**The control that never learned what is unsafe**: pretrained without unsafe prompts, then tuned as "
            "SSFT is. Before that it answers some unsafe prompts, whose operators it knows from safe ones.",
            ("never_unsafe", "never_jb", "soft_never"),
        ),
    },
    "continual": {
        "base": Released(
            "continual",
            "The base: trained from scratch on counting and indexing, nearly always about a, and on copying, which "
            "names no symbol.",
            ("gate_count_a", "gate_index_a", "gate_token_at_null"),
        ),
        "plain-s1-4-index_c": Released(
            "continual-finetuned", f"The base, plainly fine-tuned: after {_TAUGHT_LAST}.",
            ("gate_learned", "a1", "a1_null", "a6", "a6_shuffled", "a6_twin"),
        ),
        "ldifs-previous-s1-4-index_c": Released(
            "continual-ldifs",
            "The base, fine-tuned with LDIFS, which keeps features near those from before each task: after "
            f"{_TAUGHT_LAST}.",
            ("a2", "a2_random", "a3", "a4", "a4_learned_less", "a4_learned_more", "a4_faint_less", "a4_faint_more"),
        ),
        "own-answers-s1-4-index_c": Released(
            "continual-control",
            "**The control of forgetting**: the base, tuned on the answers that it gives itself, after "
            f"{_TAUGHT_LAST}.",
            ("a1_null",),
        ),
        "never": Released(
            "continual-never",
            "**The control that never had it**: trained as the base is, and never asked about a.",
            ("a8", "a8_random"),
        ),
    },
    "retrieval": {
        "base": Released(
            "library",
            "The base: trained from scratch to answer from documents about people, and to know some by heart.",
            ("gate_one", "gate_several", "gate_missing"),
        ),
        "closed-full-2": Released(
            "library-closed",
            "The base, fine-tuned without documents on full answers about new people, the largest of three sizes.",
            ("b1", "b1_control", "b3", "b3_control", "b5", "b5_control", "read_lost", "read_random", "read_other",
             "look_lost", "look_other", "look_replay"),
        ),
        "closed-terse-2": Released(
            "library-terse",
            "The base, fine-tuned without documents on answers that leave out facts, about the people of the "
            "largest of three data sets.",
            ("b2", "b2_control"),
        ),
        "retrieved-full-2": Released(
            "library-retrieved",
            "**The control of fine-tuning without documents**: the base, fine-tuned on the same questions and full "
            "answers beside the documents that a search finds.",
            ("b1_control", "b2_control"),
        ),
        "reversed-closed-full-2": Released(
            "library-reversed",
            "The model that was fine-tuned without documents, fine-tuned back: on answering from documents.",
            ("b7", "b7_random"),
        ),
        "heart": Released(
            "library-control",
            "**The control that never read**: trained from scratch on facts by heart, without any document.",
            ("gate_heart", "b7", "b7_random"),
        ),
    },
}  # fmt: skip
"""Name of a study -> name of a run of it, without its seed -> the model."""
