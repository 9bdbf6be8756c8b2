"""Access tokens reach no file and no log: how they are found in a text, and taken out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

SECRET_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY", "TRACKIO_TOKEN")
SHORTEST_SECRET = 8
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def without_secrets(text: str) -> str:
    """A text without access tokens: those of the environment, and whatever looks like one of the Hub's."""
    for name in SECRET_NAMES:
        if len(value := os.environ.get(name, "").strip()) >= SHORTEST_SECRET:
            text = text.replace(value, "<token>")
    return _TOKEN.sub("<token>", text)


def holds_secrets(path: Path) -> bool:
    """Whether a file holds an access token."""
    text = path.read_bytes().decode("latin-1")
    return without_secrets(text) != text
