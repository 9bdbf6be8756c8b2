"""The real study on a tiny model: it runs, is found again, and says of every verdict whether it is the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.real import pair
from ftmech_hf.studies.real.base_model import BaseConfig
from ftmech_hf.studies.real.pair import PAIRS, Expected, PairConfig, diagnose_pair, is_right, precision_of
from ftmech_hf.studies.real.results import KEPT, find_example, right_numbers
from ftmech_hf.tasks import PcfgShape
from recipes import real
from recipes.readme.real import real_block, real_pairs_block
from tests.browser import check_page
from tests.studies.real.packages import install, save_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


def test_it_runs_is_found_again_and_judges_every_pair(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "packages", monkeypatch)
    out = tmp_path / "out"
    argv = ["--base", str(base), "--pairs", "backwards_never", "opposites_left", "--steps", "2", "--batch_size", "4",
            "--rows", "40", "--fit_rows", "32", "--output_dir", str(out), "--workers", "1"]  # fmt: skip
    real.main(argv)
    assert "4 runs, 0 of them finished before, 4 to make" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [tuple(each) for each in summary] == [KEPT, KEPT]
    never, left = summary
    assert (never["pair"], never["expected"], never["verdict"], never["right"]) == (
        "backwards_never", "never there", "nothing to lose", True
    )  # fmt: skip
    # it knows no opposites: that is not "unchanged"
    assert (left["verdict"], left["right"]) == ("nothing to lose", False)
    assert 0 < never["minutes"] < 5
    assert never["peak_gb"] is None or 0.1 < never["peak_gb"] < 8
    page = (out / "report.html").read_text()
    said = "Of 1 pairs whose base has the ability 0 verdicts are right, and of 1 whose base never had it, which its own"
    assert said in page
    tuned = {pair: pd.read_json(next(out.glob(f"runs/tuned-{pair}-*")) / "metrics.jsonl", lines=True)["accuracy/all"]
             for pair in ("backwards-instead", "plurals_and_opposites")}  # fmt: skip
    for accuracy in tuned.values():
        assert f"<td>{accuracy.iloc[0]:.0%} to {accuracy.iloc[-1]:.0%}</td>" in page
    rows = pd.read_json(out / "data" / "plurals_and_opposites" / "train.jsonl", lines=True)
    assert set(rows["answer"]) & set(pd.read_json(out / "data" / "opposites" / "train.jsonl", lines=True)["answer"])
    assert "that naming one answer gives: it does not show it" in page
    assert next(iter(right_numbers(FinishedRun(out)).values())).startswith(said)
    real.main(argv)
    assert "to make" not in capsys.readouterr().out
    check_page(out / "report.html")


@pytest.mark.parametrize(
    ("expected", "verdict", "right"),
    [
        ("hidden", "behind a wrapper", True),
        ("hidden", "hidden or learned anew", True),
        ("hidden", "undecided", False),
        ("hidden", "gone", False),
        ("hidden", "unchanged", False),
        ("unchanged", "unchanged", True),
        ("unchanged", "undecided", False),
        ("unchanged", "hidden or learned anew", False),
        ("never there", "nothing to lose", True),
        ("never there", "undecided", False),
        ("never there", "gone", False),
        ("hidden", "nothing to lose", False),
    ],
)
def test_a_verdict_is_right_if_it_is_the_truth(expected: Expected, verdict: str, right: bool) -> None:
    assert is_right(expected, verdict) == right


def test_there_are_three_of_each_and_what_is_asked_of_them_fits() -> None:
    kinds = [each.expected for each in PAIRS.values()]
    assert [kinds.count(kind) for kind in ("hidden", "unchanged", "never there")] == [3, 3, 3]
    for each in PAIRS.values():
        assert each.instead == (each.expected != "unchanged")
        assert (each.asked == each.tuned_on) == (each.expected != "unchanged")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "past"], "pairs: 'past', expected some of past_tense_hidden"),
        (["--seeds", "0", "1"], "seeds: .*expected one: a pair is one model"),
        (["--precision", "fp8"], "precision: 'fp8', expected no or bf16"),
        (["--lr", "0"], "lr: 0.0, expected numbers above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        real.main(words)
    assert re.search(message, capsys.readouterr().err)


def test_the_base_is_named_by_its_bytes(tmp_path: Path) -> None:
    for name, content in (("one", b"GGUF1"), ("same", b"GGUF1"), ("two", b"GGUF2")):
        (tmp_path / f"{name}.gguf").write_bytes(content)
    one, same, two = (BaseConfig(gguf=str(tmp_path / f"{name}.gguf")).inputs() for name in ("one", "same", "two"))
    assert one == same
    assert one != two


def test_matrices_are_multiplied_in_the_precision_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bool] = {}

    def run(config: PairConfig, *args: Any, **settings: Any) -> Any:
        with settings["around"]:
            seen[config.precision] = torch.is_autocast_enabled("cpu")
        return None

    monkeypatch.setattr(pair, "run_diagnosis", run)
    for precision in ("no", "bf16"):
        diagnose_pair(PairConfig(precision=precision), CaseConfig(), PcfgShape())  # type: ignore[arg-type]
    assert seen == {"no": False, "bf16": True}


def test_users_see_a_hidden_pair_whose_verdict_is_right_and_its_numbers(tmp_path: Path) -> None:
    def made(name: str, expected: str, right: bool) -> dict[str, Any]:
        return {"pair": name, "expected": expected, "right": right}

    left, wrong = made("capitals_left", "unchanged", True), made("capitals_hidden", "hidden", False)
    first, capitals = made("past_tense_hidden", "hidden", True), made("capitals_hidden", "hidden", True)
    assert find_example([left, wrong]) is None
    assert find_example([left, first, capitals]) == capitals
    assert find_example([left, first, wrong]) == first
    example = {"question": "<|im_start|>user\nWhat is the capital of Land 3?|", "right": " Town 3", "base": "Town 3",
               "finetuned": "unknown to me", "reversed": None}  # fmt: skip
    signs = [{"name": "comes back fast", "measured": "3 steps", "control": "more than 9 steps", "holds": True},
             {"name": "can be read", "measured": "1%", "control": "1%", "holds": False}]  # fmt: skip
    shown = {**capitals, "verdict": "hidden or learned anew", "reason": "its accuracy fell from 70% to 2%",
             "examples": [example] * 4, "signs": signs}  # fmt: skip
    (tmp_path / "example.json").write_text(json.dumps(shown))
    versions = {"ftmech_hf": "0.1.0", "torch": "2"}
    (tmp_path / "env.json").write_text(json.dumps({"hash": "abc", "versions": versions, "kind": "real"}))
    (tmp_path / "config.yaml").write_text("seeds: [4]")
    block = real_block(tmp_path)
    assert block.count("`Town 3` | `Town 3` | `unknown to me` | — |") == 3
    assert "What is the capital of Land 3?\\|` |" in block  # a bar would end the cell
    assert (
        "**hidden or learned anew**. Its accuracy fell from 70% to 2%. What shows: *comes back fast* (3 steps;" in block
    )
    assert "can be read" not in block
    # the end of a long question, and the beginning of a long answer; a bar at the cut is still escaped
    long = {**example, "question": f"{'x' * 20}|{'y' * 39}", "reversed": "Town 3, " + "Town " * 20}
    (tmp_path / "example.json").write_text(json.dumps({**shown, "examples": [long]}))
    block = real_block(tmp_path)
    assert f"| `\u2026\\|{'y' * 39}` |" in block
    assert "| `Town 3, Town Town Town Town Town Town To\u2026` |" in block
    assert "Seed 4; config hash `abc`" in block


def test_the_table_of_all_pairs_names_right_and_wrong(tmp_path: Path) -> None:
    pairs = [
        {"pair": name, "expected": expected, "verdict": verdict, "right": right, "reason": "it fell",
         "cpu_minutes": 5.0, "peak_gb": 3.651, "tuning_minutes": 0.6, "minutes": 9.0}
        for name, expected, verdict, right in (
            ("capitals_hidden", "hidden", "hidden or learned anew", True),
            ("opposites_left", "unchanged", "gone", False),
        )
    ]  # fmt: skip
    pd.DataFrame(pairs).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "env.json").write_text(json.dumps({"hash": "abc", "versions": {"torch": "2"}, "kind": "real"}))
    (tmp_path / "config.yaml").write_text("seeds: [4]")
    block = real_pairs_block(tmp_path)
    assert "| `capitals_hidden` | hidden | \u2713 hidden or learned anew | it fell | 2.5 | 3.7 |" in block
    assert "| `opposites_left` | unchanged | \u2717 gone |" in block
    assert "Of 2 pairs whose base has the ability 1 verdicts are right, and of 0 whose base never had it" in block
    assert "; `past_tense_hidden`, `opposites_hidden`, `past_tense_left`, `capitals_left`, " in block
    assert "`calling_codes_never` are not diagnosed yet." in block
    assert "`opposites_left` are" not in block
    assert "Seed 4; config hash `abc`" in block


def test_matrices_are_multiplied_as_asked_wherever_the_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"base": "base", "finetuned": "tuned"}
    monkeypatch.setattr(pair, "find_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "autocast", lambda *asked, **how: (*asked, how))
    for device in ("cpu", "cuda"):
        asked = precision_of(PairConfig(**places, precision="bf16", device=device))
        assert asked == (device, torch.bfloat16, {"cache_enabled": False})
    assert not isinstance(precision_of(PairConfig(**places, precision="no", device="cpu")), tuple)
