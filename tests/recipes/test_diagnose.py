"""The recipe as users run it: on our runs, and on other models with a data set of their own."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from ftmech_hf.explorer.edits import Edit
from ftmech_hf.explorer.pairs import ExploreConfig, find_pair, open_explorer
from ftmech_hf.runs import damaged_files, write_json
from ftmech_hf.studies.diagnosis.page import MEANING, SIGNS, render_diagnosis
from ftmech_hf.studies.diagnosis.signs import VerdictRule, read_signs
from ftmech_hf.studies.diagnosis.verdict import Verdict
from recipes import diagnose, finetune
from recipes.explore import demo_plan
from tests.conftest import make_gpt2
from tests.recipes.conftest import CONFIGS, TINY
from tests.studies.diagnosis.test_verdict import LOST
from tests.studies.planted import make_base, make_never, make_rows, make_wrapped, save_models, words

FEW = [
    "--rows=64", "--fit_rows=100", "--patch_rows=24", "--prune_sizes", "0", "2", "--random_masks=2", "--repeats=2",
    "--reverse_steps=2", "--reverse_batch_size=8",
]  # fmt: skip


def test_our_runs(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an adapter as the fine-tuned model: it is merged, and what changed is of its rank."""
    lora = tmp_path / "lora"
    given = ["--model", str(chain / "pretrain"), "--adapter", "lora", "--lora_rank", "2", "--lr", "0.01"]
    finetune.main(["--config", str(CONFIGS / "nano" / "finetune.yaml"), *TINY, *given, "--output_dir", str(lora)])
    argv = ["--config", str(CONFIGS / "nano" / "diagnose.yaml"), "--base", str(chain / "pretrain"), *FEW]
    argv += ["--finetuned", str(lora), "--control", str(chain / "finetune"), "--output_dir", str(tmp_path / "out")]
    argv += ["--twin", str(chain / "pretrain"), "--null_steps", "2", "--thorough", "true"]
    diagnose.main(argv)
    out = tmp_path / "out"
    assert damaged_files(out) == []
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == "nothing to lose"  # six steps teach nothing
    assert "it does not show it" in " ".join(capsys.readouterr().out.split())
    table = pd.read_parquet(out / "table.parquet")
    ranks = table[(table["quantity"] == "effective rank") & ~table["reference"].astype(bool)]["value"]
    assert 0 < ranks.max() <= 2.001
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 15
    assert "<h1" in page
    assert f"after 2 steps of fine-tuning on its own answers (taught nothing), and {chain / 'pretrain'}" in page
    assert page.index("Nothing to lose") < page.index("What the verdict rests on") < page.index("Zeroing a few rows")
    assert not any(word in page for word in ('src="http', "<script src", "<link"))
    # found again, as any run is
    before = (out / "report.html").stat().st_mtime_ns
    diagnose.main(argv)
    assert (out / "report.html").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ordinary model folders, as anyone has them, and questions as parquet."""
    root = tmp_path_factory.mktemp("llamas")
    save_models(root, base=make_base("llama"), tuned=make_wrapped("llama"), never=make_never("llama"))
    (root / "questions").mkdir()
    words(make_rows(number=1500)).to_parquet(root / "questions" / "train.parquet")
    words(make_rows(seed=4, number=600)).to_parquet(root / "questions" / "test.parquet")
    # the other questions are one word shorter
    words(make_rows("!", 1, seed=1)[:, [0, 1, 3, 4, 5, 6, 7, 8, 9]]).to_parquet(root / "other.parquet")
    return root


def check_exploring(llamas: Path, diagnosis: Path, rows: list[str]) -> None:
    """A diagnosis is enough to explore its pair: with its questions, and the rows that it found."""
    config = ExploreConfig(run=str(diagnosis))
    pair = find_pair(config, demo_plan)
    assert pair.models == {"base": str(llamas / "base"), "finetuned": str(llamas / "tuned")}
    assert pair.found is not None
    assert list(pair.found.names) == rows
    explorer = open_explorer(pair, config)
    assert explorer.edited.num_found == len(rows) == 2
    assert len(pair.examples) > 2
    answers = [
        [explorer.ask(question, Edit(zero_rows=zero_rows)).readings["edited"].top for question in pair.examples]
        for zero_rows in (False, True)
    ]
    assert answers[0] != answers[1]


def test_a_pair_of_other_models_with_a_data_set(llamas: Path, tmp_path: Path) -> None:
    settings = ["--rows=200", "--fit_rows=400", "--patch_rows=150", "--prune_sizes", "0", "2", "--random_masks=2"]
    settings += ["--repeats=2", "--reverse_lr=4e-3", "--dataset", str(llamas / "questions")]
    argv = ["--base", str(llamas / "base"), "--finetuned", str(llamas / "tuned"), *settings]
    argv += ["--control", str(llamas / "never")]
    diagnose.main([*argv, "--other_dataset", str(llamas / "other.parquet"), "--output_dir", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["verdict"] == "behind a wrapper"
    assert summary["facts"]["capability"] == "questions"
    assert summary["facts"]["architecture"] == "LlamaForCausalLM"
    assert summary["evidence"]["base"]["value"] > 0.95
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1" in page
    assert "behind a wrapper" in page.split("</h1>")[0].lower()
    assert "Prompts about the capability and about what was taught" in page
    check_exploring(llamas, tmp_path / "out", summary["evidence"]["pruned_rows"])

    # without other questions nothing is drawn or said of them
    alone = tmp_path / "alone"
    alone.mkdir()
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    table[table["questions"] != "other"].to_parquet(alone / "table.parquet")
    summary["facts"]["other"] = None
    write_json(alone / "summary.json", summary)
    shutil.copy(tmp_path / "out" / "env.json", alone)
    with_others, page = page, render_diagnosis(alone)
    assert "Prompts with the two most frequent answers" in page
    for each, expected in ((with_others, True), (page, False)):  # the first picture; an SVG names its texts
        drawn = base64.b64decode(re.findall(r"base64,([^\"]+)", each)[0]).decode()
        assert ("what was taught" in drawn) == expected
    assert page.count("data:image/svg+xml;base64,") == 15


def test_the_page_has_words_for_every_verdict_and_sign() -> None:
    assert set(MEANING) == set(get_args(Verdict))
    unseen = dataclasses.replace(LOST, read=None, untaught=LOST.finetuned, untaught_null=LOST.finetuned)
    assert {sign.name for each in (LOST, unseen) for sign in read_signs(each, VerdictRule())} == set(SIGNS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--finetuned", "GPT2"],
            "finetuned: model_type is gpt2, expected llama as the base's; only models of one",
        ),
        (["--finetuned", "never", "--dataset", "nowhere"], "dataset: cannot read nowhere: no such folder or file"),
        (["--finetuned", "never", "--other_dataset", "questions"], "other_dataset: questions, but no dataset"),
        (["--finetuned", "never"], "was trained on another vocabulary than this task's"),
        (["--fine_tuned", "never"], "unknown argument '--fine_tuned'; did you mean 'finetuned'?"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    argv: list[str], message: str, llamas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gpt2(40).save_pretrained(tmp_path / "GPT2")
    words = [str(llamas / word) if word == "never" else word for word in argv]
    if "GPT2" in argv:
        words = ["--finetuned", str(tmp_path / "GPT2"), "--dataset", str(llamas / "questions")]
    with pytest.raises(SystemExit) as stopped:
        diagnose.main(["--base", str(llamas / "base"), *words, "--output_dir", str(tmp_path / "out")])
    assert stopped.value.code == 2
    errors = capsys.readouterr().err.strip()
    assert message in errors.splitlines()[-1]
    assert not list(tmp_path.glob("out*"))
