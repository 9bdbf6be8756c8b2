"""Adapters of any kind that peft knows, put on their base and merged into it; what was loaded is checked.

peft drops what does not fit with a warning, or with none. Here an adapter is whole in the model or is refused.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.identity import ADAPTER_WEIGHTS
from ftmech_hf.models.quantized import packed_weights, unpacked
from ftmech_hf.models.vocabulary import find_embeddings, has_tied_embeddings, plain_layer, untie

ROUNDING = 1e-4
"""How far logits before and after a merge may differ, relative to the largest: a hundred times float32's rounding."""
COARSE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The same in types of fewer digits, in which models in memory are merged as they are."""
BY_ROW = {"POLY": "for every row's task", "XLORA": "for every row, by what a classifier makes of it"}
"""Kinds of adapters whose change of weights is not the same for all rows -> what it depends on."""
EMBEDDED, KEYS = ("PROMPT_TUNING", "P_TUNING"), ("PREFIX_TUNING", "CARTRIDGE")
"""Kinds that put embeddings in front of rows, and kinds that put keys and values there."""
_PREFIX = "base_model.model."
_OF_THE_MACHINE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)  # which says nothing of any file


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without warnings that users cannot help.

    That peft 0.21 calls by a name which transformers 5 has deprecated, that it finds no config where an adapter's base
    is itself an adapter, whose vocabulary is never changed here, and that ranks which it sets for experts by itself are
    of no use where an adapter is not put on experts.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        yield


@contextlib.contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Turn whatever transformers and peft raise on files that they cannot use into one line that names the model."""
    try:
        yield
    except _OF_THE_MACHINE:
        raise
    except Exception as error:  # of every type: KeyError, ImportError, RuntimeError, AttributeError ... were all seen
        text = " ".join(str(error).split())
        sizes = re.findall(r"size mismatch for (\S+): .*?(\[[\d, ]*\]).*?(\[[\d, ]*\])", text)
        kind = "there is no" if isinstance(error, KeyError) else f"{type(error).__name__}:"
        reason = (
            "; ".join(f"{tensor} has {found} where the model has {expected}" for tensor, found, expected in sizes[:2])
            or f"{kind} {text[:300]}"
        )
        raise ValueError(f"model: {name} cannot be loaded: {reason}") from error


def check_adapter(folder: Path, name: str) -> None:
    """Make sure that an adapter can be merged, before its base is loaded.

    Raises:
        ValueError: it is of a kind that is no change of its base's weights, or its weights are not there.
    """
    from peft import PeftConfig

    with loading_errors(name):
        config = PeftConfig.from_pretrained(str(folder))
    _refuse_kind(config, f"model: {name}", "a diagnosis takes it as the fine-tuned model")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"model: {name} holds no weights of its adapter (no {ADAPTER_WEIGHTS})")


def _refuse_kind(config: Any, called: str, instead: str) -> None:
    """Make sure that what an adapter does to its base is one change of weights, the same for all rows."""
    kind = _kind_of(config)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ValueError(
            f"{called} is a {kind} adapter, which adds tokens and changes no weights, so it cannot be merged into "
            f"its base; expected one of weights, such as LORA{f' ({instead})' if kind in (*EMBEDDED, *KEYS) else ''}"
        )
    if kind in BY_ROW:
        raise ValueError(
            f"{called} is a {kind} adapter, whose change of weights is another one {BY_ROW[kind]}, so it cannot be "
            "merged into its base; expected one change for all rows, such as LORA"
        )


def _kind_of(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def merge_in_memory(adapted: Any, called: str) -> PreTrainedModel:
    """A base with an adapter, both in memory, as one model; they stay as they are.

    Args:
        adapted: the model of peft.
        called: what errors call it.

    Raises:
        ValueError: it is no change of weights, or is one that depends on the row; or the merged model answers otherwise
            than the base with its adapter does.
    """
    for config in adapted.peft_config.values():
        _refuse_kind(config, called, "a diagnosis takes the folder of such a fine-tuned model")
    own = (_on_unpacked(adapted) if packed_weights(adapted) else copy.deepcopy(adapted)).eval()
    live, base = _probe_logits(own), own.get_base_model()
    if _sits_on_one_of_tied(base):
        untie(base)
    return _as_live(_merge(own, called), live, called)


def _on_unpacked(adapted: Any) -> Any:
    """The same adapters on what their quantized base computes; merged into packed weights they are rounded away."""
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    found: Any = None
    base = unpacked(adapted.get_base_model())
    for name, config in adapted.peft_config.items():
        settings = copy.deepcopy(config)
        settings.inference_mode = False
        if hasattr(settings, "init_lora_weights"):
            settings.init_lora_weights = True  # others, such as PiSSA, change the base, which they have done already
        with quiet_peft():
            if found is None:
                found = PeftModel(base, settings, adapter_name=name)
            else:
                found.add_adapter(name, settings)
        set_peft_model_state_dict(found, get_peft_model_state_dict(adapted, adapter_name=name), adapter_name=name)
    found.base_model.set_adapter(adapted.active_adapters)
    return found.eval()


def merge_adapter(base: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """Put an adapter on its base and merge it.

    Args:
        base: the model it was trained on; it is changed.
        folder: where the adapter is.
        name: what to call it in errors.

    Raises:
        ValueError: a part of the adapter is missing or has no place in the base, or the merged model answers otherwise
            than the base with its adapter did.
    """
    with loading_errors(name), safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    _bring_vocabulary(base, shapes, name)
    adapted = _put_on(base, folder, name)
    live = _probe_logits(adapted)
    if _changes_one_of_tied(base, shapes):
        # merged into one matrix, the change would be in both
        with loading_errors(name):
            base = adapted.unload()
        untie(base)
        adapted = _put_on(base, folder, name)
    merged = _merge(adapted, f"model: {name}")
    return _as_live(merged.requires_grad_(True).eval(), live, f"model: the adapter {name}")  # peft froze the base


def _as_live(merged: PreTrainedModel, live: Tensor, called: str) -> PreTrainedModel:
    """A merged model, if it answers as its base did with the adapter."""
    difference, largest = float((_probe_logits(merged) - live).abs().max()), float(live.abs().max())
    if not difference <= COARSE.get(merged.dtype, ROUNDING) * max(1.0, largest):  # also if it is no number
        raise ValueError(
            f"{called} cannot be merged: the merged model's logits differ from the base's with its adapter by "
            f"{difference:.2g} (largest {largest:.2g}), which is no rounding"
        )
    return merged


def _merge(adapted: Any, called: str) -> PreTrainedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            merged: PreTrainedModel = adapted.merge_and_unload()
        except (AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, _OF_THE_MACHINE):
                raise
            kind = _kind_of(next(iter(adapted.peft_config.values())))
            raise ValueError(
                f"{called} is a {kind} adapter, which cannot be merged into its base "
                f"({' '.join(str(error).split())[:200]}); expected one that changes its weights, such as LORA"
            ) from error
    return merged


def _put_on(base: PreTrainedModel, folder: Path, name: str) -> Any:
    """A base with an adapter, of which every tensor has its place and every place its tensor."""
    from peft import PeftModel

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        twice = _saved_twice(file)
    with warnings.catch_warnings(), loading_errors(name):
        warnings.simplefilter("ignore")  # what they tell of is checked here
        adapted = PeftModel.from_pretrained(base, str(folder))
        result = adapted.load_adapter(
            str(folder), "default", key_mapping=getattr(base, "_checkpoint_conversion_mapping", {})
        )
    wrong = [f"{key} is missing" for key in _not_loaded(adapted, result.missing_keys)]
    wrong += [f"{key} has no place in the base" for key in result.unexpected_keys if key not in twice]
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(f"model: the adapter {name} does not fit its base: {'; '.join(wrong[:2])}{more}")
    return adapted.eval()


def _not_loaded(adapted: Any, missing: Sequence[str]) -> list[str]:
    """Missing tensors, but for those that are another name of one that was loaded: VB-LoRA's layers share theirs."""
    named = dict(adapted.named_parameters(remove_duplicate=False))
    loaded = {id(named[name]) for name in named.keys() - set(missing)}
    return [name for name in missing if name not in named or id(named[name]) not in loaded]


def _saved_twice(file: Any) -> set[str]:
    """Tensors that peft writes under two names: embeddings that were trained whole, in a vocabulary that had grown."""
    names = {key: key.replace(".modules_to_save", "").replace(".original_module", "") for key in file.keys()}  # noqa: SIM118
    return {
        key
        for key, plain in names.items()
        if key != plain
        and plain in names
        and (".original_module" in key or torch.equal(file.get_tensor(key), file.get_tensor(plain)))
    }


def _probe_logits(model: Any) -> Tensor:
    """Logits of one row of tokens from all over the vocabulary."""
    config = model.config.get_text_config()
    length = min(16, getattr(config, "max_position_embeddings", None) or 16)
    rows = torch.linspace(0, model.get_input_embeddings().weight.shape[0] - 1, length).long()[None]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SHiRA's sparse tensors make torch warn, which users cannot help
        logits: Tensor = model(input_ids=rows.to(next(model.parameters()).device)).logits
    return logits.float()


def _bring_vocabulary(base: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Give the base the vocabulary that an adapter was trained with, as its users do, if the adapter has all rows.

    Raises:
        ValueError: it has not.
    """
    embeddings, whole = find_embeddings(base), {}
    rows: dict[str, int] = {}
    for module, weight in embeddings.items():
        for key, shape in shapes.items():
            inner = key.removeprefix(_PREFIX)
            if not inner.startswith(f"{module}."):
                continue
            if "lora_embedding_A" in inner:
                rows[key] = shape[-1]
            elif "lora_B" in inner:
                rows[key] = shape[0]
            elif inner.endswith(".weight") and len(shape) == 2 and "lora_" not in inner and shape[1] == weight.shape[1]:
                rows[key] = whole[module] = shape[0]
    known = max(len(weight) for weight in embeddings.values())
    if set(rows.values()) <= {known}:
        return
    key, wanted = next((key, number) for key, number in rows.items() if number != known)
    if set(rows.values()) != {wanted} or not whole or (set(whole) != set(embeddings) and not has_tied_embeddings(base)):
        raise ValueError(
            f"model: the adapter {name} was trained with {wanted} words ({key.removeprefix(_PREFIX)}), but its base "
            f"has {known}, and it does not bring the embeddings of all {wanted}; expected the base it was trained on"
        )
    with torch.random.fork_rng([]):  # new rows are drawn, and then replaced by the adapter's
        base.resize_token_embeddings(wanted, mean_resizing=False)


def _changes_one_of_tied(base: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an adapter has a change of one of two tied matrices; rows of single tokens are changed in both."""
    embeddings = find_embeddings(base)
    return has_tied_embeddings(base) and any(
        key.removeprefix(_PREFIX).startswith(f"{module}.") and "trainable_tokens" not in key
        for module in embeddings
        for key in shapes
    )


def _sits_on_one_of_tied(base: PreTrainedModel) -> bool:
    """The same of a base whose adapter is in its layers."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    ends = [each for each in (base.get_input_embeddings(), base.get_output_embeddings()) if each is not None]
    tied = len(ends) == 2 and len({id(plain_layer(each).weight) for each in ends}) == 1
    return tied and any(
        each is not plain_layer(each) and not any(isinstance(part, TrainableTokensLayer) for part in each.modules())
        for each in ends
    )
