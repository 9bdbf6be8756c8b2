"""What a reader of the page sees, read off the page; numbers and signs are written by hand."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftmech_hf.runs import FinishedRun, RunDir, write_json
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.console import print_diagnosis
from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.method import plain, read_of_answers, row
from ftmech_hf.studies.diagnosis.page import SIGNS, render_diagnosis
from ftmech_hf.studies.diagnosis.score import DECIDES, describe_score, read_score
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.diagnosis.verdict import VerdictResult, judge_capability
from tests.studies.diagnosis.test_verdict import ALONE, FAST, LOST, PRUNED, READ

EXAMPLES = [
    {"question": "The past tense of go <is>", "right": " went", "base": " went", "finetuned": " goed",
     "base_right": True, "finetuned_right": False, "reversed": " went home", "reversed_right": True},
    {"question": "x" * 1000 + " the end", "right": "1", "base": "2", "finetuned": "1", "base_right": False,
     "finetuned_right": True, "reversed": "3", "reversed_right": False},
]  # fmt: skip


TOKENS = [
    {"model": name, "number": number, "right": Share(value, 0, 1), "log_probability": -1, "rows": rows}
    for name, number, value, rows in (
        ("base", 1, 0.75, 8), ("fine-tuned", 1, 0.5, 8), ("reference", 1, 0.1, 8), ("base", 2, 0.25, 4),
        ("fine-tuned", 2, 0.125, 4),
    )
]  # fmt: skip


class Tables(HTMLParser):
    """The cells of all tables of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.classes: list[list[list[str]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
            self.classes.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.classes[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.classes[-1][-1].append(dict(attrs).get("class") or "")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


def page_of(folder: Path, evidence: Evidence, result: VerdictResult | None = None, **facts: Any) -> str:
    """The page of answers alone."""
    shares = {"base": evidence.base, "fine-tuned": evidence.finetuned, "reference": Share(0.1, 0.05, 0.15)}
    rows = [row("behaviour", "accuracy", *share, model=name, questions="capability") for name, share in shares.items()]
    rows.append(row("behaviour", "chance", evidence.chance, questions="capability", reference=True))
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    found = {name: value for name, value in vars(evidence).items() if name in ("chance", "base", "finetuned", "drop")}
    described = {
        "base": "B", "finetuned": "F", "reference": "N", "twin": None, "null_steps": 0, "capability": "counting",
        "other": None, "rows": 500, "parameters": 10, "architecture": "Llama", "layers": 6, "seconds": 1.0,
        "hash": "abc", "other_tokens": None, "notes": [], "right_if": "it is <said>", "prompt_kind": None,
        "settings": {name: getattr(CaseConfig(), name) for name in DECIDES}, **facts,
    }  # fmt: skip
    judged = result or judge_capability(evidence)
    evidence_found = plain({**found, "examples": EXAMPLES, "tokens": TOKENS})
    summary = {**judged.summary(), "evidence": evidence_found, "rule": vars(VerdictRule()), "facts": described}
    write_json(folder / "summary.json", summary)
    write_json(folder / "env.json", {"command": "diagnose", "versions": {}, "packages": {}, "python": "3"})
    return render_diagnosis(folder)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_yes_is_said_of_what_shows_and_no_of_what_does_not(tmp_path: Path) -> None:
    evidence = dataclasses.replace(LOST, **PRUNED, **FAST, read_base=LOST.read)
    page = page_of(tmp_path, evidence)
    table = Tables(page).tables[3]
    assert table[0] == ["Is it still there?", "Fine-tuned model", "Control", "Bar", "Shows"]
    assert {line[0]: line[-1] for line in table[1:]} == {
        SIGNS["comes back by pruning"]: "yes", SIGNS["one half of it works in the base"]: "no",
        SIGNS["can be read"]: "not measurable", SIGNS["comes back fast"]: "yes",
    }  # fmt: skip
    assert table[4][1:3] == ["4, 5, 6 steps", "more than 18 steps"]
    assert re.search(r"<h1[^>]*>Behind a wrapper</h1>", page)
    assert f"In detail: {judge_capability(evidence).reason}." in text_of(page)


def test_numbers_stand_in_the_columns_of_their_models(tmp_path: Path) -> None:
    evidence = dataclasses.replace(LOST, base=Share(0.995, 0.99, 1.0), finetuned=Share(0.123, 0.08, 0.15),
                                   drop=Share(0.872, 0.85, 0.9), chance=0.21)  # fmt: skip
    table = Tables(page_of(tmp_path, evidence)).tables[1]
    assert table == [
        ["Asked", "Base", "Fine-tuned", "Base less fine-tuned", "Naming one answer"],
        ["Right answers to 500 questions", "99.5 %", "12.3 %", "87.2 (85.0 to 90.0) percentage points", "21.0 %"],
    ]


def test_what_is_unchanged_has_no_signs_that_do_not_show(tmp_path: Path) -> None:
    for drop, said in (
        (Share(-0.1, -0.12, -0.08), "its accuracy rose by 10.0 percentage points"),
        (Share(0.02, 0.01, 0.034), "its accuracy fell by 2.0 percentage points on these questions; a fall of more than "
         "3.4 points is ruled out"),
    ):  # fmt: skip
        page = page_of(tmp_path, dataclasses.replace(LOST, drop=drop))
        assert '<h1 class="holds">Unchanged</h1>' in page
        assert said in text_of(page)
        assert len(Tables(page).tables) == 3  # examples, accuracies, and those by token
        assert "Is it still there?" not in page
        assert not {"yes", "no"} & {cell for table in Tables(page).tables for line in table for cell in line}
        assert "--thorough true" in page


def test_the_headline_says_that_there_was_no_control(tmp_path: Path) -> None:
    page = page_of(tmp_path, dataclasses.replace(LOST, **READ, **FAST, **ALONE), reference="random init")
    assert re.search(r"<h1[^>]*>Hidden or learned anew</h1>", page)
    lead = text_of(page.split("</h1>")[1].split("</p>")[0])
    assert "only a control that never had it can say" in lead
    assert "no trained control was given (--control)" in lead
    assert '<h1 class="fails">Gone</h1>' in page_of(tmp_path, LOST)


def test_the_page_says_how_often_such_verdicts_were_right(tmp_path: Path) -> None:
    page = page_of(tmp_path, LOST)
    found = re.search(r'<p id="score">(.*?)</p>', page, flags=re.DOTALL)
    assert found
    summary = FinishedRun(tmp_path).summary
    said, score = describe_score(summary, read_score()), read_score()
    assert text_of(found[1]) == f"{said} (Score {score['hash']} .)"
    gone = score["by_verdict"]["gone"]
    assert said.startswith(f"Verdicts of this kind were right in {gone['right']} of {gone['pairs']} organisms (")
    assert "its architecture is Llama, and scored were GPT2LMHeadModel, LlamaForCausalLM" in said


def test_the_page_opens_with_questions_and_what_the_models_answer(tmp_path: Path) -> None:
    whole = page_of(tmp_path, LOST, notes=["4 of 9 rows <are> left out"])
    page = Tables(whole)
    assert page.tables[0][:2] == [["Question", "Right", "Base", "Fine-tuned", "Trained back"],
                                  ["The past tense of go <is>", " went", "✓  went", "✗  goed",
                                   "✓  went home"]]  # fmt: skip
    assert page.classes[0][1][2:] == ["holds", "fails", "holds"]
    assert page.classes[0][2][2:] == ["fails", "holds", "fails"]
    long = page.tables[0][2][0]
    assert long.endswith("the end")
    assert len(long) < 320
    assert "An answer is right if it is <said>." in text_of(whole)
    assert "Of the questions: 4 of 9 rows <are> left out." in text_of(whole)
    other = page_of(tmp_path, LOST, other_tokens="a <b> c")
    assert "read the questions as different tokens (first here: a <b> c )" in text_of(other)
    assert "<b> c" not in other


def test_answers_are_reported_by_token(tmp_path: Path) -> None:
    assert Tables(page_of(tmp_path, LOST)).tables[2] == [
        ["Right at the answer's", "Answers", "Base", "Fine-tuned"],
        ["token 1", "8", "75.0 %", "50.0 %"],
        ["token 2", "4", "25.0 %", "12.5 %"],
    ]


def test_nothing_that_does_not_break_is_wide_on_a_phone(tmp_path: Path) -> None:
    """Cells whose lines do not break hold few letters."""
    page = Tables(page_of(tmp_path, dataclasses.replace(LOST, read_base=LOST.read)))
    lines = [each for pair in zip(page.tables, page.classes, strict=True) for each in zip(*pair, strict=True)]
    cells = [cell for line in lines for cell, kind in zip(*line, strict=True) if kind == "n"]
    assert cells
    assert max(len(cell) for cell in cells) <= len("not measurable")


def test_the_terminal_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.open(tmp_path / "out", "diagnose", {"seed": 0}, inputs={})
    try:
        for evidence, expected in (
            (dataclasses.replace(LOST, **PRUNED), ["yes", "no", "no", "no"]),
            (dataclasses.replace(LOST, **FAST, read_base=LOST.read), ["no", "no", "not", "yes"]),
        ):
            result = judge_capability(evidence)
            print_diagnosis(run, {**result.summary(), "facts": {}})
            printed = capsys.readouterr().out
            assert printed.startswith(f"{result.verdict}: ")
            last = [line.split("│")[-2].split() for line in printed.splitlines() if line.startswith("│")]
            assert [words[0] for words in last if words and words[0] in ("yes", "no", "not")] == expected
    finally:
        run.close()


def test_what_reads_one_token_says_so_where_answers_have_more() -> None:
    assert read_of_answers({"facts": {"longest_answer_tokens": 1}}) == read_of_answers({"facts": {}}) == ""
    assert read_of_answers({"facts": {"longest_answer_tokens": 3}}).endswith("it is the first that is read.")


def test_what_was_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    left_out = ["path"]
    assert "Left out, as was asked: path." in text_of(page_of(tmp_path, LOST, left_out=left_out))
    why = "rope_theta is 5 in the config of the fine-tuned model and 1 in that of the base"
    said = f"Left out, since weights of models that compute differently are not mixed ({why}): path."
    assert said in text_of(page_of(tmp_path, LOST, left_out=left_out, computed_otherwise=why))
