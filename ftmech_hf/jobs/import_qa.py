"""Somebody's questions and documents in one folder, and how well a search by words finds what they need."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmech_hf.jobs.job import JobConfig, finish_job, prepared_job
from ftmech_hf.retrieval import Query, RetrieverConfig, make_retriever, recall_at
from ftmech_hf.retrieval.collection import Asked, Collection
from ftmech_hf.retrieval.readers import READERS, read_source
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.text_answers import string_completeness
from ftmech_hf.tasks.text.identity import dataset_hash

TOP = (1, 2, 4, 6, 10)
"""How many documents recall is measured of."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig(JobConfig):
    """Which data set, and where it goes."""

    format: str = field(default="plain", metadata={"help": f"how it is written: {', '.join(READERS)}"})
    source: str = field(
        default="data", metadata={"place": "input", "help": "its file; of plain, beir and countryinfo its folder"}
    )  # fmt: skip
    split: str = field(default="test", metadata={"help": "what its questions are called; of beir: which of its qrels"})
    output_dir: str = field(default="runs/questions", metadata={"place": "output", "help": "the folder of the tables"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in READERS:
            raise ValueError(f"format: unknown {self.format!r}, expected one of {', '.join(READERS)}")

    def inputs(self) -> dict[str, str]:
        """The hash of the data set's files."""
        _check_there(self.source)
        return {"source": dataset_hash(self.source)}


def _check_there(source: str) -> None:
    if not Path(source).exists():
        raise ValueError(f"source: there is no {source}")


def find_recall(collection: Collection, retriever: str = "bm25", *, seed: int = 0) -> list[dict[str, Any]]:
    """Recall of a retriever on the questions of which gold documents are known, and of chance; a row for each k.

    ``completeness`` is the share of the facts of an answer that stand in the documents as strings: what can be copied
    from them. Besides what is found it is given of all gold documents, as ``oracle`` with ``top_k`` 0.

    Args:
        collection: questions and documents.
        retriever: that searches; see :class:`.RetrieverConfig`.
        seed: of chance.
    """
    asked = [each for each in collection.questions if each.gold_ids]
    if not asked:
        return []
    queries = [Query(each.question, collection.gold_numbers(each)) for each in asked]
    documents = [each.whole for each in collection.documents]
    top = [k for k in TOP if k <= len(documents)]
    rows = []
    for name in (retriever, "random"):
        ranking = make_retriever(RetrieverConfig(retriever=name, retriever_seed=seed), documents)(queries, top[-1])
        rows += [
            {"retriever": name, "top_k": k, "questions": len(asked), **recall_at(queries, ranking, k).row,
             "completeness": _copied(asked, documents, ranking[:, :k].tolist())}
            for k in top
        ]  # fmt: skip
    gold = [query.gold for query in queries]
    everything = {"recall": 1.0, "all_gold": 1.0, "completeness": _copied(asked, documents, gold)}
    return [*rows, {"retriever": "oracle", "top_k": 0, "questions": len(asked), **everything}]


def _copied(asked: Sequence[Asked], documents: Sequence[str], shown: Sequence[Sequence[int]]) -> float:
    """Mean share of the facts of answers that stand in the documents shown; of questions that have any."""
    found = [
        string_completeness(" ".join(documents[number] for number in numbers), each.facts)
        for each, numbers in zip(asked, shown, strict=True)
        if each.facts
    ]
    return sum(found) / len(found) if found else math.nan


def _read(config: ImportConfig) -> Collection:
    _check_there(config.source)
    return read_source(config.format, Path(config.source), config.split)


def import_questions(config: ImportConfig) -> RunDir:
    """Read a data set and leave its two tables, with recall by words as the run's table."""
    with prepared_job(
        lambda: _read(config), "questions", config
    ) as (run, read):  # fmt: skip
        if run.finished:
            return run
        found = read()
        found.write(run.working)
        facts = collections.Counter(len(each.facts) for each in found.questions if each.facts)
        summary = {
            "questions": len(found.questions),
            "documents": len(found.documents),
            "unanswerable": sum(each.answers == () for each in found.questions),
            "unknown": sum(each.answers is None for each in found.questions),
            "facts_of_a_question": {str(number): times for number, times in sorted(facts.items())},
            "with_gold": sum(bool(each.gold_ids) for each in found.questions),
        }
        return finish_job(run, find_recall(found, seed=config.seed), summary)
