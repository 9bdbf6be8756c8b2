"""Access tokens reach no file and no log: how they are found in a text, and taken out of it."""

from __future__ import annotations

import os
import re

SECRET_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY", "TRACKIO_TOKEN")
SHORTEST_SECRET = 8
_SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)$")
"""Variables of other programs that hold a secret; theirs count from twice that length, as they may hold words."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:api_org_|hf_(?:oauth_|jwt_)?)[A-Za-z0-9]{16,}"  # the Hub's
    r"|gh[opsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"  # GitHub's and GitLab's
    r"|AKIA[A-Z0-9]{16}(?![A-Za-z0-9])|sk-(?:[a-z]+-)*[A-Za-z0-9]{32,}"  # Amazon's; language models'
    r")"
)


def _secrets() -> list[str]:
    """The values of the environment that are secrets, the longest first."""
    found = {
        value
        for name, text in os.environ.items()
        if (name in SECRET_NAMES and len(value := text.strip()) >= SHORTEST_SECRET)
        or (_SECRET_NAME.search(name.upper()) and len(value := text.strip()) >= 2 * SHORTEST_SECRET)
    }
    return sorted(found, key=len, reverse=True)


def without_secrets(text: str) -> str:
    """A text without access tokens: those of the environment, and whatever looks like one that is widely used."""
    for value in _secrets():
        text = text.replace(value, "<token>")
    return _TOKEN.sub("<token>", text)


def holds_secret(text: str) -> bool:
    """Whether a text holds an access token."""
    return any(value in text for value in _secrets()) or _TOKEN.search(text) is not None
