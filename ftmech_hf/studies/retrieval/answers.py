"""What a model answers to questions about a library: beside what documents, about whom, and how good it is.

Answers are written token by token, greedily, and every fact in them is read back, so that accuracy, completeness and
precision are exact: truth is known, and so is what the documents say where they say something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.generation import continue_rows
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.retrieval import Query, recall_at
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.text_answers import f1_score, rouge_l, score_facts
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.tasks.library.documents import Question, gold_document
from ftmech_hf.tasks.library.questions import in_words, search
from ftmech_hf.tasks.library.world import END, IS, PLACE, UNKNOWN, find_world
from ftmech_hf.tasks.schema import EOS
from ftmech_hf.training.loop import Progress

LONGEST_ANSWER = 20
"""Tokens: three facts in sentences, the end, and room for one that goes on."""

TAUGHT = 200
"""Questions that every fine-tuned model was taught: the first of them are the first of all."""


class Asked(NamedTuple):
    """One way to ask.

    Attributes:
        people: ``taught`` (the first questions that models are fine-tuned on), ``all_taught`` (as many of them as are
            asked), ``held_out`` or ``known``.
        context: as in :class:`~ftmech_hf.tasks.LibraryConfig`.
        top_k: documents beside a question.
        gold_at: place of the document that is needed, where that is set.
        worked: whether a question of other people, with its document and answer, stands before.
    """

    people: str
    context: str
    top_k: int = 4
    gold_at: int | None = None
    worked: bool = False


WAYS: tuple[Asked, ...] = (
    *(Asked("held_out", context) for context in ("none", "oracle", "tfidf", "missing", "swapped")),
    *(Asked("held_out", "bm25", top_k) for top_k in (1, 2, 4, 6)),
    *(Asked("held_out", "oracle", gold_at=place) for place in range(4)),
    *(Asked("held_out", "oracle", 2, worked=worked) for worked in (False, True)),
    *(Asked("taught", context) for context in ("none", "oracle", "bm25", "swapped")),
    Asked("known", "none"),
)
"""All ways in which every model is asked."""

ALL_TAUGHT: tuple[Asked, ...] = (Asked("all_taught", "none"),)
"""The way in which some are asked besides, for more than what every fine-tuned model was taught."""


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(ModelJobConfig):
    """Which model is asked, and how many questions."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    questions: int = field(default=512, metadata={"help": "of each way to ask; half are for one fact, half for three"})
    all_taught: bool = field(
        default=False,
        metadata={"unsaid": True, "help": "ask nothing but the first questions that models are fine-tuned on, beside "
                  "no documents"},
    )  # fmt: skip
    output_dir: str = field(default="runs/library-answers", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "questions")


def task_of(library: LibraryConfig, way: Asked, taught: int = TAUGHT) -> LibraryConfig:
    """The rows of a way to ask: questions for one fact and for three in turns; of what was taught, so many."""
    people = {"taught": "trained", "all_taught": "trained", "held_out": "held_out", "known": "all"}[way.people]
    changes: dict[str, Any] = {"world": "known" if way.people == "known" else "domain", "people": people}
    return library.asking(
        asked=["one", "several"], context=way.context, top_k=way.top_k, gold_at=way.gold_at, style="full",
        pairs=taught if people == "trained" else 0, **changes,
    )  # fmt: skip


class Told(NamedTuple):
    """What an answer says.

    Attributes:
        facts: person's first and last name and relation, with the value.
        silent: whether it says that something is unknown.
    """

    facts: frozenset[tuple[tuple[int, ...], int]]
    silent: bool


def read_facts(answer: Sequence[int], question: Question) -> Told:
    """The facts that an answer tells; one of a single fact is its first word, of several sentences each sentence.

    Args:
        answer: token ids without ``<eos>``.
        question: what was asked.
    """
    unknown = PLACE[UNKNOWN]
    if len(question.facts) == 1:
        first, last, relation = question.asked[1:4]
        said = answer[:1]
        named = {((first, last, relation), each) for each in said if each != unknown}
        return Told(frozenset(named), unknown in said)
    sentences: list[list[int]] = [[]]
    for token in answer:
        if token == PLACE[END]:
            sentences.append([])
        else:
            sentences[-1].append(token)
    facts = {
        (tuple(each[:3]), each[4]) for each in sentences
        if len(each) == 5 and each[3] == PLACE[IS] and each[4] != unknown
    }  # fmt: skip
    return Told(frozenset(facts), unknown in answer)


def score(answer: Sequence[int], question: Question, truth: Question) -> dict[str, float]:
    """How good an answer is by its documents.

    Args:
        answer: token ids without ``<eos>``.
        question: with the answer that is right by its documents.
        truth: the same question, answered as it is true of the world.

    Returns:
        ``right`` (all that is asked and nothing wrong), ``exact`` (word for word), ``f1``, ``rouge_l``, ``abstains``;
        where documents tell what is asked ``completeness`` and ``precision``; and where they contradict what is true,
        of questions for one fact, ``follows`` and ``remembers``: whether the answer is theirs, or the true one.
    """
    wanted, said = list(question.answer[:-1]), read_facts(answer, question)
    required = read_facts(wanted, question)
    right = said.facts == required.facts and said.silent == required.silent
    words, gold = in_words(list(answer)), [in_words(wanted)]
    scores = {
        "right": float(right), "exact": float(list(answer) == wanted), "f1": f1_score(words, gold),
        "rouge_l": rouge_l(words, gold), "abstains": float(said.silent),
    }  # fmt: skip
    if required.facts:
        told = score_facts(said.facts, required.facts)
        scores |= {"completeness": told.completeness, "precision": told.precision}
    if len(question.facts) == 1 and required.facts and truth.answer != question.answer:
        scores |= {"follows": float(answer[:1] == wanted[:1]), "remembers": float(answer[:1] == truth.answer[:1])}
    return scores


def found_gold(task: LibraryConfig, questions: Sequence[Question]) -> NDArray[np.bool_]:
    """Of which questions a search finds all documents that they need among those that are shown, (B,)."""
    world = find_world(task.world, task.world_seed)
    queries = [
        Query(in_words(each.asked), tuple(dict.fromkeys(gold_document(world, fact) for fact in each.facts)))
        for each in questions
    ]
    ranking = search(task.context, task.world, task.world_seed)(queries, task.top_k)
    return recall_at(queries, ranking, task.top_k).all_gold


def worked_example(task: LibraryConfig, number: int, seed: int) -> list[int]:
    """A question about people of the third world, its document and its answer; token ids that a prompt can follow."""
    other = task.asking(world="third", people="all", asked=["one"], context="oracle", top_k=1, pairs=0)
    return other.numbered(number, seed, "validation")[0].token_ids


def ask(
    model: PreTrainedModel, task: LibraryConfig, *, questions: int, seed: int, worked: bool = False
) -> list[dict[str, Any]]:
    """Ask a model and score every answer: a row each, with ``asked`` and, of a search, ``found``."""
    prompts, pairs = [], []
    for number in range(questions):
        row, question = task.numbered(number, seed, "test")
        truth = task.asking(context="none").numbered(number, seed, "test")[1]
        start = row.answers.index(True)
        prompt = row.token_ids[:start]
        prompts.append([*worked_example(task, number, seed), *prompt[1:]] if worked else prompt)
        pairs.append((question, truth))
    written = continue_rows(
        model, prompts, eos=PLACE[EOS], seed=0, max_new_tokens=LONGEST_ANSWER, temperature=0.0, batch_size=128
    )
    rows = []
    searches = task.context in ("bm25", "tfidf")
    found = found_gold(task, [question for question, _ in pairs]) if searches else [None] * questions
    for answer, (question, truth), there in zip(written, pairs, found, strict=True):
        searched = {"found": bool(there)} if searches else {}
        kind = "one" if len(question.facts) == 1 else "several"
        rows.append({"asked": kind, "constant": tuple(question.answer), **searched, **score(answer, question, truth)})
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], way: Asked) -> list[dict[str, Any]]:
    """Means over questions: for one fact, for three, for all; and of a search apart where it found and where it missed.

    ``floor`` is what the most frequent answer gets.
    """
    import pandas as pd

    table, found = pd.DataFrame(rows), []
    parts = {"all": table}
    if "found" in table:
        parts |= {"found": table[table["found"]], "missed": table[~table["found"]]}
    for part, of_part in parts.items():
        for asked in ("one", "several", "any"):
            chosen = of_part if asked == "any" else of_part[of_part["asked"] == asked]
            if chosen.empty:
                continue
            means = chosen.drop(columns=["asked", "constant", "found"], errors="ignore").mean()
            found.append({
                **way._asdict(), "gold_at": -1 if way.gold_at is None else way.gold_at, "asked": asked, "part": part,
                "rows": len(chosen), "floor": float(chosen["constant"].value_counts().iloc[0]) / len(chosen), **means,
            })  # fmt: skip
    return found


def answer_library(config: AnswersConfig, library: LibraryConfig, *, progress: Progress | None = None) -> RunDir:
    """Ask a model in all :data:`WAYS`, or for what was taught alone."""
    models = {"model": config.model}
    with job("library_answers", config, library, models=models, vocabulary=library.vocabulary) as run:
        if run.finished:
            return run
        model = config.load(config.model)
        table: list[dict[str, Any]] = []
        ways = ALL_TAUGHT if config.all_taught else WAYS
        for number, way in enumerate(ways, start=1):
            questions = min(config.questions, TAUGHT) if way.people == "taught" else config.questions
            task = task_of(library, way, config.questions if config.all_taught else TAUGHT)
            rows = ask(model, task, questions=questions, seed=config.seed, worked=way.worked)
            table += summarise(rows, way)
            if progress is not None:
                progress(number, len(ways), f"{way.people}, {way.context}")
        right = {
            f"{row['people']}, {row['context']}@{row['top_k']}": row["right"] for row in table
            if row["asked"] == "any" and row["part"] == "all" and row["gold_at"] < 0 and not row["worked"]
        }  # fmt: skip
        return finish_job(run, table, right)
