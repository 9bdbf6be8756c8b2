from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.picture import take_picture


def test_no_picture_is_taken_without_a_browser(
    explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="picture: there is no Chromium on this machine"):
        take_picture(explorer, tmp_path / "page.png", port=1)
    assert not (tmp_path / "page.png").exists()
