"""Loading causal language models, ours or any other, from a folder or the Hub."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ftmech_hf.models.identity import ADAPTER, find_base, find_model
from ftmech_hf.models.identity import model_hash as model_hash


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
    folder = find_model(name)
    if (folder / ADAPTER).is_file():
        base = load_model(find_base(folder), attn_implementation=attn_implementation)
        with quiet_peft():
            merged: PreTrainedModel = PeftModel.from_pretrained(base, folder).merge_and_unload()
        return merged.requires_grad_(True).eval()  # peft froze the base
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype="float32", attn_implementation=attn_implementation
        )
    return model.eval()


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
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_model(name))
    return tokenizer


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
