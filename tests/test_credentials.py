from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ftmech_hf.credentials import holds_secrets, without_secrets
from ftmech_hf.runs import environment

TOKEN = "hf_" + "aB3" * 8


def test_a_token_on_the_command_line_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--output_dir", f"runs/{TOKEN}", "--wandb", "secret0123"])
    monkeypatch.setenv("WANDB_API_KEY", "secret0123")
    assert environment()["command"] == "pretrain.py --output_dir runs/<token> --wandb <token>"


@pytest.mark.parametrize("text", [f"x {TOKEN}.", f'"{TOKEN}"', f"https://user:{TOKEN}@hub", "own secret here"])
def test_tokens_are_found_wherever_they_stand(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "own secret")
    (tmp_path / "file").write_text(text)
    assert holds_secrets(tmp_path / "file")
    assert "<token>" in without_secrets(text)
    assert TOKEN not in without_secrets(text)


@pytest.mark.parametrize("text", ["ftmech_hf", "hf_hub_download", "from ftmech_hf.hub import push", "hf_short", ""])
def test_what_is_no_token_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf")  # too short to be one: it would be found in every word
    assert without_secrets(text) == text
