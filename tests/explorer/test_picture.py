from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.explorer.picture import take_picture, take_picture_of_report


def test_no_picture_is_taken_without_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="picture: there is no Chromium on this machine"):
        take_picture("http://127.0.0.1:1", tmp_path / "page.png")
    with pytest.raises(ValueError, match="picture: there is no Chromium on this machine"):
        take_picture_of_report(tmp_path / "report.html", tmp_path / "page.png")
    assert not (tmp_path / "page.png").exists()
