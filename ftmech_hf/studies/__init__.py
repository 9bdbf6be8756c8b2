"""Analyses of saved models: load, look inside, leave a run folder. Recipes, sweeps and the reproduction call these.

Every study writes ``table.parquet`` (tidy) and ``summary.json`` beside its config, and can be found again by its hash.
"""

from ftmech_hf.studies.attention import AttentionConfig, map_attention
from ftmech_hf.studies.common import RANDOM_INIT, StudyConfig, parse_models
from ftmech_hf.studies.diagnosis import DiagnoseConfig, diagnose
from ftmech_hf.studies.examination import ExaminationConfig
from ftmech_hf.studies.interpolation import InterpolateConfig, interpolate
from ftmech_hf.studies.probing import ProbeConfig, probe
from ftmech_hf.studies.pruning import PruneConfig, prune
from ftmech_hf.studies.saved_probes import load_probes, save_probes
from ftmech_hf.studies.truth import TruthConfig, compare_with_truth

__all__ = [
    "RANDOM_INIT",
    "AttentionConfig",
    "DiagnoseConfig",
    "ExaminationConfig",
    "InterpolateConfig",
    "ProbeConfig",
    "PruneConfig",
    "StudyConfig",
    "TruthConfig",
    "compare_with_truth",
    "diagnose",
    "interpolate",
    "load_probes",
    "map_attention",
    "parse_models",
    "probe",
    "prune",
    "save_probes",
]
