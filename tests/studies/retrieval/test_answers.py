"""What answers are worth: read by rules of the test's own, and of models that are known to do one thing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.retrieval.answers import (
    WAYS,
    AnswersConfig,
    Asked,
    answer_library,
    found_gold,
    score,
    summarise,
    task_of,
    worked_example,
)
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.tasks.library.world import PLACE
from ftmech_hf.training.settings import TrainConfig
from tests.tasks.library.reading import in_words, told

LIBRARY = LibraryConfig()


def ids(words: str) -> list[int]:
    return [PLACE[word] for word in words.split()]


def test_an_answer_of_three_facts_is_scored_fact_by_fact() -> None:
    task = task_of(LIBRARY, Asked("held_out", "oracle"))
    _, question = task.numbered(1, 0, "test")  # every other question is for three facts
    wanted = question.answer[:-1]
    words = " ".join(in_words(wanted))
    first, second, third = words.split(" . ")
    whole = score(wanted, question, question)
    assert {
        name: whole[name] for name in ("right", "exact", "completeness", "precision", "f1", "rouge_l")
    } == dict.fromkeys(("right", "exact", "completeness", "precision", "f1", "rouge_l"), 1.0)
    # In another order nothing is wrong, but it is not word for word the same.
    turned = score(ids(f"{third} . {first} . {second}"), question, question)
    assert (turned["right"], turned["exact"], turned["completeness"]) == (1.0, 0.0, 1.0)
    terse = score(ids(first), question, question)
    assert (terse["right"], terse["completeness"], terse["precision"]) == (0.0, pytest.approx(1 / 3), 1.0)
    *named, value = second.split()
    other = next(
        word for word in PLACE if word.startswith(value.rstrip("0123456789")) and word[-1].isdigit() and word != value
    )
    wrong = score(ids(f"{first} . {' '.join([*named, other])} . {third}"), question, question)
    assert (wrong["right"], wrong["completeness"], wrong["precision"]) == (
        0.0,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    # All that is asked and one wrong fact beside it is not right.
    more = score(ids(f"{words} . {' '.join([*named, other])}"), question, question)
    assert (more["right"], more["completeness"], more["precision"]) == (0.0, 1.0, pytest.approx(3 / 4))
    silent = score(ids(f"{first} . {' '.join([*named, 'unknown'])} . {third}"), question, question)
    assert (silent["right"], silent["abstains"], silent["precision"]) == (0.0, 1.0, 1.0)
    assert score([], question, question)["completeness"] == 0.0


def test_documents_that_contradict_are_followed_or_not() -> None:
    task = task_of(LIBRARY, Asked("held_out", "swapped"))
    _, question = task.numbered(0, 0, "test")
    truth = task.asking(context="none").numbered(0, 0, "test")[1]
    assert question.asked == truth.asked
    assert question.answer != truth.answer
    for answer, follows, remembers in (
        (question.answer[:1], 1.0, 0.0),
        (truth.answer[:1], 0.0, 1.0),
        (ids("unknown"), 0.0, 0.0),
    ):
        found = score(answer, question, truth)
        assert (found["follows"], found["remembers"], found["right"]) == (follows, remembers, follows)
    assert "follows" not in score(truth.answer[:1], truth, truth)  # where nothing contradicts it cannot be told


def test_where_no_document_tells_only_silence_is_right() -> None:
    task = task_of(LIBRARY, Asked("held_out", "missing"))
    for number in (0, 1):
        _, question = task.numbered(number, 0, "test")
        truth = task.asking(context="none").numbered(number, 0, "test")[1]
        assert score(question.answer[:-1], question, truth)["right"] == 1.0
        assert score(truth.answer[:-1], question, truth)["right"] == 0.0
        assert "completeness" not in score(truth.answer[:-1], question, truth)


@pytest.mark.parametrize("top_k", [1, 4])
def test_a_search_has_found_what_its_documents_tell(top_k: int) -> None:
    task = task_of(LIBRARY, Asked("held_out", "bm25", top_k))
    seen = set()
    for number in range(40):
        row, question = task.numbered(number, 0, "test")
        words = in_words(row.token_ids[: row.answers.index(True)])
        documents = " ".join(words[1 : words.index("?")]).split(" .")
        facts = told([sentence.split() for sentence in documents if sentence.strip()])
        first, last, *relations = in_words(question.asked)[1:-1]
        there = all((first, last, relation) in facts for relation in relations)
        assert found_gold(task, [question])[0] == there
        seen.add(there)
    assert seen == {True, False} if top_k == 1 else True in seen


def test_a_worked_example_is_about_others_and_ends() -> None:
    task = task_of(LIBRARY, Asked("held_out", "oracle", 2))
    words = in_words(worked_example(task, 3, 0))
    assert (words[0], words[-1], words.count("?")) == ("<bos>", "<eos>", 1)
    assert words != in_words(worked_example(task, 4, 0))
    own = in_words(task.numbered(3, 0, "test")[1].asked)
    assert words[words.index("?") + 1 :][:2] != own[1:3]


def test_what_was_taught_are_the_questions_of_fine_tuning() -> None:
    taught = task_of(LIBRARY, Asked("taught", "none"))
    tuned = LIBRARY.asking(world="domain", people="trained", asked=["one", "several"], pairs=1000)
    for number in (0, 1, 199):
        assert taught.numbered(number, 3, "test") == tuned.numbered(number, 5, "finetune")
    held_out = task_of(LIBRARY, Asked("held_out", "none"))
    names = {tuple(tuned.numbered(number, 0, "finetune")[1].asked[1:3]) for number in range(1000)}
    assert not names & {tuple(held_out.numbered(number, 0, "test")[1].asked[1:3]) for number in range(100)}


def test_means_are_of_their_parts() -> None:
    rows = [
        {"asked": "one", "constant": (1,), "found": True, "right": 1.0, "completeness": 1.0},
        {"asked": "one", "constant": (1,), "found": False, "right": 0.0, "completeness": 0.0},
        {"asked": "several", "constant": (2,), "found": True, "right": 0.0, "completeness": 0.5},
    ]
    table = pd.DataFrame(summarise(rows, Asked("held_out", "bm25", 1))).set_index(["part", "asked"])
    assert table.loc[("all", "any"), "right"] == pytest.approx(1 / 3)
    assert table.loc[("all", "any"), "floor"] == pytest.approx(2 / 3)
    assert table.loc[("found", "one"), "right"] == 1.0
    assert table.loc[("missed", "one"), ["right", "rows"]].tolist() == [0.0, 1]
    assert table.loc[("found", "any"), "completeness"] == 0.75
    assert ("missed", "several") not in table.index


def test_a_model_is_asked_in_every_way(tmp_path: Path) -> None:
    place = PretrainConfig(task="library", preset="nano-library", n_layer=2, n_embd=16, n_head=2,
                           output_dir=str(tmp_path / "base"))  # fmt: skip
    train = TrainConfig(steps=0, batch_size=2, eval_rows=2, final_eval_rows=2, num_evals=0)
    pretrain(place, LIBRARY, train)
    config = AnswersConfig(model=str(tmp_path / "base"), questions=4, output_dir=str(tmp_path / "asked"))
    table = FinishedRun(answer_library(config, LIBRARY).path).table
    assert len(table[(table["part"] == "all") & (table["asked"] == "any")]) == len(WAYS)
    assert set(table["context"]) == {"none", "oracle", "tfidf", "missing", "swapped", "bm25"}
    assert table["right"].max() <= 0.5  # of random weights
