"""What the reproduction is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import write_results
from ftmech_hf.tasks import PcfgShape

STUDY = Study(
    name="reproduce",
    paper="Jain et al., arXiv 2311.12786, Sect. 5 and Table 5",
    question="Does fine-tuning destroy an ability, or hide it? Four effects over seeds, each with its control.",
    duration="9 minutes (five seeds; three take 5)",
    configs=(ReproduceConfig, PcfgShape),
    plan=ReproducePlan,
    write_results=write_results,
    print_results=print_claims,
)
