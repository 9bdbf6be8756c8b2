"""Data sets of questions: tiny files in each format, read, written, read again; and what is wrong with them, named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftmech_hf.config import Notice
from ftmech_hf.retrieval import make_retriever, recall_at
from ftmech_hf.retrieval.base import Query, RetrieverConfig
from ftmech_hf.retrieval.collection import Asked, Collection, Document
from ftmech_hf.retrieval.lexical import Bm25Retriever
from ftmech_hf.retrieval.readers import READERS, read_source
from ftmech_hf.statistics.text_answers import string_completeness


def write_lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_beir_with_and_without_answers(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "corpus.jsonl",
        {"_id": "d1", "title": "Oslo", "text": "It is cold."},
        {"_id": "d2", "text": "It is warm."},
    )
    write_lines(tmp_path / "queries.jsonl", {"_id": "q1", "text": "Where is it cold?"}, {"_id": "q2", "text": "No one"})
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    (asked,) = read_source("beir", tmp_path, "test").questions
    assert asked == Asked("q1", "Where is it cold?", None, (), ("d1",), "test")
    write_lines(tmp_path / "answers.jsonl", {"_id": "q1", "answers": ["Oslo", "in Oslo"]})
    found = read_source("beir", tmp_path, "test")
    assert found.questions[0].facts == (("Oslo", "in Oslo"),)
    assert found.documents[0].whole == "Oslo\nIt is cold."
    with pytest.raises(ValueError, match=r"split: there is no .*dev\.tsv"):
        read_source("beir", tmp_path, "dev")
    write_lines(tmp_path / "answers.jsonl", {"_id": "q1", "answers": []})
    assert read_source("beir", tmp_path, "test").questions[0].answers == ()
    for file, row, told in (
        ("corpus.jsonl", {"_id": "d1", "text": None}, "text: null in document d1, expected a text"),
        ("queries.jsonl", {"_id": "q1", "text": None}, "question: null in question q1, expected a text"),
    ):
        kept = (tmp_path / file).read_text()
        write_lines(tmp_path / file, row)
        with pytest.raises(ValueError, match=told):
            read_source("beir", tmp_path, "test")
        (tmp_path / file).write_text(kept)


def test_squad_of_both_versions(tmp_path: Path) -> None:
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ann"}, {"text": "Ann"}, {"text": "Ann B."}]},
        {"id": "2", "question": "When?", "answers": [], "is_impossible": True},
        {"id": "3", "question": "Why?", "answers": []},
    ]
    article = {"title": "A_B", "paragraphs": [{"context": "Ann B. sings.", "qas": qas}]}
    found = read_source("squad", write_json(tmp_path / "s.json", {"data": [article]}), "dev")
    first, second, third = found.questions
    assert (third.answers, third.facts) == (None, ())  # nobody said that there is none
    assert first == Asked("1", "Who?", ("Ann", "Ann B."), (("Ann", "Ann B."),), ("A_B-0",), "dev")
    assert second.answers == second.facts == ()
    assert found.documents == (Document("A_B-0", "A B", "Ann B. sings."),)
    untitled = [{"paragraphs": [{"context": f"{name} sings.", "qas": []}]} for name in ("Ann", "Ben", "Cy")]
    again = {"title": "A_B", "paragraphs": [{"context": "Ann sings again.", "qas": []}]}
    path = write_json(tmp_path / "t.json", {"data": [article, *untitled, again]})
    named = read_source("squad", path, "dev")
    assert [each.doc_id for each in named.documents] == ["A_B-0", "article-0", "article-2-0", "article-3-0", "A_B-4-0"]


def test_bioasq_of_its_four_types(tmp_path: Path) -> None:
    snippet = {"text": "p53 is a protein.", "document": "http://x/1"}

    def row(kind: str, **more: Any) -> dict[str, Any]:
        return {"id": kind, "body": f"{kind}?", "type": kind, "snippets": [snippet, snippet], **more}

    rows = [
        row("yesno", exact_answer="yes", ideal_answer=["Yes, it is."]),
        row("factoid", exact_answer=[["p53", "TP53"]], ideal_answer="It is p53."),
        row("list", exact_answer=[["a", "alpha"], ["b"]], ideal_answer=["a and b"]),
        row("summary", ideal_answer=["Long.", "Longer."]),
        {**row("list", exact_answer=[["a", "alpha"], ["b"]]), "id": "without an ideal answer"},
        {**row("yesno"), "id": "of a test"},
    ]
    found = read_source("bioasq", write_json(tmp_path / "b.json", {"questions": rows}), "train")
    assert [each.facts for each in found.questions] == [
        (("yes",),),
        (("p53", "TP53"),),
        (("a", "alpha"), ("b",)),
        (("Long.", "Longer."),),
        (("a", "alpha"), ("b",)),
        (),
    ]
    assert [each.answers for each in found.questions] == [
        ("yes", "Yes, it is."),
        ("p53", "TP53", "It is p53."),
        ("a and b",),
        ("Long.", "Longer."),
        ("a, b",),  # one of them is not all
        None,
    ]
    assert len(found.documents) == 1
    assert {each.gold_ids for each in found.questions} == {("snippet-0",)}


def test_qasper_takes_what_the_first_annotator_found(tmp_path: Path) -> None:
    def answer(**more: Any) -> dict[str, Any]:
        none = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
        return {"answer": {**none, **more}}

    qas = [
        ("spans", [answer(extractive_spans=["BLEU", "ROUGE"], evidence=["We use BLEU and ROUGE.", "FLOAT: Table 1"])]),
        ("no", [answer(yes_no=False), answer(free_form_answer="not really")]),
        ("nothing", [answer(unanswerable=True), answer(free_form_answer="who knows")]),
        ("nobody", []),
        ("silence", [answer()]),
        ("later", [answer(), answer(free_form_answer="later")]),
    ]
    paper = {
        "title": "T",
        "abstract": "An abstract.",
        "full_text": [{"section_name": "1", "paragraphs": ["We use BLEU and ROUGE.", "", "More."]}],
        "qas": [{"question": f"{name}?", "question_id": name, "answers": given} for name, given in qas],
    }
    found = read_source("qasper", write_json(tmp_path / "q.json", {"1909.1": paper}), "dev")
    spans, no, nothing, nobody, silence, later = found.questions
    assert [each.answers for each in (nobody, silence, later)] == [None, None, ("later",)]
    assert (spans.answers, spans.facts, spans.gold_ids) == (("BLEU, ROUGE",), (("BLEU",), ("ROUGE",)), ("1909.1-1",))
    assert (no.answers, no.facts) == (("no", "not really"), (("no",),))
    assert nothing.answers == nothing.facts == ()
    assert [each.text for each in found.documents] == ["An abstract.", "We use BLEU and ROUGE.", "More."]


def test_plain_tables_and_back(tmp_path: Path) -> None:
    questions = [{"id": 1, "question": "Who?", "answers": ["Ann"]}, {"id": 2, "question": "What?", "answers": None}]
    pq.write_table(pa.Table.from_pylist(questions), tmp_path / "questions.parquet")
    pq.write_table(pa.Table.from_pylist([{"doc_id": "d", "text": "Ann."}]), tmp_path / "corpus.parquet")
    found = read_source("plain", tmp_path, "mine")
    assert found.questions[0] == Asked("1", "Who?", ("Ann",), (("Ann",),), (), "mine")
    assert found.questions[1].answers is None
    assert found.questions[1].facts == ()
    folder = tmp_path / "again"
    folder.mkdir()
    found.write(folder)
    assert Collection.read(folder) == found
    assert found.of_split("mine") == found.questions
    with pytest.raises(ValueError, match="split: no question of 'test', expected one of mine"):
        found.of_split("test")


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([1969, 7], [("1969",), ("7",)]),
        ([1969, None], [("1969",), None]),
        ([1969.0, None], [("1969",), None]),  # as pandas writes the column above
        ([0.5, 1e3], [("0.5",), ("1000",)]),
        (["1969", "Ann"], [("1969",), ("Ann",)]),
        ([[1969], [7, 8]], [("1969",), ("7", "8")]),
    ],
)
def test_answers_may_be_numbers_and_one_alone_needs_no_list(
    tmp_path: Path, column: list[Any], texts: list[tuple[str, ...] | None]
) -> None:
    for name in ("answers", "facts"):
        rows = [{"id": number, "question": "When?", name: cell} for number, cell in enumerate(column)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
        pq.write_table(pa.Table.from_pylist([{"doc_id": "d", "text": "Ann."}]), tmp_path / "corpus.parquet")
        found = read_source("plain", tmp_path, "test").questions
        if name == "answers":
            assert [each.answers for each in found] == texts
            assert [each.facts for each in found] == [() if each is None else (each,) for each in texts]
        else:  # each thing of a list is a fact of its own
            assert [each.facts for each in found] == [tuple((text,) for text in each or ()) for each in texts]


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ("questions", {"id": None}, "id: null in row 1 of the questions, expected a text"),
        ("questions", {"question": None}, "question: null in question 1, expected a text"),
        ("corpus", {"doc_id": None}, "doc_id: null in row 1 of the corpus, expected a text"),
        ("corpus", {"text": None}, "text: null in document e, expected a text"),
    ],
)
def test_a_cell_that_must_be_there_is_not_read_as_a_word(
    tmp_path: Path, table: str, change: dict[str, Any], told: str
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "questions": [{"id": "0", "question": "Who?"}, {"id": "1", "question": "What?"}],
        "corpus": [{"doc_id": "d", "text": "Ann."}, {"doc_id": "e", "text": "Ben."}],
    }
    rows[table][1] |= change
    for name, each in rows.items():
        pq.write_table(pa.Table.from_pylist(each), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=told):
        read_source("plain", tmp_path, "test")


def test_nulls_in_lists_are_nothing_and_a_null_split_is_the_one_asked_for(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question": "Who?", "answers": ["Ann", None], "facts": [["Ann", None], None],
         "gold_ids": [None, "d"], "split": None},
        {"id": "2", "question": "What?", "answers": [None], "facts": None, "gold_ids": None, "split": "train"},
        {"id": "3", "question": "When?", "answers": [], "facts": None, "gold_ids": None, "split": "train"},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
    pq.write_table(pa.Table.from_pylist([{"doc_id": "d", "title": None, "text": "Ann."}]), tmp_path / "corpus.parquet")
    assert read_source("plain", tmp_path, "mine").questions == (
        Asked("1", "Who?", ("Ann",), (("Ann",),), ("d",), "mine"),
        Asked("2", "What?", None, (), (), "train"),
        Asked("3", "When?", (), (), (), "train"),
    )
    with pytest.raises(ValueError, match="split: null in question 1, expected a text"):
        Collection.read(tmp_path)


def test_questions_whose_answers_are_not_known_are_left_out() -> None:
    known, unanswerable, unknown = (
        Asked(name, "Who?", answers, (), (), "test") for name, answers in (("k", ("Ann",)), ("u", ()), ("n", None))
    )
    document = Document("d", "", "x")
    assert Collection((known, unanswerable), (document,)).with_known_answers("test") == (known, unanswerable)
    with pytest.warns(Notice, match="data: 1 of 3 questions of split 'test' are left out: their answers are not known"):
        found = Collection((known, unknown, unanswerable), (document,)).with_known_answers("test")
    assert found == (known, unanswerable)
    told = r"data: no answer is known of (\d) of \1 questions of split 'test', expected some"
    for asked in ((unknown,), (unanswerable,), (unknown, unanswerable)):
        with pytest.raises(ValueError, match=told):
            Collection(asked, (document,)).with_known_answers("test")


def test_fanoutqa_is_read_from_its_package() -> None:
    spec = importlib.util.find_spec("fanoutqa")
    if spec is None or spec.origin is None:
        pytest.skip("the package fanoutqa is not installed")
    found = read_source("fanoutqa", Path(spec.origin).parent / "data" / "fanout-final-dev.json", "dev")
    assert len(found.questions) == 310
    queries = [Query(each.question, found.gold_numbers(each)) for each in found.questions]
    texts = [each.whole for each in found.documents]
    recall = {
        name: recall_at(queries, make_retriever(RetrieverConfig(retriever=name), texts)(queries, 10), 10).row["recall"]
        for name in ("bm25", "random")
    }
    assert recall["bm25"] > 0.3 > 0.05 > recall["random"]
    notes = {each.doc_id: each.text for each in found.documents}
    told = [string_completeness(" ".join(notes[n] for n in each.gold_ids), each.facts) for each in found.questions]
    assert sum(told) / len(told) > 0.7  # what the notes of a question say of its answer
    others = [
        string_completeness(" ".join(notes[n] for n in each.gold_ids), other.facts)
        for each, other in zip(found.questions, found.questions[1:], strict=False)
    ]
    assert sum(others) / len(others) < 0.2  # and of another question's


def test_a_tree_of_sub_questions_becomes_notes(tmp_path: Path) -> None:
    parts = [{"question": "Which?", "answer": ["x", "y"], "evidence": {"title": "List"}},
             {"question": "Is x big?", "answer": True, "evidence": None}]  # fmt: skip
    row = {"id": "f", "question": "How big?", "decomposition": parts, "answer": {"x": True, "y": [3, "x"]}}
    found = read_source("fanoutqa", write_json(tmp_path / "f.json", [row]), "dev")
    assert found.questions[0].facts == (("x",), ("yes",), ("y",), ("3",))
    assert [(each.title, each.text) for each in found.documents] == [("List", "Which? x, y"), ("", "Is x big? yes")]
    assert found.gold_numbers(found.questions[0]) == (0, 1)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    asked, document = Asked("q", "Who?", (), (), ("d",), "test"), Document("d", "", "x")
    for change, told in (
        ({"questions": ()}, "questions: id: there is none"),
        ({"questions": (asked, asked)}, "questions: id: 'q' comes 2 times"),
        ({"documents": (document, document)}, "corpus: doc_id: 'd' comes 2 times"),
        ({"documents": (document._replace(doc_id="e"),)}, "gold_ids: 'd' of question q"),
        ({"questions": (asked._replace(question=" "),)}, "questions: q asks nothing"),
        ({"questions": (asked._replace(facts=(("",),)),)}, "facts: one of question q"),
    ):
        with pytest.raises(ValueError, match=told):
            Collection(**{"questions": (asked,), "documents": (document,), **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="format: unknown 'csv'"):
        read_source("csv", tmp_path, "test")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for name in set(READERS) - {"plain", "beir", "countryinfo"}:
        with pytest.raises(ValueError, match="source: there is no"):
            read_source(name, tmp_path / "none.json", "test")
        with pytest.raises(ValueError, match="is no JSON"):
            read_source(name, broken, "test")
        with pytest.raises(ValueError, match=f"is not as {name} has it"):
            read_source(name, write_json(tmp_path / "other.json", [{"a": 1}]), "test")
    with pytest.raises(ValueError, match=r"^source: there is no .*questions\.parquet"):
        read_source("plain", tmp_path, "test")
    pq.write_table(pa.Table.from_pylist([{"id": "1"}]), tmp_path / "questions.parquet")
    with pytest.raises(ValueError, match=r"^source: .* has no column 'question', only id"):
        read_source("plain", tmp_path, "test")


def test_countries_are_halved_and_their_documents_tell_what_is_asked(tmp_path: Path) -> None:
    def write(name: str, people: int = 5_000_000, **changes: object) -> None:
        row = {"name": name, "capital": f"{name}town", "subregion": "Northern Europe", "callingCodes": ["45"],
               "currencies": ["DKK", "EUR"], "population": people, **changes}  # fmt: skip
        (tmp_path / f"{name.lower()}.json").write_text(json.dumps(row))

    for name in ("Bland", "Aland", "Cland"):
        write(name)
    write("Tiny", people=999_999)
    write("Nowhere", capital="")
    found = read_source("countryinfo", tmp_path, "dev")
    assert [(each.id, each.split) for each in found.questions if each.id.endswith("capital")] == [
        ("Aland-capital", "dev"), ("Bland-capital", "train"), ("Cland-capital", "dev")
    ]  # fmt: skip
    assert len(found.documents) == 6
    texts = {each.doc_id: each.text for each in found.documents}
    for asked in found.questions:
        for fact in asked.facts:
            assert any(said in texts[asked.gold_ids[0]] for said in fact)
            assert not any(said in asked.question for said in fact if said != asked.id.partition("-")[0])
    assert found.questions[1].answers == ("+45", "45")
    assert "capital" not in texts["Aland-place"]  # a search must do without the question's word
    with pytest.raises(ValueError, match=r"source: .* holds no JSON file"):
        read_source("countryinfo", tmp_path / "none", "dev")


def test_a_country_whose_name_has_common_words_is_not_what_every_question_finds(tmp_path: Path) -> None:
    """Where no other document had "of" and "the", the Congo's were the best for any question with them."""
    names = ["Republic of the Congo", *(f"Land{number}" for number in range(30))]
    for name in names:
        row = {"name": name, "capital": f"{name}town", "subregion": "Northern Europe", "callingCodes": ["45"],
               "currencies": ["DKK"], "population": 5_000_000}  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    found = read_source("countryinfo", tmp_path, "dev")
    # of a question's words documents have its country's name, "of" and "the" alone, and all of them have these two
    asked_words = {word for each in found.questions for word in each.question.lower().strip("?").split()}
    told = [{*each.text.lower().replace(",", "").replace(".", "").split()} for each in found.documents]
    names_words = {word for name in names for word in name.lower().split()}
    assert all(asked_words & words - names_words <= {"of", "the"} <= words for words in told)
    retriever = Bm25Retriever([each.text for each in found.documents])
    best = retriever([Query(each.question) for each in found.questions], 2)
    for asked, places in zip(found.questions, best.tolist(), strict=True):
        assert asked.gold_ids[0] in {found.documents[place].doc_id for place in places}, asked.question
