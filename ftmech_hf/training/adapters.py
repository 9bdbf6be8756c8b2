"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685), with peft: what is trained instead of the whole model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.models.merging import quiet_peft


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What fine-tuning trains: the whole model, its unembedding alone, or an adapter."""

    trainable: Literal["all", "head"] = field(
        default="all",
        metadata={"help": "head: the unembedding alone; fine-tuning all after that is LP-FT (arXiv 2202.10054)"},
    )

    adapter: Literal["none", "lora"] = field(default="none", metadata={"help": "lora: train low-rank updates"})
    lora_rank: int = field(default=8, metadata={"help": "rank of the update of each matrix"})
    lora_alpha: float = field(default=16.0, metadata={"help": "the update is scaled by lora_alpha / lora_rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout before the adapter"})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "names of the adapted modules, such as c_attn; all matrices of the blocks if not given"},
    )

    def __post_init__(self) -> None:
        if self.trainable == "head" and self.adapter == "lora":
            raise ValueError("trainable: head, but adapter: lora trains the matrices of the blocks; choose one")
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank: {self.lora_rank}, expected at least 1")
        if not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha: {self.lora_alpha}, expected a number above 0")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout: {self.lora_dropout}, expected 0 or more and less than 1")


def add_adapter(model: PreTrainedModel, config: AdapterConfig, *, base: str, seed: int) -> Any:
    """Freeze what is not trained; with ``adapter: lora`` that is the model, on which an adapter is put.

    An adapter starts as no change at all.

    Args:
        model: the base model; it is changed.
        config: which adapter.
        base: name of the base model, to be found again by.
        seed: of the adapter's random half.

    Returns:
        the model; or the ``PeftModel``, whose ``save_pretrained`` writes the adapter alone.

    Raises:
        ValueError: a target that the model has no module of.
    """
    if config.trainable == "head":
        model.requires_grad_(False)
        model.get_output_embeddings().requires_grad_(True)
    if config.adapter == "none":
        return model
    from peft import LoraConfig, get_peft_model

    matrices = {
        name.rsplit(".", 1)[-1]: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    }
    for name in config.lora_targets:
        if name not in matrices:
            raise ValueError(f"lora_targets: the model has no {name!r}, expected some of {', '.join(sorted(matrices))}")
    targets = config.lora_targets or sorted(matrices)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # peft's annotation says int, its code divides
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(matrices[name], Conv1D) for name in targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted
