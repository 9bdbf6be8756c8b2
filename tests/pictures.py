"""Pages whose pictures are made and not drawn, where a test is about something else: drawing takes most of the time."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ftmech_hf.report import page
from ftmech_hf.studies.diagnosis import page as diagnosis_page


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pictures empty from now on. What is drawn is looked at in the tests of the pages."""
    for drawing in (page, diagnosis_page):
        monkeypatch.setattr(drawing, "make_picture", lambda figure, what: page.Picture("", what, ""))
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
