"""Loading causal language models, ours or any other, from a folder or the Hub."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ftmech_hf.downloads import check_folder, local_folder
from ftmech_hf.runs import file_sha256, is_finished

ADAPTER = "adapter_config.json"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own progress bars, which would cut ours in two for files that take milliseconds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without warnings that users cannot help.

    That peft 0.21 calls by a name which transformers 5 has deprecated, and that it finds no config where an adapter's
    base is itself an adapter, whose vocabulary is never changed here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _find(name: str) -> Path:
    """The folder of a model, checked: see :func:`ftmech_hf.downloads.check_folder`."""
    folder = Path(name)
    if not folder.is_dir() and (name.startswith((".", "/")) or name.count("/") != 1 or folder.parent.is_dir()):
        raise ValueError(f"model: no folder {name}; train it first, or name a model on the Hub as USER/NAME")
    folder = local_folder(name)
    check_folder(folder, name)
    if not any((folder / file).is_file() for file in ("config.json", ADAPTER)):
        raise ValueError(f"model: {name} holds no model (no config.json, no {ADAPTER})")
    return folder


def load_model(name: str, *, attn_implementation: str | None = None) -> PreTrainedModel:
    """Load a causal LM in evaluation mode, float32, from safetensors only and without remote code.

    An adapter is merged into the model it was trained on, so that every instrument sees an ordinary model.

    Args:
        name: a folder, such as a finished run; or a model on the Hub, ``USER/NAME`` or ``USER/NAME@REVISION``.
        attn_implementation: ``"eager"`` if attention patterns are wanted.

    Raises:
        ValueError: there is no such model, its files differ from its manifest or from what the Hub says, or it is
            refused: its weights are a pickle, it asks for code of its own, or a path in it leads outside.
    """
    folder = _find(name)
    if (folder / ADAPTER).is_file():
        base = load_model(_base_of(folder), attn_implementation=attn_implementation)
        with quiet_peft():
            merged: PreTrainedModel = PeftModel.from_pretrained(base, folder).merge_and_unload()
        return merged.requires_grad_(True).eval()  # peft froze the base
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype="float32", attn_implementation=attn_implementation
        )
    return model.eval()


def _base_of(adapter: Path) -> str:
    """The model an adapter belongs to: where it was, else beside the adapter; checked by the hash in its run.

    Raises:
        ValueError: it is not there, or another model is.
    """
    settings = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
    recorded = str(settings["base_model_name_or_path"])
    if settings.get("revision") and not Path(recorded).is_dir():
        recorded = f"{recorded}@{settings['revision']}"
    beside = adapter.absolute().parent / Path(recorded).name
    base = str(beside) if not Path(recorded).exists() and beside.is_dir() else recorded
    if is_finished(adapter):
        expected = json.loads((adapter / "env.json").read_text(encoding="utf-8"))["inputs"]["model"]
        if (found := model_hash(base)) != expected:
            raise ValueError(f"model: the adapter {adapter} was trained on {expected}, but {base} is {found}")
    return base


def random_twin(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same config with random weights: the control for what an architecture gives for free.

    With the seed a model was pretrained with here, these are the weights its training started from.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin: PreTrainedModel = AutoModelForCausalLM.from_config(model.config)
    return twin.eval()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(_find(name))
    return tokenizer


def model_hash(name: str) -> str:
    """What identifies a model as an input: the hash of the run that made it, else the sha256 of its weights.

    A run's hash is the same on every machine and on the Hub; for weights in several files it is the model's name.
    """
    folder = _find(name)
    if is_finished(folder):
        return str(json.loads((folder / "env.json").read_text(encoding="utf-8"))["hash"])
    weights = folder / "model.safetensors"
    return file_sha256(weights) if weights.is_file() else name


def check_vocabulary(name: str, vocabulary: Sequence[str]) -> None:
    """Make sure that the tokenizer beside a model gives a task's words the ids the task uses.

    Raises:
        ValueError: it does not.
    """
    words = load_tokenizer(name).get_vocab()
    if [words.get(word) for word in vocabulary] != list(range(len(vocabulary))):
        raise ValueError(
            f"model: {name} was trained on another vocabulary than this task's; "
            "give the scale, root and text_length it was pretrained with"
        )
