"""Adapters with peft (LoRA, Hu et al., arXiv 2106.09685; OSF): what is trained instead of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.config import changed_settings, check_literals
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.seeding import seeded
from ftmech_hf.models.vocabulary import has_tied_embeddings


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What fine-tuning trains: the whole model, its unembedding alone, or an adapter."""

    trainable: Literal["all", "head", "body"] = field(
        default="all",
        metadata={
            "help": "head: the unembedding alone, of models whose embedding is another matrix; fine-tuning all after "
            "that is LP-FT (arXiv 2202.10054); body: all but the unembedding, and the embeddings where they are one"
        },
    )

    adapter: Literal["none", "lora", "osf"] = field(
        default="none",
        metadata={
            "help": "lora: train low-rank updates; osf: train the smaller singular directions of matrices alone "
            "(arXiv 2504.07097), of linear layers"
        },
    )
    osf_rank: float = field(
        default=0.5,
        metadata={"unsaid": True, "help": "share of the singular directions of a matrix that osf leaves as they are"},
    )
    lora_rank: int = field(default=8, metadata={"help": "rank of the update of each matrix"})
    lora_alpha: float = field(default=16.0, metadata={"help": "the update is scaled by lora_alpha / lora_rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout before the adapter"})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "names of the adapted modules, such as c_attn, or ends of their paths, such as 1.mlp.c_proj; all "
            "matrices of the blocks if not given; experts are none"
        },
    )

    def __post_init__(self) -> None:
        check_literals(self)
        if self.trainable != "all" and self.adapter != "none":
            raise ValueError(
                f"trainable: {self.trainable}, but adapter: {self.adapter} trains matrices of the blocks; choose one"
            )
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank: {self.lora_rank}, expected at least 1")
        if not 0 < self.osf_rank < 1:
            raise ValueError(f"osf_rank: {self.osf_rank}, expected a share, more than 0 and less than 1")
        if not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha: {self.lora_alpha}, expected a number above 0")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout: {self.lora_dropout}, expected 0 or more and less than 1")
        for name, said in changed_settings(self, AdapterConfig).items():
            kind = name.partition("_")[0]
            if kind in ("lora", "osf") and kind != self.adapter:
                raise ValueError(f"{name}: {said} changes nothing, expected adapter: {kind}")


_OF_MAMBA = ("conv1d", "out_proj")
PAST_ADAPTERS = {
    "bamba": _OF_MAMBA, "falcon_h1": _OF_MAMBA, "falcon_mamba": (*_OF_MAMBA, "dt_proj"), "granitemoehybrid": _OF_MAMBA,
    "jamba": ("dt_proj",), "mamba": (*_OF_MAMBA, "dt_proj"), "mamba2": _OF_MAMBA, "nemotron_h": _OF_MAMBA,
    "zamba2": _OF_MAMBA,
}  # fmt: skip
"""Architecture -> matrices that its kernels read past any adapter. None is put on them; to name one is refused."""


def add_adapter(model: PreTrainedModel, config: AdapterConfig, *, base: str, seed: int) -> Any:
    """Freeze what is not trained; with an adapter that is the model, on which it is put.

    What no text passes, as what reads images, is never trained. An adapter starts as no change at all.

    Args:
        model: the base model; it is changed.
        config: which adapter.
        base: name of the base model, to be found again by.
        seed: of the adapter's random half.

    Returns:
        the model; or the ``PeftModel``, whose ``save_pretrained`` writes the adapter alone.

    Raises:
        ValueError: a target that the model has no module of, or that the adapter does not work on; or the unembedding
            alone is to be trained, and it is the embedding as well.
    """
    targets, transposed = adapter_targets(model, config)
    if config.adapter == "none":
        return model
    from peft import get_peft_model

    with seeded(seed), quiet_peft():
        # what cannot generate, as a compiled program, is no task of peft's
        task = "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None
        adapted = get_peft_model(model, _peft_config(config, targets, transposed, task))
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def adapter_targets(model: PreTrainedModel, config: AdapterConfig) -> tuple[list[str], bool]:
    """Freeze what is not trained, and find the modules that an adapter is put on, which needs no trained weights.

    Returns:
        names of modules, none without an adapter; whether their matrices are transposed.

    Raises:
        ValueError: see :func:`add_adapter`.
    """
    unread = unread_by_texts(model)
    _freeze(model, config.trainable, unread)
    if config.adapter == "none":
        return [], False
    matrices = {
        name: module
        for name, module in model.named_modules()
        if takes_adapters(module) and module is not model.get_output_embeddings()
    }
    if config.adapter == "osf":  # a matrix of one output, as of a gate, has no half of its directions
        matrices = {path: each for path, each in matrices.items() if int(config.osf_rank * min(each.weight.shape)) >= 1}
    read = {path: module for path, module in matrices.items() if f"{path}.weight" not in unread}
    only, matrices = len(read) < len(matrices), read
    names = {path.rsplit(".", 1)[-1] for path in matrices}
    for name in config.lora_targets:
        if not _named(matrices, name):
            raise ValueError(f"lora_targets: the model has no {name!r}, expected some of {', '.join(sorted(names))}")
    kind = str(getattr(model.config, "model_type", ""))
    refused = PAST_ADAPTERS.get(kind, ())
    for name in config.lora_targets:
        if name.rsplit(".", 1)[-1] in refused:
            raise ValueError(f"lora_targets: {name} of {kind} is read past any adapter, expected other matrices")
    targets = config.lora_targets or sorted(names - set(refused))
    if only or any(
        name.isdigit() for name in targets
    ):  # which a name alone would find in what reads images, or in blocks
        targets = [path for name in targets for path in _named(matrices, name)]
    transposed = any(isinstance(matrices[path], Conv1D) for name in targets for path in _named(matrices, name))
    if transposed and config.adapter == "osf":
        raise ValueError("adapter: osf works on linear layers, and this model has Conv1D ones (GPT-2); a Llama has not")
    return targets, transposed


def takes_adapters(module: torch.nn.Module) -> bool:
    """Whether a module is a matrix and nothing else: some routers are linear layers that return several things."""
    if isinstance(module, Conv1D):
        return True
    if not isinstance(module, torch.nn.Linear):
        return False
    of_its_own = type(module).forward is not torch.nn.Linear.forward and type(module).__name__ != "FalconLinear"
    return not (of_its_own and type(module).__module__.startswith("transformers.models."))


def _freeze(model: PreTrainedModel, trainable: str, unread: set[str]) -> None:
    """Freeze what is not trained, but for an adapter."""
    for name, each in model.named_parameters():
        if name in unread:
            each.requires_grad_(False)
    head = model.get_output_embeddings()
    if trainable == "all":
        return
    if head is None:
        kind = model.config.model_type
        raise ValueError(f"trainable: {trainable}, but {kind} has no unembedding of its own, expected all")
    if trainable == "body":
        head.requires_grad_(False)
        return
    if has_tied_embeddings(model):
        raise ValueError(
            "trainable: head, but this model's unembedding is its embedding, too, by which its features would be "
            "trained as well; expected all, body or an adapter"
        )
    model.requires_grad_(False)
    head.requires_grad_(True)


def unread_by_texts(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that no text passes, as of what reads images: they would be trained on nothing.

    Processes that train together would also wait for their gradients.
    """
    if model.config.get_text_config(decoder=True) is model.config:
        return set()
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    read = {id(each) for module in (decoder, head) if module is not None for each in module.parameters()}
    return {name for name, each in model.named_parameters() if id(each) not in read}


def experts_left_out(adapted: torch.nn.Module) -> float:
    """The share of a model's weights that are of experts and have no adapter, 0 where there are none.

    They are in no matrices of their own, on which alone an adapter is put; some models' experts get one by their names.
    """
    of_experts = {name: each.numel() for name, each in adapted.named_parameters()
                  if each.ndim == 3 and ".experts." in name and "lora_" not in name}  # fmt: skip
    with_adapter = {name.partition(".experts.")[0] for name, _ in adapted.named_parameters() if "lora_" in name}
    left = sum(size for name, size in of_experts.items() if name.partition(".experts.")[0] not in with_adapter)
    return left / sum(each.numel() for each in adapted.parameters())


def _named(matrices: Mapping[str, torch.nn.Module], name: str) -> list[str]:
    """Paths that are a name or end in it: ``c_proj`` is of all blocks, ``1.mlp.c_proj`` of one."""
    return [path for path in matrices if path == name or path.endswith(f".{name}")]


def _peft_config(config: AdapterConfig, targets: list[str], transposed: bool, task: str | None) -> Any:
    from peft import LoraConfig, OSFConfig

    if config.adapter == "osf":
        return OSFConfig(effective_rank=config.osf_rank, target_modules=targets, task_type=task)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # peft's annotation says int, its code divides
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=transposed,
        task_type=task,
    )
