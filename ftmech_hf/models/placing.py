"""Where a model's parts are: on one device, or split over several by accelerate, as ``device_map="auto"`` does."""

from __future__ import annotations

from accelerate import dispatch_model
from transformers import PreTrainedModel


def placed_like(made: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    """A model put where another of its shape is, part by part; it is moved, not copied.

    Args:
        made: on the CPU.
        model: whose devices it gets. A model that is split may fit on none of them alone.
    """
    if len({weight.device for weight in model.parameters()}) == 1 or not hasattr(model, "hf_device_map"):
        return made.to(model.device)  # type: ignore[arg-type]  # torch's own annotation takes it
    split: PreTrainedModel = dispatch_model(
        made, model.hf_device_map, main_device=str(model.device), skip_keys=made._skip_keys_device_placement
    )
    return split
