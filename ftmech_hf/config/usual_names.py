"""Settings as users of transformers and TRL call them: taken where they mean the same, else answered with ours."""

from __future__ import annotations

from collections.abc import Container

SAME: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "warmup_ratio": ("warmup_fraction",),
    "report_to": ("log_with",),
    "model_name_or_path": ("model",),
    "dataset_name": ("dataset",),
    "lora_r": ("lora_rank",),
    "lora_target_modules": ("lora_targets",),
    "overwrite_output_dir": ("fresh",),
}
"""Another name -> the settings that mean exactly that, of which a recipe has one at most."""

_ONE_PROCESS = "batch_size, the rows of a step over all processes and gradient_accumulation_steps"
_GOES_ON = "nothing: the same command goes on where it was interrupted, and fresh starts over"
_EVALS = "num_evals or eval_at"
_NOT_OFFERED = "nothing: it is not offered"
OTHER: dict[str, str] = {
    "per_device_train_batch_size": _ONE_PROCESS,
    "train_batch_size": _ONE_PROCESS,
    "per_gpu_train_batch_size": _ONE_PROCESS,
    "per_device_eval_batch_size": "eval_rows, the rows of an evaluation",
    "num_train_epochs": "steps, the number of optimizer steps; a task's rows do not end",
    "epochs": "steps, the number of optimizer steps; a task's rows do not end",
    "bf16": "mixed_precision bf16",
    "fp16": "mixed_precision bf16; fp16 is not offered",
    "torch_compile": "compile",
    "full_determinism": "deterministic",
    "torch_dtype": "mixed_precision",
    "dtype": "mixed_precision",
    "optim": "optimizer, one of muon, adamw, sgd",
    "warmup_steps": "warmup_fraction, a share of the steps",
    "lr_scheduler_type": "final_lr_fraction, where the cosine ends",
    "adam_epsilon": _NOT_OFFERED,
    "save_steps": "checkpoint_every, for going on after an interruption, or snapshots, for what is to be kept",
    "save_strategy": "checkpoint_every or snapshots",
    "save_total_limit": "snapshots",
    "eval_steps": _EVALS,
    "eval_strategy": _EVALS,
    "evaluation_strategy": _EVALS,
    "logging_steps": _EVALS,
    "logging_strategy": _EVALS,
    "logging_dir": "output_dir",
    "run_name": "output_dir",
    "resume_from_checkpoint": _GOES_ON,
    "do_train": "nothing: that is what the recipe does",
    "do_eval": _EVALS,
    "max_seq_length": "text_length, or row_tokens for stories",
    "max_length": "text_length, or row_tokens for stories",
    "use_peft": "adapter lora",
    "load_in_4bit": _NOT_OFFERED,
    "load_in_8bit": _NOT_OFFERED,
    "deepspeed": _NOT_OFFERED,
    "fsdp": _NOT_OFFERED,
    "dataloader_num_workers": _NOT_OFFERED,
    "trust_remote_code": "nothing: no code of a repository is ever run",
    "hub_token": "the environment variable HF_TOKEN",
    "attn_implementation": _NOT_OFFERED,
}
"""Another name -> what to give in its place."""


def our_name(name: str, known: Container[str]) -> str:
    """The setting of ours that a name stands for: itself, or the one that means the same."""
    name = name.replace("-", "_")
    if name in known:
        return name
    return next((ours for ours in SAME.get(name, ()) if ours in known), name)


def usual_advice(name: str, known: Container[str]) -> str | None:
    """What to give in place of a setting that is called so elsewhere; None if it is no such name.

    Args:
        name: as a user wrote it.
        known: the settings of the recipe.
    """
    name = name.replace("-", "_")
    advice = OTHER.get(name) or " or ".join(SAME.get(name, ()))
    if not advice:
        return None
    first = advice.split()[0].strip(",:;")
    if first in ("nothing", "the") or first in known:
        return f"expected {advice}"
    return f"elsewhere that is {advice}; this recipe has no such setting"
