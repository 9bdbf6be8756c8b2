"""Data sets of questions as they are published, read into one format. Files are read; nothing is downloaded or run.

What a complete answer says (``facts``) is taken from what annotators gave: an exact answer with its synonyms, the items
of a list, a span. Where they wrote free text alone, the text is the one fact, and completeness by strings means little.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from ftmech_hf.retrieval.collection import (
    CORPUS_FILE,
    QUESTIONS_FILE,
    Asked,
    Collection,
    Document,
    asked_of,
    document_of,
    read_table,
)
from ftmech_hf.retrieval.countries import read_countries

YES_NO = {True: "yes", False: "no"}


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"source: there is no {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"source: {path} is no JSON ({error})") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"source: there is no {path}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"source: line {number} of {path} is no JSON ({error})") from error


def read_plain(source: Path, split: str) -> Collection:
    """A folder with our two tables, of which only ``id``, ``question``, ``doc_id`` and ``text`` must be there."""
    questions = read_table(source / QUESTIONS_FILE, ("id", "question"), "source")
    documents = tuple(map(document_of, read_table(source / CORPUS_FILE, ("doc_id", "text"), "source"), count()))
    rows = ({**row, "split": row.get("split") or split} for row in questions)
    return Collection(tuple(map(asked_of, rows, count())), documents)


def read_beir(source: Path, split: str) -> Collection:
    """A BEIR folder: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``; and ``answers.jsonl`` if there is one.

    Judgements above 0 are gold. A line of ``answers.jsonl`` has ``_id`` (of the query), ``answers`` and, if it likes,
    ``facts``; an empty list of answers says that there is none. BEIR itself has no answers: without that file recall
    alone can be measured.
    """
    corpus = ({**row, "doc_id": row["_id"]} for row in _lines(source / "corpus.jsonl"))
    documents = tuple(map(document_of, corpus, count()))
    texts = {str(row["_id"]): row["text"] for row in _lines(source / "queries.jsonl")}
    answers = source / "answers.jsonl"
    known = {str(row["_id"]): row for row in _lines(answers)} if answers.is_file() else {}
    gold: dict[str, list[str]] = {}
    path = source / "qrels" / f"{split}.tsv"
    if not path.is_file():
        raise ValueError(f"split: there is no {path}")
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            gold.setdefault(row["query-id"], [])
            if float(row["score"]) > 0:
                gold[row["query-id"]].append(row["corpus-id"])
    rows = (
        {**known.get(name, {}), "id": name, "question": texts[name], "gold_ids": ids, "split": split}
        for name, ids in gold.items()
        if name in texts
    )
    return Collection(tuple(map(asked_of, rows, count())), documents)


def read_squad(source: Path, split: str) -> Collection:
    """SQuAD's JSON, version 1 or 2: each paragraph is a document.

    What is marked as impossible to answer has no answers; where none are given without that mark, they are not known.
    """
    questions: list[Asked] = []
    documents: list[Document] = []
    titles = set[str]()
    for place, article in enumerate(_json(source)["data"]):
        title = article.get("title") or "article"
        called = f"{title}-{place}" if title in titles else title
        titles.add(title)
        for number, paragraph in enumerate(article["paragraphs"]):
            name = f"{called}-{number}"
            documents.append(Document(name, title.replace("_", " "), paragraph["context"]))
            for each in paragraph["qas"]:
                said = () if each.get("is_impossible") else tuple(dict.fromkeys(a["text"] for a in each["answers"]))
                answers = said if said or each.get("is_impossible") else None
                facts = (said,) if said else ()
                questions.append(Asked(str(each["id"]), each["question"], answers, facts, (name,), split))
    return Collection(tuple(questions), tuple(documents))


def _bioasq_facts(kind: str, exact: Any) -> tuple[tuple[str, ...], ...]:
    """A yes or no; the synonyms of a factoid, which are one list or a list of lists; or a list of things."""
    if not exact:
        return ()
    if isinstance(exact, str):
        return ((exact,),)
    lists = [[each] if isinstance(each, str) else list(each) for each in exact]
    if kind == "list":
        return tuple(tuple(each) for each in lists if each)
    return (tuple(text for each in lists for text in each),)


def read_bioasq(source: Path, split: str) -> Collection:
    """BioASQ's JSON of task B: snippets are the documents, exact answers the facts.

    Right as a whole are the ideal answers, and before them the exact one where it is whole: yes or no, or what a
    factoid is called; of a list without an ideal answer it is all its items. Where a summary is asked for, there is no
    exact answer, and the ideal one is the one fact. In the files of a test nothing is known.
    """
    questions: list[Asked] = []
    documents: dict[tuple[str, str], Document] = {}
    for row in _json(source)["questions"]:
        gold = []
        for snippet in row.get("snippets") or ():
            key = (snippet.get("document") or "", snippet["text"])
            if key not in documents:
                documents[key] = Document(f"snippet-{len(documents)}", "", snippet["text"])
            gold.append(documents[key].doc_id)
        ideal = row.get("ideal_answer") or ()
        answers = (ideal,) if isinstance(ideal, str) else tuple(ideal)
        exact = _bioasq_facts(row.get("type", ""), row.get("exact_answer"))
        facts = exact or ((answers,) if answers else ())
        if row.get("type") in ("yesno", "factoid"):
            answers = tuple(dict.fromkeys((*(text for fact in exact for text in fact), *answers)))
        elif exact and not answers:
            answers = (", ".join(names[0] for names in exact),)
        asked = Asked(str(row["id"]), row["body"], answers or None, facts, tuple(dict.fromkeys(gold)), split)
        questions.append(asked)
    return Collection(tuple(questions), tuple(documents.values()))


def _qasper_answer(found: dict[str, Any]) -> tuple[str, tuple[tuple[str, ...], ...]] | None:
    """An annotator's answer and its facts; None where the paper does not say, or the annotator does not."""
    if found.get("unanswerable"):
        return None
    if found.get("yes_no") is not None:
        said = YES_NO[found["yes_no"]]
        return said, ((said,),)
    if spans := found.get("extractive_spans"):
        return ", ".join(spans), tuple((span,) for span in spans)
    text = found.get("free_form_answer") or ""
    return (text, ((text,),)) if text else None


def _qasper_answers(
    given: list[dict[str, Any]],
) -> tuple[tuple[str, ...] | None, tuple[tuple[str, ...], ...]]:
    """What is right by all annotators, and the facts; whether there is an answer, the first says who says anything."""
    said = [found for answer in given if (found := _qasper_answer(answer)) is not None]
    first = next((answer for answer in given if answer.get("unanswerable") or _qasper_answer(answer)), None)
    if first is None:
        return None, ()
    if first.get("unanswerable"):
        return (), ()
    return tuple(dict.fromkeys(text for text, _ in said)), said[0][1]


def read_qasper(source: Path, split: str) -> Collection:
    """Qasper's JSON: the paragraphs of all papers are the documents, and evidence that is one of them is gold.

    Annotators may disagree: each answer is right as a whole, and the facts are those of the first who answered. A
    question is unanswerable where the first annotator found it so; where none has said anything, it is not known.
    """
    questions: list[Asked] = []
    documents: list[Document] = []
    for paper, row in _json(source).items():
        texts = [row.get("abstract") or "", *(text for part in row["full_text"] for text in part["paragraphs"])]
        places: dict[str, str] = {}
        for number, text in enumerate(texts):
            if text.strip() and text not in places:
                places[text] = f"{paper}-{number}"
                documents.append(Document(places[text], row.get("title") or "", text))
        for each in row["qas"]:
            given = [annotated["answer"] for annotated in each["answers"]]
            evidence = [text for answer in given for text in answer.get("evidence") or () if text in places]
            gold = tuple(dict.fromkeys(places[text] for text in evidence))
            answers, facts = _qasper_answers(given)
            questions.append(Asked(str(each["question_id"]), each["question"], answers, facts, gold, split))
    return Collection(tuple(questions), tuple(documents))


def _strings(answer: Any) -> list[str]:
    """All strings in an answer of FanOutQA: keys and values of mappings, items of lists; a null says nothing."""
    if answer is None:
        return []
    if isinstance(answer, dict):
        return [text for pair in answer.items() for each in pair for text in _strings(each)]
    if isinstance(answer, list):
        return [text for each in answer for text in _strings(each)]
    return [YES_NO[answer] if isinstance(answer, bool) else str(answer)]


def read_fanoutqa(source: Path, split: str) -> Collection:
    """FanOutQA's JSON with decompositions (Zhu et al., arXiv 2402.14116); all strings of an answer are its facts.

    It has no passages: documents are notes, ``SUB-QUESTION ANSWER``, of the annotators, by the title of the page.
    """
    questions: list[Asked] = []
    documents: list[Document] = []
    for row in _json(source):
        gold = []
        for number, part in enumerate(row["decomposition"]):
            name = f"{row['id']}-{number}"
            title = (part.get("evidence") or {}).get("title") or ""
            documents.append(Document(name, title, f"{part['question']} {', '.join(_strings(part['answer']))}"))
            gold.append(name)
        strings = list(dict.fromkeys(text for text in _strings(row["answer"]) if text.strip()))
        facts = tuple((text,) for text in strings)
        answers = (", ".join(strings),) if strings else None
        questions.append(Asked(row["id"], row["question"], answers, facts, tuple(gold), split))
    return Collection(tuple(questions), tuple(documents))


READERS: dict[str, Callable[[Path, str], Collection]] = {
    "plain": read_plain,
    "beir": read_beir,
    "squad": read_squad,
    "bioasq": read_bioasq,
    "qasper": read_qasper,
    "fanoutqa": read_fanoutqa,
    "countryinfo": read_countries,
}


def read_source(format: str, source: Path, split: str) -> Collection:
    """Read a data set.

    Args:
        format: how it is written: one of :data:`READERS`.
        source: its file, or of ``plain`` and ``beir`` its folder.
        split: what its questions are called; of ``beir`` also which of its judgements.

    Raises:
        ValueError: an unknown format, or something is not as the format has it.
    """
    if format not in READERS:
        raise ValueError(f"format: unknown {format!r}, expected one of {', '.join(READERS)}")
    try:
        return READERS[format](source, split)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"source: {source} is not as {format} has it ({type(error).__name__}: {error})") from error
