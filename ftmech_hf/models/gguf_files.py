"""What a GGUF file says of a model and transformers does not take over, so that the loaded model would be another one.

Transformers makes a config of some of a file's metadata and parameters of the tensors that it has names for; what else
is there is dropped without a word. A scaled rotary embedding is lost so, whether it stands in the metadata or in a
tensor of factors, and the model answers otherwise to every text, the more so the longer it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")

KEPT_AS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "attention.layer_norm_epsilon": (EPSILONS, None),
    "attention.layer_norm_rms_epsilon": (EPSILONS, None),
    "attention.sliding_window": (("sliding_window",), 0),
    "attention.clamp_kqv": (("clip_qkv",), 0),
    "attention.max_alibi_bias": (("alibi_bias_max",), 0),
    "attention.output_scale": ((), 1),
    "attention.causal": ((), True),
    "attention.shared_kv_layers": (("num_kv_shared_layers",), 0),
    "attn_logit_softcapping": (("attn_logit_softcapping",), 0),
    "final_logit_softcapping": (("final_logit_softcapping",), 0),
    "router_logit_softcapping": (("router_logit_softcapping",), 0),
    "logit_scale": (("logit_scale",), 1),
    "embedding_scale": (("embedding_multiplier", "scale_emb"), 1),
    "residual_scale": (("residual_multiplier",), 1),
    "expert_weights_scale": (("routed_scaling_factor",), 1),
    "expert_weights_norm": (("norm_topk_prob",), None),
    "expert_group_count": (("n_group",), 1),
    "expert_group_used_count": (("topk_group",), 1),
    "use_parallel_residual": (("use_parallel_residual", "parallel_attn"), False),
    "ssm.dt_b_c_rms": ((), False),
}
"""Key behind the architecture's name -> settings of a config of which one is to say the same; what changes nothing."""

SOFTMAX, SIGMOID = 1, 2
"""How experts are scored, as ``expert_gating_func`` numbers it."""


def check_gguf(file: Path, model: PreTrainedModel, name: str) -> None:
    """Make sure that all of a GGUF file that changes what a model computes is in the model that was made of it.

    Args:
        file: read again, but for its weights only where a tensor has no place.
        model: as transformers made it.
        name: of the file in errors.

    Raises:
        ValueError: a tensor has no place in the model, or a key of the metadata says what its config does not.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    architecture = str(reader.fields["general.architecture"].contents())
    wrong = [
        f"{architecture}.{key} is {_short(value)}, {why}"
        for key, value, why in _other_settings(_metadata(reader, architecture), model.config.get_text_config())
    ]
    wrong += [f"{tensor} has no place in the model" for tensor in _dropped(reader, architecture, model)]
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(
            f"model: transformers does not take over all of {name}: {'; '.join(wrong[:2])}{more}; "
            "expected a file that it can, or the model's folder of safetensors"
        )


def _metadata(reader: Any, architecture: str) -> dict[str, Any]:
    """What stands under the architecture's name, without that."""
    front = f"{architecture}."
    return {key.removeprefix(front): each.contents() for key, each in reader.fields.items() if key.startswith(front)}


def _other_settings(found: Mapping[str, Any], config: Any) -> Iterator[tuple[str, Any, str]]:
    """(key, value, what the config says) of what a config says otherwise."""
    for key, (names, nothing) in KEPT_AS.items():
        value = found.get(key)
        if value is None or isinstance(value, list) or value == nothing:
            continue
        if key == "attention.sliding_window" and value >= found.get("context_length", math.inf):
            continue  # no row is so long
        has = {name: each for name in names if (each := getattr(config, name, None)) is not None}
        if not any(_near(value, each) for each in has.values()):
            yield key, value, _said(has)
    yield from _other_rotation(found, config)
    head = _head_width(config)
    if (scale := found.get("attention.scale")) and head:
        own = {"query_pre_attn_scalar": getattr(config, "query_pre_attn_scalar", None) or head}
        if not _near(scale, own["query_pre_attn_scalar"] ** -0.5, getattr(config, "attention_multiplier", None)):
            yield "attention.scale", scale, _said(own)
    elif (scalar := getattr(config, "query_pre_attn_scalar", None)) and head and scalar != head:
        yield "attention.scale", "not there", f"and the config's query_pre_attn_scalar is {scalar}, not {head}"
    scored = "sigmoid" if found.get("expert_gating_func", SOFTMAX) == SIGMOID else "softmax"
    if (own_scored := getattr(config, "scoring_func", "softmax")) != scored and "expert_gating_func" in found:
        yield "expert_gating_func", found["expert_gating_func"], _said({"scoring_func": own_scored})


def _other_rotation(found: Mapping[str, Any], config: Any) -> Iterator[tuple[str, Any, str]]:
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [each for each in rope.values() if isinstance(each, dict)] or [rope]
    factor = found.get("rope.scaling.factor", found.get("rope.scale_linear")) or 1.0
    scaled = found.get("rope.scaling.type", "linear" if factor != 1 else "none")
    if scaled != "none" and not (scaled == "linear" and factor == 1):
        same = [each for each in kinds if each.get("rope_type") == scaled]
        if not any(_near(factor, each.get("factor", 1.0)) for each in same):
            said = ", ".join(sorted({str(each.get("rope_type", "default")) for each in kinds}))
            yield "rope.scaling.type", f"{scaled} by {factor:g}", f"and the config's rope_type {said}"
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"):
        value = found.get(key) or 1.0
        if not _near(value, 1.0, *(each.get("attention_factor") for each in kinds)):
            yield key, value, "and the config has none"
    for key in ("rope.freq_base", "rope.freq_base_swa"):
        bases = [each["rope_theta"] for each in kinds if each.get("rope_theta")]
        if found.get(key) and bases and not _near(found[key], *bases):
            yield key, found[key], _said({"rope_theta": bases[0]})
    turned, width = found.get("rope.dimension_count"), _head_width(config)
    if turned and width and rope:
        widths = [each for each in (width, getattr(config, "global_head_dim", None)) if each]
        parts = [each.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
                 for each in kinds]  # fmt: skip
        able = [int(each * part) for each in widths for part in parts] + [getattr(config, "rotary_dim", None)]
        if turned not in able:
            yield "rope.dimension_count", turned, f"and the config's heads turn {able[0]}"


def _head_width(config: Any) -> int | None:
    """Dimensions of a head; None where a config has no heads."""
    heads = getattr(config, "num_attention_heads", None)
    own = getattr(config, "head_dim", None)
    return own or (config.hidden_size // heads if isinstance(heads, int) and heads else None)


def _near(value: Any, *others: Any) -> bool:
    """Whether a number is one of the others, up to the digits that a file keeps."""
    return any(other is not None and math.isclose(float(value), float(other), rel_tol=1e-5) for other in others)


def _said(settings: Mapping[str, Any]) -> str:
    if not settings:
        return "and the config has none"
    return "and in the config " + " and ".join(f"{name} is {_short(value)}" for name, value in settings.items())


def _short(value: Any) -> str:
    """A value without the digits that a file of fewer bits has made of it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _dropped(reader: Any, architecture: str, model: PreTrainedModel) -> list[str]:
    """Tensors that became no parameter of the model, and without which it is another one."""
    import gguf

    known, lost = _known_tensors(architecture, model), []
    for tensor in reader.tensors:
        name = tensor.name
        if known is None or name in known or name.removesuffix(".weight") in known or ".attn_rot_embd" in name:
            continue
        factors = name.startswith(("rope_freqs", "rope_factors"))
        if (factors or name.endswith(".bias")) and np.all(
            gguf.dequantize(tensor.data, tensor.tensor_type) == (1 if factors else 0)
        ):
            continue  # multiplies by one, or adds nothing
        lost.append(name)
    return lost


def _known_tensors(architecture: str, model: PreTrainedModel) -> set[str] | None:
    """Names of the tensors that become parameters; None where transformers itself says which do not."""
    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported

        if is_gguf_arch_supported(architecture):
            return None
    except ImportError:  # before there were two ways to read such a file
        pass
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    return set(get_gguf_hf_weights_map(model, processor))
