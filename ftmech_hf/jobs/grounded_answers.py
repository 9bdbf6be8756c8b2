"""A base and a fine-tuned model answer the same questions, from documents or without: is retrieval helped or harmed?

Four contexts: ``none``; ``retrieved``, what a retriever finds; ``oracle``, the documents that are needed, which shows
what is lost in reading alone; and ``other``, what is found for another question, where ``unknown`` is the right answer
of a model that is to keep to its documents, and every right answer is memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.endpoint_judge import Judge, check_judge, endpoint_judge
from ftmech_hf.jobs.generation import continue_rows
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, prepared_job
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.reading_prompts import abstains, read_answer, write_prompt
from ftmech_hf.models.embedding import load_embedder
from ftmech_hf.models.identity import base_for, model_hash
from ftmech_hf.models.loading import load_tokenizer, model_positions
from ftmech_hf.retrieval import OracleRetriever, Query, RetrieverConfig, make_retriever, recall_at
from ftmech_hf.retrieval.collection import Asked, Collection
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.intervals import Share, mean_of_gains, times_as_wide
from ftmech_hf.statistics.text_answers import exact_match, f1_score, rouge_l, string_completeness
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.loop import Progress

Context = Literal["none", "retrieved", "oracle", "other"]
SCORES = ("right", "judged", "f1", "rouge_l", "completeness", "abstains")


@dataclass(frozen=True, kw_only=True)
class GroundedConfig(ModelJobConfig):
    """Which models answer which questions, beside which documents."""

    base: str = field(
        default="runs/base", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    finetuned: str = field(default="runs/tuned", metadata={"place": "input", "help": "the same, of the tuned one"})
    data: str = field(default="runs/questions", metadata={"place": "input", "help": "folder of import_qa.py"})
    split: str = field(default="test", metadata={"help": "of the questions"})
    contexts: list[str] = field(
        default_factory=lambda: list(get_args(Context)), metadata={"help": "none, retrieved, oracle, other"}
    )
    top_k: int = field(default=4, metadata={"help": "documents beside a question"})
    embedder: str | None = field(
        default=None,
        metadata={"place": "input", "help": "of retriever dense: an encoder, such as a model of sentence-transformers"},
    )
    judge_url: str | None = field(
        default=None,
        metadata={
            "help": "endpoint of chat completions, such as http://127.0.0.1:8000/v1, that judges answers as well"
        },
    )
    judge_model: str = field(default="judge", metadata={"help": "what that endpoint calls its model"})
    questions: int = field(default=0, metadata={"help": "the first so many of the split; 0 for all"})
    max_new_tokens: int = field(default=48, metadata={"help": "tokens of an answer at most"})
    batch_size: int = field(default=16, metadata={"manner": True, "help": "prompts that are answered side by side"})
    output_dir: str = field(default="runs/retrieval", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "top_k", "max_new_tokens", "batch_size")
        if self.questions < 0:
            raise ValueError(f"questions: {self.questions} is negative, expected 0 or more")
        if not self.contexts or set(self.contexts) - set(get_args(Context)):
            raise ValueError(f"contexts: {' '.join(self.contexts)!r}, expected some of {', '.join(get_args(Context))}")

    def inputs(self) -> dict[str, str]:
        """The hash of both tables, and of the encoder if there is one."""
        encoder = {"embedder": model_hash(self.embedder)} if self.embedder else {}
        return {"data": dataset_hash(self.data), **encoder}


def choose_documents(
    collection: Collection, asked: Sequence[Asked], config: GroundedConfig, retriever: RetrieverConfig,
    contexts: Sequence[str] = get_args(Context),
) -> tuple[dict[str, list[list[int]]], NDArray[np.bool_]]:  # fmt: skip
    """Numbers of the documents of some contexts, and of which questions all gold documents were retrieved.

    A question without gold documents has none to be missed.
    """
    documents = [each.whole for each in collection.documents]
    queries = [Query(each.question, collection.gold_numbers(each)) for each in asked]
    embed = load_embedder(config.embedder, device=config.device) if config.embedder else None
    top_k = min(config.top_k, len(documents))
    found = make_retriever(retriever, documents, embed)(queries, top_k)
    known = [place for place, query in enumerate(queries) if query.gold]
    with_gold = [queries[place] for place in known]
    all_gold = np.ones(len(asked), bool)
    needed: list[list[int]] = [[] for _ in asked]
    if known:
        all_gold[known] = recall_at(with_gold, found[known], top_k).all_gold
    if known and "oracle" in contexts:  # of millions of documents, those by chance take minutes
        widest = min(len(documents), max(top_k, *(len(query.gold) for query in with_gold)))
        for place, row in zip(known, OracleRetriever(len(documents))(with_gold, widest), strict=True):
            needed[place] = row[: max(top_k, len(queries[place].gold))].tolist()
    retrieved = found.tolist()
    others = [
        [each for each in retrieved[(place + 1) % len(asked)] if each not in query.gold]
        for place, query in enumerate(queries)
    ]
    chosen = {"none": [[] for _ in asked], "retrieved": retrieved, "oracle": needed, "other": others}
    return {context: chosen[context] for context in contexts}, all_gold


def score_answer(answer: str, asked: Asked) -> dict[str, float]:
    """How good an answer is; of a question without answers it is right to abstain, and nothing else is scored."""
    silent = abstains(answer)
    if not asked.answers:
        return {"right": float(silent), "abstains": float(silent)}
    return {
        "right": exact_match(answer, asked.answers),
        "f1": f1_score(answer, asked.answers),
        "rouge_l": rouge_l(answer, asked.answers),
        "completeness": string_completeness(answer, asked.facts),
        "abstains": float(silent),
    }


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens by which a model stops; a chat's turn often ends with another one than a text."""
    found: Any = getattr(model.generation_config, "eos_token_id", None)
    return {tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked], texts: Sequence[Sequence[str]],
    *, room: int | None, max_new_tokens: int, batch_size: int,
) -> tuple[list[str], list[int]]:  # fmt: skip
    """What a model answers to each question beside its documents, and how many of them it was shown."""
    prompts = [
        write_prompt(tokenizer, each.question, documents, room) for each, documents in zip(asked, texts, strict=True)
    ]
    ends = _ends(model, tokenizer)
    written = continue_rows(
        model, [prompt.token_ids for prompt in prompts], eos=tokenizer.eos_token_id, seed=0,
        max_new_tokens=max_new_tokens, temperature=0.0, batch_size=batch_size,
    )  # fmt: skip
    stops = [next((place for place, each in enumerate(ids) if each in ends), len(ids)) for ids in written]
    said = [ids[:stop] for ids, stop in zip(written, stops, strict=True)]
    spelled = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in said]
    is_chat = bool(tokenizer.chat_template)
    return [read_answer(text, is_chat=is_chat) for text in spelled], [prompt.shown for prompt in prompts]


def _ask_models(
    config: GroundedConfig, collection: Collection, asked: Sequence[Asked], shown: Mapping[str, list[list[int]]],
    all_gold: NDArray[np.bool_], progress: Progress | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each model, context and question; of ``oracle`` for questions whose gold documents are known."""
    rows: list[dict[str, Any]] = []
    models, alike = {"base": config.base, "finetuned": config.finetuned}, _alike(collection, asked)
    for name, place in models.items():
        below = base_for(name, models)
        model, tokenizer = config.load(place, **below), load_tokenizer(place, **below)
        positions = model_positions(place, **below)
        room = None if positions is None else positions - config.max_new_tokens
        for context in config.contexts:
            here = [n for n, numbers in enumerate(shown[context]) if context != "oracle" or numbers]
            texts = [[collection.documents[each].whole for each in shown[context][n]] for n in here]
            answers, fitted = answer_all(
                model, tokenizer, [asked[n] for n in here], texts, room=room,
                max_new_tokens=config.max_new_tokens, batch_size=config.batch_size,
            )  # fmt: skip
            rows += [
                {"model": name, "context": context, "id": asked[n].id, "alike": alike[n], "answer": answer,
                 "shown": number, "all_gold": bool(all_gold[n]), **score_answer(answer, asked[n])}
                for n, answer, number in zip(here, answers, fitted, strict=True)
            ]  # fmt: skip
            if progress is not None:
                done = list(models).index(name) * len(config.contexts) + config.contexts.index(context) + 1
                progress(done, len(models) * len(config.contexts), f"{name}, {context}")
    return rows


def answer_questions(config: GroundedConfig, retriever: RetrieverConfig, *, progress: Progress | None = None) -> RunDir:
    """Ask both models everything and compare them, question by question.

    Raises:
        ValueError: something of the data or the models is not as it must be; names the setting.
    """
    collection = Collection.read(Path(config.data))
    asked = collection.with_known_answers(config.split)[: config.questions or None]

    def prepare() -> tuple[dict[str, list[list[int]]], NDArray[np.bool_], tuple[Judge, float] | None]:
        chosen = choose_documents(collection, asked, config, retriever, config.contexts)
        if config.judge_url is None:
            return *chosen, None
        judge = endpoint_judge(config.judge_url, config.judge_model)
        return *chosen, (judge, check_judge(judge))

    models = {"base": config.base, "finetuned": config.finetuned}
    with prepared_job(prepare, "grounded_answers", config, retriever, models=models) as (run, prepared):
        if run.finished:
            return run
        shown, all_gold, judged = prepared()
        rows = _ask_models(config, collection, asked, shown, all_gold, progress)
        if judged is not None:
            judge, kappa = judged
            run.note(judge_kappa=kappa)
            known = {each.id: each for each in asked}
            for row in rows:
                if right := known[row["id"]].answers:
                    row["judged"] = float(judge(known[row["id"]].question, right, row["answer"]))
        return finish_job(run, rows, compare_answers(pd.DataFrame(rows)))


def _numbers(share: Share, wider: float) -> dict[str, float]:
    """A difference of numbers from 0 to 1 with its interval, so many times as wide."""
    low, high = (share.value + wider * (end - share.value) for end in (share.low, share.high))
    return {"value": share.value, "low": max(-1.0, low), "high": min(1.0, high)}


def _alike(collection: Collection, asked: Sequence[Asked]) -> list[int]:
    """Of each question the number of its group: all that share needed documents, also by way of others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    needs = [(place, len(asked) + gold) for place, each in enumerate(asked) for gold in collection.gold_numbers(each)]
    ends = np.array(needs, int).reshape(-1, 2).T
    size = len(asked) + len(collection.documents)
    graph = coo_array((np.ones(len(needs)), tuple(ends)), shape=(size, size))
    groups: list[int] = connected_components(graph, directed=False)[1][: len(asked)].tolist()
    return groups


def compare_answers(table: pd.DataFrame) -> dict[str, Any]:
    """Of each context the means of both models, and the fine-tuned less the base on the same questions, with intervals.

    Questions about one document are alike, and intervals are as much wider (:func:`times_as_wide`). Retrieved
    questions are compared once more apart: those whose gold documents were all found, and the others.
    """
    found: dict[str, Any] = {}
    parts = {context: rows for context, rows in table.groupby("context", sort=False)}
    if "retrieved" in parts:
        retrieved = parts["retrieved"]
        parts |= {"retrieved, all gold": retrieved[retrieved["all_gold"]]}
        parts |= {"retrieved, gold missing": retrieved[~retrieved["all_gold"]]}
    for name, rows in ((name, rows) for name, rows in parts.items() if len(rows)):
        scores = [each for each in SCORES if each in rows and rows[each].notna().any()]
        means = rows.groupby("model")[scores].mean()
        both = {model: of_model.set_index("id") for model, of_model in rows.groupby("model")}
        base, tuned = both["base"], both["finetuned"].loc[both["base"].index]
        found[str(name)] = {
            "questions": len(base),
            "base": means.loc["base"].to_dict(),
            "finetuned": means.loc["finetuned"].to_dict(),
            "difference": {each: _difference(tuned[each], base[each], base["alike"]) for each in scores},
        }
    return found


def _difference(tuned: pd.Series, base: pd.Series, alike: pd.Series) -> dict[str, float]:
    change = (tuned - base).dropna()
    wider = times_as_wide(change, alike[change.index].tolist())
    return _numbers(mean_of_gains(change.to_numpy(dtype=float)), wider)


def describe_harm(summary: Mapping[str, Any]) -> str:
    """In a sentence where fine-tuning changed answers from documents, as far as intervals allow it."""

    def change(context: str) -> float | None:
        """In points, where the interval leaves zero out."""
        found = summary.get(context, {}).get("difference", {}).get("right")
        return None if not found or found["low"] <= 0 <= found["high"] else 100 * found["value"]

    retrieved, oracle = change("retrieved"), change("oracle")
    if "retrieved" not in summary:
        return "nothing was retrieved"
    if retrieved is None:
        return "with what is retrieved the fine-tuned model answers neither better nor worse, as far as can be told"
    told = f"with what is retrieved the fine-tuned model answers {_in_points(retrieved)}"
    if "oracle" not in summary:
        return told
    return f"{told}, with the documents that are needed {'not' if oracle is None else _in_points(oracle)}"


def _in_points(change: float) -> str:
    return f"{abs(change):.0f} points {'worse' if change < 0 else 'better'}"


PUBLICATIONS = (
    Publication(
        kind="grounded_answers",
        holds="table",
        question="What a base and a fine-tuned model answer from retrieved documents, from needed ones, and without.",
        papers=("2406.11201",),
    ),
)
