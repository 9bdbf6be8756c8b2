"""What a sweep is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.sweep.console import print_sweep
from ftmech_hf.studies.sweep.plan import SECTIONS, Sweep, SweepConfig
from ftmech_hf.studies.sweep.results import write_results

STUDY = Study(
    name="sweep",
    paper="Jain et al., arXiv 2311.12786, Tables 5 to 8 and App. E, and any other grid",
    question="How does an effect depend on settings? A grid of them in a YAML file, over seeds.",
    duration="minutes to hours",
    configs=(SweepConfig,),
    sections=SECTIONS,
    plan=Sweep,
    write_results=write_results,
    print_results=print_sweep,
)
