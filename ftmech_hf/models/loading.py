"""Loading causal language models, ours or any other, from a folder or the Hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ftmech_hf.models.causality import check_causal
from ftmech_hf.models.configs import gguf_at_hand
from ftmech_hf.models.gguf_files import check_gguf
from ftmech_hf.models.identity import ADAPTER, find_base, find_gguf, find_model
from ftmech_hf.models.merging import check_adapter, loading_errors, merge_adapter
from ftmech_hf.models.placing import placed_like
from ftmech_hf.models.quantized import refuse_quantized, refuse_whole_numbers
from ftmech_hf.models.seeding import seeded
from ftmech_hf.models.stored import as_stored_in
from ftmech_hf.tasks.schema import SPECIAL_TOKENS

_APART = 0x9E3779B9
"""Beside a seed and a number: no user's seeds are drawn from these."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt",
                   "spiece.model", "sentencepiece.bpe.model", "tekken.json")  # fmt: skip
"""One of these lies beside a model that has a tokenizer of its own; an adapter often has none."""

RANDOM_INIT = "random init"
"""What a model of random weights is called among others; :func:`random_twin` makes it."""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own progress bars, which would cut ours in two for files that take milliseconds.

    Nor with its report on what it could not load, which is said here in one line.
    """
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def find_device(device: str) -> torch.device:
    """The device that a setting names; ``auto`` is a GPU of NVIDIA's or AMD's where there is one, else the CPU.

    With ACCELERATE_USE_CPU=1, by which accelerate leaves a GPU alone, ``auto`` is the CPU here, too.
    Apple's (``mps``) must be asked for: it has no float64, so that what needs that is computed on the CPU, and slowly.

    Raises:
        ValueError: there is none of that name.
    """
    if device == "auto":
        left_alone = parse_flag_from_env("ACCELERATE_USE_CPU")
        return torch.device("cuda" if torch.cuda.is_available() and not left_alone else "cpu")
    found = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", device)
    if found is None:
        raise ValueError(f"device: {device!r}, expected auto, cpu, cuda, cuda:0 or another number, or mps")
    if device == "cpu":
        return torch.device("cpu")
    there = int(torch.backends.mps.is_available()) if device == "mps" else torch.cuda.device_count()
    if int(found[1] or 0) >= there:
        raise ValueError(f"device: {device} is not there; {there} of that kind are, expected auto or cpu")
    return torch.device(device)


def load_model(
    name: str,
    *,
    attn_implementation: str | None = None,
    base: str | None = None,
    onto: str | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
) -> PreTrainedModel:
    """Load a causal LM in evaluation mode, from safetensors only and without remote code.

    An adapter is merged into the model it was trained on, in float32, so that every instrument sees an ordinary model.
    The weights of a GGUF file are what its quantization left of them.

    Args:
        name: a folder, such as a finished run; a GGUF file; or a model on the Hub, ``USER/NAME`` or
            ``USER/NAME@REVISION``.
        attn_implementation: ``"eager"`` if attention patterns are wanted.
        base: what an adapter stands on, if what it names is not there.
        device: where its weights go; see :func:`find_device`. Whatever reads the model computes there.
        dtype: type of number of its weights; ``auto`` is what they were saved in, an adapter's what its base's were.
        onto: what it is put on, whatever it names; see :func:`~ftmech_hf.models.identity.find_base`.

    Raises:
        ValueError: there is no such device or model; its files differ from its manifest or from what the Hub says;
            weights are missing, left over, of other sizes or quantized; of a GGUF file transformers drops something;
            an adapter is not whole in the merged model; or it is refused: its weights are a pickle, it asks for code of
            its own, a path in it leads outside, or its logits depend on tokens to come.
    """
    place = find_device(device)
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype: {dtype!r}, expected one of {', '.join(get_args(Dtype))}")
    model: PreTrainedModel = _load(name, attn_implementation, base, onto, dtype).to(place)  # type: ignore[arg-type]
    check_causal(model)
    return model


def _load(
    name: str, attn_implementation: str | None, base: str | None, onto: str | None, dtype: Dtype
) -> PreTrainedModel:
    if (file := find_gguf(name)) is not None:
        # unpacked, or the model could not be saved, nor one of random weights be made like it
        unpacked = GgufConfig(gguf_file=file.name, dequantize=True)
        files = {"gguf_file": file.name, "quantization_config": unpacked}
        model = _from_files(file.parent, name, attn_implementation, dtype, **files)
        check_gguf(file, model, name)
        return model
    folder = find_model(name)
    if (folder / ADAPTER).is_file():
        check_adapter(folder, name)
        exact: Dtype = "auto" if dtype == "auto" else "float32"  # fewer digits would hide what a merge leaves out
        below = _load(find_base(folder, base, onto), attn_implementation, base or onto, None, exact)
        kept = below.dtype if dtype == "auto" else getattr(torch, dtype)
        return as_stored_in(kept, merge_adapter(below.float(), folder, name))
    refuse_quantized(folder, name)
    return _from_files(folder, name, attn_implementation, dtype, use_safetensors=True)


def _from_files(
    folder: Path, name: str, attn_implementation: str | None, dtype: Dtype, **files: Any
) -> PreTrainedModel:
    with quiet_transformers(), loading_errors(name), gguf_at_hand(name):
        found: Any = AutoModelForCausalLM.from_pretrained(  # a pair, unlike its annotation
            folder,
            dtype=dtype,
            attn_implementation=attn_implementation,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **files,
        )
    model: PreTrainedModel = found[0]
    _check_loaded(found[1], name)
    check_has_weights(model)
    check_finite(model)
    refuse_whole_numbers(folder, model, name)
    return model.eval()


def _check_loaded(info: Mapping[str, Any], name: str) -> None:
    """Make sure that all weights of a model were in its files, and all of its files in the model.

    What a class of models declares to be left out is no fault: tied weights, buffers that are computed.
    """
    wrong = [
        *(f"{key} is missing" for key in sorted(info["missing_keys"])),
        *(
            f"{key} has {list(found)} where the model has {list(expected)}"
            for key, found, expected in sorted(info["mismatched_keys"])
        ),
        *(f"{key} has no place in the model" for key in sorted(info["unexpected_keys"])),
        *(" ".join(str(each).split())[:200] for each in info.get("error_msgs", [])),
    ]
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(f"model: the weights of {name} do not fit its config: {'; '.join(wrong[:2])}{more}")


def check_has_weights(model: torch.nn.Module) -> None:
    """Make sure that a model's weights are where it is.

    Raises:
        ValueError: ``accelerate`` keeps some of them on the disk or in the CPU's memory until a module is called.
    """
    away = [name for name, weight in model.named_parameters() if weight.is_meta]
    if away:
        raise ValueError(
            f"model: {len(away)} of its weights are offloaded or were never loaded ({away[0]} is on the meta device); "
            "expected a model that is whole in memory: load it without cpu_offload, disk_offload or such a device_map"
        )


def check_finite(model: torch.nn.Module) -> None:
    """Make sure that a model's weights are numbers: with one that is none it answers the same to everything.

    Raises:
        ValueError: some are not.
    """
    lost = [name for name, weight in model.named_parameters() if not torch.stack(weight.aminmax()).isfinite().all()]
    if lost:
        raise ValueError(
            f"model: {len(lost)} of its weights hold nan or inf (first {lost[0]}), expected finite numbers"
        )


def random_twin(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same config, devices and type of number with random weights: what an architecture gives for free.

    With the seed a model was pretrained with here, these are the weights its training started from;
    :func:`seed_of_its_own` gives one that no training has.
    """
    with seeded(seed):
        twin: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    return placed_like(twin.eval(), model)


def seed_of_its_own(seed: int, number: int) -> int:
    """A seed for random weights that are to have nothing in common with a model, whatever small one it began with."""
    return int(np.random.SeedSequence([seed, _APART, number]).generate_state(1)[0])


def load_tokenizer(name: str, *, base: str | None = None, onto: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model; of an adapter without one, that of what it stands on.

    Here and below, ``base`` and ``onto`` are those of :func:`load_model`.
    """
    if (file := find_gguf(name)) is not None:
        with quiet_transformers(), loading_errors(name), gguf_at_hand(name):
            inside: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        return inside
    folder = find_model(name)
    if (folder / ADAPTER).is_file() and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(find_base(folder, base, onto), base=base or onto)
    if not any((folder / each).is_file() for each in TOKENIZER_FILES):
        # transformers would make one that knows no word, and every text would be blamed
        raise ValueError(
            f"model: {name} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}), expected one beside it"
        )
    with loading_errors(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def check_vocabulary(name: str, vocabulary: Sequence[str], *, base: str | None = None, onto: str | None = None) -> None:
    """Make sure that the tokenizer beside a model gives a task's words the ids the task uses.

    Raises:
        ValueError: it does not.
    """
    check_words(name, load_tokenizer(name, base=base, onto=onto).get_vocab(), vocabulary)


def check_words(name: str, words: Mapping[str, int], vocabulary: Sequence[str]) -> None:
    """Make sure that a model gives a task's words the ids the task uses.

    Args:
        name: of the model, for errors.
        words: token -> id that it knows.
        vocabulary: of the task.

    Raises:
        ValueError: it does not.
    """
    if [words.get(word) for word in vocabulary] == list(range(len(vocabulary))):
        return
    if set(SPECIAL_TOKENS) <= set(words):  # a task of ours
        advice = "give the task and the scale, root and text_length it was pretrained with"
    else:
        advice = (
            "this recipe needs a model of that vocabulary, which recipes/pretrain.py trains; "
            "of any other model, recipes/diagnose.py --dataset asks questions"
        )
    raise ValueError(f"model: {name} was trained on another vocabulary than this task's; {advice}")
