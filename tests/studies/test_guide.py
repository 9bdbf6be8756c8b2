"""The guide "Add a study": what it shows is a study."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.hub import save
from ftmech_hf.hub.publications import find_publication
from ftmech_hf.report.claims import read_claims
from ftmech_hf.studies import STUDIES
from recipes import study as study_recipe

GUIDE = (Path(__file__).parents[2] / "ftmech_hf" / "studies" / "README.md").read_text(encoding="utf-8")
HEAD = r"(?:# |\{# )ftmech_hf/studies/width/([\w.]+\w)(?:: [^\n]*)?\n"
FILES = dict(re.findall(rf"```(?:py|jinja)\n{HEAD}(.*?)```", GUIDE, re.DOTALL))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The study of the guide in a folder of its own, and its line in STUDIES."""
    folder = tmp_path / "packages" / "width"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""An example."""\n')
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("ftmech_hf.studies.width", "width"))
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setitem(STUDIES, "width", "width")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "width"]:
        del sys.modules[name]


def test_the_guide_shows_every_file_and_is_a_page_long() -> None:
    assert set(FILES) == {"plan.py", "claims.py", "results.py", "page.html.j2", "study.py"}
    before, rest = GUIDE.split("## What we found")  # which stands before the guide, and is written by a command
    assert len([*before.splitlines(), *rest.split("## Add a study")[1].splitlines()]) < 200


def test_the_study_of_the_guide_runs_is_found_again_and_is_published(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = planted / "out"
    argv = ["width", "--seeds", "0", "1", "--steps", "2", "--widths", "16", "32", "--output_dir", str(out),
            "--text_length", "12", "--count_window", "8", "--index_occurrence", "2", "--token_at_position", "6",
            "--workers", "1"]  # fmt: skip
    study_recipe.main(argv)
    assert "6 runs, 0 of them finished before, 6 to make" in capsys.readouterr().out
    (claim,) = read_claims(out)
    assert (claim.id, claim.seeds, claim.verdict) == ("ratio", [0, 1], "fails")  # two steps teach nothing
    runs = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert len(runs) == 6
    study_recipe.main(argv)
    assert "to make" not in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == runs

    # one run that cannot be made: the others are reported, and the claim is not judged by half of its seeds
    (broken,) = (out / "runs").glob("truth-seed1-*")
    shutil.rmtree(broken)
    broken.mkdir()
    with pytest.raises(SystemExit):
        study_recipe.main(argv)
    shown = capsys.readouterr()
    assert "failed: truth-seed1: output_dir:" in shown.out
    assert "1 of 1 runs failed; first truth-seed1: output_dir:" in shown.err
    page = (out / "report.html").read_text()
    assert "1 run is missing" in page
    assert "<b>truth-seed1</b> failed: output_dir:" in page
    assert "data:image/svg+xml" in page
    (claim,) = read_claims(out)
    assert (claim.seeds, claim.verdict) == ([0], None)

    publication = find_publication("width")
    assert publication is not None
    tree = save(out, planted / "published", "someone/width")["main"]
    card = (tree / "README.md").read_text()
    assert publication.question in card
    assert "; not judged) |" in card
    assert set(pd.read_parquet(tree / "table.parquet")["seed"]) == {0}
    assert {path.name for path in tree.iterdir()} == {
        "README.md", "claims.json", "config.yaml", "env.json", "manifest.json", "report.html", "table.parquet",
    }  # fmt: skip
    assert not [path for path in tree.iterdir() if str(planted).encode() in path.read_bytes()]


def test_a_study_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["widht"], f"study: 'widht', expected one of {', '.join(STUDIES)}"),
        (["diagnose"], "study: diagnose is one job and has no plan; run recipes/diagnose.py"),
        ([], "study: '', expected one of"),
    ):
        with pytest.raises(SystemExit):
            study_recipe.main(words)
        assert message in capsys.readouterr().err
