"""What the continual study is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.continual.capabilities import state_capabilities
from ftmech_hf.studies.continual.plan import ContinualConfig, ContinualPlan
from ftmech_hf.studies.continual.results import write_results
from ftmech_hf.tasks import PcfgShape

STUDY = Study(
    name="continual",
    paper="Mukhoti et al., arXiv 2308.13320",
    question="Which methods keep what was known over a sequence of tasks, and is what seems forgotten hidden?",
    duration="70 minutes, of which stories are 20",
    configs=(ContinualConfig, PcfgShape),
    plan=ContinualPlan,
    write_results=write_results,
    print_results=print_claims,
    jobs=(
        Publication(
            kind="capabilities",
            holds="table",
            question="What can a model do, by its answers and by probes?",
            state=state_capabilities,
        ),
    ),
    data_file="matrix.parquet",
)
