"""Adapters that put learned tokens in front of every row and change no weights: prompt tuning, p-tuning, prefixes.

They cannot be merged. The model is then its base, which is given more than the row: embeddings in front of the row's
(prompt tuning, p-tuning), or keys and values in front of each layer's own (prefix tuning). Whatever calls it gets what
belongs to the row's own tokens; blocks see all.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.models.configs import config_positions
from ftmech_hf.models.forward import forward_parameters
from ftmech_hf.models.identity import ADAPTER, ADAPTER_WEIGHTS, find_base, find_gguf, find_model
from ftmech_hf.models.loading import Dtype, load_model
from ftmech_hf.models.merging import EMBEDDED, KEYS, loading_errors


def prompt_learning_kind(name: str) -> str | None:
    """What kind of adapter that adds tokens a model is, as peft calls it; None if it is none.

    Raises:
        ValueError: it is one that also needs to be told of every row's task or parts.
    """
    if find_gguf(name) is not None or not ((folder := find_model(name)) / ADAPTER).is_file():
        return None
    from peft import PeftConfig

    with loading_errors(name):
        config = PeftConfig.from_pretrained(str(folder))
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning and kind not in (*EMBEDDED, *KEYS):
        raise ValueError(f"model: {name} is a {kind} adapter, expected one of {', '.join((*EMBEDDED, *KEYS))}")
    return kind if config.is_prompt_learning else None


def load_with_prompt(
    name: str, *, base: str | None = None, onto: str | None = None, device: str = "auto", dtype: Dtype = "float32"
) -> PreTrainedModel:
    """Load what an adapter of :func:`prompt_learning_kind` stands on, with the adapter's tokens in front of its rows.

    Raises:
        ValueError: as for :func:`~ftmech_hf.models.loading.load_model`; or the model takes no positions.
    """
    from peft import PeftModel

    folder, kind = find_model(name), prompt_learning_kind(name)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"model: {name} holds no weights of its adapter (no {ADAPTER_WEIGHTS})")
    below = load_model(find_base(folder, base, onto), base=base or onto, device=device, dtype=dtype)
    if "position_ids" not in forward_parameters(below):
        raise ValueError(f"model: {below.config.model_type} takes no position_ids, so no tokens fit in front: {name}")
    with warnings.catch_warnings(), loading_errors(name):
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(below, str(folder)).eval()
        result = adapted.load_adapter(str(folder), "default")
        _check_keys(result, name)
        with torch.no_grad():
            front = _Front(adapted, in_stream=kind in EMBEDDED)
    below.register_forward_pre_hook(front.put, with_kwargs=True)
    below.register_forward_hook(front.cut)
    setattr(below, _FRONT, front)
    return below.requires_grad_(True).eval()


def _check_keys(result: Any, name: str) -> None:
    """Make sure that every tensor of an adapter has its place; one without what is put in front peft refuses."""
    wrong = [f"{key} has no place in it" for key in result.unexpected_keys if key != "prompt_embeddings"]
    if wrong:
        raise ValueError(f"model: the weights of the adapter {name} do not fit its config: {'; '.join(wrong[:2])}")


_FRONT = "_tokens_in_front"


class _Front:
    """What a model's rows are given in front of them.

    Args:
        adapted: peft's model, which knows it.
        in_stream: whether it is in the stream, or in the keys and values alone.
    """

    def __init__(self, adapted: Any, *, in_stream: bool) -> None:
        self.adapted, self.in_stream, self.off = adapted, in_stream, False
        self.number = int(adapted.active_peft_config.num_virtual_tokens)
        self._length = 0

    def put(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the model is called."""
        if self.off:
            return None
        given: dict[str, Any] = {"input_ids": args[0], **kwargs} if args else dict(kwargs)
        rows: Tensor = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        shape, device = rows.shape[:2], rows.device
        self._length = shape[1]
        own = given.get("position_ids")
        own = torch.arange(shape[1], device=device).expand(shape) if own is None else own
        mask = given.get("attention_mask")
        mask = torch.ones(shape, dtype=torch.long, device=device) if mask is None else mask
        given["attention_mask"] = torch.cat([mask.new_ones(len(rows), self.number), mask], 1)
        self.adapted.prompt_encoder.to(device)
        prompt: Any = self.adapted.get_prompt(batch_size=len(rows))
        if self.in_stream:
            before = torch.arange(self.number, device=device).expand(len(rows), -1)
            given["position_ids"] = torch.cat([before, own + self.number], 1)
            embedded = model.get_input_embeddings()(rows) if rows.ndim == 2 else rows
            given["input_ids"], given["inputs_embeds"] = None, torch.cat([prompt.to(embedded), embedded], 1)
        else:
            given["position_ids"], given["past_key_values"] = own + self.number, prompt
        return (), given

    def cut(self, model: nn.Module, args: Any, output: Any) -> Any:
        """After it was called: what belongs to the row's own tokens."""
        if self.off or not self.in_stream:
            return output

        def own(value: Tensor) -> Tensor:
            return value[:, self.number :] if value.shape[1] == self.number + self._length else value

        output.logits = own(output.logits)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(map(own, output.hidden_states))
        return output


def tokens_in_front(model: nn.Module) -> int:
    """How many positions of the stream are not a row's own."""
    front: _Front | None = getattr(model, _FRONT, None)
    return front.number if front is not None and front.in_stream and not front.off else 0


def positions_of(model: PreTrainedModel) -> int | None:
    """How many tokens of a row a model in memory can be shown; None if nothing limits them.

    What is learned in front of a row takes positions, whether it is in the stream or in keys and values alone.
    """
    front: _Front | None = getattr(model, _FRONT, None)
    found = config_positions(model.config)
    return found if found is None or front is None or front.off else found - front.number


@contextlib.contextmanager
def nothing_in_front(model: nn.Module) -> Iterator[None]:
    """While open, a model is given its rows alone, as to see how it is built; any other model as ever."""
    front: _Front | None = getattr(model, _FRONT, None)
    if front is None or front.off:
        yield
        return
    front.off = True
    try:
        yield
    finally:
        front.off = False
