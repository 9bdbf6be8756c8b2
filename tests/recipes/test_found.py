"""Tables of claims are read as they are written, and every statement of a paper is counted once, by its verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftmech_hf.report.claims import Claim, Verdict
from ftmech_hf.report.page import format_verdict
from ftmech_hf.studies import STUDIES
from recipes.readme.found import found_block, outcome, read_claims_tables
from recipes.readme.headlines import HEADLINES, OUTCOMES, SOURCES, Headline, headlines_table, judge_headline

TABLE = """# A study: of something

| claim | paper | constant answer | measured | 95 % interval | bar | verdict |
|---|---|---|---|---|---|---|
| It rises | 12 (Table 1) | 2 % | 14.0 % | 13.0 to 15.0 | >= 10 | ✓ holds |
| It falls \\| a lot | falls (Fig. 2) | — | 0.1 | 0.0 to 0.2 | >= 1 | ✗ fails |
| Control: nothing | not reported | — | 1.0 | 0.9 to 1.1 | <= 2 | ✓ holds |

| other | table |
|---|---|
| claim | paper |

| claim | paper | measured | 95 % interval | bar | verdict |
|---|---|---|---|---|---|
| Later | 3 | 4.0 | 2.0 to 6.0 | >= 3 | ? undecided |
| And then | 5 | not measured yet | — | >= 3 | not judged |
"""


def test_tables_of_claims_are_read_whatever_their_columns_and_no_other_table_is() -> None:
    rows = read_claims_tables(TABLE)
    assert [row["claim"] for row in rows] == ["It rises", "It falls \\| a lot", "Control: nothing", "Later", "And then"]
    assert [row["measured"] for row in rows] == ["14.0 %", "0.1", "1.0", "4.0", "not measured yet"]
    assert [*map(outcome, rows)] == ["holds", "fails", "holds", "undecided", "not told"]


@pytest.mark.parametrize(
    ("verdict", "controls", "found"),
    [("holds", [], "holds"), ("fails", [], "fails"), ("undecided", [], "undecided"), (None, [], "not told"),
     ("withdrawn", ["a control"], "not told"), ("holds", ["one that is undecided"], "control undecided"),
     ("holds", ["one that is undecided", "another"], "control undecided")],
)  # fmt: skip
def test_every_verdict_that_a_table_can_have_is_one_outcome(
    verdict: Verdict | None, controls: list[str], found: str
) -> None:
    claim = Claim(
        id="x", statement="s", paper="p", measured=1.0, interval=(0.0, 2.0), bar=">= 1", verdict=verdict,
        seeds=[0], floor=None, values=[1.0], unit="%", withdrawn_by=controls if verdict == "withdrawn" else [],
        open_controls=controls if verdict == "holds" else [],
    )  # fmt: skip
    assert outcome({"verdict": format_verdict(claim)}) == found
    stated = [replace(claim, id=control, statement=f"{control}: is undecided") for control in controls]
    assert outcome({"verdict": format_verdict(claim, stated)}) == found


def test_what_a_control_states_is_not_read_as_a_verdict() -> None:
    assert outcome({"verdict": "⊘ withdrawn: its control *holds of 3, undecided of 5* fails"}) == "not told"
    assert outcome({"verdict": "✓ holds; its control *Of 3 it fails* is undecided"}) == "control undecided"
    assert outcome({"verdict": "✓ holds; of *what is undecided* nothing is shown"}) == "holds"


def test_statements_of_papers_and_our_own_are_counted_apart_and_only_theirs_are_listed(tmp_path: Path) -> None:
    for package in STUDIES.values():
        folder = tmp_path / package.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(TABLE if package.endswith(".safety") else "# Another\n")
    headlines = [Headline("safety", "it moves", ("It rises", "It falls")), Headline("safety", "it is", ("Later",))]
    short, counts, statements = found_block(tmp_path, headlines).split("\n\n")
    assert short.splitlines()[2:] == [
        "| **fails** | it moves | [2407.10264](safety/README.md) |",
        "| undecided | it is | [2407.10264](safety/README.md) |",
    ]
    (row,) = counts.splitlines()[2:]
    assert row.startswith(
        "| [A study](safety/README.md) | Jain et al., [arXiv 2407.10264](https://arxiv.org/abs/2407.10264)"
    )
    assert row.endswith("| 1 and 1 | 1 and 0 | 1 and 0 | 0 and 0 | 1 and 0 |")
    lines = statements.splitlines()[2:]
    assert lines[0] == "| safety | It rises | 12 (Table 1) | 14.0 % | 13.0 to 15.0 | ✓ holds |"
    assert len(lines) == 4
    assert "Control: nothing" not in statements


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [(["holds", "holds"], "holds"), (["holds", "fails", "not told"], "fails"),
     (["undecided", "holds"], "undecided"), (["undecided", "not told"], "not told"),
     (["control undecided", "holds"], "control undecided"), (["control undecided", "undecided"], "undecided")],
)  # fmt: skip
def test_a_headline_stands_only_if_all_that_it_rests_on_does(outcomes: list[str], expected: str) -> None:
    assert judge_headline(outcomes) == expected
    assert judge_headline(reversed(outcomes)) == expected
    assert expected in OUTCOMES


@pytest.mark.parametrize("claims", [{}, {"It rises fast": "holds", "It rises again": "holds"}])
def test_a_headline_that_rests_on_no_claim_or_on_any_of_two_is_refused(claims: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{len(claims)} claims begin with 'It rises', expected one"):
        headlines_table({"safety": claims}, [Headline("safety", "it moves", ("It rises",))])


def test_a_claim_whose_statement_begins_another_one_is_named_by_the_whole_of_it() -> None:
    told = {"safety": {"It rises": "holds", "It rises again": "fails"}}
    assert "| holds | it moves |" in headlines_table(told, [Headline("safety", "it moves", ("It rises",))])
    assert "| **fails** | it moves |" in headlines_table(told, [Headline("safety", "it moves", ("It rises again",))])


def test_a_headline_says_that_a_bar_was_set_when_the_results_had_been_seen() -> None:
    claims = {"Made after looking: it rises": "holds", "It falls": "holds"}
    headlines = [Headline("safety", "it moves", tuple(claims)), Headline("safety", "it falls", ("It falls",))]
    moves, falls = headlines_table({"safety": claims}, headlines).splitlines()[2:]
    assert "| it moves (judged in part by what was set after looking) |" in moves
    assert "| it falls |" in falls


def test_every_paper_has_headlines() -> None:
    papers = {"2311.12786", "2407.10264", "2308.13320", "2406.11201"}
    assert {SOURCES[each.study] for each in HEADLINES} == papers | {"new here"}
