"""What studies found can be published: their tables, pictures and pages, without the runs and without our disks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard

from ftmech_hf.hub import save
from ftmech_hf.hub.publications import find_publication, known_kinds
from ftmech_hf.jobs import JOBS
from ftmech_hf.jobs.card import check_card
from ftmech_hf.jobs.study import Study
from ftmech_hf.report.charts import new_figure
from ftmech_hf.studies import STUDIES, load_study
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import write_results as write_reproduced
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.page import write_results as write_stories_results
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.studies.tracr import results as tracr
from ftmech_hf.studies.tracr.plan import TracrConfig, TracrPlan
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.tasks.stories import StoriesConfig
from tests.report.fabricated import write_reproduction, write_stories, write_tracr


def make_reproduction(out: Path) -> None:
    plan = ReproducePlan(ReproduceConfig(seeds=[0], output_dir=str(out)), PcfgShape())
    write_reproduction(plan.of_seed(0), 0)
    write_reproduced(plan)


def make_tracr(out: Path) -> None:
    config = TracrConfig(seeds=[0], programs=["counter"], lrs=[1e-2, 1e-4], steps=7, output_dir=str(out))
    plan = TracrPlan(config)
    write_tracr(plan)
    tracr.write_results(plan)


def make_stories(out: Path) -> None:
    config = StoriesStudyConfig(
        seeds=[0], protocols=["F"], lora=False, probe_stories=0, prune_stories=0, output_dir=str(out)
    )
    plan = StoriesPlan(config, StoriesConfig())
    write_stories(plan)
    write_stories_results(plan)


MADE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "reproduce": (make_reproduction, "table.parquet", "| 99.5 % (98.8 to 99.8; bar >= 95; ✓ holds) |"),
    "tracr": (make_tracr, "table.parquet", "| counter, o_pt_cte0: rank correlation with the paper's Table 3 | "),
    "tinystories": (
        make_stories,
        "points.csv",
        "| Base: writes a twist when it is asked to | 25.0 % (1.3 to 69.9; bar >= 80; ✗ fails) |",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_what_a_study_found_is_published(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracr.tracr_figures, "attention_figure", lambda *_: new_figure(2, 2))
    make, data_file, number = MADE[name]
    make(tmp_path / "private-user" / "out")
    tree = save(tmp_path / "private-user" / "out", tmp_path / "published", f"someone/{name}")["main"]
    text = (tree / "README.md").read_text()
    check_card(text, "dataset")
    study = load_study(name)
    assert study.question in text
    assert number in text
    assert "The runs behind them are not part of this repository." in text
    (shown,) = DatasetCard(text).data.to_dict()["configs"]
    assert shown["data_files"] == data_file
    read = pd.read_parquet if data_file.endswith("parquet") else pd.read_csv
    assert len(read(tree / data_file)) > 0
    assert not [path for path in tree.iterdir() if path.is_dir()]
    assert "data:image/svg+xml" in (tree / "report.html").read_text()
    settings = yaml.safe_load((tree / "config.yaml").read_text())
    assert (settings["seeds"], settings["output_dir"]) == ([0], f"runs/{name}")
    for path in tree.iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path.name
        assert b"private-user" not in content, path.name


def test_only_whole_results_are_published_and_nothing_that_lies_beside_them(tmp_path: Path) -> None:
    """Whoever wrote them was killed while they got their names; and a user keeps notes in the folder."""
    folder = tmp_path / "out"
    make_reproduction(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    whole = folder / ".results.whole.tmp"
    whole.mkdir()
    (whole / "report.html").write_text((folder / "report.html").read_text().replace("<h1>", "<h1>New: "))
    (whole / ".results.json").write_text(json.dumps(names))
    (folder / "notes.txt").write_text("mine")
    tree = save(folder, tmp_path / "published", "someone/x")["main"]
    assert "<h1>New: " in (tree / "report.html").read_text()
    assert not (tree / "notes.txt").exists()
    assert {"claims.json", "table.parquet", "report.html"} <= {path.name for path in tree.iterdir()}
    assert (folder / "notes.txt").read_text() == "mine"


def test_every_job_and_every_study_declares_what_it_publishes() -> None:
    for kind in JOBS:
        found = find_publication(kind)
        assert found is not None, kind
        assert found.question, kind
    kinds = known_kinds()
    assert len(kinds) == len(set(kinds)), "two declare the same kind, of which one would be lost"
    planned = [name for name in STUDIES if isinstance(load_study(name), Study)]
    assert set(planned) <= set(kinds)
    assert find_publication("nothing of ours") is None


def test_tags_are_of_the_papers_that_ask() -> None:
    ours = {"retrieval": ("2406.11201",), "diagnose": ("2311.12786", "2407.10264"), "real": ()}
    assert {name: load_study(name).papers for name in ours} == ours
    found = {kind: find_publication(kind) for kind in ("retrieval", "library_answers", "grounded_answers", "prune")}
    assert {kind: each.papers for kind, each in found.items() if each} == {
        **dict.fromkeys(("retrieval", "library_answers", "grounded_answers"), ("2406.11201",)), "prune": ("2311.12786",)
    }  # fmt: skip
