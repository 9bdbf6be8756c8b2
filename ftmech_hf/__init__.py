"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish.

This is the table of contents: every name here is imported from its file when it is first asked for, so that importing
the package costs nothing, and torch only whoever uses it. After ``import ftmech_hf`` transformers' auto classes load
compiled programs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ftmech_hf.models.auto import know_compiled_programs

if TYPE_CHECKING:  # for editors and type checkers: the same table again, which a test compares
    from ftmech_hf.activations import ActivationStore as ActivationStore
    from ftmech_hf.activations import TracedModel as TracedModel
    from ftmech_hf.activations import intervene as intervene
    from ftmech_hf.analysis.ablation import importance_agreement as importance_agreement
    from ftmech_hf.analysis.attention import attention_change as attention_change
    from ftmech_hf.analysis.attention import attention_to_groups as attention_to_groups
    from ftmech_hf.analysis.divergence import divergence_from_truth as divergence_from_truth
    from ftmech_hf.analysis.forgetting import measure_forgetting as measure_forgetting
    from ftmech_hf.analysis.input_gradients import compare_input_gradients as compare_input_gradients
    from ftmech_hf.analysis.logit_lens import logit_lens as logit_lens
    from ftmech_hf.analysis.patching import patch_each as patch_each
    from ftmech_hf.analysis.path import accuracy_barrier as accuracy_barrier
    from ftmech_hf.analysis.probing import fit_probes as fit_probes
    from ftmech_hf.analysis.pruning import gradient_importance as gradient_importance
    from ftmech_hf.analysis.pruning import prune_sweep as prune_sweep
    from ftmech_hf.analysis.recovery import recovery as recovery
    from ftmech_hf.analysis.revival import steps_to_revival as steps_to_revival
    from ftmech_hf.analysis.separation import cluster_separation as cluster_separation
    from ftmech_hf.analysis.similarity import compare_representations as compare_representations
    from ftmech_hf.analysis.weights import weight_change as weight_change
    from ftmech_hf.config import parse_config as parse_config
    from ftmech_hf.hub import HubConfig as HubConfig
    from ftmech_hf.hub import PublishConfig as PublishConfig
    from ftmech_hf.hub import Target as Target
    from ftmech_hf.hub import publish as publish
    from ftmech_hf.hub import pull as pull
    from ftmech_hf.hub import save as save
    from ftmech_hf.jobs.answer_rows import AnswerRows as AnswerRows
    from ftmech_hf.jobs.asking import AskConfig as AskConfig
    from ftmech_hf.jobs.attention import AttentionConfig as AttentionConfig
    from ftmech_hf.jobs.attention import map_attention as map_attention
    from ftmech_hf.jobs.behavior import Behavior as Behavior
    from ftmech_hf.jobs.cell import Cell as Cell
    from ftmech_hf.jobs.compiling import CompileConfig as CompileConfig
    from ftmech_hf.jobs.compiling import start_compiled as start_compiled
    from ftmech_hf.jobs.exact_distribution import TruthConfig as TruthConfig
    from ftmech_hf.jobs.exact_distribution import compare_with_truth as compare_with_truth
    from ftmech_hf.jobs.fit_judge import FitJudgeConfig as FitJudgeConfig
    from ftmech_hf.jobs.fit_judge import fit_story_judge as fit_story_judge
    from ftmech_hf.jobs.generation import generate as generate
    from ftmech_hf.jobs.interpolation import InterpolateConfig as InterpolateConfig
    from ftmech_hf.jobs.interpolation import interpolate as interpolate
    from ftmech_hf.jobs.job import JobConfig as JobConfig
    from ftmech_hf.jobs.job import job as job
    from ftmech_hf.jobs.make_dataset import MakeDatasetConfig as MakeDatasetConfig
    from ftmech_hf.jobs.make_dataset import make_dataset as make_dataset
    from ftmech_hf.jobs.make_stories import MakeStoriesConfig as MakeStoriesConfig
    from ftmech_hf.jobs.make_stories import make_stories as make_stories
    from ftmech_hf.jobs.probing import ProbeConfig as ProbeConfig
    from ftmech_hf.jobs.probing import probe as probe
    from ftmech_hf.jobs.pruning import PruneConfig as PruneConfig
    from ftmech_hf.jobs.pruning import prune as prune
    from ftmech_hf.jobs.pruning_sweep import prune_for as prune_for
    from ftmech_hf.jobs.scheduler import run_cells as run_cells
    from ftmech_hf.jobs.study import Study as Study
    from ftmech_hf.jobs.study import StudyConfig as StudyConfig
    from ftmech_hf.jobs.study import StudyPlan as StudyPlan
    from ftmech_hf.jobs.study import run_study as run_study
    from ftmech_hf.jobs.training import FinetuneConfig as FinetuneConfig
    from ftmech_hf.jobs.training import PretrainConfig as PretrainConfig
    from ftmech_hf.jobs.training import finetune as finetune
    from ftmech_hf.jobs.training import pretrain as pretrain
    from ftmech_hf.jobs.write_stories import WriteConfig as WriteConfig
    from ftmech_hf.jobs.write_stories import write_stories as write_stories
    from ftmech_hf.models.compiled import CompiledModel as CompiledModel
    from ftmech_hf.models.compiled_config import CompiledConfig as CompiledConfig
    from ftmech_hf.models.interpolation import interpolate_weights as interpolate_weights
    from ftmech_hf.models.loading import load_model as load_model
    from ftmech_hf.models.loading import load_tokenizer as load_tokenizer
    from ftmech_hf.models.loading import random_twin as random_twin
    from ftmech_hf.models.presets import build_model as build_model
    from ftmech_hf.runs import FinishedRun as FinishedRun
    from ftmech_hf.runs import RunDir as RunDir
    from ftmech_hf.studies import STUDIES as STUDIES
    from ftmech_hf.studies import load_study as load_study
    from ftmech_hf.studies.diagnosis.case import Case as Case
    from ftmech_hf.studies.diagnosis.case import CaseConfig as CaseConfig
    from ftmech_hf.studies.diagnosis.diagnosis import DiagnosisResult as DiagnosisResult
    from ftmech_hf.studies.diagnosis.diagnosis import diagnose as diagnose
    from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis as run_diagnosis
    from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig as DiagnoseConfig
    from ftmech_hf.tasks import TASKS as TASKS
    from ftmech_hf.tasks import Capability as Capability
    from ftmech_hf.tasks import Task as Task
    from ftmech_hf.tasks import build_dataset as build_dataset
    from ftmech_hf.tasks import parse_task as parse_task
    from ftmech_hf.tasks import stream_dataset as stream_dataset
    from ftmech_hf.tasks.letters import CounterConfig as CounterConfig
    from ftmech_hf.tasks.letters import MaxIdentifierConfig as MaxIdentifierConfig
    from ftmech_hf.tasks.pcfg import PcfgConfig as PcfgConfig
    from ftmech_hf.tasks.stories.task import StoriesConfig as StoriesConfig
    from ftmech_hf.tasks.text.task import TextConfig as TextConfig
    from ftmech_hf.training.adapters import AdapterConfig as AdapterConfig
    from ftmech_hf.training.objectives import OBJECTIVES as OBJECTIVES
    from ftmech_hf.training.objectives.base import Objective as Objective
    from ftmech_hf.training.settings import TrainConfig as TrainConfig

__version__ = "0.1.0"

_CONTENTS = {  # file -> what it offers
    "activations": "ActivationStore TracedModel intervene",
    "analysis.ablation": "importance_agreement",
    "analysis.attention": "attention_change attention_to_groups",
    "analysis.divergence": "divergence_from_truth",
    "analysis.forgetting": "measure_forgetting",
    "analysis.input_gradients": "compare_input_gradients",
    "analysis.logit_lens": "logit_lens",
    "analysis.patching": "patch_each",
    "analysis.path": "accuracy_barrier",
    "analysis.probing": "fit_probes",
    "analysis.pruning": "gradient_importance prune_sweep",
    "analysis.recovery": "recovery",
    "analysis.revival": "steps_to_revival",
    "analysis.separation": "cluster_separation",
    "analysis.similarity": "compare_representations",
    "analysis.weights": "weight_change",
    "config": "parse_config",
    "hub": "HubConfig PublishConfig Target publish pull save",
    "jobs.answer_rows": "AnswerRows",
    "jobs.asking": "AskConfig",
    "jobs.attention": "AttentionConfig map_attention",
    "jobs.behavior": "Behavior",
    "jobs.cell": "Cell",
    "jobs.compiling": "CompileConfig start_compiled",
    "jobs.exact_distribution": "TruthConfig compare_with_truth",
    "jobs.fit_judge": "FitJudgeConfig fit_story_judge",
    "jobs.generation": "generate",
    "jobs.interpolation": "InterpolateConfig interpolate",
    "jobs.job": "JobConfig job",
    "jobs.make_dataset": "MakeDatasetConfig make_dataset",
    "jobs.make_stories": "MakeStoriesConfig make_stories",
    "jobs.probing": "ProbeConfig probe",
    "jobs.pruning": "PruneConfig prune",
    "jobs.pruning_sweep": "prune_for",
    "jobs.scheduler": "run_cells",
    "jobs.study": "Study StudyConfig StudyPlan run_study",
    "jobs.training": "FinetuneConfig PretrainConfig finetune pretrain",
    "jobs.write_stories": "WriteConfig write_stories",
    "models.compiled": "CompiledModel",
    "models.compiled_config": "CompiledConfig",
    "models.interpolation": "interpolate_weights",
    "models.loading": "load_model load_tokenizer random_twin",
    "models.presets": "build_model",
    "runs": "FinishedRun RunDir",
    "studies": "STUDIES load_study",
    "studies.diagnosis.case": "Case CaseConfig",
    "studies.diagnosis.diagnosis": "DiagnosisResult diagnose run_diagnosis",
    "studies.diagnosis.inputs": "DiagnoseConfig",
    "tasks": "Capability TASKS Task build_dataset parse_task stream_dataset",
    "tasks.letters": "CounterConfig MaxIdentifierConfig",
    "tasks.pcfg": "PcfgConfig",
    "tasks.stories.task": "StoriesConfig",
    "tasks.text.task": "TextConfig",
    "training.adapters": "AdapterConfig",
    "training.objectives": "OBJECTIVES",
    "training.objectives.base": "Objective",
    "training.settings": "TrainConfig",
}
_FILES = {name: file for file, names in _CONTENTS.items() for name in names.split()}
__all__ = sorted(_FILES)

know_compiled_programs()


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
