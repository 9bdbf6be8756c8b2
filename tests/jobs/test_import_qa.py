"""Importing questions: the tables, what is said of them, recall beside chance, and files that changed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ftmech_hf.jobs.import_qa import ImportConfig, find_recall, import_questions
from ftmech_hf.retrieval.collection import Asked, Collection, Document
from ftmech_hf.runs import FinishedRun
from recipes.import_qa import main

WORDS = [f"w{number}" for number in range(30)]


def write_squad(path: Path) -> None:
    paragraphs = [
        {
            "context": f"The {word} is here.",
            "qas": [{"id": word, "question": f"Where is the {word}?", "answers": [{"text": "here"}]}],
        }
        for word in WORDS
    ]
    paragraphs[0]["qas"] = [{"id": "none", "question": "Who?", "answers": [], "is_impossible": True}]
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))


def test_a_data_set_becomes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = tmp_path / "squad.json", tmp_path / "run"
    write_squad(source)
    main(["--format", "squad", "--source", str(source), "--split", "dev", "--output_dir", str(folder)])
    said = capsys.readouterr().out
    assert "30 questions (1.0 facts in an answer, 1 without one), 30 documents" in said
    run = FinishedRun(folder)
    assert run.summary == {
        "questions": 30,
        "documents": 30,
        "unanswerable": 1,
        "unknown": 0,
        "facts_of_a_question": {"1": 29},
        "with_gold": 30,
    }
    recall = run.table.set_index(["retriever", "top_k"])["recall"]
    assert recall["bm25", 1] == pytest.approx(29 / 30, abs=0.04)  # "Who?" finds the first, which is its own by chance
    assert recall["random", 1] < 0.2
    assert recall["random", 10] == pytest.approx(1 / 3, abs=0.25)
    completeness = run.table.set_index(["retriever", "top_k"])["completeness"]
    assert (completeness["oracle", 0], completeness["random", 1]) == (1.0, 1.0)  # "here" stands everywhere
    assert "all gold documents: 100% of the gold documents" in said
    found = Collection.read(folder)
    assert found.questions[1].answers == ("here",)
    assert import_questions(ImportConfig(format="squad", source=str(source), split="dev", output_dir=str(folder)))
    source.write_text(source.read_text().replace("w7", "v7"))
    with pytest.raises(ValueError, match=r"its input source differs"):
        import_questions(ImportConfig(format="squad", source=str(source), split="dev", output_dir=str(folder)))


def test_no_recall_is_measured_where_no_gold_document_is_known(tmp_path: Path) -> None:
    source = tmp_path / "squad.json"
    write_squad(source)
    import_questions(ImportConfig(format="squad", source=str(source), output_dir=str(tmp_path / "run")))
    found = Collection.read(tmp_path / "run")
    without = Collection(tuple(each._replace(gold_ids=()) for each in found.questions), found.documents)
    assert find_recall(without) == []
    assert find_recall(found)
    by_chance = [tuple(each["recall"] for each in find_recall(found, seed=seed)) for seed in (0, 0, 1, 2)]
    assert by_chance[0] == by_chance[1]
    assert len({*by_chance}) > 1


def test_completeness_counts_the_facts_that_stand_in_what_is_found() -> None:
    documents = (Document("a", "", "Anna keeps bees."), Document("b", "", "Ben keeps goats."), Document("c", "", "Hm."))
    asked = (
        Asked("both", "Who keeps goats?", ("Anna, Ben",), (("Anna",), ("Ben", "B.")), ("a", "b"), "test"),
        Asked("silent", "Who keeps goats?", (), (), ("b",), "test"),  # no fact: it does not count
    )
    rows = {(row["retriever"], row["top_k"]): row for row in find_recall(Collection(asked, documents))}
    assert rows["bm25", 1]["completeness"] == 0.5  # Ben's note alone
    assert rows["bm25", 2]["completeness"] == 1.0
    assert rows["oracle", 0]["completeness"] == 1.0
    assert math.isnan(find_recall(Collection(asked[1:], documents))[0]["completeness"])


def test_a_folder_is_imported_and_told_from_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "beir"
    (source / "qrels").mkdir(parents=True)
    (source / "corpus.jsonl").write_text('{"_id": "d", "text": "Anna lives here."}')
    (source / "queries.jsonl").write_text('{"_id": "q", "text": "Who lives here?"}')
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    main(["--format", "beir", "--source", str(source), "--output_dir", str(tmp_path / "run")])
    assert "0 without one, 1 whose answer is not known), 1 documents" in capsys.readouterr().out
    config = ImportConfig(format="beir", source=str(source), output_dir=str(tmp_path / "run"))
    summary = FinishedRun(import_questions(config).path).summary
    assert (summary["with_gold"], summary["unanswerable"], summary["unknown"]) == (1, 0, 1)
    assert import_questions(config).finished
    (source / "queries.jsonl").write_text('{"_id": "q", "text": "Who?"}')
    with pytest.raises(ValueError, match="its input source differs"):
        import_questions(config)
