"""Whatever a model is asked and answers, its card shows as it is, and the card's code runs with it."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ftmech_hf.hub.findings import state_findings
from ftmech_hf.jobs.card import Published, in_markdown, render_card
from ftmech_hf.jobs.training_card import ALONE, PUBLICATIONS
from ftmech_hf.runs import FinishedRun

WORDS = ["<|im_start|>user Hi<|im_end|>", "is 😀 blue", "a ``` b", "R&D \\n 'x' \"y\"", "line\u2028end", "$$ [/INST]"]


def cells(text: str) -> list[str]:
    """What stands in the cells of a card's tables, as it is seen."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    return [html.unescape(re.sub("<[^>]*>", "", each)) for each in re.findall("<td>(.*?)</td>", page)]


@pytest.mark.parametrize("words", WORDS)
def test_what_a_model_wrote_is_seen_as_it_is(words: str) -> None:
    card = render_card(
        "analysis.md.j2", metadata="", title="x", what="?", where="a/b", summary={"answer": words}, pictures={},
        data_file="table.parquet", holds="table", is_model=False, models={},
        env={"kind": "compare", "hash": "0", "command": "compare.py"}, versions="", licence="apache-2.0",
    )  # fmt: skip
    assert cells(card) == ["answer", words]
    assert in_markdown("one\ntwo") == "one two"
    assert in_markdown("![seen](http://a/b) [here][1] f(x)[0]") == "![seen]\\(http://a/b) [here]\\[1] f(x)[0]"


@pytest.mark.parametrize("words", [*WORDS, "one\ntwo"])
def test_the_code_of_a_card_runs_with_its_prompt(words: str) -> None:
    card = render_card(
        "text.md.j2", metadata="", title="x", what="?", adapted=False, where="a/b", hub=Published(repo_id=""),
        prompt=words, answer=words, accuracy=[], loss=[], eval_rows=1, kind="finetune", versions="",
        env={"architecture": "G", "parameters": 1, "hash": "0", "inputs": {"dataset": "0", "model": "0"}},
        config={"model": "run-0", "dataset": "a/d", "objective": "sft", "seed": 0, "steps": 1, "batch_size": 1},
    )  # fmt: skip
    assert card.rstrip().endswith("of ftmech_hf makes it again. It is one checkpoint of one seed.")
    assert "recipes/finetune.py --config config.yaml --model FOLDER_OF_THAT_RUN\n" in card
    (code,) = re.findall("```python\n(.*?)\n```\n", card, re.DOTALL)
    assigned = {
        each.targets[0].id: each.value
        for each in ast.parse(code).body
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["prompt"]) == words
    quoted = MarkdownIt().render(card.partition("The data set goes on with")[2].partition("##")[0])
    assert "<|" not in quoted
    assert html.unescape(re.sub("<[^>]*>|\\s", "", quoted)) == re.sub(r"\s", "", words)


def test_the_card_of_a_base_says_of_whom_a_diagnosis_is() -> None:
    """The same words stand on both kinds of cards: a base has not lost what the model lost that was made of it."""
    diagnosis = {"role": "base", "verdict": "gone", "reason": "it fell", "capability": "counting", "accuracy": [],
                 "rows": None, "signs": [], "base_hash": "b0", "finetuned_hash": "f0", "hash": "d0", "trust": "",
                 "page": None, "repository": None}  # fmt: skip
    for role, said in (
        ("base", "This is the base of the diagnosed model (run `f0`). Is its capability `counting`"),
        ("finetuned", "Is the capability `counting` of its base (run `b0`) still there in this model?"),
    ):
        card = render_card(
            "text.md.j2", metadata="", title="x", what="?", adapted=False, where="a/b",
            hub=Published(repo_id="", diagnoses=[{**diagnosis, "role": role}], pictures={"a.png": "A picture"}),
            prompt="a", answer="b", accuracy=[], loss=[], eval_rows=1, kind="finetune", versions="",
            env={"architecture": "G", "parameters": 1, "hash": "0", "inputs": {"dataset": "0", "model": "0"}},
            config={"model": "run-0", "dataset": "a/d", "objective": "sft", "seed": 0, "steps": 1, "batch_size": 1},
        )  # fmt: skip
        assert said in card
        assert "![A picture](a.png)" in card


def test_a_card_says_of_how_many_rows_each_accuracy_is(tmp_path: Path) -> None:
    """One that was near the threshold that is looked for took more rows than the others: 225 of 256 are no k of 64."""
    lines = [
        {"step": 0, "eval_rows": 64, "accuracy/count_a": 0.078125, "accuracy/count_b": 225 / 256,
         "eval_rows/count_b": 256},
        {"step": 9, "eval_rows": 512, "accuracy/count_a": 1.0, "accuracy/count_b": 0.5},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "config.yaml").write_text("eval_rows: 64\nfinal_eval_rows: 512\n")
    (tmp_path / "env.json").write_text('{"kind": "finetune"}')
    (said,) = next(each for each in PUBLICATIONS if each.kind == "finetune").state(FinishedRun(tmp_path), "")
    assert said == (
        "From before this training (64 rows each) to after (512): `count_a` 7.8 % → 100.0 %; "
        "`count_b` 87.9 % (of 256 rows) → 50.0 %."
    )


@pytest.mark.parametrize("beside", ["", "It is the control of `someone/x`."])
def test_steps_of_a_revival_stand_beside_a_control_that_is_known(beside: str, tmp_path: Path) -> None:
    lines = [
        {"step": step, "eval_rows": 64, "accuracy/count_a": share} for step, share in ((0, 0.0), (3, 1.0), (9, 1.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "config.yaml").write_text("eval_rows: 64\nfinal_eval_rows: 64\n")
    (tmp_path / "env.json").write_text('{"kind": "reverse_finetune"}')
    said = state_findings(FinishedRun(tmp_path), [], beside)[-1]
    assert said == f"`count_a` reached 95% at step 3 of reverse fine-tuning. {beside or ALONE}"
