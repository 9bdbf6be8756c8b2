"""The training loop with DDP or on a sharded (FSDP2) model, on CPU, once or oftener, by two processes as of torchrun.

In modes that end in ``documents`` it trains on packed stories, whose rows are filled unequally.

accelerate starts FSDP2 on accelerators only. Here its plugin is put in place by hand; preparing, sharding, stepping and
checkpointing are then those of a GPU run.

torchrun --nproc_per_node 2 -m tests.training.distributed FOLDER ddp|fsdp2|one[-documents] STOP_AT ...
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import save_model

from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig, Rows, RowStream, StoriesConfig, Task
from ftmech_hf.tasks.schema import PAD, SPECIAL_TOKENS
from ftmech_hf.training.evaluation import Evaluation
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2

CONFIG = TrainConfig(
    steps=6, batch_size=8, num_evals=2, eval_rows=16, final_eval_rows=16, checkpoint_every=2, mixed_precision="no"
)
TASK = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)


class Uneven(StoriesConfig):
    """The second half of a step, which is the second process's, is mostly padding."""

    def block(self, seed: int, split: str, number: int) -> Rows:
        rows = super().block(seed, split, number)
        rows.token_ids[np.arange(len(rows.token_ids)) % 8 >= 4, 8:] = SPECIAL_TOKENS.index(PAD)
        return rows


DOCUMENTS = Uneven(vocab_size=300, row_tokens=32, relations=1)
DROPOUT = {"one": 0.0, "ddp": 0.1, "fsdp2": 0.0, "one-documents": 0.0, "ddp-documents": 0.0}


class Killed(Exception):
    pass


def shard(accelerator: Accelerator) -> None:
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "GPT2Block"
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.distributed_type = DistributedType.FSDP


def evaluate(task: Task, folder: Path) -> None:
    """Measure a model that is not trained, and write what was found and how many rows this process saw."""
    model, seen = make_gpt2(len(task.vocabulary)), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    if task is TASK:  # a model that gives one answer to everything, which is right now and then
        answer = int(RowStream(task, seed=0, split="test").rows(0, 1).token_ids[0, -2])
        with torch.no_grad():
            model.transformer.ln_f.weight.zero_()
            model.transformer.ln_f.bias.fill_(1.0)
            model.lm_head.weight.copy_((torch.arange(len(task.vocabulary)) == answer).float()[:, None].expand(-1, 16))
    tests = {"all": RowStream(task, seed=0, split="test"), "others": RowStream(task, seed=1, split="test")}
    found = {rows: Evaluation(tests, task)(model, [rows]) for rows in (96, 95)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"evaluation{os.environ.get('RANK', '')}.json").write_text(json.dumps({"found": found, "seen": seen}))


def main(folder: Path, mode: str, stop_at: int) -> None:
    task: Task = DOCUMENTS if mode.endswith("documents") else TASK
    config = dataclasses.replace(CONFIG, objective="documents") if task is DOCUMENTS else CONFIG
    accelerator = start_accelerator(config)
    evaluate(task, folder.parent / f"{folder.name}-evaluated")
    if mode == "fsdp2":
        shard(accelerator)
    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config), is_main=accelerator.is_main_process)
    accelerator.wait_for_everyone()

    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    stream, tests = RowStream(task, seed=0, split="train"), {"all": RowStream(task, seed=0, split="test")}
    try:
        model = fit(
            make_gpt2(len(task.vocabulary), dropout=DROPOUT[mode]), stream, tests, config, run, accelerator, progress
        )
        if run.is_main:
            save_model(model, str(run.working / "model.safetensors"))
        run.finish()
    except Killed:
        pass
    finally:
        run.close()


if __name__ == "__main__":
    for folder, mode, stop_at in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
        main(Path(folder), mode, int(stop_at))
