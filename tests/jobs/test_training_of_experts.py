"""Mixtures of experts are fine-tuned as any other model: all weights or an adapter, in bfloat16, exactly resumed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

from ftmech_hf.config import Notice
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks import TextConfig
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig
from tests.foreign import save_llama, sums, write_rows

TRAIN = TrainConfig(
    steps=8, batch_size=8, objective="answer_only", optimizer="adamw", lr=1e-2, mixed_precision="bf16", num_evals=2,
    eval_rows=16, final_eval_rows=32, checkpoint_every=2, gradient_checkpointing=True, gradient_accumulation_steps=2,
)  # fmt: skip


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("experts")
    tokenizer = AutoTokenizer.from_pretrained(save_llama(root / "llama"))
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128, bos_token_id=0,
        eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return {"model": str(root / "model"), "rows": write_rows(root / "sums.jsonl", sums())}


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_experts_are_trained_in_bfloat16_and_a_run_that_was_cut_ends_the_same(
    tmp_path: Path, experts: dict[str, str], adapter: Any
) -> None:
    def run(name: str, stop_at: int | None = None) -> FinishedRun:
        def progress(step: int, steps: int, text: str) -> None:
            if step == stop_at:
                raise Killed

        place = FinetuneConfig(task="text", model=experts["model"], output_dir=str(tmp_path / name))
        lora = AdapterConfig(adapter=adapter, **({} if adapter == "none" else {"lora_rank": 4}))
        said = pytest.warns(Notice, match="lora leaves out the experts, 55%") if adapter == "lora" else nullcontext()
        with said:
            finetune(place, TextConfig(dataset=experts["rows"]), TRAIN, progress=progress, adapter=lora)
        return FinishedRun(tmp_path / name)

    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", stop_at=5)
    cut = run("cut")
    assert cut.metrics == whole.metrics
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    weights = [load_file(each.path / name) for each in (whole, cut)]
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])
    losses = [line["loss"] for line in whole.metrics if "loss" in line]
    assert losses[-1] < losses[0] - 0.3
    before = AutoModelForCausalLM.from_pretrained(experts["model"], dtype=torch.float32).state_dict()
    after = load_model(str(whole.path)).state_dict()
    moved = [each for each, value in after.items() if not torch.equal(value.float(), before[each])]
    trained = ("self_attn.q_proj", "mlp.experts", "mlp.gate") if adapter == "none" else ("self_attn.q_proj",)
    for part in trained:
        assert sum(part in each for each in moved) >= 2, (part, moved)
