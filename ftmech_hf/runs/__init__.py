"""One run is one folder: made so that it is there whole or not at all, and opened once to be read."""

from ftmech_hf.runs.environment import code_version, count_cores, cpu_seconds, describe_versions, environment
from ftmech_hf.runs.files import (
    bytes_in,
    check_disk_space,
    copy_file,
    copy_folder,
    disk_errors,
    file_sha256,
    is_temporary,
    remove_leftovers,
    replacing,
    write_json,
    write_table,
    write_text,
)
from ftmech_hf.runs.finished_run import FinishedRun, accuracy_of, loss_of
from ftmech_hf.runs.folders import (
    CHECKPOINTS,
    MANIFEST,
    commit_folder,
    damaged_files,
    is_finished,
    making,
    refuse_files,
    working_folder,
)
from ftmech_hf.runs.inputs import Identity, InputsChanged, changed_inputs, hash_files, run_identity
from ftmech_hf.runs.lock import FolderInUse, FolderLock
from ftmech_hf.runs.metrics import read_metrics
from ftmech_hf.runs.run_dir import RunDir, noted, refuse_other_run

__all__ = [
    "CHECKPOINTS",
    "MANIFEST",
    "FinishedRun",
    "FolderInUse",
    "FolderLock",
    "Identity",
    "InputsChanged",
    "RunDir",
    "accuracy_of",
    "bytes_in",
    "changed_inputs",
    "check_disk_space",
    "code_version",
    "commit_folder",
    "copy_file",
    "copy_folder",
    "count_cores",
    "cpu_seconds",
    "damaged_files",
    "describe_versions",
    "disk_errors",
    "environment",
    "file_sha256",
    "hash_files",
    "is_finished",
    "is_temporary",
    "loss_of",
    "making",
    "noted",
    "read_metrics",
    "refuse_files",
    "refuse_other_run",
    "remove_leftovers",
    "replacing",
    "run_identity",
    "working_folder",
    "write_json",
    "write_table",
    "write_text",
]
