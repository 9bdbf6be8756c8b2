"""How READMEs and docstrings become pages; `make docs` builds them all, with warnings as errors."""

from __future__ import annotations

from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe")
pytest.importorskip("mkdocs")

from recipes.manual import docstrings, pages  # noqa: E402
from tests.recipes.commands import READMES, ROOT  # noqa: E402

SOURCE = '''
"""A module; see :func:`double`."""

from dataclasses import dataclass, field

@dataclass(frozen=True)
class Settings:
    """How."""

    steps: int = field(default=7, metadata={"help": "optimizer steps"})

def double(first, second):
    """Twice, as :class:`Settings` says, but not :class:`Missing`::

        double(1, 2)

    Args:
        first, second: numbers, on
            two lines.
    """
'''


def test_docstrings_become_markdown(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(SOURCE, encoding="utf-8")
    extensions = griffe.load_extensions(docstrings.Docstrings)
    module = griffe.load("planted", search_paths=[tmp_path], extensions=extensions)
    assert module.docstring.value == (
        'A module; see <autoref identifier="planted.double" optional><code>double</code></autoref>.'
    )
    text, example, arguments = module["double"].docstring.parse("google")[0].value, "    double(1, 2)", None
    assert '<autoref identifier="planted.Settings" optional><code>Settings</code></autoref> says' in text
    assert "but not `Missing`:\n" in text
    assert text.endswith(example)
    arguments = module["double"].docstring.parse("google")[1].value
    assert [(each.name, each.description) for each in arguments] == [
        (name, "numbers, on\ntwo lines.") for name in ("first", "second")
    ]
    setting = module["Settings"]["steps"]
    assert (setting.value, setting.docstring.value) == ("7", "Optimizer steps.")


def test_every_link_of_a_readme_leads_to_a_page() -> None:
    made = {*pages.module_pages(), *READMES}
    for readme in READMES:
        assert (ROOT / readme).is_file()
        for path in pages.linked_files(readme):
            page = pages.page_of(path)
            is_file = (ROOT / path).is_file()  # a folder has a page of its own, or none
            assert page in made or (is_file and (page.startswith("files/") or page.endswith(".png"))), path


def test_a_link_is_seen_from_the_page_that_it_stands_on() -> None:
    assert pages.relative("reference/ftmech_hf/runs.md", "README.md") == "reference/ftmech_hf/runs.md"
    assert pages.relative("reference/a.md", "ftmech_hf/studies/README.md") == "../../reference/a.md"
    assert pages.relative("ftmech_hf/hub/README.md", "ftmech_hf/README.md") == "hub/README.md"
    assert pages.page_of("ftmech_hf/analysis") in ("reference/ftmech_hf/analysis.md", "ftmech_hf/analysis/README.md")
