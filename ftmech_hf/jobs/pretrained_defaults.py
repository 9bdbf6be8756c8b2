"""Settings of training that suit a model which was pretrained elsewhere, where the user says nothing of them.

The defaults of :class:`~ftmech_hf.training.settings.TrainConfig` pretrain small models in a minute; Muon at their rate
undoes in a few steps what a large model has learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftmech_hf.config import peek_setting, tell
from ftmech_hf.config.usual_names import SAME
from ftmech_hf.models.configs import model_config
from ftmech_hf.models.memory import weight_bytes

SMALL, LARGE = 5 * 10**6, 10**9
"""Parameters below which our own defaults stay, and above which rates are halved."""

FULL_LR, LORA_LR, BATCH_SIZE = 2e-5, 2e-4, 16
"""As such models are usually fine-tuned whole and by LoRA (Hu et al., arXiv 2106.09685)."""


def kind_words(words: Sequence[str]) -> list[str]:
    """Flags to add to a command line that fine-tunes a model on text; none where the user has said all of it.

    A tokenizer of its own, in which text is learned, has only a model that was pretrained elsewhere. What is chosen is
    said in a line, and stands in the run's settings like what is given.

    Args:
        words: the command line, with the task.
    """
    model = given_setting("model", words)
    if not model or peek_setting("task", default="", argv=words) != "text":
        return []
    optimizer = given_setting("optimizer", words)
    lora = given_setting("adapter", words) == "lora"
    if (size := _parameters(model)) is None or size < SMALL:
        return []
    lr = (LORA_LR if lora else FULL_LR) / (2 if size > LARGE else 1)
    chosen = {"optimizer": "adamw", "batch_size": str(BATCH_SIZE)}
    if optimizer in ("", "adamw"):  # of another one these are no usual rates
        chosen["lr"] = f"{lr:g}"
    chosen = {name: value for name, value in chosen.items() if not given_setting(name, words)}
    if chosen:
        said = ", ".join(f"{name} {value}" for name, value in chosen.items())
        tell(f"{model} was pretrained elsewhere and has {size / 1e6:.0f} M parameters, so that {said} is taken; say "
             "others to have them")  # fmt: skip
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def given_setting(name: str, words: Sequence[str]) -> str:
    """What a command line or its file says of a setting, by our name or a usual one; empty if nothing."""
    names = [name, *(usual for usual, ours in SAME.items() if name in ours)]
    return next((found for each in names if (found := peek_setting(each, default="", argv=words))), "")


def _parameters(model: str) -> int | None:
    """How many a model has, by its config alone; None if there is no such model, which is said where it is loaded."""
    try:
        return weight_bytes(model_config(model)) // 4
    except (ValueError, OSError, ImportError):
        return None
