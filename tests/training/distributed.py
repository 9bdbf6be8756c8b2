"""Run by torchrun on two processes: the training loop with DDP or on a sharded (FSDP2) model, on CPU.

accelerate starts FSDP2 on accelerators only. Here its plugin is put in place by hand; preparing, sharding, stepping and
checkpointing are then those of a GPU run.

python -m torch.distributed.run --nproc_per_node 2 -m tests.training.distributed FOLDER ddp|fsdp2 STOP_AT
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import save_model

from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2

CONFIG = TrainConfig(
    steps=6, batch_size=8, num_evals=2, eval_rows=16, final_eval_rows=16, checkpoint_every=2, mixed_precision="no"
)
TASK = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6)
DROPOUT = {"one": 0.0, "ddp": 0.1, "fsdp2": 0.0}


class Killed(Exception):
    pass


def shard(accelerator: Accelerator) -> None:
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "GPT2Block"
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.distributed_type = DistributedType.FSDP


def main(folder: Path, mode: str, stop_at: int) -> None:
    accelerator = start_accelerator(CONFIG)
    if mode == "fsdp2":
        shard(accelerator)
    run = RunDir.open(folder, "pretrain", dataclasses.asdict(CONFIG), is_main=accelerator.is_main_process)
    accelerator.wait_for_everyone()

    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    stream, tests = RowStream(TASK, seed=0, split="train"), {"all": RowStream(TASK, seed=0, split="test")}
    try:
        model = fit(
            make_gpt2(len(TASK.vocabulary), dropout=DROPOUT[mode]), stream, tests, CONFIG, run, accelerator, progress
        )
        if run.is_main:
            save_model(model, str(run.working / "model.safetensors"))
        run.finish()
    except Killed:
        pass
    finally:
        run.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
