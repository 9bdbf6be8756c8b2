from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard

from ftmech_hf.jobs.make_dataset import MakeDatasetConfig, draw_label_histograms, make_dataset
from ftmech_hf.runs import damaged_files
from ftmech_hf.tasks import CounterConfig, LibraryConfig, PcfgConfig, SafetyConfig, build_dataset

VARIANTS = ["default", "pretrain-low", "count_a", "count_b-c0.8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "rows"
    config = MakeDatasetConfig(variants=VARIANTS, rows=["train=1500", "test=300"], seed=3, output_dir=str(path))
    make_dataset(config, PcfgConfig())
    return path


def test_plain_load_dataset_gives_the_rows(folder: Path, tmp_path: Path) -> None:
    for name in VARIANTS:
        loaded = load_dataset(str(folder), name, cache_dir=str(tmp_path))
        assert set(loaded) == {"train", "test"}
        stream = "train" if name in ("default", "pretrain-low") else "finetune"
        expected = build_dataset(PcfgConfig().variant(name), stream, 1500, seed=3)
        assert loaded["train"].features == expected.features
        assert list(loaded["train"]) == list(expected)
        assert list(loaded["test"]) == list(build_dataset(PcfgConfig().variant(name), "test", 300, seed=3))
    assert list(load_dataset(str(folder), cache_dir=str(tmp_path))["test"])  # the first is the default


def test_the_card_is_valid_and_says_what_is_inside(folder: Path) -> None:
    card = DatasetCard.load(folder / "README.md")
    assert [entry["config_name"] for entry in card.data.configs] == VARIANTS
    assert card.data.license == "apache-2.0"
    assert card.data.size_categories == ["1K<n<10K"]  # 4 configs of 1,800 rows
    summary = json.loads((folder / "summary.json").read_text())
    table = pd.read_parquet(folder / "table.parquet")
    for variant in summary["variants"]:
        for split in variant["splits"]:
            assert split["checksum"] in card.text
            rows = table[(table["config"] == variant["name"]) & (table["split"] == split["name"])]
            assert rows["rows"].sum() == split["rows"]
            assert rows[rows["correlated"]]["rows"].sum() / split["rows"] == pytest.approx(split["correlated"])
    share = summary["variants"][3]["splits"][1]["correlated"]
    assert f"{100 * share:.2f} %" in card.text
    assert (folder / "label_histograms.png").stat().st_size > 10_000
    assert damaged_files(folder) == []


@pytest.mark.parametrize(
    ("spread", "said"),
    [(True, "no correlation planted, texts edited so that counts take many values (`spread_counts`)"),
     (False, "no correlation planted, untouched text")],
)  # fmt: skip
def test_texts_that_are_edited_are_not_called_untouched(spread: bool, said: str, tmp_path: Path) -> None:
    """Without a correlation, too, spread_counts edits every text; the grammar's own are none of them."""
    config = MakeDatasetConfig(variants=["default", "count_a"], rows=["test=64"], output_dir=str(tmp_path / "rows"))
    make_dataset(config, PcfgConfig(spread_counts=spread))
    card = (tmp_path / "rows" / "README.md").read_text()
    assert f"- `count_a`: count with operand prior 1.0 0.0 0.0; {said}.\n" in card
    assert (0 in pd.read_parquet(tmp_path / "rows" / "count_a" / "test.parquet")["label"].to_list()) == spread


def test_its_config_makes_it_again(folder: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    own = {name: settings.pop(name) for name in ("task", "variants", "rows", "seed", "output_dir", "fresh")}
    again = make_dataset(MakeDatasetConfig(**{**own, "output_dir": str(tmp_path / "again")}), PcfgConfig(**settings))
    first, second = (json.loads((path / "summary.json").read_text()) for path in (folder, again.path))
    assert first == second


def test_mixtures_say_what_they_differ_in(tmp_path: Path) -> None:
    """And nothing is said of counts, correlations and labels, which refusals have none of."""
    config = MakeDatasetConfig(
        task="safety", variants=["instruct", "unsafe"], rows=["train=64", "test=32"], output_dir=str(tmp_path / "rows")
    )
    make_dataset(config, SafetyConfig())
    card = (tmp_path / "rows" / "README.md").read_text()
    assert "- `instruct`: the settings below.\n- `unsafe`: mixture unsafe, answers refused; else the settings " in card
    assert "| config | split | rows | texts seen in train | texts repeated |" in card
    assert "| `label` | whether the prompt is unsafe: 1 if so |" in card
    assert "png" not in card
    assert not list((tmp_path / "rows").glob("*.png"))


def test_rows_that_spell_out_no_question_have_cards_of_their_own(tmp_path: Path) -> None:
    make_dataset(
        MakeDatasetConfig(task="counter", rows=["train=64"], output_dir=str(tmp_path / "letters")), CounterConfig()
    )
    card = (tmp_path / "letters" / "README.md").read_text()
    assert "| `text` | the letters: the prompt without `<bos>` |" in card
    assert "| `operator`, `operand` | what is asked, which no row spells out" in card
    assert "word of the prompt" not in card
    assert "<sot>" not in card


def test_a_library_is_a_dataset_of_prompts_and_answers(tmp_path: Path) -> None:
    """Its questions stand at no fixed place: no column names them, and the texts that are compared are prompts."""
    task = LibraryConfig(mixture="questions", pairs=32)
    config = MakeDatasetConfig(task="library", rows=["train=64", "test=32"], output_dir=str(tmp_path / "rows"))
    folder = make_dataset(config, task).path
    rows = {split: pd.read_parquet(folder / "default" / f"{split}.parquet") for split in ("train", "test")}
    columns = ["prompt", "completion", "text", "answer", "label", "correlated"]
    assert [*rows["train"].columns] == columns
    for split in json.loads((folder / "summary.json").read_text())["variants"][0]["splits"]:
        texts = rows[split["name"]]["text"]
        assert split["repeated"] == pytest.approx(1 - texts.nunique() / len(texts))
        assert split["without_answer"] == 0
        if split["overlap"] is not None:
            assert split["overlap"] == texts.isin(rows["train"]["text"]).mean() == 1
    table = pd.read_parquet(folder / "table.parquet")
    assert table.empty
    assert [*table.columns] == ["config", "split", "operator", "operand", "correlated", "label", "rows"]
    card = (folder / "README.md").read_text()
    assert all(f"`{name}`" in card for name in columns)
    assert "`operator`" not in card
    assert "png" not in card
    assert "for the question of Barnett et al.," in card
    assert "drawn independently" not in card  # all are about the same people


def test_the_picture_has_a_panel_per_config_and_operator(folder: Path) -> None:
    figure = draw_label_histograms(pd.read_parquet(folder / "table.parquet"), ["count_b-c0.8"])
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
    assert len(titles) == 3 + 3 + 1 + 1
    legends = {ax.get_title(loc="left"): [t.get_text() for t in ax.get_legend().get_texts()] for ax in figure.axes[:8]}
    assert legends["count_b-c0.8\ncount"] == ["uncorrelated", "correlated"]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["count_d"], "variants: 'count_d', expected default, pretrain-PRIOR, .*: operand: count has no operand 'd'"),
        (["sum_a"], "variants: 'sum_a', expected default"),
        (["count_b-cmuch"], "variants: 'count_b-cmuch', expected"),
        (["pretrain-lo"], "operand_prior: 'lo' is neither one of"),
    ],
)
def test_unknown_variants_are_named(variants: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_dataset(MakeDatasetConfig(variants=variants, output_dir=str(tmp_path / "x")), PcfgConfig())
