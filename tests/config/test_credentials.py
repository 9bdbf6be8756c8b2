from __future__ import annotations

import sys

import pytest

from ftmech_hf.config.credentials import holds_secret, without_secrets
from ftmech_hf.runs import environment

TOKEN = "hf_" + "aB3" * 8


def test_a_token_on_the_command_line_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--output_dir", f"runs/{TOKEN}", "--wandb", "secret0123"])
    monkeypatch.setenv("WANDB_API_KEY", "secret0123")
    assert environment()["command"] == "pretrain.py --output_dir runs/<token> --wandb <token>"


@pytest.mark.parametrize("text", [f"x {TOKEN}.", f'"{TOKEN}"', f"https://user:{TOKEN}@hub", "own secret here"])
def test_tokens_are_found_wherever_they_stand(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "own secret")
    assert holds_secret(text)
    assert "<token>" in without_secrets(text)
    assert TOKEN not in without_secrets(text)


@pytest.mark.parametrize("text", ["ftmech_hf", "hf_hub_download", "from ftmech_hf.hub import push", "hf_short", ""])
def test_what_is_no_token_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf")  # too short to be one: it would be found in every word
    assert without_secrets(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_oauth_" + "aB3" * 8, "api_org_" + "aB3" * 8, "ghp_" + "aB3" * 12, "github_pat_" + "a_3" * 12,
        "AKIA" + "AB34" * 4, "sk-" + "aB3" * 14, "sk-proj-" + "aB3" * 14,
    ],
)  # fmt: skip
@pytest.mark.parametrize("around", ["{}", "TOKEN_{}", "'{}'", "https://user:{}@host", "x={}&y"])
def test_tokens_of_other_services_are_found_too(secret: str, around: str) -> None:
    assert holds_secret(around.format(secret))
    assert secret not in without_secrets(around.format(secret))


def test_secrets_of_the_environment_are_known_by_the_name_of_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_API_KEY", "a rather long secret")
    monkeypatch.setenv("DB_PASSWORD", "short word")  # may well be a word of a text
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "0123456789abcdef0123")  # no secret by its name
    assert without_secrets("say a rather long secret now") == "say <token> now"
    assert not holds_secret("a short word and 0123456789abcdef0123")
