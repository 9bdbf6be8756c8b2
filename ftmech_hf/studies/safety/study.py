"""What the study of safety fine-tuning is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.safety.answers import state_answers
from ftmech_hf.studies.safety.plan import SafetyPlan, SafetyStudyConfig
from ftmech_hf.studies.safety.results import write_results

STUDY = Study(
    name="safety",
    paper="Jain et al., arXiv 2407.10264, Sect. 3 and 4",
    question="What makes and what breaks safety fine-tuning? Seven protocols, attacks, and controls over seeds.",
    duration="an hour",
    configs=(SafetyStudyConfig,),
    plan=SafetyPlan,
    write_results=write_results,
    print_results=print_claims,
    jobs=(
        Publication(
            kind="safety_answers",
            holds="table",
            question="What a model answers to unsafe prompts.",
            state=state_answers,
        ),
        Publication(kind="safety_clusters", holds="table", question="Where unsafe prompts lie in a model's stream."),
        Publication(kind="safety_changes", holds="table", question="What safety tuning changed in a model's weights."),
        Publication(
            kind="safety_lines", holds="table", question="What lies between a base and a safe model, and beyond."
        ),
        Publication(
            kind="safety_direction", holds="table", question="Is a model's refusal one direction of its stream?"
        ),
        Publication(
            kind="safety_relearning", holds="table", question="How soon a safe model answers unsafe prompts again."
        ),
        Publication(kind="safety_texts", holds="table", question="What did safety tuning do to a model on texts?"),
        Publication(kind="safety_soft_tokens", holds="table", question="Do soft tokens break a safe model?"),
    ),
)
